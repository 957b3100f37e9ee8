"""Single-label tasks with official folds: each fold is tested in turn by a probe that is trained on all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags
from edgesea.tasks.bootstrap import confidence_intervals
from edgesea.tasks.metrics import accuracy, class_accuracy
from edgesea.tasks.options import ProbeOptions
from edgesea.tasks.probes import clip_features, fit_probe, predict

Ints = NDArray[np.integer]

NONE = "(none)"  # predicted for a clip that could not be embedded


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
    recordings : ndarray of str, (N,), optional
        The recordings that they were cut from. Default: each is one of its own.
    """

    name: str
    paths: list[Path]
    labels: NDArray[np.str_]
    folds: NDArray[np.int64]
    recordings: NDArray[np.str_] | None = None

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
        recordings = None if self.recordings is None else self.recordings[kept]
        return FoldTask(self.name, [self.paths[row] for row in kept], self.labels[kept], self.folds[kept], recordings)

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
            Bootstrap resamples of the recordings for the confidence intervals; 0: no intervals.

        Returns
        -------
        dict
            accuracy: share of all clips tested. fold_accuracy: mean of the folds' accuracies (the same, if the folds
            are of equal size). class_accuracy: mean of the classes' recalls. accuracy_by_fold, accuracy_by_class.
            confusion: ``classes``, ``columns`` and ``counts``, a row for each true class, a column for each predicted
            one, and one more, ``(none)``, if clips could not be embedded. chosen: the parameters that a search chose,
            by test fold. confidence: 95 % intervals of the three accuracies, [low, high]. clips: how many were tested.

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
            groups = None if self.recordings is None else self.recordings[own]
            result["confidence"] = _confidence(truth[own], predicted[own], self.folds[own], groups, resamples, seed)
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


def _confidence(
    truth: Ints, predicted: Ints, folds: Ints, groups: NDArray[np.str_] | None, resamples: int, seed: int
) -> dict[str, list[float]]:
    def score(clips: NDArray[np.int64]) -> dict[str, float]:
        return _accuracies(truth[clips], predicted[clips], folds[clips])

    found = confidence_intervals(score, len(truth), resamples, seed=seed, groups=groups)
    return {name: list(interval) for name, interval in found.items()}
