"""What a reduction keeps of the teacher's space, measured on windows that it was not fitted on.

The teacher's space is that of the embeddings standardised by mean and standard deviation of the windows fitted. Each
measure is a pure function of two sets of points, or of their distances or ranks, so any reduction can be measured, also
one that has no components. Ties are broken by the order of the windows, which is random and the same in both spaces:
many windows of digital silence are equal, and a reduction that keeps everything must reach exactly 1 with them, too.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

if TYPE_CHECKING:
    from edgesea.reduction.base import Reduction

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

COMPARED = 2000  # windows whose pairwise distances are compared: a few matrices of 32 MB
CURVE = (1, 5, 10, 20, 50)  # numbers of neighbours of the overlap's curve
FEWEST = 3  # windows: fewer have no two distances whose ranks could agree
NEIGHBOR_MEASURES = ("trustworthiness", "continuity", "knn_overlap", "knn_overlap_chance")
DISTANCE_MEASURES = ("distance_correlation", "distance_correlation_chance", "distance_rank_correlation")
RIDGE = 1e-12  # share of a reduced dimension's variance: what is below is rounding of phi's single precision
ROWS = 4096  # rows in double precision at once


def kept(phi: "Reduction", inside: Float32, outside: Float32, *, neighbors: int = 10, seed: int = 0) -> dict[str, Any]:
    """Measure what phi keeps of the teacher's space, on windows outside the subset that it was fitted on.

    Parameters
    ----------
    phi : Reduction
        Fitted; only its `transform` is used.
    inside : ndarray, (m, n) float32
        Teacher embeddings of the windows that phi was fitted on, or of a sample of them.
    outside : ndarray, (k, n) float32
        Teacher embeddings of other windows.
    neighbors : int
        Nearest neighbours of trustworthiness, continuity and overlap.
    seed : int
        Seed of the choice of windows whose distances are compared.

    Returns
    -------
    dict
        JSON-ready; what cannot be measured is None.

        windows, compared_windows, neighbors
            k, how many of them the distances are compared of (at most 2000), and the option.
        explained_variance
            See `explained_variance`; on all k windows.
        trustworthiness, continuity
            See `trustworthiness`; continuity is the same with the spaces exchanged. None for fewer than
            2 `neighbors` + 2 windows.
        knn_overlap, knn_overlap_chance
            See `knn_overlap`, and what an unrelated space reaches: neighbors / (windows - 1).
        knn_overlap_curve
            List of {neighbors, overlap, chance} for 1, 5, 10, 20, 50 and `neighbors`, as far as there are windows.
        distance_correlation, distance_correlation_chance
            See `distance_correlation`, and the same after shuffling the windows of one space. It is well above 0 for
            few windows of many dimensions.
        distance_rank_correlation
            See `distance_rank_correlation`.

    Raises
    ------
    EdgeseaError
        If `neighbors` is below 1, `inside` is empty, the widths differ, or phi returns NaN or Inf.
    """
    if neighbors < 1:
        raise EdgeseaError(f"neighbors must be at least 1, not {neighbors}")
    if not len(inside) or inside.shape[1:] != outside.shape[1:]:
        raise EdgeseaError(f"cannot compare windows {outside.shape} with {inside.shape} of the fit")
    mean, scale = standardisation(inside)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(outside))[:COMPARED]
    reduced = _transform(phi, outside)
    result: dict[str, Any] = {
        "windows": len(outside),
        "compared_windows": len(chosen),
        "neighbors": neighbors,
        "explained_variance": explained_variance(inside, _transform(phi, inside), outside, reduced, mean, scale),
    }
    teacher = np.asarray((outside[chosen] - mean) / scale, np.float32)  # as precise as phi's output, not more
    return {**result, **_compare(teacher, reduced[chosen], neighbors, rng)}


def _transform(phi: "Reduction", rows: Float32) -> Float32:
    reduced = phi.transform(rows) if len(rows) else np.zeros((0, 1), np.float32)
    if not np.isfinite(reduced).all():
        raise EdgeseaError("the reduction returns NaN or Inf for some windows; choose another method or subset")
    return reduced


def _compare(teacher: Float32, reduced: Float32, neighbors: int, rng: np.random.Generator) -> dict[str, Any]:
    """The measures that need distances, of the same windows in both spaces."""
    windows = len(teacher)
    result: dict[str, Any] = {**dict.fromkeys(NEIGHBOR_MEASURES + DISTANCE_MEASURES), "knn_overlap_curve": []}
    if windows < FEWEST:
        return result
    one, other = pairwise_distances(teacher), pairwise_distances(reduced)
    shuffled = rng.permutation(windows)
    values = (
        distance_correlation(one, other),
        distance_correlation(one, other[np.ix_(shuffled, shuffled)]),
        distance_rank_correlation(one, other),
    )
    ranks = neighbor_ranks(one), neighbor_ranks(other)
    sizes = [size for size in sorted({*CURVE, neighbors}) if windows >= 2 * size + 2]
    curve = [(size, knn_overlap(*ranks, size), size / (windows - 1)) for size in sizes]
    result["knn_overlap_curve"] = [dict(zip(("neighbors", "overlap", "chance"), point, strict=True)) for point in curve]
    if neighbors in sizes:
        _, result["knn_overlap"], result["knn_overlap_chance"] = curve[sizes.index(neighbors)]
        result["trustworthiness"] = trustworthiness(*ranks, neighbors)
        result["continuity"] = trustworthiness(*ranks[::-1], neighbors)
    return {**result, **dict(zip(DISTANCE_MEASURES, values, strict=True))}


def standardisation(rows: Float32) -> tuple[Float64, Float64]:
    """Mean and standard deviation of each dimension (n,), 1 for those that are constant up to rounding."""
    mean = rows.mean(0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for first in range(0, len(rows), ROWS):
        squares += np.square(rows[first : first + ROWS] - mean).sum(0)
    std = np.sqrt(squares / len(rows))
    return mean, np.where(std > 1e-7 * np.maximum(np.abs(mean), 1e-30), std, 1.0)


def explained_variance(
    inside: Float32, inside_reduced: Float32, outside: Float32, outside_reduced: Float32, mean: Float64, scale: Float64
) -> float | None:
    """Share of the standardised variance of `outside` that a linear map of the reduced windows recovers.

    With z = (x - mean) / scale and L(y) = W y + b the least-squares fit of z on the windows inside,

        1 - sum |z - L(phi(x))|^2 / sum |z|^2    over the windows outside.

    This is the coefficient of determination of multivariate linear regression, with the windows inside as the baseline.
    The normal equations are summed in blocks, so memory does not grow with the windows; a ridge of 1e-12 of the
    variance keeps them solvable where reduced dimensions are constant or depend on each other.

    For principal components L is the transposed projection, and the share is that of the variance in their span. It is
    negative if L does worse than the mean.

    Parameters
    ----------
    inside, outside : ndarray, (m, n) and (k, n) float32
        Teacher embeddings.
    inside_reduced, outside_reduced : ndarray, (m, d) and (k, d) float32
        The same windows, reduced.
    mean, scale : ndarray, (n,) float64
        Of the standardisation.

    Returns
    -------
    float or None
        None without windows outside, or if all of them are the mean.
    """
    middle, width = standardisation(inside_reduced)
    gram, cross = np.zeros((len(middle), len(middle))), np.zeros((len(middle), len(mean)))
    for first in range(0, len(inside), ROWS):
        rows = slice(first, first + ROWS)
        centred = (inside_reduced[rows] - middle) / width
        gram += centred.T @ centred
        cross += centred.T @ ((inside[rows] - mean) / scale)  # both have mean 0: that is the intercept
    gram[np.diag_indices_from(gram)] += RIDGE * len(inside)
    weights = np.linalg.solve(gram, cross)
    residual = total = 0.0
    for first in range(0, len(outside), ROWS):
        rows = slice(first, first + ROWS)
        expected = (outside[rows] - mean) / scale
        total += float(np.square(expected).sum())
        residual += float(np.square(expected - (outside_reduced[rows] - middle) / width @ weights).sum())
    return 1.0 - residual / total if total else None


def pairwise_distances(points: NDArray[np.floating]) -> Float64:
    """Euclidean distances (n, n) of points (n, d). Equal points have exactly equal distances."""
    from scipy.spatial.distance import pdist, squareform

    result: Float64 = squareform(pdist(points.astype(np.float64)))
    return result


def neighbor_ranks(distances: Float64) -> Int64:
    """Rank of each other point by its distance from point i, in row i.

    Parameters
    ----------
    distances : ndarray, (n, n) float64
        Symmetric, zeros on the diagonal.

    Returns
    -------
    ndarray, (n, n) int64
        1 for the nearest, n - 1 for the farthest; equal distances in the order of the points. n on the diagonal.
    """
    size = len(distances)
    order = distances.copy()
    np.fill_diagonal(order, np.inf)
    ranks = np.empty((size, size), np.int64)
    np.put_along_axis(ranks, np.argsort(order, axis=1, kind="stable"), np.arange(1, size + 1), axis=1)
    return ranks


def trustworthiness(teacher: Int64, reduced: Int64, neighbors: int) -> float:
    """Whether neighbours in the reduced space are near each other in the teacher's.

    Venna & Kaski, "Neighborhood preservation in nonlinear projection methods: an experimental study", ICANN 2001:

        1 - 2 / (n k (2 n - 3 k - 1)) sum_i sum_{j in U(i)} (r(i, j) - k),

    where U(i) are those of the k nearest neighbours of i in the reduced space that are not among the k nearest in the
    teacher's, and r(i, j) is j's rank there. With the spaces exchanged it is the continuity of the same authors:
    whether neighbours in the teacher's space stay near.

    Parameters
    ----------
    teacher, reduced : ndarray, (n, n) int64
        Ranks of the same points, from `neighbor_ranks`.
    neighbors : int
        k < n / 2.

    Returns
    -------
    float
        In [0, 1]; 1 if no neighbour is new. scikit-learn's `sklearn.manifold.trustworthiness` gives the same where no
        two distances are equal.
    """
    size = len(teacher)
    penalty = np.maximum(teacher[reduced <= neighbors] - neighbors, 0).sum()
    return float(1.0 - penalty * (2.0 / (size * neighbors * (2.0 * size - 3.0 * neighbors - 1.0))))


def knn_overlap(teacher: Int64, reduced: Int64, neighbors: int) -> float:
    """Mean share of the k nearest neighbours in the teacher's space that are among the k nearest in the reduced one.

    Lee & Verleysen, "Quality assessment of dimensionality reduction: rank-based criteria", Neurocomputing 2009, call it
    Q_NX(k). Its expectation for an unrelated space is k / (n - 1).

    Parameters
    ----------
    teacher, reduced : ndarray, (n, n) int64
        Ranks of the same points, from `neighbor_ranks`.
    neighbors : int
        k.
    """
    shared = np.count_nonzero((teacher <= neighbors) & (reduced <= neighbors))
    return float(shared / (len(teacher) * neighbors))


def distance_correlation(one: Float64, other: Float64) -> float:
    """Distance correlation of two sets of points, from their distances.

    Szekely, Rizzo & Bakirov, "Measuring and testing dependence by correlation of distances", Annals of Statistics
    2007, definitions 4 and 5: with A the distances a minus the means of their row and column plus the grand mean, B
    likewise, dCov^2(a, b) = mean(A B) and

        dCor = sqrt(dCov^2(a, b) / sqrt(dCov^2(a, a) dCov^2(b, b))),

    0 if all points of a set are equal. 1 if a space is the other one moved, rotated, reflected and scaled. It is biased
    upwards, most so for few points of many dimensions: compare it with its value for shuffled points.

    Parameters
    ----------
    one, other : ndarray, (n, n) float64
        Distances of the same points in two spaces.
    """
    first, second = _centred(one), _centred(other)
    variances = np.vdot(first, first) * np.vdot(second, second)
    if not variances > 0:
        return 0.0
    return float(np.sqrt(max(np.vdot(first, second), 0.0) / np.sqrt(variances)))


def _centred(distances: Float64) -> Float64:
    means = distances.mean(0)  # of rows and columns: the matrix is symmetric
    result: Float64 = distances - means
    result -= means[:, None]
    result += means.mean()
    return result


def distance_rank_correlation(one: Float64, other: Float64) -> float | None:
    """Spearman's rank correlation of the distances of all pairs of points in two spaces.

    Parameters
    ----------
    one, other : ndarray, (n, n) float64
        Distances of the same points.

    Returns
    -------
    float or None
        None if all distances of a space are equal.
    """
    from scipy.stats import spearmanr

    pairs = np.triu_indices(len(one), 1)
    first, second = one[pairs], other[pairs]
    if not np.ptp(first) or not np.ptp(second):
        return None
    return float(spearmanr(first, second).statistic)
