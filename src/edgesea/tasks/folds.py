"""Single-label tasks with official folds: each fold is tested in turn by a probe that is trained on all others.

ESC-50 and ESC-10 (Piczak, 2015): 5 s of one of fifty (ten) classes a clip, five folds. UrbanSound8K (Salamon, Jacoby
and Bello, 2014): up to 4 s of one of ten classes a clip, ten folds of different sizes, of which the authors ask for the
mean of their accuracies (``fold_accuracy``). The folds of a published data set keep the clips that were cut from one
recording together. Tables that do not are refused: a probe would be tested on recordings that it was trained on.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.tasks.csv_table import CsvTable
from edgesea.tasks.features import Bags
from edgesea.tasks.metrics import confidence_intervals
from edgesea.tasks.options import ProbeOptions
from edgesea.tasks.probes import clip_features, fit_probe, predict

Ints = NDArray[np.integer]
NONE = "(none)"  # predicted for a clip that could not be embedded
log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Where a data set with folds has what."""

    table: str  # CSV file with one row a clip
    audio: str  # file of a clip
    file: str  # columns: name of the file, class, and the recording that it was cut from, which may be missing
    label: str
    recording: str


LAYOUTS = {
    "esc50": Layout("meta/esc50.csv", "audio/{file}", "filename", "category", "src_file"),
    "urbansound8k": Layout(
        "metadata/UrbanSound8K.csv", "audio/fold{fold}/{file}", "slice_file_name", "class", "fsID"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class FoldTask:
    """A labelled data set of N clips with folds."""

    name: str
    paths: list[Path]
    labels: NDArray[np.str_]  # (N,) their classes
    folds: NDArray[np.int64]  # (N,)
    recordings: NDArray[np.str_] | None = None  # (N,) what they were cut from; None: each is a recording of its own

    @classmethod
    def load(cls, name: str, data: Path) -> "FoldTask":
        """Read the data set of the task `name` from its folder."""
        layout = LAYOUTS[name]
        table = CsvTable.read(data / layout.table, [layout.file, "fold", layout.label])
        files, labels, folds = table.rows[layout.file], table.rows[layout.label], table.numbers(["fold"])
        table.check((folds >= 1) & (folds < 1e9) & (folds % 1 == 0), "a whole number from 1")
        table.check(labels != "", "given")
        table.check((files != "") & ~files.duplicated(keep=False), "the name of a file, listed once")
        numbers = folds["fold"].astype(np.int64)
        recordings = table.rows.get(layout.recording, pd.Series("", files.index))
        if unknown := int((recordings == "").sum()):
            log.info(
                "%s: %d of %d clips have no %s to check folds by", table.path, unknown, len(files), layout.recording
            )
        separate = numbers.groupby(recordings).transform("nunique") == 1
        table.check(separate.rename(layout.recording) | (recordings == ""), "in one fold only; use the published table")
        paths = [data / layout.audio.format(file=file, fold=fold) for file, fold in zip(files, numbers, strict=True)]
        known = None if unknown else recordings.to_numpy(str)
        return cls(name, paths, labels.to_numpy(str), np.array(numbers), known)

    def without(self, folds: Sequence[int]) -> "FoldTask":
        """The clips of all other folds, of which at least two must be left."""
        left = sorted(self._present(folds) - set(folds))
        if len(left) < 2:
            raise EdgeseaError(f"hold_out: folds {left} are left; two are needed, one to train on and one to test")
        rows = np.flatnonzero(np.isin(self.folds, left))
        recordings = None if self.recordings is None else self.recordings[rows]
        return FoldTask(self.name, [self.paths[row] for row in rows], self.labels[rows], self.folds[rows], recordings)

    def _present(self, asked: Sequence[int]) -> set[int]:
        """The folds of the data, which must include those asked for."""
        present = set(self.folds.tolist())
        if unknown := set(asked) - present:
            raise EdgeseaError(f"folds {sorted(unknown)} do not exist; the data has {sorted(present)}")
        return present

    def tested(self, folds: Sequence[int] | None) -> list[int]:
        """The folds to test, sorted: those given, or else all."""
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
        """Scores of a probe on each test fold, trained on all others.

        Clips without windows are not trained on, and count as wrong when tested. Returns `fold_scores`, the number of
        clips tested, and, where asked for, the parameters that a search chose by test fold (chosen) and 95 % intervals
        of the three accuracies, over the recordings (confidence).
        """
        tested = self.tested(folds)
        classes, truth = np.unique(self.labels, return_inverse=True)
        predicted, chosen = self._predict(clip_features(bags, probe.features), truth, tested, probe, seed)
        clips = np.isin(self.folds, tested)
        truth, predicted, test_folds = truth[clips], predicted[clips], self.folds[clips]
        result = fold_scores(truth, predicted, test_folds, classes)
        if probe.search:
            result["chosen"] = chosen
        if resamples:
            result["confidence"] = confidence_intervals(
                lambda own: _accuracies(truth[own], predicted[own], test_folds[own]),
                len(truth),
                resamples,
                seed,
                None if self.recordings is None else self.recordings[clips],
            )
        return {**result, "clips": len(truth)}

    def _predict(
        self, bags: Bags, truth: NDArray[np.intp], tested: Sequence[int], probe: ProbeOptions, seed: int
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """The class predicted for each clip of the folds tested, -1 for none, and what was chosen for each fold."""
        predicted, chosen = np.full(len(truth), -1), {}
        title = f"{self.name}: {probe.classifier}"
        # Most probes take a second: no bar for those.
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
                fitted, parameters = fit_probe(examples.rows, truth[rows], self.folds[rows], probe, seed)
            except EdgeseaError as error:
                raise EdgeseaError(f"fold {fold}: {error}") from error
            predicted[test], chosen[str(fold)] = predict(fitted, bags.take(test)), parameters
        return predicted, chosen


def fold_scores(truth: Ints, predicted: Ints, folds: Ints, classes: NDArray[np.str_]) -> dict[str, Any]:
    """Scores of predicted classes, given as indices into `classes`; -1 predicts none.

    accuracy: share of all clips. fold_accuracy: mean of the folds' accuracies. class_accuracy: mean of the classes'
    recalls. accuracy_by_fold, accuracy_by_class. confusion: a row for each true class, a column for each predicted one,
    and one more, ``(none)``, if clips could not be embedded.
    """
    names, correct = classes.tolist(), pd.Series(truth == predicted)
    labels = [*range(len(names)), *([-1] if (predicted < 0).any() else [])]
    counts = confusion_matrix(truth, predicted, labels=labels)[: len(names)]
    return {
        **_accuracies(truth, predicted, folds),
        "accuracy_by_fold": {str(fold): share for fold, share in correct.groupby(folds).mean().items()},
        "accuracy_by_class": correct.groupby(classes[truth]).mean().to_dict(),
        "confusion": {"classes": names, "columns": [*names, NONE][: len(labels)], "counts": counts.tolist()},
    }


def _accuracies(truth: Ints, predicted: Ints, folds: Ints) -> dict[str, float]:
    """Shares of correct clips: of all, mean over the folds, mean over the classes (balanced accuracy)."""
    correct = pd.Series(truth == predicted)
    return {
        "accuracy": float(correct.mean()),
        "fold_accuracy": float(correct.groupby(folds).mean().mean()),
        "class_accuracy": float(correct.groupby(truth).mean().mean()),
    }
