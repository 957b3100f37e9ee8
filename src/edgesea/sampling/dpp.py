"""Exact k-DPPs with the kernel L = diag(q) X X^T diag(q) + ridge I, without ever building it.

A k-DPP draws the set S of k windows with probability proportional to det(L_S). In all of this module B = diag(q) X is
n x d of rank r, with singular values s_i.

The ridge. Expanding the determinant of a sum with a diagonal matrix, det((B B^T + ridge I)_S) is the sum over all
subsets T of S of ridge^(k - |T|) det((B B^T)_T). So S is exactly distributed as: the size j of a part T that is chosen
by similarity, with weight

    ridge^(k - j) C(n - j, k - j) e_j(s_1^2, ..., s_r^2),        e_j: elementary symmetric polynomial,

then T from the j-DPP of B B^T alone, and then the other k - j windows uniformly from those not in T: the
C(n - j, k - j) sets that contain T are equally likely, and e_j is the sum of det((B B^T)_T) over all T of size j
(Cauchy-Binet). No direction of the ridge's eigenspace is ever needed. It also shows what a large ridge does: it empties
T, and what remains is uniform sampling; `KDPP.by_similarity` is the mean size of T.

The part T. A j-DPP is a mixture of projection DPPs onto j of the r singular directions, these being chosen with
probability proportional to the product of their s_i^2 (Kulesza & Taskar, "k-DPPs: fixed-size determinantal point
processes", ICML 2011). The s_i^2 and directions come from B^T B (d x d) or B B^T (n x n), whichever is smaller.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Floating = NDArray[np.floating[Any]]

EPS = float(np.finfo(np.float64).eps)
PROPOSALS = 64  # tested together: enough for BLAS, few enough that most are not in vain


class KDPP:
    """The k-DPP of `k_dpp`, decomposed once to be sampled often.

    Decomposing takes O(n d min(n, d)), a sample O(n d k + n k^2 + k^3 log k); memory is twice the features in double
    precision.
    """

    def __init__(self, features: Floating, k: int, *, quality: Floating | None = None, ridge: float = 0.0) -> None:
        rows, ridge = _scaled(features, k, quality, ridge)
        self.k, (self.n, dimensions) = k, rows.shape
        # An eigenvector of B B^T is wanted either way: from B B^T itself, or as B times an eigenvector of B^T B.
        self._rows = rows if dimensions < self.n else None
        gram = rows @ rows.T if self._rows is None else rows.T @ rows
        eigenvalues, vectors = np.linalg.eigh(gram)
        nonzero = eigenvalues > max(rows.shape) * EPS * eigenvalues.max(initial=0.0)
        self.rank = int(nonzero.sum())
        if k > self.rank and ridge == 0:
            raise _rank_error(k, self.rank, rows.shape)
        self._vectors = vectors[:, nonzero]
        self._log_eigenvalues: Float64 = np.log(eigenvalues[nonzero])
        self._log_sums = _log_elementary_sums(self._log_eigenvalues, min(k, self.rank))
        self._size_probability = _size_probability(self._log_sums[-1], self.n, k, ridge)
        # How many of the k windows are chosen by similarity and quality on average; the others are uniform.
        self.by_similarity = float(self._size_probability @ np.arange(len(self._size_probability)))

    def sample(self, rng: np.random.Generator) -> Int64:
        """Draw one set: k row numbers, sorted."""
        size = int(rng.choice(len(self._size_probability), p=self._size_probability))
        vectors = self._vectors[:, self._choose_directions(size, rng)]
        # Directions of small singular values lose their orthogonality when they are formed from B^T B.
        directions = vectors if self._rows is None else np.linalg.qr(self._rows @ vectors)[0]
        similar = _sample_projection(directions, rng)
        others = rng.choice(np.delete(np.arange(self.n), similar), self.k - size, replace=False)
        return np.sort(np.concatenate([similar, others]))

    def _choose_directions(self, size: int, rng: np.random.Generator) -> Int64:
        """Choose `size` singular directions, with probability proportional to the product of their eigenvalues."""
        chosen: list[int] = []
        uniform = rng.random(self.rank)
        for i in reversed(range(self.rank)):
            left = size - len(chosen)
            if left == 0:
                break
            with_i = self._log_eigenvalues[i] + self._log_sums[i, left - 1]
            if uniform[i] < np.exp(with_i - self._log_sums[i + 1, left]):
                chosen.append(i)
        return np.array(chosen, np.int64)


def k_dpp(
    features: Floating, k: int, *, quality: Floating | None = None, ridge: float = 0.0, rng: np.random.Generator
) -> Int64:
    """Draw k windows from the exact k-DPP with L = diag(quality) X X^T diag(quality) + ridge I.

    X are the `features` (n, d), whose inner products are similarities. Where the `quality` (n,), by default 1, is 0, a
    window can only be chosen through the ridge. A warning is logged if that is so large that most windows are drawn
    uniformly. Returns row numbers (k,), sorted.

    EdgeseaError: k > n, or larger than the rank without a ridge; features, quality or ridge are not finite, or quality
    or ridge are negative.
    """
    process = KDPP(features, k, quality=quality, ridge=ridge)
    warn_if_uniform(process.by_similarity, k, ridge)
    return process.sample(rng)


def warn_if_uniform(by_similarity: float, k: int, ridge: float) -> None:
    """Log that a ridge makes a k-DPP uniform sampling in all but name."""
    if by_similarity < k / 2:
        text = "only %.1f of %d windows are chosen by similarity on average, the others uniformly: the ridge %g is too "
        log.warning(text + "large for these embeddings, or many are duplicates", by_similarity, k, ridge)


def greedy_map_dpp(features: Floating, k: int, *, quality: Floating | None = None, ridge: float = 0.0) -> Int64:
    """Choose k windows one after the other, each such that det(L_S) becomes as large as possible.

    The deterministic variant of `k_dpp`, with row numbers in the order of choice, in O(n k (d + k)): Chen, Zhang &
    Zhou, "Fast greedy MAP inference for determinantal point processes", NeurIPS 2018. Of equals the first is taken.
    """
    rows, ridge = _scaled(features, k, quality, ridge)
    # The ridge is needed in the diagonal alone: it is not read from the columns.
    diagonal, tolerance = _squared_norms(rows) + ridge, max(rows.shape) * EPS
    chosen, _ = pivoted_cholesky(diagonal, lambda i: rows @ rows[i], k, tolerance=tolerance)
    if len(chosen) < k and ridge == 0:
        raise _rank_error(k, len(chosen), rows.shape)
    # A ridge below the tolerance is all that the remaining windows add, each of them as much as any other.
    others = np.delete(np.arange(len(rows)), chosen)
    return np.concatenate([chosen, others[: k - len(chosen)]])


def _scaled(features: Floating, k: int, quality: Floating | None, ridge: float) -> tuple[Float64, float]:
    """B and the ridge in units in which neither is above 1, so that no square overflows; a k-DPP has no scale."""
    rows = np.array(features, np.float64)
    if not 0 <= k <= len(rows):
        raise EdgeseaError(f"k must lie in 0 ... {len(rows)} (the number of windows), not {k}")
    if quality is not None:
        rows *= np.asarray(quality, np.float64)[:, None]
    scale = max(rows.max(initial=0.0), -rows.min(initial=0.0), np.sqrt(max(0.0, ridge)))
    if not (scale < np.inf and 0 <= ridge < np.inf and (quality is None or np.min(quality, initial=0.0) >= 0)):
        bad = f"ridge is {ridge}, and {(~np.isfinite(rows)).any(1).sum()} rows of features x quality have NaN or Inf"
        raise EdgeseaError(f"features, quality and ridge must be finite, quality and ridge at least 0; {bad}")
    if scale > 0:
        rows /= scale
        # However small, a ridge remains one: it decides whether k may exceed the rank.
        ridge = max(ridge / scale / scale, float(np.finfo(np.float64).tiny)) if ridge else 0.0
    return rows, float(ridge)


def _rank_error(k: int, rank: int, shape: tuple[int, ...]) -> EdgeseaError:
    why = f"features x quality {shape} have rank {rank} (duplicated, constant or zero embeddings lower it)"
    remedy = f"lower k to {rank}, or give a ridge > 0, with which the others are drawn uniformly"
    return EdgeseaError(f"cannot choose k = {k} windows without a ridge: {why}; {remedy}")


def _log_elementary_sums(log_values: Float64, degree: int) -> Float64:
    """Logarithms (r + 1, degree + 1) of the elementary symmetric polynomials e_j of the first i of r values.

    The recursion e_j(1..i) = e_j(1..i-1) + value_i e_{j-1}(1..i-1) adds positive numbers only, so in logarithms it
    neither cancels nor overflows. Minus infinity where j > i.
    """
    sums = np.full((len(log_values) + 1, degree + 1), -np.inf)
    sums[:, 0] = 0.0
    for i, value in enumerate(log_values):
        sums[i + 1, 1:] = np.logaddexp(sums[i, 1:], value + sums[i, :-1])
    return sums


def _size_probability(log_sums: Float64, n: int, k: int, ridge: float) -> Float64:
    """Probability that j = 0, 1, ..., m windows are chosen by similarity, from log e_j of all eigenvalues."""
    sizes = np.arange(len(log_sums))
    if ridge == 0:
        return np.array(sizes == k, np.float64)
    # C(n-j-1, k-j-1) / C(n-j, k-j) = (k-j) / (n-j): sums of these steps are exact where factorials would be huge.
    steps = np.log((k - sizes[:-1]) / (n - sizes[:-1])) - np.log(ridge)
    weights = log_sums + np.concatenate([[0.0], np.cumsum(steps)])
    probability: Float64 = np.exp(weights - weights.max())
    probability /= probability.sum()
    return probability


def _sample_projection(vectors: Float64, rng: np.random.Generator) -> Int64:
    """Draw m items from the projection DPP onto the span of orthonormal columns (n, m), exactly.

    The chain rule draws one item after the other, each with probability proportional to the squared norm of what is
    left of its row of V when its projection on the rows already drawn is taken away. What is left never exceeds
    the whole row, so a draw from the squared norms of the whole rows ("leverages"), accepted with the probability
    left / whole, has the same distribution: Barthelmé, Tremblay & Amblard, "A faster sampler for discrete
    determinantal point processes", AISTATS 2023. What is left sums to m - t after t items, so item t + 1 takes
    m / (m - t) proposals on average, whatever the data, and m log m in all: O(n m + m^3 log m) instead of the
    O(n m^2) of updating every row after each draw. Leverages and norms do not change when V is rotated, so the result
    does not depend on the signs that an eigensolver happens to give its vectors.
    """
    size = vectors.shape[1]
    leverage = _squared_norms(vectors)
    cumulative = np.cumsum(leverage)
    basis = np.zeros((size, size))  # its first rows are an orthonormal basis of the rows drawn so far
    drawn: list[int] = []
    while len(drawn) < size:
        # Rounding may reach the total itself; the last item is then proposed, and rejected if its leverage is zero.
        uniform = rng.random(PROPOSALS) * cumulative[-1]
        proposals = np.searchsorted(cumulative, uniform, side="right").clip(max=len(vectors) - 1)
        # 1 - random() is never zero, so an item already drawn, of which only rounding is left, is never accepted.
        thresholds = (1 - rng.random(PROPOSALS)) * leverage[proposals]
        drawn += _accept(vectors[proposals], thresholds, basis, len(drawn), proposals)
    return np.array(drawn, np.int64)


def _accept(rows: Float64, thresholds: Float64, basis: Float64, known: int, proposals: Int64) -> list[int]:
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
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def pivoted_cholesky(
    diagonal: Float64, column: Callable[[int], Float64], rank: int, *, tolerance: float
) -> tuple[Int64, Float64]:
    """Decompose K ~ F F^T by the row with the largest residual, at most `rank` times; returns these rows and F (n, m).

    Of K only the diagonal and single columns are computed, in O(n m^2). The residual of a row is its variance given the
    rows chosen before, so the rows are the greedy choice for the largest determinant (Chen et al., algorithm 1). It
    stops when no residual is above `tolerance` times the largest diagonal entry: the rest is rounding.
    """
    rows = np.zeros((rank, len(diagonal)))  # F^T: each step then reads and writes contiguous memory
    residual = diagonal.copy()
    chosen: list[int] = []
    limit = tolerance * diagonal.max(initial=0.0)
    while len(chosen) < rank:
        pivot = int(residual.argmax())
        if not residual[pivot] > limit:
            break
        known = rows[: len(chosen)]
        new = (column(pivot) - known[:, pivot] @ known) / np.sqrt(residual[pivot])
        rows[len(chosen)] = new
        residual = np.maximum(residual - new * new, 0.0)
        chosen.append(pivot)
        residual[chosen] = -np.inf
    return np.array(chosen, np.int64), rows[: len(chosen)].T
