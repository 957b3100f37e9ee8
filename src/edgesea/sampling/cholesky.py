"""Pivoted Cholesky decomposition of a kernel of which only the diagonal and single columns are ever computed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.sampling.checks import Float64


class PivotedCholesky(NamedTuple):
    """K ~ F F^T.

    Attributes
    ----------
    pivots : ndarray, (m,) int64
        The rows that were chosen, in this order.
    factor : ndarray, (n, m) float64
        F; the rows and columns of K that belong to pivots are reproduced exactly.
    residual : ndarray, (n,) float64
        diag(K - F F^T); an entry (i, j) of K is off by at most sqrt(residual_i residual_j).
    """

    pivots: NDArray[np.int64]
    factor: Float64
    residual: Float64


def pivoted_cholesky(
    diagonal: Float64, column: Callable[[int], Float64], rank: int, *, tolerance: float
) -> PivotedCholesky:
    """Choose the row with the largest residual, again and again, and subtract what it explains.

    The residual of a row is its variance given the rows chosen before, so the pivots are also the greedy choice for
    the largest determinant: Chen, Zhang & Zhou, "Fast greedy MAP inference for determinantal point processes",
    NeurIPS 2018, algorithm 1. O(n m^2), and m columns of K.

    Parameters
    ----------
    diagonal : ndarray, (n,) float64
        Diagonal of K, which must be positive semidefinite.
    column : callable
        Row number -> that column of K, (n,) float64.
    rank : int
        Most pivots to choose.
    tolerance : float
        Stop when no residual is larger than this share of the largest diagonal entry: the rest is rounding.

    Returns
    -------
    PivotedCholesky
        With m <= rank.
    """
    rows = np.zeros((rank, len(diagonal)))  # F^T: each step then reads and writes contiguous memory
    residual = diagonal.copy()
    open_rows = np.ones(len(diagonal), bool)
    pivots: list[int] = []
    limit = tolerance * diagonal.max(initial=0.0)
    while len(pivots) < rank:
        pivot = int(np.argmax(np.where(open_rows, residual, -np.inf)))
        if not residual[pivot] > limit:
            break
        known = rows[: len(pivots)]
        new = (column(pivot) - known[:, pivot] @ known) / np.sqrt(residual[pivot])
        rows[len(pivots)] = new
        residual = np.maximum(residual - new * new, 0.0)
        open_rows[pivot] = False
        pivots.append(pivot)
    residual[~open_rows] = 0.0
    return PivotedCholesky(np.array(pivots, np.int64), rows[: len(pivots)].T, residual)
