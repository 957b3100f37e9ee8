import numpy as np
import pytest

from edgesea.tasks.bags import Bags, Targets


@pytest.fixture
def bags() -> Bags:
    """Clips of two, no, and three windows."""
    return Bags(np.arange(10, dtype=np.float32).reshape(5, 2), np.array([2, 0, 3]), np.arange(15.0).reshape(3, 5))


def test_means_are_those_of_each_clip(bags: Bags) -> None:
    means = bags.means()
    assert np.array_equal(means[[0, 2]], [[1, 2], [6, 7]])
    assert np.isnan(means[1]).all()
    assert bags.usable.tolist() == [True, False, True]
    assert bags.owner.tolist() == [0, 0, 2, 2, 2]
    assert np.isnan(Bags(np.zeros((0, 3), np.float32), np.zeros(2, np.int64)).means()).all()


def test_clips_are_taken_in_any_order_and_more_than_once(bags: Bags) -> None:
    taken = bags.take(np.array([2, 0, 2, 1]))
    assert taken.counts.tolist() == [3, 2, 3, 0]
    assert taken.rows[:, 0].tolist() == [4, 6, 8, 0, 2, 4, 6, 8]
    assert taken.context is not None
    assert taken.context[:, 0].tolist() == [10, 0, 10, 5]
    assert len(bags.take(np.zeros(0, np.int64))) == 0


def test_other_rows_keep_the_clips(bags: Bags) -> None:
    other = bags.with_rows(bags.rows[:, :1] * 2)
    assert np.array_equal(other.means()[[0, 2]], [[2], [12]], equal_nan=True)
    assert other.context is bags.context


def test_targets_are_taken_with_all_that_belongs_to_them() -> None:
    labels = np.array([[0, 1], [1, 0], [1, 1]], np.float32)
    targets = Targets(labels, labels > 0, np.array([3, 4, 5]), np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    taken = targets.take(np.array([2, 0]))
    assert taken.labels.tolist() == [[1, 1], [0, 1]]
    assert taken.given.tolist() == [[True, True], [False, True]]
    assert taken.sensors is not None
    assert taken.proximity is not None
    assert taken.sensors.tolist() == [5, 3]
    assert taken.proximity[0, 0].tolist() == [8, 9]
    bare = Targets(labels, labels > 0).take(np.array([1]))
    assert bare.sensors is None
    assert bare.proximity is None
