"""Single-label tasks with official folds: each fold is tested in turn by a probe that is trained on all others.

ESC-50 and ESC-10 (Piczak, 2015): 5 s of one of fifty (ten) classes a clip, five folds. UrbanSound8K (Salamon, Jacoby
and Bello, 2014): up to 4 s of one of ten classes a clip, ten folds of different sizes, of which the authors ask for the
mean of their accuracies (``fold_accuracy``). The folds of a published data set keep the clips that were cut from one
recording together. Tables that do not are refused: a probe would be tested on recordings that it was trained on.

Conventions
-----------
* A probe sees each clip as one row (`mean`, `statistics`) or as all of its windows (`framewise`).
* All but the forest stand behind standardisation, which is fitted on the training clips alone.
* A clip's class is the one with the largest score; the scores of framewise are averaged over the clip's windows. The
  score is the class probability; that of an SVM is its one-versus-rest decision function, because Platt's probabilities
  need a cross-validation and may contradict the decisions.
* A search leaves out one training fold at a time, or of a single one a fifth of its recordings, and chooses the
  parameters with the best mean accuracy (framewise: of windows), among equally good ones the simplest. It sees the
  training folds only. For logistic, it also tries one scale for all dimensions: those of a reduction are sorted by what
  they carry, and standardisation makes the last as large as the first.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.table.sheet import Sheet
from edgesea.tasks.features import Bags, Float32
from edgesea.tasks.metrics import confidence_intervals
from edgesea.tasks.options import Classifier, Features, ProbeOptions

Ints = NDArray[np.integer]
STEP = "classifier"  # of the pipeline, by which scikit-learn names the parameters

# Of each task: its table, the file of a clip, and the columns of the file's name, the class, and the recording that it
# was cut from, which may be missing.
LAYOUTS = {
    "esc50": ("meta/esc50.csv", "audio/{file}", "filename", "category", "src_file"),
    "urbansound8k": ("metadata/UrbanSound8K.csv", "audio/fold{fold}/{file}", "slice_file_name", "class", "fsID"),
}


@dataclass(frozen=True)
class FoldTask:
    """A labelled data set of N clips with folds."""

    name: str
    paths: list[Path]
    labels: NDArray[np.str_]  # (N,) their classes
    folds: NDArray[np.int64]  # (N,)
    recordings: NDArray[Any]  # (N,) what they were cut from, by name; if not all are known, a number for each clip

    @classmethod
    def load(cls, name: str, data: Path) -> "FoldTask":
        """Read the data set of the task `name` from its folder."""
        table_name, audio, file_column, label_column, source_column = LAYOUTS[name]
        if not (data / table_name).is_file():
            raise EdgeseaError(f"{data / table_name}: not found; a folder with {table_name} and audio/ is needed")
        table = Sheet.read(data / table_name, [file_column, "fold", label_column], [source_column])
        table.report([file_column, "fold", label_column, source_column])
        files, labels, numbers = table.rows[file_column], table.rows[label_column], table.numbers(["fold"])
        table.check(numbers.isin(range(1, 1000)), "a whole number from 1 to 999")
        table.check(labels != "", "given")
        table.check((files != "") & ~files.duplicated(keep=False), "the name of a file, listed once")
        folds = numbers["fold"].astype(np.int64)
        recordings = table.rows.get(source_column, pd.Series("", files.index, name=source_column))
        separate = folds.groupby(recordings).transform("nunique") == 1
        table.check(separate.rename(source_column) | (recordings == ""), "in one fold only; use the published table")
        paths = [data / audio.format(file=file, fold=fold) for file, fold in zip(files, folds, strict=True)]
        sources = np.arange(len(paths)) if (recordings == "").any() else recordings.to_numpy(str)
        return cls(name, paths, labels.to_numpy(str), np.array(folds), sources)

    def tested(self, folds: Sequence[int] | None) -> list[int]:
        """The folds to test, sorted: those given, which must exist, or else all."""
        present = sorted(set(self.folds.tolist()))
        if unknown := set(folds or ()) - set(present):
            raise EdgeseaError(f"folds {sorted(unknown)} do not exist; the data has {present}")
        if len(present) < 2:
            raise EdgeseaError(f"the data has only fold {present[0]}: nothing is left to train on when it is tested")
        return sorted(set(folds)) if folds else present

    def without(self, folds: Sequence[int]) -> "FoldTask":
        """The clips of all other folds, of which at least two must be left."""
        rows = np.flatnonzero(~np.isin(self.folds, self.tested(folds)))
        if len(left := np.unique(self.folds[rows])) < 2:
            raise EdgeseaError(f"hold_out: folds {left} are left; two are needed, one to train on and one to test")
        columns = {name: getattr(self, name)[rows] for name in ("labels", "folds", "recordings")}
        return replace(self, paths=[self.paths[row] for row in rows], **columns)

    def emptied(self, usable: NDArray[np.bool_]) -> list[str]:
        """Folds and classes of which no clip is `usable`, and classes of which one is in a single fold only.

        These can be trained on or tested, but not both.
        """
        rows = pd.DataFrame({"fold": self.folds, "class": self.labels})
        left = rows[usable]
        gone = [f"{name} {key}" for name in rows for key in sorted({*rows[name]} - {*left[name]})]
        before, now = (frame.groupby("class")["fold"].agg(set).to_dict() for frame in (rows, left))
        alone = [(key, *folds) for key, folds in now.items() if len(folds) < 2 <= len(before[key])]
        return gone + [f"class {key} outside of fold {fold}" for key, fold in alone]

    def score(
        self,
        bags: Bags,
        probe: ProbeOptions = ProbeOptions(),
        folds: Sequence[int] | None = None,
        seed: int = 0,
        resamples: int = 0,
    ) -> dict[str, Any]:
        """Scores of a probe on each test fold, trained on all others; clips without windows are left out.

        Returns `fold_scores`, the number of clips tested, and, where asked for, what a search chose by test fold
        (chosen) and 95 % intervals of the three accuracies, over the recordings (confidence).
        """
        tested, bags = self.tested(folds), clip_features(bags, probe.features)
        classes, truth = np.unique(self.labels, return_inverse=True)
        predicted, chosen = np.zeros(len(truth), int), {}
        title = f"{self.name}: {probe.classifier}"
        for fold in tqdm(tested, title, unit="fold", disable=None, delay=5, leave=False):
            train = np.flatnonzero((self.folds != fold) & bags.usable)
            test = np.flatnonzero((self.folds == fold) & bags.usable)
            if len(np.unique(truth[train])) < 2:
                raise EdgeseaError(f"fold {fold}: the usable clips of the other folds must be of at least two classes")
            examples = bags.take(train)
            rows = train[examples.owner]
            groups = self.folds[rows], self.recordings[rows]
            fitted, chosen[str(fold)] = fit_probe(examples.rows, truth[rows], *groups, probe, seed)
            predicted[test] = predict(fitted, bags.take(test))
        clips = np.isin(self.folds, tested) & bags.usable
        columns = truth[clips], predicted[clips], self.folds[clips]
        result = {**fold_scores(*columns, classes), **({"chosen": chosen} if probe.search else {})}
        if resamples:
            result["confidence"] = confidence_intervals(
                lambda rows: _accuracies(*(column[rows] for column in columns)),
                len(columns[0]), resamples, seed, self.recordings[clips],
            )  # fmt: skip
        return {**result, "clips": len(columns[0])}


def fold_scores(truth: Ints, predicted: Ints, folds: Ints, classes: NDArray[np.str_]) -> dict[str, Any]:
    """Scores of predicted classes, given as indices into `classes`.

    accuracy: share of all clips. fold_accuracy: mean of the folds' accuracies. class_accuracy: mean of the classes'
    recalls. accuracy_by_fold, accuracy_by_class. confusion: a row for each true class, a column for each predicted one.
    """
    names, correct = classes.tolist(), pd.Series(truth == predicted)
    counts = confusion_matrix(truth, predicted, labels=range(len(names)))
    return {
        **_accuracies(truth, predicted, folds),
        "accuracy_by_fold": {str(fold): share for fold, share in correct.groupby(folds).mean().items()},
        "accuracy_by_class": correct.groupby(classes[truth]).mean().to_dict(),
        "confusion": {"classes": names, "counts": counts.tolist()},
    }


def _accuracies(truth: Ints, predicted: Ints, folds: Ints) -> dict[str, float]:
    """Shares of correct clips: of all, mean over the folds, mean over the classes (balanced accuracy)."""
    correct = truth == predicted

    def mean_share(groups: Ints) -> float:
        clips = np.bincount(groups)
        return float(np.mean(np.bincount(groups, correct)[clips > 0] / clips[clips > 0]))

    return {"accuracy": float(correct.mean()), "fold_accuracy": mean_share(folds), "class_accuracy": mean_share(truth)}


class CommonScale(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Centre the dimensions and divide all of them by one number."""

    def fit(self, rows: NDArray[np.floating], truth: Ints | None = None) -> "CommonScale":
        self.mean_ = rows.mean(0, np.float64)
        self.scale_ = float(np.sqrt(np.mean((rows - self.mean_) ** 2))) or 1.0
        return self

    def transform(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray((rows - self.mean_) / self.scale_)


SCALERS = {"each": StandardScaler(), "common": CommonScale()}  # of a search; it fits copies


def make_probe(kind: Classifier, seed: int, hidden: Sequence[int] = (128,)) -> Pipeline:
    """A single-label probe with its usual parameters; `hidden` are the layers of mlp."""
    models = {
        "logistic": LogisticRegression(max_iter=5000),
        # No early stopping: it would take a tenth of what may be only a hundred clips, and stop by their noise. The
        # strong L2 penalty keeps 100 epochs from overfitting.
        "mlp": MLPClassifier(tuple(hidden), alpha=1.0, batch_size=64, max_iter=100, random_state=seed),
        "svm": SVC(break_ties=True),  # so that decisions agree with the decision function
        "random_forest": RandomForestClassifier(random_state=seed),
    }
    scaler = "passthrough" if kind == "random_forest" else StandardScaler()
    return Pipeline([("scaler", scaler), (STEP, models[kind])])


def search_grid(kind: Classifier, dimensions: int) -> dict[str, list[Any]]:
    """The parameters that a search tries, the simplest first: of equally good ones the first wins.

    gamma = 1 / dimensions suits standardised features.
    """
    grids: dict[Classifier, dict[str, list[Any]]] = {
        "logistic": {"C": [0.001, 0.01, 0.1, 1.0, 10.0]},
        "mlp": {"alpha": [10.0, 1.0, 0.1], "hidden_layer_sizes": [(64,), (256,)]},
        "svm": {"C": [1.0, 10.0, 100.0], "gamma": [0.25 / dimensions, 1 / dimensions]},
        "random_forest": {"max_depth": [8, None], "max_features": ["sqrt", 0.1]},
    }
    scalers = {"scaler": list(SCALERS.values())} if kind == "logistic" else {}
    return {f"{STEP}__{name}": values for name, values in grids[kind].items()} | scalers


def clip_features(bags: Bags, features: Features) -> Bags:
    """What a probe sees: the same clips with one row each, or, for framewise, with all of their windows.

    statistics are mean, standard deviation (0 for a single window), minimum, maximum and median.
    """
    if features == "framewise":
        return bags
    if features == "mean":
        return bags.averaged()
    blocks = [block.astype(np.float64) for block in np.split(bags.rows, bags.first[1:]) if len(block)]
    found = [[block.mean(0), block.std(0), block.min(0), block.max(0), np.median(block, 0)] for block in blocks]
    return Bags(np.array(found, np.float32).reshape(len(blocks), -1), bags.usable.astype(np.int64))


@contextmanager
def fixed_epochs() -> Iterator[None]:
    """Train an mlp to the end, without scikit-learn's warning that the epochs are over.

    scikit-learn makes a warning of Ctrl-C and returns a half-trained network; here it interrupts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message=".*batch_size.*")
        warnings.filterwarnings("error", message="Training interrupted by user", category=UserWarning)
        try:
            yield
        except UserWarning as warning:
            raise KeyboardInterrupt from warning


def fit_probe(
    rows: Float32, labels: Ints, folds: Ints, recordings: NDArray[Any], options: ProbeOptions, seed: int
) -> tuple[Pipeline, dict[str, Any]]:
    """Train a probe on rows with their classes, folds and recordings; also returns what a search chose."""
    model: Any = make_probe(options.classifier, seed, (options.hidden_layer_size,) * options.num_hidden_layers)
    if not options.search:
        with fixed_epochs():
            return model.fit(rows, labels), {}
    several = len(np.unique(folds)) > 1
    splits = PredefinedSplit(folds) if several else StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    try:
        cut = list(splits.split(rows, labels, None if several else recordings))
    except ValueError as error:
        raise EdgeseaError(f"search: the only training fold cannot be divided ({error}); leave search out") from error
    for train, tested in cut:
        if len(np.unique(labels[train])) < 2:
            left = f"fold {folds[tested[0]]}" if several else "a fifth of the recordings"
            raise EdgeseaError(f"search: without {left} the training clips are of one class; leave search out")
    # error_score: otherwise an interrupted training would only count as a bad choice of parameters.
    model = GridSearchCV(model, search_grid(options.classifier, rows.shape[1]), cv=cut, error_score="raise")
    with fixed_epochs():
        model.fit(rows, labels)
    chosen = {name.removeprefix(f"{STEP}__"): value for name, value in model.best_params_.items()}
    if "scaler" in chosen:
        chosen["scaler"] = next(name for name, one in SCALERS.items() if type(one) is type(chosen["scaler"]))
    return model.best_estimator_, chosen


def predict(probe: Pipeline, test: Bags) -> NDArray[np.int64]:
    """The class of each clip, (len(test),); each has at least one row."""
    if hasattr(probe, "predict_proba"):
        scores = probe.predict_proba(test.rows)
    else:
        scores = probe.decision_function(test.rows)
        if scores.ndim == 1:  # two classes
            scores = np.column_stack([-scores, scores])
    means = np.add.reduceat(scores, test.first, axis=0) / test.counts[:, None]
    return np.asarray(probe.classes_[means.argmax(1)], np.int64)
