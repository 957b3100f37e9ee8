"""Judging an embedding by a task with a grid of classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgesea.tasks.features import Bags
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions

if TYPE_CHECKING:
    from edgesea.tasks.evaluate import Task

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
    task : FoldTask or SonycUst
        The data set.
    bags : Bags
        The teacher's embeddings of its clips.
    hidden : sequence of tuple of int
        Hidden layers of the classifiers to try.
    folds : sequence of int, or None
        Folds to test.
    seed : int
        Seed of the classifiers.
    """

    task: "Task"
    bags: Bags
    hidden: Sequence[Hidden]
    folds: Sequence[int] | None
    seed: int

    @property
    def metric(self) -> str:
        """Name of the score that counts."""
        return "accuracy" if isinstance(self.task, FoldTask) else "micro_auprc"

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    def judge(self, phi: Any | None = None, hidden: Sequence[Hidden] | None = None) -> dict[Hidden, Score]:
        """Score phi's output for the clips.

        Parameters
        ----------
        phi : Reduction, optional
            Default: none, the teacher's embeddings themselves are judged.
        hidden : sequence of tuple of int, optional
            The classifiers to judge with; default: all of the grid.
        """
        bags = self.bags if phi is None else self.bags.with_rows(phi.transform(self.bags.rows))
        return {own: self._score(bags, own) for own in (self.hidden if hidden is None else hidden)}

    def best(self, scores: Mapping[Hidden, Score]) -> Hidden:
        """The best classifier of the grid, of equally good ones the first."""
        return max(self.hidden, key=lambda own: scores[own].score)

    def _score(self, bags: Bags, hidden: Hidden) -> Score:
        if not isinstance(self.task, FoldTask):
            return Score(float(self.task.score(bags, self.seed, hidden=hidden)["micro_auprc"] or 0.0), None)
        # A network without hidden layers is a logistic regression, which a single-label task has a proper solver for.
        size = hidden[0] if hidden else 1
        probe = ProbeOptions("mlp" if hidden else "logistic", num_hidden_layers=len(hidden), hidden_layer_size=size)
        result = self.task.score(bags, probe, self.folds, self.seed)
        score = float(result["accuracy"])
        return Score(score, float(np.sqrt(score * (1 - score) / result["clips"])))
