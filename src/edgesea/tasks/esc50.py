"""ESC-50 and ESC-10 (Piczak, 2015): one class a clip, five official folds that are never mixed."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.tasks.classifier import Classifier, fixed_epochs, make_probe

METADATA = Path("meta/esc50.csv")


@dataclass(frozen=True)
class Esc50:
    """A data set in the layout of ESC-50.

    Attributes
    ----------
    paths : list of Path
        The clips.
    labels : ndarray of str, (N,)
        Their classes.
    folds : ndarray, (N,) int
        Their folds.
    """

    paths: list[Path]
    labels: NDArray[np.str_]
    folds: NDArray[np.int64]

    @classmethod
    def load(cls, data: Path) -> "Esc50":
        """Read ``meta/esc50.csv`` and ``audio/`` below `data`.

        Raises
        ------
        EdgeseaError
            If they are missing, or a column is.
        """
        path = data / METADATA
        if not path.is_file():
            raise EdgeseaError(
                f"{path}: no such file; the task esc50 needs {METADATA} and audio/ below its data folder"
            )
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            paths = [data / "audio" / row["filename"] for row in rows]
            labels, folds = [row["category"] for row in rows], [int(row["fold"]) for row in rows]
        except (KeyError, ValueError) as error:
            raise EdgeseaError(f"{path}: bad or missing column: {error}; needed: filename, fold, category") from error
        if not rows:
            raise EdgeseaError(f"{path}: no clips in it")
        return cls(paths, np.array(labels), np.array(folds))

    def without(self, folds: Sequence[int]) -> "Esc50":
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
        return Esc50([self.paths[row] for row in kept], self.labels[kept], self.folds[kept])

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
        features: NDArray[np.floating],
        usable: NDArray[np.bool_],
        classifier: Classifier,
        folds: Sequence[int] | None,
        seed: int,
        hidden: Sequence[int] = (128,),
    ) -> dict[str, Any]:
        """Accuracy of a probe on each test fold, trained on all others.

        Parameters
        ----------
        features : ndarray, (N, D)
            One row a clip.
        usable : ndarray of bool, (N,)
            False for clips that could not be embedded: they are not trained on, and count as wrong when tested.
        classifier : {"logistic", "mlp"}
            The probe.
        folds : sequence of int, optional
            Folds to test; default: each in turn.
        seed : int
            Seed of the probe.
        hidden : sequence of int
            Sizes of the hidden layers of ``mlp``.

        Returns
        -------
        dict
            accuracy, accuracy_by_fold, accuracy_by_class, clips.
        """
        tested = self.tested(folds)
        correct = np.zeros(len(self.labels), bool)
        for fold in tested:
            train, test = (self.folds != fold) & usable, (self.folds == fold) & usable
            if len(set(self.labels[train].tolist())) < 2:
                raise EdgeseaError(f"fold {fold}: the usable clips of the other folds must be of at least two classes")
            with fixed_epochs():
                probe = make_probe(classifier, seed, hidden).fit(features[train], self.labels[train])
            if test.any():
                correct[test] = probe.predict(features[test]) == self.labels[test]
        chosen = np.isin(self.folds, tested)
        classes = sorted(set(self.labels[chosen].tolist()))
        return {
            "accuracy": float(correct[chosen].mean()),
            "accuracy_by_fold": {str(fold): float(correct[self.folds == fold].mean()) for fold in tested},
            "accuracy_by_class": {name: float(correct[chosen & (self.labels == name)].mean()) for name in classes},
            "clips": int(chosen.sum()),
        }
