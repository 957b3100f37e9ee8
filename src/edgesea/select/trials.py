"""Trials of a selection: one sampling and one reduction with one seed each, scored by a grid of classifiers."""

import logging
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.artifact import digest, read_json, write_json
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


def by_classifier(scores: Iterable[Score]) -> dict[Hidden, Score]:
    """Scores as a trial's file lists them, by classifier."""
    return {(own["units"],) * own["layers"]: own for own in scores}


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
        return by_classifier(self._score(bags, hidden) for hidden in classifiers)

    def best(self, scores: Mapping[Hidden, Score]) -> Score:
        """The score of the best classifier of the grid, of equally good ones the first."""
        return max((scores[hidden] for hidden in self.classifiers), key=lambda own: own["score"])

    def _score(self, bags: Bags, hidden: Hidden) -> Score:
        size = hidden[0] if hidden else None
        if not isinstance(self.task, FoldTask):
            options = replace(self.task.options, num_hidden_layers=len(hidden), hidden_layer_size=size or 1)
            result = replace(self.task, options=options).score(bags, self.seed)
            score, error = float(result["micro_auprc"] or 0.0), None
        else:  # a network without hidden layers is a logistic regression, which scikit-learn has a proper solver for
            kind: Any = "mlp" if hidden else "logistic"
            probe = ProbeOptions(kind, num_hidden_layers=len(hidden), hidden_layer_size=size or 1)
            result = self.task.score(bags, probe, self.folds, self.seed)
            score = float(result["accuracy"])
            error = float(np.sqrt(score * (1 - score) / result["clips"]))
        return {"layers": len(hidden), "units": size, "score": score, "standard_error": error}


@dataclass(frozen=True)
class Trial:
    """One sampling and one reduction with one seed; a finished trial has a file trial.json."""

    table: Path
    out: Path
    sample: Options
    positions: str  # hash of the content of the sampling's file of positions
    reduce: Options
    seed: int

    def _key(self, *parts: Any) -> str:
        sample = {**self.sample, "positions": self.positions} if self.positions else self.sample
        return digest([sample, *parts])[:16]

    @property
    def combination(self) -> str:
        """What it shares with trials of other seeds."""
        return self._key(self.reduce)

    @property
    def subset(self) -> Path:
        """The subset, which trials of other reductions share."""
        return self.out / "subsets" / f"{self._key(self.seed)}.parquet"

    @property
    def folder(self) -> Path:
        """Its reduction and trial.json."""
        return self.out / "trials" / self._key(self.reduce, self.seed)

    def __str__(self) -> str:
        options = [", ".join(f"{name} {value}" for name, value in own.items()) for own in (self.sample, self.reduce)]
        return f"{' -> '.join(options)}, seed {self.seed}"

    def result(self) -> Options | None:
        """The content of trial.json, with its scores by classifier; None if it is missing or damaged."""
        try:
            found = read_json(self.folder / RESULT)
            numbers = {"dimensions": int(found["dimensions"]), "seconds": float(found["seconds"])}
            scores = {key: own | {"score": float(own["score"])} for key, own in by_classifier(found["scores"]).items()}
            return {**found, **numbers, "scores": scores, "kept": found["kept"]}
        except (EdgeseaError, KeyError, TypeError, ValueError):
            return None

    def draw(self) -> None:
        """Choose the subset."""
        draw_subset(self.table, self.subset, **self.sample, seed=self.seed, workers=1)

    def load(self, fit: bool = False) -> Reduction:
        """Load the reduction; it is fitted first if asked for, missing or damaged."""
        if not fit:
            try:
                return load_reduction(self.folder)
            except EdgeseaError as error:
                log.warning("%s; it is fitted again", error)
        if not self.subset.exists():
            self.draw()
        fit_reduction(self.table, self.folder, subset=self.subset, **self.reduce, seed=self.seed)
        return load_reduction(self.folder)

    def run(self, evaluator: Evaluator) -> None:
        """Fit the reduction and score it; of a finished trial, score it with the classifiers that are new."""
        began, before = time.perf_counter(), self.result()
        phi = self.load(fit=before is None)
        scores = {} if before is None else before["scores"]
        scores |= evaluator.scores(phi, [hidden for hidden in evaluator.classifiers if hidden not in scores])
        result = {
            "sample": self.sample,
            "reduce": self.reduce,
            "seed": self.seed,
            "dimensions": phi.output_size,
            "scores": list(scores.values()),
            "kept": read_json(self.folder / REDUCTION_FILE).get("kept"),
            "seconds": round(time.perf_counter() - began + (0.0 if before is None else before["seconds"]), 2),
        }
        write_json(self.folder / RESULT, result)


def run_all(trials: Sequence[Trial], evaluator: Evaluator, workers: int) -> dict[str, str]:
    """Run what is missing; returns why trials could not be run, by the names of their folders."""
    results = [(trial, trial.result()) for trial in trials]
    classifiers = set(evaluator.classifiers)
    missing = [trial for trial, result in results if result is None or classifiers - set(result["scores"])]
    log.info("%d of %d trials were finished before", len(trials) - len(missing), len(trials))
    undrawn = {trial.subset: trial for trial, result in results if result is None and not trial.subset.exists()}
    # A subset that cannot be drawn fails again below, for each of its trials.
    in_processes(Trial.draw, [(trial,) for trial in undrawn.values()], workers, "sample")
    ended = in_processes(Trial.run, [(trial, evaluator) for trial in missing], workers, "reduce and evaluate")
    failed = [(trial, error) for trial, error in zip(missing, ended, strict=True) if error is not None]
    errors = {trial.folder.name: f"{trial}: {error}" for trial, error in failed}
    for message in errors.values():
        log.warning("left out: %s", message)
    if len(errors) == len(trials):
        raise EdgeseaError(f"no trial could be run; the first: {next(iter(errors.values()))}")
    return errors


def summarise(trials: Sequence[Trial], evaluator: Evaluator, repeats: int) -> Options:
    """The content of select.json: an entry for each combination, over its seeds, and which one is the best."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.combination, []).append(trial)
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


def _entry(group: Sequence[Trial], evaluator: Evaluator, repeats: int) -> Options:
    """One combination: means over its seeds, all else of the first."""
    results = [result for trial in group if (result := trial.result()) is not None]
    scores = [evaluator.best(result["scores"])["score"] for result in results]
    trial, result = group[0], results[0]
    best = evaluator.best(result["scores"])
    return {
        "sample": {name: str(value) if isinstance(value, Path) else value for name, value in trial.sample.items()},
        "reduce": trial.reduce,
        "dimensions": result["dimensions"],
        "classifier": {key: best[key] for key in ("layers", "units")},
        "scores": [result["scores"][hidden] for hidden in evaluator.classifiers],
        "kept": result["kept"],
        "score": statistics.fmean(scores),
        "score_std": statistics.stdev(scores) if len(scores) > 1 else None,
        "standard_error": best["standard_error"],
        "by_seed": {str(own.seed): score for own, score in zip(group, scores, strict=True)},
        "complete": len(group) == repeats,
        "seconds": statistics.fmean(own["seconds"] for own in results),
        "folder": trial.folder.relative_to(trial.out).as_posix(),
        "subset": trial.subset.relative_to(trial.out).as_posix(),
    }
