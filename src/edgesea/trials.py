"""Trials of a selection: one combination of a sampling and a reduction each, run in processes, resumable."""

import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesea import reduction, sampling
from edgesea.errors import EdgeseaError
from edgesea.files import read_json, write_json
from edgesea.reduction.base import REDUCTION_FILE
from edgesea.tasks.judge import Judge

log = logging.getLogger(__name__)

Options = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One combination with one seed.

    Attributes
    ----------
    table, out : Path
        The table; the folder of the selection.
    sample, reduce : dict
        Options of the two stages.
    seed : int
        Their seed.
    """

    table: Path
    out: Path
    sample: Options
    reduce: Options
    seed: int

    @property
    def subset(self) -> Path:
        """The subset, which trials may share."""
        return self.out / "subsets" / f"{_key(self.sample, self.seed)}.parquet"

    @property
    def folder(self) -> Path:
        """Its reduction and ``trial.json``."""
        return self.out / "trials" / _key(self.sample, self.reduce, self.seed)

    @property
    def result(self) -> Path:
        """What is written last."""
        return self.folder / "trial.json"

    @property
    def name(self) -> str:
        """For messages."""
        return f"{_said(self.sample)} -> {_said(self.reduce)}, seed {self.seed}"

    def draw(self) -> None:
        """Choose the subset."""
        sampling.sample(self.table, self.subset, **self.sample, seed=self.seed, workers=1)

    def run(self, judge: Judge) -> None:
        """Fit the reduction and judge it."""
        began = time.perf_counter()
        reduction.reduce(self.table, self.folder, subset=self.subset, **self.reduce, seed=self.seed)
        phi = reduction.load_reduction(self.folder)
        verdict = judge.judge(phi)
        result = {
            "sample": self.sample,
            "reduce": self.reduce,
            "seed": self.seed,
            "dimensions": phi.output_size,
            "score": verdict.score,
            "classifier": _classifier(verdict.hidden),
            "scores": [{**_classifier(h), "score": s} for h, s in zip(judge.hidden, verdict.scores, strict=True)],
            "standard_error": verdict.standard_error,
            "kept": read_json(self.folder / REDUCTION_FILE).get("kept"),
            "seconds": round(time.perf_counter() - began, 2),
        }
        write_json(self.result, result)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _said(options: Mapping[str, Any]) -> str:
    """Options on one line: the method, and what is not the default."""
    return ", ".join([str(options["method"]), *(f"{k} {v}" for k, v in options.items() if k in ("size", "metric"))])


def _classifier(hidden: Sequence[int]) -> dict[str, int | None]:
    return {"layers": len(hidden), "units": hidden[0] if hidden else None}


def run_all(trials: Sequence[Trial], judge: Judge, workers: int) -> dict[str, str]:
    """Run what is missing; returns the reasons of the trials that cannot be run.

    Raises
    ------
    EdgeseaError
        If none could be run.
    """
    missing = [trial for trial in trials if not trial.result.exists()]
    if len(missing) < len(trials):
        log.info("%d of %d trials were finished before", len(trials) - len(missing), len(trials))
    draws = list({trial.subset: trial for trial in missing if not trial.subset.exists()}.values())
    failed = _parallel(Trial.draw, [(trial,) for trial in draws], workers, "sample")
    undrawn = {draws[index].subset: reason for index, reason in failed.items()}
    errors = {trial.name: undrawn[trial.subset] for trial in missing if trial.subset in undrawn}
    ready = [trial for trial in missing if trial.subset not in undrawn]
    failed = _parallel(Trial.run, [(trial, judge) for trial in ready], workers, "reduce and judge")
    errors |= {ready[index].name: reason for index, reason in failed.items()}
    for name, reason in errors.items():
        log.warning("left out: %s: %s", name, reason)
    if len(errors) == len(trials):
        raise EdgeseaError(f"no trial could be run; the first: {next(iter(errors.values()))}")
    return errors


def _parallel(
    function: Callable[..., None], calls: Sequence[tuple[Any, ...]], workers: int, what: str
) -> dict[int, str]:
    """Call a function in processes; returns the errors by the number of the call."""
    from joblib import Parallel, delayed, parallel_config
    from tqdm import tqdm

    cores = os.cpu_count() or 1
    settings: dict[str, Any] = {"backend": "loky", "n_jobs": min(workers, len(calls) or 1)}
    if settings["n_jobs"] > 1:
        settings["inner_max_num_threads"] = max(1, cores // settings["n_jobs"])
    errors: dict[int, str] = {}
    with parallel_config(**settings), _quiet_bars():
        jobs = Parallel(return_as="generator_unordered")(
            delayed(_attempt)(function, index, arguments) for index, arguments in enumerate(calls)
        )
        for index, error in tqdm(jobs, total=len(calls), desc=what, unit="trial", disable=None):
            if error is not None:
                errors[index] = error
    return errors


def _attempt(function: Callable[..., None], index: int, arguments: tuple[Any, ...]) -> tuple[int, str | None]:
    try:
        function(*arguments)
    except EdgeseaError as error:
        return index, str(error)
    return index, None


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Let processes that are started meanwhile show no progress bars of their own."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def summarise(trials: Sequence[Trial], judge: Judge) -> dict[str, Any]:
    """``select.json``: one entry for each combination, over its seeds, and which one is the best."""
    groups: dict[str, list[tuple[Trial, dict[str, Any]]]] = {}
    for trial in trials:
        groups.setdefault(_key(trial.sample, trial.reduce), []).append((trial, read_json(trial.result)))
    entries = []
    for group in groups.values():
        scores = [result["score"] for _, result in group]
        first, result = group[0]
        entries.append(
            {
                **{key: result[key] for key in ("sample", "reduce", "dimensions", "classifier", "scores", "kept")},
                "score": statistics.fmean(scores),
                "score_std": statistics.stdev(scores) if len(scores) > 1 else None,
                "standard_error": result["standard_error"],
                "by_seed": {str(trial.seed): own["score"] for trial, own in group},
                "seconds": statistics.fmean(own["seconds"] for _, own in group),
                "folder": first.folder.relative_to(first.out).as_posix(),
                "subset": first.subset.relative_to(first.out).as_posix(),
            }
        )
    # Of equally good ones the smallest: it makes the smaller student.
    winner = max(range(len(entries)), key=lambda i: (entries[i]["score"], -entries[i]["dimensions"], -i))
    verdict = judge.judge()
    reference = {"score": verdict.score, "dimensions": judge.rows.shape[1], "classifier": _classifier(verdict.hidden)}
    task = "esc50" if judge.metric == "accuracy" else "sonyc_ust"
    return {"task": task, "metric": judge.metric, "trials": entries, "reference": reference, "winner": winner}
