from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial.distance import cdist

from edgesea.reduction.neighbors import Nearest, memberships

Float32 = NDArray[np.float32]


def normal(rows: int, size: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)


def exact(rows: Float32, points: Float32, count: int) -> NDArray[np.int64]:
    """Neighbours by differences, points at equal distances in their order."""
    return np.argsort(cdist(rows.astype(np.float64), points.astype(np.float64)), axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("count", [2, 5, 60])
def test_they_are_the_nearest(count: int) -> None:
    points, rows = normal(60, 9), normal(200, 9, 1)
    squared, index = Nearest(points, count).find(rows)
    np.testing.assert_array_equal(index, exact(rows, points, count))
    distance = np.take_along_axis(cdist(rows, points), index, axis=1)
    np.testing.assert_allclose(np.sqrt(squared), distance, rtol=1e-6)


def test_points_at_equal_distances_come_in_their_order() -> None:
    axis = np.arange(-3, 4, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    points = points[np.random.default_rng(0).permutation(len(points))]
    rows = np.concatenate([np.zeros((1, 3), np.float32), points[:40], points[:40] + np.float32(0.5)])
    _, index = Nearest(points, 3).find(rows)
    np.testing.assert_array_equal(index, exact(rows, points, 3))


class LastOnes:
    """A search whose rounding happens to favour the points at the end, among those at equal distances."""

    def __init__(self, points: Float32, count: int) -> None:
        self.points, self.count = points[::-1], count

    def kneighbors(self, rows: Float32) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        index = exact(rows, self.points, self.count)
        return np.take_along_axis(cdist(rows, self.points), index, axis=1), len(self.points) - 1 - index


def test_candidates_that_may_lack_a_neighbour_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 120 permutations of five numbers are at equal distances from the diagonal, more than there are candidates."""
    points = np.array(list(permutations([1, 2, 3, 5, 8])), np.float32)
    rows = np.concatenate([np.full((1, 5), 4, np.float32), normal(20, 5) + 4, np.full((1, 5), -2, np.float32)])
    nearest = Nearest(points, 3)
    monkeypatch.setattr(nearest, "_search", LastOnes(points, nearest._candidates))
    _, index = nearest.find(rows)
    np.testing.assert_array_equal(index, exact(rows, points, 3))
    assert index[[0, -1]].tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("size", [1, 2, 9, 300])
def test_batches_do_not_change_a_bit(size: int) -> None:
    nearest = Nearest(normal(500, size), 15)
    rows = normal(300, size, 1)
    squared, index = nearest.find(rows)
    order = np.random.default_rng(2).permutation(len(rows))
    for cut in (1, 2, 3, 5, 8, 17, 64, 299):
        parts = [nearest.find(rows[order[first : first + cut]]) for first in range(0, len(rows), cut)]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), squared[order])
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), index[order])


@pytest.mark.parametrize("count", [6, 15, 100])
def test_memberships_sum_to_log2_of_the_number_of_neighbours(count: int) -> None:
    distances = np.sort(np.random.default_rng(count).gamma(5.0, 1.0, (50, count)), axis=1)
    weight = memberships(distances)
    np.testing.assert_allclose(weight.sum(1), np.log2(count), rtol=1e-9)
    np.testing.assert_array_equal(weight[:, 0], 1.0)
    # All of a row with one sigma, which another solver finds, too.
    for row, found in zip(distances[:5], weight[:5], strict=True):
        gaps = row - row[0]
        sigma = brentq(lambda s, g=gaps: np.exp(-g / s).sum() - np.log2(count), 1e-3, 1e3, xtol=1e-14)
        np.testing.assert_allclose(found, np.exp(-gaps / sigma), rtol=1e-8)


def test_memberships_of_equal_distances_are_equal() -> None:
    np.testing.assert_array_equal(memberships(np.zeros((2, 15))), 1.0)
    np.testing.assert_array_equal(memberships(np.full((2, 15), 7.0)), 1.0)
    # Ten at the same distance already sum to more than log2(15); the others count for nothing.
    weight = memberships(np.array([[1.0] * 10 + [2.0] * 5]))
    np.testing.assert_array_equal(weight[0, :10], 1.0)
    assert weight[0, 10:].max() < 1e-6


def test_memberships_do_not_depend_on_the_other_rows() -> None:
    distances = np.sort(np.random.default_rng(0).gamma(5.0, 1.0, (300, 15)), axis=1)
    together = memberships(distances)
    for cut in (1, 2, 3, 7, 33):
        parts = [memberships(distances[first : first + cut]) for first in range(0, 300, cut)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
