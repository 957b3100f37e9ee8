"""Probes: the small scikit-learn classifiers of single-label tasks, which evaluate an embedding.

Conventions
-----------
* A probe sees each clip as one row (`mean`, `statistics`) or as all of its windows (`framewise`).
* All but the forest stand behind standardisation, which is fitted on the training clips alone.
* A clip's class is the one with the largest score; the scores of framewise are averaged over the clip's windows. The
  score is the class probability; that of an SVM is its one-versus-rest decision function, because Platt's probabilities
  need a cross-validation and may contradict the decisions.
* A search leaves out one training fold at a time and chooses the parameters with the best mean accuracy (framewise: of
  windows), among equally good ones the simplest. It sees the training folds only.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags, Float32
from edgesea.tasks.options import Classifier, Features, ProbeOptions

Ints = NDArray[np.integer]
STEP = "classifier"  # of the pipeline, by which scikit-learn names the parameters


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
    return grids[kind]


def clip_features(bags: Bags, features: Features) -> Bags:
    """What a probe sees: the same clips with one row each, or, for framewise, with all of their windows.

    statistics are mean, standard deviation (0 for a single window), minimum, maximum and median.
    """
    if features == "framewise":
        return bags
    rows = bags.means()[bags.usable]
    if features == "statistics":
        blocks = [block.astype(np.float64) for block in np.split(bags.rows, bags.first[1:]) if len(block)]
        found = [[block.mean(0), block.std(0), block.min(0), block.max(0), np.median(block, 0)] for block in blocks]
        rows = np.array(found, np.float32).reshape(len(blocks), -1)
    return Bags(rows, bags.usable.astype(np.int64))


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
    rows: Float32, labels: Ints, folds: Ints, options: ProbeOptions, seed: int
) -> tuple[Pipeline, dict[str, Any]]:
    """Train a probe on rows with their classes and folds; also returns the parameters that a search chose."""
    model: Any = make_probe(options.classifier, seed, (options.hidden_layer_size,) * options.num_hidden_layers)
    if options.search:
        for fold in np.unique(folds):
            if len(np.unique(labels[folds != fold])) < 2:
                raise EdgeseaError(f"search: without fold {fold} the training clips are of one class; leave search out")
        grid = {f"{STEP}__{name}": values for name, values in search_grid(options.classifier, rows.shape[1]).items()}
        # error_score: otherwise an interrupted training would only count as a bad choice of parameters.
        model = GridSearchCV(model, grid, cv=PredefinedSplit(folds), error_score="raise")
    with fixed_epochs():
        model.fit(rows, labels)
    if not options.search:
        return model, {}
    return model.best_estimator_, {name.removeprefix(f"{STEP}__"): value for name, value in model.best_params_.items()}


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
