"""Sampling a projection DPP, the DPP whose marginal kernel is V V^T with orthonormal columns in V."""

import numpy as np
from numpy.typing import NDArray

from edgesea.sampling.checks import Float64

BATCH = 64  # proposals judged together: enough for BLAS, few enough that most are not in vain


def sample_projection(vectors: Float64, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw from the projection DPP onto the span of `vectors`, exactly.

    The chain rule draws one item after the other, each with probability proportional to the squared norm of what is
    left of its row of V when its projection on the rows already drawn is taken away. What is left never exceeds
    the whole row, so a draw from the squared norms of the whole rows ("leverages"), accepted with the probability
    left / whole, has the same distribution: Barthelmé, Tremblay & Amblard, "A faster sampler for discrete
    determinantal point processes", AISTATS 2023. What is left sums to m - t after t items, so item t + 1 takes
    m / (m - t) proposals on average, whatever the data, and m log m in all: O(n m + m^3 log m) instead of the
    O(n m^2) of updating every row after each draw.

    Leverages and norms do not change when V is rotated, so the result does not depend on the signs that an
    eigensolver happens to give its vectors.

    Parameters
    ----------
    vectors : ndarray, (n, m) float64
        Orthonormal columns.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray, (m,) int64
        The items, all different, in the order in which they were drawn.
    """
    size = vectors.shape[1]
    leverage = _squared_norms(vectors)
    cumulative = np.cumsum(leverage)
    basis = np.zeros((size, size))  # its first rows are an orthonormal basis of the rows drawn so far
    drawn: list[int] = []
    while len(drawn) < size:
        # Rounding may reach the total itself; the last item is then proposed, and rejected if its leverage is zero.
        proposals = np.searchsorted(cumulative, rng.random(BATCH) * cumulative[-1], side="right").clip(
            max=len(vectors) - 1
        )
        # 1 - random() is never zero, so an item already drawn, of which only rounding is left, is never accepted.
        thresholds = (1 - rng.random(BATCH)) * leverage[proposals]
        drawn += _accept(vectors[proposals], thresholds, basis, len(drawn), proposals)
    return np.array(drawn, np.int64)


def _accept(rows: Float64, thresholds: Float64, basis: Float64, known: int, proposals: NDArray[np.int64]) -> list[int]:
    """Accept proposals one after the other; extend the basis, of which `known` rows are filled, by those accepted."""
    accepted: list[int] = []
    _remove(rows, basis[:known])
    while known < len(basis):
        hits = np.flatnonzero(_squared_norms(rows) > thresholds)
        if not len(hits):
            break
        first = hits[0]
        accepted.append(int(proposals[first]))
        direction = rows[first]
        _remove(direction, basis[:known])  # again: once leaves rounding errors that are large for a small remainder
        basis[known] = direction / np.linalg.norm(direction)
        known += 1
        rows, thresholds, proposals = rows[first + 1 :], thresholds[first + 1 :], proposals[first + 1 :]
        _remove(rows, basis[known - 1 : known])
    return accepted


def _remove(rows: Float64, basis: Float64) -> None:
    """Take away the projection on orthonormal `basis` rows, in place."""
    rows -= (rows @ basis.T) @ basis


def _squared_norms(rows: Float64) -> Float64:
    result: Float64 = np.einsum("ij,ij->i", rows, rows)
    return result
