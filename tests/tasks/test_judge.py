import _thread
import threading
from pathlib import Path

import numpy as np
import pytest

from edgesea.tasks.features import Bags
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.judge import Judge, Score, from_list, listed


def judge_of(clips: int, hidden: list[tuple[int, ...]]) -> Judge:
    """Clips of two windows, whose class is the sign of the first dimension of both."""
    rng = np.random.default_rng(0)
    labels, folds = np.tile(["a", "b"], clips // 2), 1 + np.arange(clips) // 2 % 2
    rows = rng.standard_normal((2 * clips, 40)).astype(np.float32)
    rows[:, 0] += np.repeat(np.where(labels == "a", 3, -3), 2)
    task = FoldTask("esc50", [Path(str(clip)) for clip in range(clips)], labels, folds)
    return Judge(task, Bags(rows, np.full(clips, 2)), hidden, None, 0)


class Nothing:
    """A reduction that keeps nothing of the class."""

    def transform(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 1:]


def test_a_classifier_is_asked_alone_or_with_all_others() -> None:
    judge = judge_of(40, [(), (8,), (8, 8)])
    scores = judge.judge()
    assert list(scores) == [(), (8,), (8, 8)]
    assert judge.judge(None, [(8,)]) == {(8,): scores[8,]}
    p = scores[()].score
    assert 1 > p > 0.8 > 0.7 > judge.judge(Nothing(), [()])[()].score
    assert scores[()].standard_error == pytest.approx(np.sqrt(p * (1 - p) / 40))


def test_the_best_classifier_is_one_of_the_grid_and_the_first_of_equals() -> None:
    judge = judge_of(4, [(8,), (), (16,)])
    scores = {(): Score(0.5, None), (8,): Score(0.5, None), (16,): Score(0.4, None), (99,): Score(0.9, None)}
    assert judge.best(scores) == (8,)


def test_scores_survive_json() -> None:
    scores = {(): Score(0.5, 0.1), (8, 8): Score(0.25, None)}
    assert listed(scores)[1] == {"layers": 2, "units": 8, "score": 0.25, "standard_error": None}
    assert from_list(listed(scores)) == scores


def test_ctrl_c_ends_the_training_instead_of_cutting_it_short() -> None:
    judge = judge_of(2000, [(256, 256)])
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            judge.judge()
    finally:
        timer.cancel()
