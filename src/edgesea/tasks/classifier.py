"""The small classifiers that judge an embedding, from scikit-learn."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Classifier = Literal["logistic", "mlp"]


def make_probe(kind: Classifier, seed: int, hidden: Sequence[int] = (128,)) -> Pipeline:
    """A single-label probe behind standardisation: logistic regression (L2, C = 1), or hidden layers of these sizes."""
    if kind == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return make_pipeline(StandardScaler(), _mlp(seed, hidden))


def _mlp(seed: int, hidden: Sequence[int]) -> MLPClassifier:
    # No early stopping: it would take a tenth of what may be only a hundred clips, and stop by their noise. The strong
    # L2 penalty keeps 100 epochs from overfitting.
    return MLPClassifier(tuple(hidden), alpha=1.0, batch_size=64, max_iter=100, random_state=seed)


@contextmanager
def fixed_epochs() -> Iterator[None]:
    """Train to the end: silence the note that the epochs are over, and do not take Ctrl-C for their end.

    scikit-learn warns of it, and goes on with a half-trained network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message=".*batch_size.*")
        warnings.filterwarnings("error", message="Training interrupted by user", category=UserWarning)
        try:
            yield
        except UserWarning as warning:
            raise KeyboardInterrupt from warning


def tag_probabilities(
    train: NDArray[np.floating],
    labels: NDArray[np.number],
    test: NDArray[np.floating],
    seed: int,
    hidden: Sequence[int] = (128,),
    members: int = 5,
) -> NDArray[np.float64]:
    """Probabilities of tags from multi-label networks.

    Parameters
    ----------
    train, test : ndarray, (N, D), (M, D)
        Features.
    labels : ndarray, (N, K)
        0 or 1.
    seed : int
        Seed of the first network.
    hidden : sequence of int
        Sizes of the hidden layers; without any, it is a logistic regression for each tag.
    members : int
        Networks with different seeds whose probabilities are averaged: a single one's scores vary by chance.

    Returns
    -------
    ndarray, (M, K) float64
    """
    scaler, tags = StandardScaler().fit(train), labels.shape[1]
    if tags == 1:  # a second tag that is never there, or scikit-learn would take the problem for one of two classes
        labels = np.column_stack([labels, np.zeros_like(labels)])
    total: Any = 0.0
    for member in range(members):
        with fixed_epochs():
            network = _mlp(seed + member, hidden).fit(scaler.transform(train), labels)
        probabilities = network.predict_proba(scaler.transform(test))
        total = total + probabilities[:, :tags]
    return np.asarray(total / members, np.float64)
