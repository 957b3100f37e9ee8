"""Trials of a selection: one sampling and one reduction with one seed each, scored by a grid of classifiers."""

import logging
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.artifact import atomic_path, digest, plain, read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.parallel import in_processes
from edgesea.reduction import load_reduction
from edgesea.reduction import reduce as fit_reduction
from edgesea.reduction.base import REDUCTION_FILE, Reduction
from edgesea.sampling import sample as draw_subset
from edgesea.tasks.features import Bags
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions
from edgesea.tasks.sonyc_ust import SonycUst

log = logging.getLogger(__name__)

Options = dict[str, Any]
Hidden = tuple[int, ...]  # sizes of a classifier's hidden layers; () is logistic regression
Score = dict[str, Any]  # layers and units of a classifier, its score, and the standard error of an accuracy
RESULT = "trial.json"


@dataclass(frozen=True)
class Evaluator:
    """A task, ready to score reductions of the embeddings of its clips."""

    task: FoldTask | SonycUst
    bags: Bags  # the teacher's embeddings
    classifiers: Sequence[Hidden]
    folds: Sequence[int] | None
    seed: int

    def scores(self, phi: Reduction | None, classifiers: Sequence[Hidden]) -> dict[Hidden, Score]:
        """Scores of the reduced (without `phi`: the teacher's) embeddings."""
        bags = self.bags if phi is None else self.bags.with_rows(phi.transform(self.bags.rows))
        return {hidden: self._score(bags, hidden) for hidden in classifiers}

    def best(self, scores: Mapping[Hidden, Score]) -> Score:
        """The score of the best classifier of the grid, of equally good ones the first."""
        return max((scores[hidden] for hidden in self.classifiers), key=lambda score: score["score"])

    def _score(self, bags: Bags, hidden: Hidden) -> Score:
        options: Any = {"num_hidden_layers": len(hidden), "hidden_layer_size": hidden[0] if hidden else 1}
        if isinstance(self.task, FoldTask):
            # Without hidden layers a network is a logistic regression, which scikit-learn has a proper solver for.
            probe = ProbeOptions("mlp" if hidden else "logistic", **options)
            result = self.task.score(bags, probe, self.folds, self.seed)
            score = float(result["accuracy"])
            error = float(np.sqrt(score * (1 - score) / result["clips"]))
        else:
            task = replace(self.task, options=replace(self.task.options, **options))
            score, error = float(task.score(bags, self.seed)["micro_auprc"] or 0.0), None
        units = hidden[0] if hidden else None
        return {"layers": len(hidden), "units": units, "score": score, "standard_error": error}


@dataclass(frozen=True)
class Trial:
    """One sampling and one reduction with one seed; a finished trial has a file trial.json."""

    table: Path
    out: Path
    sample: Options
    positions: str  # hash of the content of the sampling's file of positions
    reduce: Options
    seed: int

    def key(self, *parts: Any) -> str:
        """Hash of the sampling and other options."""
        sample = {**self.sample, "positions": self.positions} if self.positions else self.sample
        return digest([sample, *parts])[:16]

    @property
    def subset(self) -> Path:
        """The subset, which trials of other reductions share."""
        return self.out / "subsets" / f"{self.key(self.seed)}.parquet"

    @property
    def folder(self) -> Path:
        """Its reduction and trial.json."""
        return self.out / "trials" / self.key(self.reduce, self.seed)

    def __str__(self) -> str:
        stages = (self.sample, self.reduce)
        options = [", ".join(f"{name} {value}" for name, value in used.items()) for used in stages]
        return f"{' -> '.join(options)}, seed {self.seed}"

    def result(self) -> Options | None:
        """The content of trial.json, with its scores by classifier; None if it is missing or damaged."""
        try:
            found = read_json(self.folder / RESULT)
            return {**found, "scores": {(score["units"],) * score["layers"]: score for score in found["scores"]}}
        except (EdgeseaError, KeyError, TypeError):
            return None

    def draw(self) -> None:
        """Choose the subset, unless it is there."""
        if not self.subset.exists():
            draw_subset(self.table, self.subset, **self.sample, seed=self.seed, workers=1)

    def load(self) -> Reduction:
        """Load the reduction; if it is missing or damaged, it is fitted again."""
        try:
            return load_reduction(self.folder)
        except EdgeseaError as error:
            log.warning("%s; it is fitted again", error)
            return self.fit()

    def fit(self) -> Reduction:
        """Fit the reduction."""
        self.draw()
        fit_reduction(self.table, self.folder, subset=self.subset, **self.reduce, seed=self.seed)
        return load_reduction(self.folder)

    def run(self, evaluator: Evaluator, before: Options | None) -> Options:
        """Fit the reduction and score it; of a finished trial, score it with the classifiers that are new."""
        began = time.perf_counter()
        phi = self.load() if before else self.fit()
        scores = before["scores"] if before else {}
        scores |= evaluator.scores(phi, [hidden for hidden in evaluator.classifiers if hidden not in scores])
        result = {
            "sample": self.sample,
            "reduce": self.reduce,
            "seed": self.seed,
            "dimensions": phi.output_size,
            "scores": scores,
            "kept": read_json(self.folder / REDUCTION_FILE).get("kept"),
            "seconds": round(time.perf_counter() - began + (before["seconds"] if before else 0.0), 2),
        }
        write_json(self.folder / RESULT, {**result, "scores": list(scores.values())})
        return result

    def publish(self) -> None:
        """Copy the reduction and the subset to the top of the selection's folder."""
        self.load()  # fitted again in case that it has been deleted
        self.draw()
        place, new = self.out / "reduction", self.out / ".reduction.tmp"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(self.folder, new, ignore=shutil.ignore_patterns(RESULT, "*.tmp"))
        shutil.rmtree(place, ignore_errors=True)  # a process killed here leaves no reduction, but never files of two
        new.rename(place)
        with atomic_path(self.out / "subset.parquet") as temporary:
            shutil.copyfile(self.subset, temporary)


def run_all(
    trials: Sequence[Trial], evaluator: Evaluator, workers: int
) -> tuple[list[tuple[Trial, Options]], dict[str, str]]:
    """Run what is missing; returns the results, and why trials could not be run, by the names of their folders."""
    before = [trial.result() for trial in trials]
    wanted = set(evaluator.classifiers)
    missing = [i for i, result in enumerate(before) if result is None or wanted - result["scores"].keys()]
    log.info("%d of %d trials were finished before", len(trials) - len(missing), len(trials))
    undrawn = {trial.subset: (trial,) for trial, result in zip(trials, before, strict=True) if result is None}
    # A subset that cannot be drawn fails again below, for each of its trials.
    in_processes(Trial.draw, list(undrawn.values()), workers, "sample")
    calls = [(trials[i], evaluator, before[i]) for i in missing]
    ended = dict(zip(missing, in_processes(Trial.run, calls, workers, "reduce and evaluate"), strict=True))
    results, errors = [], {}
    for trial, result in ((trial, ended.get(i, before[i])) for i, trial in enumerate(trials)):
        if isinstance(result, dict):
            results.append((trial, result))
        else:
            errors[trial.folder.name] = f"{trial}: {result}"
            log.warning("left out: %s: %s", trial, result)
    if not results:
        raise EdgeseaError(f"no trial could be run; the first: {next(iter(errors.values()))}")
    return results, errors


def summarise(results: Sequence[tuple[Trial, Options]], evaluator: Evaluator, repeats: int) -> Options:
    """The content of select.json: an entry for each combination, over its seeds, and which one is the best."""
    groups: dict[str, list[tuple[Trial, Options]]] = {}
    for trial, result in results:
        groups.setdefault(trial.key(trial.reduce), []).append((trial, result))
    entries = [_entry(group, evaluator, repeats) for group in groups.values()]
    complete = [index for index, entry in enumerate(entries) if entry["complete"]]
    if len(complete) < len(entries):  # a mean over fewer seeds is easier to be lucky with
        log.warning("%d combinations lack a seed and cannot be chosen", len(entries) - len(complete))
    if not complete:
        raise EdgeseaError(f"no combination could be run with all {repeats} seeds; see the messages above")
    # Of equally good ones the smallest: it makes the smaller student.
    winner = max(complete, key=lambda i: (entries[i]["score"], -entries[i]["dimensions"], -i))
    teacher = evaluator.best(evaluator.scores(None, evaluator.classifiers))
    return {
        "task": evaluator.task.name,
        "metric": "accuracy" if isinstance(evaluator.task, FoldTask) else "micro_auprc",
        "trials": entries,
        "reference": {
            "score": teacher["score"],
            "dimensions": evaluator.bags.rows.shape[1],
            "classifier": {key: teacher[key] for key in ("layers", "units")},
        },
        "winner": winner,
    }


def _entry(group: Sequence[tuple[Trial, Options]], evaluator: Evaluator, repeats: int) -> Options:
    """One combination: means over its seeds, all else of the first."""
    by_seed = {str(trial.seed): evaluator.best(result["scores"])["score"] for trial, result in group}
    trial, result = group[0]
    best = evaluator.best(result["scores"])
    return {
        "sample": plain(trial.sample),
        "reduce": trial.reduce,
        "dimensions": result["dimensions"],
        "classifier": {key: best[key] for key in ("layers", "units")},
        "scores": [result["scores"][hidden] for hidden in evaluator.classifiers],
        "kept": result["kept"],
        "score": statistics.fmean(by_seed.values()),
        "score_std": statistics.stdev(by_seed.values()) if len(group) > 1 else None,
        "standard_error": best["standard_error"],
        "by_seed": by_seed,
        "complete": len(group) == repeats,
        "seconds": statistics.fmean(each["seconds"] for _, each in group),
        "folder": trial.folder.relative_to(trial.out).as_posix(),
        "subset": trial.subset.relative_to(trial.out).as_posix(),
    }
