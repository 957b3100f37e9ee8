"""Trials of a selection: one combination of a sampling and a reduction each, run in processes, resumable."""

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgesea import reduction, sampling
from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.parallel import in_processes
from edgesea.reduction.base import REDUCTION_FILE
from edgesea.report.selection import differing
from edgesea.tasks.judge import Hidden, Judge, Score, classifier, from_list, listed

if TYPE_CHECKING:
    from edgesea.reduction.base import Reduction

log = logging.getLogger(__name__)

Options = dict[str, Any]


class Result(NamedTuple):
    """What ``trial.json`` says.

    Attributes
    ----------
    dimensions : int
        Of the reduced embedding.
    scores : dict of tuple of int to Score
        Of every classifier that has judged it, by its hidden layers.
    kept : dict or None
        What the reduction keeps.
    seconds : float
        Time to fit and judge.
    """

    dimensions: int
    scores: dict[Hidden, Score]
    kept: dict[str, Any] | None
    seconds: float


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
    positions : str
        Hash of the content of the file that the option ``positions`` of sample names, if it does.
    """

    table: Path
    out: Path
    sample: Options
    reduce: Options
    seed: int
    positions: str = ""

    @property
    def combination(self) -> str:
        """Hash of what it shares with those of other seeds."""
        return _key(self._content, self.reduce)

    @property
    def subset(self) -> Path:
        """The subset, which trials may share."""
        return self.out / "subsets" / f"{_key(self._content, self.seed)}.parquet"

    @property
    def folder(self) -> Path:
        """Its reduction and ``trial.json``."""
        return self.out / "trials" / _key(self._content, self.reduce, self.seed)

    @property
    def result(self) -> Path:
        """What is written last."""
        return self.folder / "trial.json"

    @property
    def _content(self) -> Options:
        return {**self.sample, "positions": self.positions} if self.positions else self.sample

    def stored(self) -> Result | None:
        """The result of a former run; None if there is none, or it is damaged."""
        try:
            found = read_json(self.result)
            scores = from_list(found["scores"])
            return Result(int(found["dimensions"]), scores, found["kept"], float(found["seconds"]))
        except (EdgeseaError, KeyError, TypeError, ValueError):
            return None

    def draw(self) -> None:
        """Choose the subset."""
        sampling.sample(self.table, self.subset, **self.sample, seed=self.seed, workers=1)

    def fit(self) -> None:
        """Fit the reduction."""
        if not self.subset.exists():
            self.draw()
        reduction.reduce(self.table, self.folder, subset=self.subset, **self.reduce, seed=self.seed)

    def load(self) -> "Reduction":
        """Load the reduction of a finished trial, fitted again if it is not there any more."""
        try:
            return reduction.load_reduction(self.folder)
        except EdgeseaError as error:
            log.warning("%s; it is fitted again", error)
            self.fit()
            return reduction.load_reduction(self.folder)

    def run(self, judge: Judge) -> None:
        """Fit the reduction and judge it; of a finished trial, judge by the classifiers that are new."""
        began, before = time.perf_counter(), self.stored()
        if before is None:
            self.fit()
        phi = self.load()
        scores = {} if before is None else before.scores
        scores |= judge.judge(phi, [own for own in judge.hidden if own not in scores])
        seconds = time.perf_counter() - began + (0.0 if before is None else before.seconds)
        result = {
            "sample": self.sample,
            "reduce": self.reduce,
            "seed": self.seed,
            "dimensions": phi.output_size,
            "scores": listed(scores),
            "kept": read_json(self.folder / REDUCTION_FILE).get("kept"),
            "seconds": round(seconds, 2),
        }
        write_json(self.result, result)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _names(trials: Sequence[Trial]) -> dict[str, str]:
    """Names of combinations for messages: methods, sizes, and the options in which they differ."""
    stages = [[trial.sample for trial in trials], [trial.reduce for trial in trials]]
    shown = [{"size", *differing(options)} for options in stages]

    def said(options: Options, names: set[str]) -> str:
        return ", ".join([options["method"], *(f"{name} {options[name]}" for name in options if name in names)])

    return {own.combination: f"{said(own.sample, shown[0])} -> {said(own.reduce, shown[1])}" for own in trials}


def run_all(trials: Sequence[Trial], judge: Judge, workers: int) -> dict[str, str]:
    """Run what is missing.

    Returns
    -------
    dict of str to str
        Names of the folders of trials that cannot be run, and the reasons.

    Raises
    ------
    EdgeseaError
        If none could be run, or a process was killed.
    """
    stored = {trial.folder: trial.stored() for trial in trials}
    new = [trial for trial in trials if stored[trial.folder] is None]
    missing = [trial for trial in trials if not _judged(stored[trial.folder], judge)]
    for trial in new:
        if trial.result.exists():
            log.warning("%s: unreadable or incomplete; the trial is run again", trial.result)
    if len(missing) < len(trials):
        log.info("%d of %d trials were finished before", len(trials) - len(missing), len(trials))
    draws = list({trial.subset: trial for trial in new if not trial.subset.exists()}.values())
    drawn = in_processes(Trial.draw, [(trial,) for trial in draws], workers, "sample")
    undrawn = {trial.subset: str(result) for trial, result in zip(draws, drawn, strict=True) if result is not None}
    reasons = {trial.folder: undrawn[trial.subset] for trial in new if trial.subset in undrawn}
    ready = [trial for trial in missing if trial.folder not in reasons]
    ended = in_processes(Trial.run, [(trial, judge) for trial in ready], workers, "reduce and judge")
    reasons |= {trial.folder: str(error) for trial, error in zip(ready, ended, strict=True) if error is not None}
    names = _names(trials)
    errors = {
        trial.folder.name: f"{names[trial.combination]}, seed {trial.seed}: {reasons[trial.folder]}"
        for trial in trials
        if trial.folder in reasons
    }
    for error in errors.values():
        log.warning("left out: %s", error)
    if len(errors) == len(trials):
        raise EdgeseaError(f"no trial could be run; the first: {next(iter(errors.values()))}")
    return errors


def _judged(result: Result | None, judge: Judge) -> bool:
    return result is not None and all(hidden in result.scores for hidden in judge.hidden)


def summarise(trials: Sequence[Trial], judge: Judge, repeats: int) -> dict[str, Any]:
    """``select.json``: one entry for each combination, over its seeds, and which one is the best.

    Raises
    ------
    EdgeseaError
        If no combination has a result for each of `repeats` seeds.
    """
    groups: dict[str, list[tuple[Trial, Result]]] = {}
    for trial in trials:
        if (result := trial.stored()) is not None:
            groups.setdefault(trial.combination, []).append((trial, result))
    names = _names(trials)
    # A mean over fewer seeds is easier to be lucky with.
    for key, group in groups.items():
        if len(group) < repeats:
            log.warning("cannot be chosen: %s: only %d of %d seeds could be run", names[key], len(group), repeats)
    entries = [_entry(group, judge, repeats) for group in groups.values()]
    complete = [index for index, entry in enumerate(entries) if entry["complete"]]
    if not complete:
        raise EdgeseaError(f"no combination could be run with all {repeats} seeds; see the messages above")
    # Of equally good ones the smallest: it makes the smaller student.
    winner = max(complete, key=lambda i: (entries[i]["score"], -entries[i]["dimensions"], -i))
    scores = judge.judge()
    best = judge.best(scores)
    reference = {"score": scores[best].score, "dimensions": judge.bags.rows.shape[1], "classifier": classifier(best)}
    return {"task": judge.name, "metric": judge.metric, "trials": entries, "reference": reference, "winner": winner}


def _entry(group: Sequence[tuple[Trial, Result]], judge: Judge, repeats: int) -> dict[str, Any]:
    """One combination: means over its seeds, all else of the first."""
    scores = [result.scores[judge.best(result.scores)].score for _, result in group]
    first, result = group[0]
    best = judge.best(result.scores)
    return {
        "sample": {name: str(value) if isinstance(value, Path) else value for name, value in first.sample.items()},
        "reduce": first.reduce,
        "dimensions": result.dimensions,
        "classifier": classifier(best),
        "scores": listed({hidden: result.scores[hidden] for hidden in judge.hidden}),
        "kept": result.kept,
        "score": statistics.fmean(scores),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else None,
        "standard_error": result.scores[best].standard_error,
        "by_seed": {str(trial.seed): score for (trial, _), score in zip(group, scores, strict=True)},
        "complete": len(group) == repeats,
        "seconds": statistics.fmean(own.seconds for _, own in group),
        "folder": first.folder.relative_to(first.out).as_posix(),
        "subset": first.subset.relative_to(first.out).as_posix(),
    }
