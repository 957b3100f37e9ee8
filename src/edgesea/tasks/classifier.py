"""The small classifiers that judge an embedding, from scikit-learn."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Classifier = Literal["logistic", "mlp"]


def make_probe(kind: Classifier, seed: int) -> Pipeline:
    """A single-label probe behind standardisation: logistic regression (L2, C = 1), or one hidden layer of 128."""
    if kind == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return make_pipeline(StandardScaler(), _mlp(seed, early_stopping=False))


def _mlp(seed: int, early_stopping: bool) -> MLPClassifier:
    return MLPClassifier(
        (128,), alpha=1e-3, batch_size=64, max_iter=200, early_stopping=early_stopping, random_state=seed
    )


def tag_probabilities(
    train: NDArray[np.floating], labels: NDArray[np.number], test: NDArray[np.floating], seed: int, members: int = 5
) -> NDArray[np.float64]:
    """Probabilities of tags from multi-label networks of one hidden layer of 128.

    Parameters
    ----------
    train, test : ndarray, (N, D), (M, D)
        Features.
    labels : ndarray, (N, K)
        0 or 1.
    seed : int
        Seed of the first network.
    members : int
        Networks with different seeds whose probabilities are averaged: a single one's scores vary by chance.

    Returns
    -------
    ndarray, (M, K) float64
    """
    scaler = StandardScaler().fit(train)
    total: Any = 0.0
    for member in range(members):
        network = _mlp(seed + member, early_stopping=True).fit(scaler.transform(train), labels)
        probabilities = network.predict_proba(scaler.transform(test))
        total = total + probabilities.reshape(len(test), -1)
    return np.asarray(total / members, np.float64)
