"""Exact k-DPPs with the kernel L = diag(q) X X^T diag(q) + ridge I, without ever building it.

A k-DPP draws the set S of k windows with probability proportional to det(L_S). In all of this module B = diag(q) X is
n x d of rank r, with singular values s_i.

The ridge. Expanding the determinant of a sum with a diagonal matrix, det((B B^T + ridge I)_S) is the sum over all
subsets T of S of ridge^(k - |T|) det((B B^T)_T). So S is exactly distributed as: the size j of a "core" T, with weight

    ridge^(k - j) C(n - j, k - j) e_j(s_1^2, ..., s_r^2),        e_j: elementary symmetric polynomial,

then T from the j-DPP of B B^T alone, and then the other k - j windows uniformly from those not in T: the
C(n - j, k - j) sets that contain T are equally likely, and e_j is the sum of det((B B^T)_T) over all T of size j
(Cauchy-Binet). No direction of the ridge's eigenspace is ever needed. It also shows what a large ridge does: it empties
the core, and what remains is uniform sampling; `KDPP.mean_core` tells how much of a sample is chosen by similarity.

The core. A j-DPP is a mixture of projection DPPs onto j of the r singular directions, these being chosen with
probability proportional to the product of their s_i^2 (Kulesza & Taskar, "k-DPPs: fixed-size determinantal point
processes", ICML 2011). The s_i^2 and directions come from B^T B (d x d) or B B^T (n x n), whichever is smaller.
"""

import logging
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.sampling.checks import Float64, Floating, finite_column, finite_rows, subset_size
from edgesea.sampling.cholesky import pivoted_cholesky
from edgesea.sampling.projection import sample_projection

log = logging.getLogger(__name__)

Int64 = NDArray[np.int64]


class KDPP:
    """The k-DPP with L = diag(quality) X X^T diag(quality) + ridge I, decomposed once to be sampled often.

    Decomposing takes O(n d min(n, d)), a sample O(n d k + n k^2 + k^3 log k); memory is twice the features in double
    precision.

    Parameters
    ----------
    features : ndarray, (n, d) float
        X; inner products of rows are similarities.
    k : int
        How many windows a sample has; 0 gives empty samples.
    quality : ndarray, (n,) float, optional
        q >= 0; 1 everywhere by default. Where it is 0, a window can only be chosen through the ridge.
    ridge : float
        Added to the diagonal of L, in units of the squared length of a row of B.

    Attributes
    ----------
    rank : int
        Numerical rank of B: singular values whose square is above max(n, d) eps times the largest squared one.
    mean_core : float
        How many of the k windows are chosen by similarity and quality on average; the others are uniform (see above).

    Raises
    ------
    EdgeseaError
        If k > n, if k > rank without a ridge, or if features, quality or ridge are not finite, or negative.
    """

    def __init__(
        self, features: Floating, k: SupportsIndex, *, quality: Floating | None = None, ridge: float = 0.0
    ) -> None:
        rows, ridge = _scaled(features, quality, ridge)
        self.n, dimensions = rows.shape
        self.k = subset_size(k, self.n)
        # An eigenvector of B B^T is wanted either way: from B B^T itself, or as B times an eigenvector of B^T B.
        self._rows = rows if dimensions < self.n else None
        gram = rows @ rows.T if self._rows is None else rows.T @ rows
        eigenvalues, vectors = np.linalg.eigh(gram)
        kept = eigenvalues > max(rows.shape) * np.finfo(np.float64).eps * eigenvalues.max(initial=0.0)
        self.rank = int(kept.sum())
        if self.k > self.rank and ridge == 0:
            raise _too_few_directions(self.k, self.rank, rows.shape)
        self._vectors = vectors[:, kept]
        self._log_eigenvalues: Float64 = np.log(eigenvalues[kept])
        self._log_sums = _log_elementary_sums(self._log_eigenvalues, min(self.k, self.rank))
        self._core_probability = _core_probability(self._log_sums[-1], self.n, self.k, ridge)
        self.mean_core = float(self._core_probability @ np.arange(len(self._core_probability)))

    def sample(self, rng: np.random.Generator) -> Int64:
        """Draw one set.

        Parameters
        ----------
        rng : Generator
            Source of randomness.

        Returns
        -------
        ndarray, (k,) int64
            Row numbers, sorted.
        """
        size = int(rng.choice(len(self._core_probability), p=self._core_probability))
        core = sample_projection(self._directions(self._choose_directions(size, rng)), rng)
        others = rng.choice(np.delete(np.arange(self.n), core), self.k - size, replace=False)
        return np.sort(np.concatenate([core, others]))

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

    def _directions(self, columns: Int64) -> Float64:
        """Orthonormal basis, (n, m), of the span of the left singular vectors `columns`."""
        if self._rows is None:
            return self._vectors[:, columns]
        # Directions of small singular values lose their orthogonality when they are formed from B^T B.
        return np.linalg.qr(self._rows @ self._vectors[:, columns])[0]


def k_dpp(
    features: Floating,
    k: SupportsIndex,
    *,
    quality: Floating | None = None,
    ridge: float = 0.0,
    rng: np.random.Generator,
) -> Int64:
    """Draw k windows from the exact k-DPP with L = diag(quality) X X^T diag(quality) + ridge I.

    Parameters
    ----------
    features : ndarray, (n, d) float
        X; inner products of rows are similarities.
    k : int
        How many windows; 0 gives the empty set.
    quality : ndarray, (n,) float, optional
        q >= 0; 1 everywhere by default.
    ridge : float
        Added to the diagonal of L. A warning is logged if it is so large that most windows are drawn uniformly.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray, (k,) int64
        Row numbers, sorted.

    Raises
    ------
    EdgeseaError
        See `KDPP`.
    """
    process = KDPP(features, k, quality=quality, ridge=ridge)
    if process.mean_core < process.k / 2:
        log.warning(
            "only %.1f of %d windows are chosen by similarity on average, the others uniformly: "
            "the ridge %g is too large for these features (rank %d), or they are duplicates",
            process.mean_core,
            process.k,
            ridge,
            process.rank,
        )
    return process.sample(rng)


def greedy_map_dpp(
    features: Floating, k: SupportsIndex, *, quality: Floating | None = None, ridge: float = 0.0
) -> Int64:
    """Choose k windows one after the other, each such that det(L_S) becomes as large as possible.

    The deterministic variant of `k_dpp`, in O(n k (d + k)): Chen, Zhang & Zhou, "Fast greedy MAP inference for
    determinantal point processes", NeurIPS 2018. Of windows that are equally good the first is taken.

    Parameters
    ----------
    features, k, quality, ridge
        As for `k_dpp`.

    Returns
    -------
    ndarray, (k,) int64
        Row numbers in the order in which they were chosen: the first m are the choice for k = m.

    Raises
    ------
    EdgeseaError
        See `KDPP`.
    """
    rows, ridge = _scaled(features, quality, ridge)
    size = subset_size(k, len(rows))

    def column(i: int) -> Float64:
        result: Float64 = rows @ rows[i]
        result[i] += ridge
        return result

    diagonal = np.einsum("ij,ij->i", rows, rows) + ridge
    tolerance = max(rows.shape) * float(np.finfo(np.float64).eps)
    chosen = pivoted_cholesky(diagonal, column, size, tolerance=tolerance).pivots
    if len(chosen) < size and ridge == 0:
        raise _too_few_directions(size, len(chosen), rows.shape)
    # A ridge below the tolerance is all that the remaining windows add, each of them as much as any other.
    others = np.delete(np.arange(len(rows)), chosen)
    return np.concatenate([chosen, others[: size - len(chosen)]])


def log_det(features: Floating, *, quality: Floating | None = None, ridge: float = 0.0) -> float:
    """Natural logarithm of det(diag(quality) X X^T diag(quality) + ridge I), of the rows of a subset.

    Parameters
    ----------
    features : ndarray, (k, d) float
        X, the rows of the subset.
    quality : ndarray, (k,) float, optional
        q >= 0; 1 everywhere by default.
    ridge : float
        Added to the diagonal.

    Returns
    -------
    float
        Minus infinity if the rows are linearly dependent to double precision and there is no ridge.
    """
    rows = _weighted(features, quality)
    ridge = _checked_ridge(ridge)
    squared = np.zeros(len(rows))
    values = np.linalg.svd(rows, compute_uv=False)
    values[values <= max(rows.shape) * np.finfo(np.float64).eps * values.max(initial=0.0)] = 0.0
    squared[: len(values)] = np.square(values)
    with np.errstate(divide="ignore"):
        return float(np.log(squared + ridge).sum())


def _weighted(features: Floating, quality: Floating | None) -> Float64:
    """B = diag(quality) X."""
    rows = finite_rows(features)
    if quality is not None:
        rows *= finite_column(quality, "quality", len(rows), low=0.0)[:, None]
    return rows


def _checked_ridge(ridge: float) -> float:
    if not 0 <= ridge < np.inf:
        raise EdgeseaError(f"ridge must be finite and at least 0, not {ridge}")
    return float(ridge)


def _scaled(features: Floating, quality: Floating | None, ridge: float) -> tuple[Float64, float]:
    """B and the ridge in units in which neither is above 1, so that no square overflows; a k-DPP has no scale."""
    rows, ridge = _weighted(features, quality), _checked_ridge(ridge)
    scale = max(rows.max(initial=0.0), -rows.min(initial=0.0), np.sqrt(ridge))
    if scale > 0:
        rows /= scale
        # However small, a ridge remains one: it decides whether k may exceed the rank.
        ridge = max(ridge / scale / scale, float(np.finfo(np.float64).tiny)) if ridge else 0.0
    return rows, ridge


def _too_few_directions(k: int, rank: int, shape: tuple[int, ...]) -> EdgeseaError:
    return EdgeseaError(
        f"cannot choose k = {k} windows without a ridge: features x quality ({shape[0]} x {shape[1]}) have rank "
        f"{rank}, so every set of more than {rank} has determinant 0 (duplicated, constant or all-zero embeddings "
        f"lower the rank); lower k to {rank}, or give a ridge > 0, with which the others are drawn uniformly"
    )


def _log_elementary_sums(log_values: Float64, degree: int) -> Float64:
    """Logarithms of the elementary symmetric polynomials e_j of the first i values.

    The recursion e_j(1..i) = e_j(1..i-1) + value_i e_{j-1}(1..i-1) adds positive numbers only, so in logarithms it
    neither cancels nor overflows.

    Parameters
    ----------
    log_values : ndarray, (r,) float64
        Logarithms of the values.
    degree : int
        Largest j.

    Returns
    -------
    ndarray, (r + 1, degree + 1) float64
        Entry (i, j); minus infinity where j > i.
    """
    sums = np.full((len(log_values) + 1, degree + 1), -np.inf)
    sums[:, 0] = 0.0
    for i, value in enumerate(log_values):
        sums[i + 1, 1:] = np.logaddexp(sums[i, 1:], value + sums[i, :-1])
    return sums


def _core_probability(log_sums: Float64, n: int, k: int, ridge: float) -> Float64:
    """Probability that the core has the size j = 0, 1, ..., (m + 1,), from log e_j of all eigenvalues, (m + 1,)."""
    sizes: Float64 = np.arange(len(log_sums), dtype=np.float64)
    if ridge == 0:
        return np.equal(sizes, k).astype(np.float64)
    # C(n-j-1, k-j-1) / C(n-j, k-j) = (k-j) / (n-j): sums of these steps are exact where factorials would be huge.
    steps = np.log((k - sizes[:-1]) / (n - sizes[:-1])) - np.log(ridge)
    weights = log_sums + np.concatenate([[0.0], np.cumsum(steps)])
    probability: Float64 = np.exp(weights - weights.max())
    probability /= probability.sum()
    return probability
