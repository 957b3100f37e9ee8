"""Single-label tasks with official folds: each fold is tested in turn by a probe that is trained on all others.

The folds of a published data set keep the clips that were cut from one recording together. Tables that do not (edited,
merged or shuffled ones) are refused: a probe would be tested on recordings that it knows.
"""

import csv
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags
from edgesea.tasks.bootstrap import confidence_intervals
from edgesea.tasks.classifier import clip_features, fit_probe, predict
from edgesea.tasks.metrics import accuracy, class_accuracy
from edgesea.tasks.options import ProbeOptions

Ints = NDArray[np.integer]
Row = Mapping[str, str | None]

NONE = "(none)"  # predicted for a clip that could not be embedded
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where a data set with folds has what.

    Attributes
    ----------
    task : str
        Name of the task.
    table : str
        CSV file with one row a clip, below the data set's folder.
    audio : str
        File of a clip, with its ``{file}`` name and its ``{fold}``.
    file, fold, label, recording : str
        Columns: name of the file, fold (1, 2, ...), class, and the recording that the clip was cut from; the last one
        may be missing.
    """

    task: str
    table: str
    audio: str
    file: str
    fold: str
    label: str
    recording: str


@dataclass(frozen=True)
class FoldTask:
    """A labelled data set with folds.

    Attributes
    ----------
    name : str
        Name of the task.
    paths : list of Path
        The clips.
    labels : ndarray of str, (N,)
        Their classes.
    folds : ndarray, (N,) int64
        Their folds.
    """

    name: str
    paths: list[Path]
    labels: NDArray[np.str_]
    folds: NDArray[np.int64]

    def without(self, folds: Sequence[int]) -> "FoldTask":
        """The clips of all other folds.

        Raises
        ------
        EdgeseaError
            If a fold does not exist, or fewer than two are left.
        """
        left = sorted(self._present(folds) - set(folds))
        if len(left) < 2:
            names = f"fold {left[0]} alone" if left else "no fold"
            raise EdgeseaError(f"hold_out leaves {names}; two are needed, one to train on and one to test")
        kept = np.flatnonzero(np.isin(self.folds, left))
        return FoldTask(self.name, [self.paths[row] for row in kept], self.labels[kept], self.folds[kept])

    def _present(self, asked: Sequence[int]) -> set[int]:
        """The folds of the data, among which those asked for must be."""
        present = set(self.folds.tolist())
        if unknown := set(asked) - present:
            raise EdgeseaError(f"folds {sorted(unknown)} do not exist; the data has {sorted(present)}")
        return present

    def tested(self, folds: Sequence[int] | None) -> list[int]:
        """Folds to test, sorted: those given, or else all.

        Raises
        ------
        EdgeseaError
            If one does not exist, or nothing is left to train on.
        """
        present = sorted(self._present(folds or ()))
        if len(present) < 2:
            raise EdgeseaError(f"the data has only fold {present[0]}: nothing is left to train on when it is tested")
        return sorted(set(folds)) if folds else present

    def score(
        self,
        bags: Bags,
        probe: ProbeOptions = ProbeOptions(),
        folds: Sequence[int] | None = None,
        seed: int = 0,
        resamples: int = 0,
    ) -> dict[str, Any]:
        """How well a probe tells the classes of each test fold, trained on all others.

        Parameters
        ----------
        bags : Bags
            Embeddings of the clips' windows. Clips without any are not trained on, and count as wrong when tested.
        probe : ProbeOptions, optional
            Default: logistic regression on mean embeddings.
        folds : sequence of int, optional
            Folds to test; default: each in turn.
        seed : int
            Seed of the probe and of the bootstrap.
        resamples : int
            Bootstrap resamples of the clips for the confidence intervals; 0: no intervals.

        Returns
        -------
        dict
            accuracy: share of all clips tested. fold_accuracy: mean of the folds' accuracies (the same, if the folds
            are of equal size). class_accuracy: mean of the classes' recalls. accuracy_by_fold, accuracy_by_class.
            confusion: ``classes``, ``columns`` and ``counts``, a row for each true class, a column for each predicted
            one, and one more, ``(none)``, if clips could not be embedded. chosen: the parameters that a search chose,
            by test fold. confidence: 95 % intervals of the three accuracies, [low, high]; clips of one recording count
            as independent. clips: how many were tested.

        Raises
        ------
        EdgeseaError
            If a fold does not exist, or the other folds have not what the probe needs.
        """
        if len(bags) != len(self.labels):
            raise EdgeseaError(f"{self.name}: embeddings of {len(bags)} clips do not fit {len(self.labels)} labels")
        tested = self.tested(folds)
        classes, truth = np.unique(self.labels, return_inverse=True)
        predicted, chosen = self._predict(clip_features(bags, probe.features), truth, tested, probe, seed)
        own = np.isin(self.folds, tested)
        result: dict[str, Any] = fold_scores(truth[own], predicted[own], self.folds[own], classes)
        if probe.search:
            result["chosen"] = chosen
        if resamples:
            result["confidence"] = _confidence(truth[own], predicted[own], self.folds[own], resamples, seed)
        return {**result, "clips": int(own.sum())}

    def _predict(
        self, bags: Bags, truth: NDArray[np.intp], tested: Sequence[int], probe: ProbeOptions, seed: int
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """The class predicted for each clip of the folds tested, -1 for none, and what was chosen for each fold."""
        predicted, chosen = np.full(len(truth), -1), {}
        title = f"{self.name}: {probe.classifier}"
        # Most probes take a second: a bar that comes and goes would only disturb.
        for fold in tqdm(tested, unit="fold", desc=title, disable=None, delay=5, leave=False):
            train = np.flatnonzero((self.folds != fold) & bags.usable)
            test = np.flatnonzero((self.folds == fold) & bags.usable)
            if len(np.unique(truth[train])) < 2:
                raise EdgeseaError(f"fold {fold}: the usable clips of the other folds must be of at least two classes")
            if not len(test):
                continue
            examples = bags.take(train)
            rows = train[examples.owner]
            try:
                fitted, own = fit_probe(examples.rows, truth[rows], self.folds[rows], probe, seed)
            except EdgeseaError as error:
                raise EdgeseaError(f"fold {fold}: {error}") from error
            predicted[test], chosen[str(fold)] = predict(fitted, bags.take(test)), own
        return predicted, chosen


def fold_scores(truth: Ints, predicted: Ints, folds: Ints, classes: NDArray[np.str_]) -> dict[str, Any]:
    """Scores of predictions; see `FoldTask.score`.

    Parameters
    ----------
    truth, predicted : ndarray of int, (N,)
        Indices into `classes`; -1 predicts none.
    folds : ndarray of int, (N,)
        Folds of the clips.
    classes : ndarray of str, (K,)
        Their names; those that are never true have no accuracy.

    Returns
    -------
    dict
        accuracy, fold_accuracy, class_accuracy, accuracy_by_fold, accuracy_by_class, confusion.
    """
    names, correct = classes.tolist(), truth == predicted
    columns = [*names, NONE] if (predicted < 0).any() else names
    counts = np.zeros((len(names), len(columns)), np.int64)
    np.add.at(counts, (truth, predicted), 1)  # -1 is the last column
    return {
        **_accuracies(truth, predicted, folds),
        "accuracy_by_fold": {str(fold): float(correct[folds == fold].mean()) for fold in np.unique(folds)},
        "accuracy_by_class": {names[own]: float(correct[truth == own].mean()) for own in np.unique(truth)},
        "confusion": {"classes": names, "columns": columns, "counts": counts.tolist()},
    }


def _accuracies(truth: Ints, predicted: Ints, folds: Ints) -> dict[str, float]:
    own = np.unique(folds, return_inverse=True)[1]
    return {
        "accuracy": accuracy(truth, predicted),
        "fold_accuracy": float(np.mean(np.bincount(own, truth == predicted) / np.bincount(own))),
        "class_accuracy": class_accuracy(truth, predicted),
    }


def _confidence(truth: Ints, predicted: Ints, folds: Ints, resamples: int, seed: int) -> dict[str, list[float]]:
    def score(clips: NDArray[np.int64]) -> dict[str, float]:
        return _accuracies(truth[clips], predicted[clips], folds[clips])

    found = confidence_intervals(score, len(truth), resamples, seed=seed)
    return {name: list(interval) for name, interval in found.items()}


def read_folds(data: Path, layout: Layout) -> FoldTask:
    """Read a data set with folds.

    Parameters
    ----------
    data : Path
        Its folder.
    layout : Layout
        What is where in it.

    Raises
    ------
    EdgeseaError
        If the table is missing, a column or a value is, a file is listed twice, or clips of one recording are in
        several folds.
    """
    path = data / layout.table
    rows = _read_table(path, data, layout)
    files = {line: _value(path, line, row, layout.file) for line, row in rows.items()}
    folds = {line: _fold(path, line, row, layout.fold) for line, row in rows.items()}
    labels = [_value(path, line, row, layout.label) for line, row in rows.items()]
    if repeated := [lines for lines in _grouped(files).values() if len(lines) > 1]:
        name = files[repeated[0][0]]
        raise EdgeseaError(f"{path}: {name} is listed more than once: {_places(repeated, folds)}; keep one of them")
    _check_recordings(path, rows, folds, layout)
    paths = [data / layout.audio.format(file=files[line], fold=folds[line]) for line in rows]
    return FoldTask(layout.task, paths, np.array(labels), np.array(list(folds.values()), np.int64))


def _read_table(path: Path, data: Path, layout: Layout) -> dict[int, Row]:
    """The rows of the table by their line numbers."""
    if not path.is_file():
        raise EdgeseaError(
            f"{path}: no such file; the task {layout.task} needs {layout.table} and "
            f"{layout.audio.partition('/')[0]}/ below its data folder"
        )
    rows: dict[int, Row] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for row in reader:
                rows[reader.line_num] = row
            columns = reader.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgeseaError(f"{path}: not a CSV file: {error}") from error
    if missing := [name for name in (layout.file, layout.fold, layout.label) if name not in columns]:
        raise EdgeseaError(f"{path}: no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    if not rows:
        raise EdgeseaError(f"{path}: no clips in it")
    return rows


def _value(path: Path, line: int, row: Row, column: str) -> str:
    if not (value := (row[column] or "").strip()):
        raise EdgeseaError(f"{path}: line {line}: no {column}")
    return value


def _fold(path: Path, line: int, row: Row, column: str) -> int:
    value = _value(path, line, row, column)
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value)):
        raise EdgeseaError(f"{path}: line {line}: {column} must be a whole number from 1, not {value!r}")
    return int(value)


def _grouped(values: Mapping[int, str]) -> dict[str, list[int]]:
    """The lines of each value."""
    lines = defaultdict(list)
    for line, value in values.items():
        lines[value].append(line)
    return lines


def _places(groups: Sequence[Sequence[int]], folds: Mapping[int, int]) -> str:
    """Folds and lines of the first group, and how many groups more there are."""
    lines: dict[int, list[int]] = defaultdict(list)
    for line in groups[0]:
        lines[folds[line]].append(line)
    places = [
        f"fold {fold} (line {', '.join(map(str, own[:5]))}{', ...' * (len(own) > 5)})" for fold, own in lines.items()
    ]
    return ", ".join(places) + (f"; and {len(groups) - 1} more like it" if len(groups) > 1 else "")


def _check_recordings(path: Path, rows: Mapping[int, Row], folds: Mapping[int, int], layout: Layout) -> None:
    """Refuse folds that share a recording, as far as it is known which clips were cut from the same."""
    known = {line: name for line, row in rows.items() if (name := (row.get(layout.recording) or "").strip())}
    if len(known) < len(rows):
        log.info(
            "%s: %d of %d clips have no %s: it is not checked whether their recordings are in one fold only",
            path, len(rows) - len(known), len(rows), layout.recording,
        )  # fmt: skip
    recordings = _grouped(known)
    leaks = [lines for lines in recordings.values() if len({folds[line] for line in lines}) > 1]
    if leaks:
        raise EdgeseaError(
            f"{path}: clips of the recording {known[leaks[0][0]]} ({layout.recording}) are in several folds: "
            f"{_places(leaks, folds)}; a probe would be tested on recordings that it was trained on: use the published "
            "table, or put each recording into one fold"
        )
