"""Judging an embedding by a task with a grid of classifiers, of which the best counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.tasks.esc50 import Esc50
from edgesea.tasks.features import clip_means
from edgesea.tasks.sonyc_ust import SonycUst

Float32 = NDArray[np.float32]


class Verdict(NamedTuple):
    """How well the task is done on an embedding.

    Attributes
    ----------
    score : float
        Of the best classifier.
    hidden : tuple of int
        Its hidden layers.
    scores : list of float
        Of all classifiers, in the order of the judge's.
    standard_error : float or None
        Binomial standard error of an accuracy, from the number of clips.
    """

    score: float
    hidden: tuple[int, ...]
    scores: list[float]
    standard_error: float | None


@dataclass(frozen=True)
class Judge:
    """A task, ready to judge embeddings of its clips.

    Attributes
    ----------
    task : Esc50 or SonycUst
        The data set.
    rows : ndarray, (windows, n) float32
        The teacher's embeddings of its clips, window by window.
    counts : ndarray, (clips,) int64
        Windows of each clip.
    hidden : sequence of tuple of int
        Hidden layers of the classifiers to try; () is logistic regression.
    folds : sequence of int, or None
        Folds to test.
    seed : int
        Seed of the classifiers.
    """

    task: Esc50 | SonycUst
    rows: Float32
    counts: NDArray[np.int64]
    hidden: Sequence[tuple[int, ...]]
    folds: Sequence[int] | None
    seed: int

    @property
    def metric(self) -> str:
        """Name of the score that counts."""
        return "accuracy" if isinstance(self.task, Esc50) else "micro_auprc"

    def judge(self, phi: Any | None = None) -> Verdict:
        """Score phi's output for the clips (None: the teacher's embeddings themselves), averaged over each clip."""
        features = clip_means(self.rows if phi is None else phi.transform(self.rows), self.counts)
        results = [self._score(features, hidden) for hidden in self.hidden]
        scores = [float(result[self.metric] or 0.0) for result in results]
        best = int(np.argmax(scores))
        error = None
        if self.metric == "accuracy":
            error = float(np.sqrt(scores[best] * (1 - scores[best]) / results[best]["clips"]))
        return Verdict(scores[best], tuple(self.hidden[best]), scores, error)

    def _score(self, features: Float32, hidden: tuple[int, ...]) -> dict[str, Any]:
        # A network without hidden layers is a logistic regression, which a single-label task has a proper solver for.
        kind: Any = "logistic" if not hidden and isinstance(self.task, Esc50) else "mlp"
        return self.task.score(features, self.counts > 0, kind, self.folds, self.seed, hidden)
