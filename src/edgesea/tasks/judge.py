"""Judging an embedding by a task with a grid of classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.tasks.esc50 import Esc50
from edgesea.tasks.features import clip_means
from edgesea.tasks.sonyc_ust import SonycUst

Float32 = NDArray[np.float32]
Hidden = tuple[int, ...]  # sizes of a classifier's hidden layers; () is logistic regression


class Score(NamedTuple):
    """How well a classifier does the task on an embedding.

    Attributes
    ----------
    score : float
        Accuracy or micro AUPRC.
    standard_error : float or None
        Binomial standard error of an accuracy, from the number of clips.
    """

    score: float
    standard_error: float | None


def classifier(hidden: Hidden) -> dict[str, int | None]:
    """A classifier for JSON: number of layers, and units of each."""
    return {"layers": len(hidden), "units": hidden[0] if hidden else None}


def listed(scores: Mapping[Hidden, Score]) -> list[dict[str, Any]]:
    """Scores by classifier for JSON; see `from_list`."""
    return [{**classifier(hidden), **score._asdict()} for hidden, score in scores.items()]


def from_list(scores: Sequence[Mapping[str, Any]]) -> dict[Hidden, Score]:
    """What `listed` listed; raises KeyError, TypeError or ValueError if it is something else."""
    return {(own["units"],) * own["layers"]: Score(float(own["score"]), own["standard_error"]) for own in scores}


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
        Hidden layers of the classifiers to try.
    folds : sequence of int, or None
        Folds to test.
    seed : int
        Seed of the classifiers.
    """

    task: Esc50 | SonycUst
    rows: Float32
    counts: NDArray[np.int64]
    hidden: Sequence[Hidden]
    folds: Sequence[int] | None
    seed: int

    @property
    def metric(self) -> str:
        """Name of the score that counts."""
        return "accuracy" if isinstance(self.task, Esc50) else "micro_auprc"

    def judge(self, phi: Any | None = None, hidden: Sequence[Hidden] | None = None) -> dict[Hidden, Score]:
        """Score phi's output for the clips, averaged over each clip.

        Parameters
        ----------
        phi : Reduction, optional
            Default: none, the teacher's embeddings themselves are judged.
        hidden : sequence of tuple of int, optional
            The classifiers to judge with; default: all of the grid.
        """
        features = clip_means(self.rows if phi is None else phi.transform(self.rows), self.counts)
        return {own: self._score(features, own) for own in (self.hidden if hidden is None else hidden)}

    def best(self, scores: Mapping[Hidden, Score]) -> Hidden:
        """The best classifier of the grid, of equally good ones the first."""
        return max(self.hidden, key=lambda own: scores[own].score)

    def _score(self, features: Float32, hidden: Hidden) -> Score:
        # A network without hidden layers is a logistic regression, which a single-label task has a proper solver for.
        kind: Any = "logistic" if not hidden and isinstance(self.task, Esc50) else "mlp"
        result = self.task.score(features, self.counts > 0, kind, self.folds, self.seed, hidden)
        score = float(result[self.metric] or 0.0)
        if self.metric != "accuracy":
            return Score(score, None)
        return Score(score, float(np.sqrt(score * (1 - score) / result["clips"])))
