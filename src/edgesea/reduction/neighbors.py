"""Nearest neighbours and fuzzy memberships of a point that do not depend on which other points are asked for.

BLAS rounds a product differently in batches of different shapes, so neighbours found by it can change places with the
batch. Here it only proposes candidates, with a proof that none is missing; what decides is computed row by row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.reduction.base import Float32, Float64

Int64 = NDArray[np.int64]
SPARE = 8  # candidates beyond the neighbours that are wanted
BATCH = 4096  # rows whose candidates are searched together
BYTES = 32 << 20  # of the differences that are held at once
BISECTIONS = 50
FLOOR = 1e-3  # smallest sigma, as a share of the mean distance (UMAP's own)


class Nearest:
    """The k nearest of fixed points, exactly; points at equal distances in their order.

    Parameters
    ----------
    points : ndarray, (m, n) float32
        The points.
    count : int
        k <= m.
    """

    def __init__(self, points: Float32, count: int) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.points, self.count = points, count
        self._candidates = min(count + SPARE, len(points))
        self._search: Any = NearestNeighbors(n_neighbors=self._candidates, algorithm="brute").fit(points)
        self._longest = float(np.sqrt(np.square(points, dtype=np.float64).sum(1).max()))

    def find(self, rows: Float32) -> tuple[Float64, Int64]:
        """Find the neighbours of rows.

        Parameters
        ----------
        rows : ndarray, (b, n) float32
            Finite.

        Returns
        -------
        squared : ndarray, (b, k) float64
            Squared distances, ascending.
        index : ndarray, (b, k) int64
            The points.
        """
        squared, index = np.empty((len(rows), self.count)), np.empty((len(rows), self.count), np.int64)
        step = max(1, BYTES // (8 * self._candidates * self.points.shape[1]))
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            reach, candidates = self._search.kneighbors(batch)
            for begin in range(0, len(batch), step):
                some = slice(begin, begin + step)
                out = slice(first + begin, first + min(begin + step, len(batch)))
                squared[out], index[out] = self._nearest(batch[some], np.sort(candidates[some], axis=1))
            if self._candidates < len(self.points):
                for row in np.flatnonzero(self._doubtful(batch, reach[:, -1], squared[first : first + BATCH, -1])):
                    squared[first + row], index[first + row] = self._search_all(batch[row])
        return squared, index

    def _doubtful(self, rows: Float32, reach: Float64, squared: Float64) -> NDArray[np.bool_]:
        """Rows whose farthest neighbour is not surely nearer than all points that are no candidates.

        Those are not nearer than `reach`, which was computed as |x|^2 - 2 x . y + |y|^2 with an error of at most about
        (n + 4) eps (|x| + |y|)^2; four times that is allowed.
        """
        longest = np.sqrt(np.square(rows, dtype=np.float64).sum(1)) + self._longest
        error = 4 * (rows.shape[1] + 4) * np.finfo(np.float64).eps * np.square(longest)
        return np.asarray(squared >= np.square(reach) - error)

    def _search_all(self, row: Float32) -> tuple[Float64, Int64]:
        step = max(1, BYTES // (8 * self.points.shape[1]))
        blocks = [squared_distances(row, self.points[i : i + step]) for i in range(0, len(self.points), step)]
        squared = np.concatenate(blocks)
        order = np.argsort(squared, kind="stable")[: self.count]
        return squared[order], order

    def _nearest(self, rows: Float32, candidates: Int64) -> tuple[Float64, Int64]:
        squared = squared_distances(rows[:, None], self.points[candidates])
        order = np.argsort(squared, axis=1, kind="stable")[:, : self.count]
        return np.take_along_axis(squared, order, axis=1), np.take_along_axis(candidates, order, axis=1)


def squared_distances(one: Float32, other: Float32) -> Float64:
    """Squared distances along the last axis; the order of the additions depends on its length only."""
    difference = np.subtract(one, other, dtype=np.float64, order="C")
    result: Float64 = np.square(difference, out=difference).sum(-1)
    return result


def memberships(distances: Float64) -> Float64:
    """Fuzzy memberships of nearest neighbours.

    McInnes, Healy & Melville, "UMAP: uniform manifold approximation and projection for dimension reduction", 2018,
    algorithms 2 and 3: with rho the distance of the nearest,

        w_j = exp(-(d_j - rho) / sigma),    sum_j w_j = log2(k).

    Parameters
    ----------
    distances : ndarray, (b, k) float64
        Ascending in each row; k >= 2.

    Returns
    -------
    ndarray, (b, k) float64
        In [0, 1], descending. The sum is larger than log2(k) where so many distances equal the smallest, or where sigma
        would be below 0.001 of the mean distance.
    """
    gaps = np.ascontiguousarray(distances - distances[:, :1])
    count = gaps.shape[1]
    target = np.log2(count)
    # No w_j is below that of the farthest neighbour: at this sigma the sum is at least the target.
    high = gaps[:, -1:] / np.log(count / target)
    high = np.where(high > 0, high, 1.0)
    low = np.zeros_like(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = np.exp(-gaps / middle).sum(1, keepdims=True) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    sigma = np.maximum(high, FLOOR * distances.mean(1, keepdims=True))
    result: Float64 = np.exp(-gaps / sigma)
    return result
