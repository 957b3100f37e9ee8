"""What a reduction preserves of the teacher's space, measured on windows that it was not fitted on.

The teacher's space is that of the embeddings standardised by mean and standard deviation of the windows fitted. Every
measure compares two sets of points, so any reduction can be measured, also one that has no components. Equal windows
(digital silence) count once in what compares neighbours and distances: which of them is nearest would be chance.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgesea.reduction.base import Float32, Float64, Reduction, transform_all
from edgesea.reduction.pca import Moments
from edgesea.reduction.windows import Windows

INSIDE, OUTSIDE = 20000, 5000  # windows at most, of those fitted on and of others, that are drawn
COMPARED = 2000  # windows whose pairwise distances are compared: a few matrices of 32 MB
COMPARISONS = ("trustworthiness", "continuity", "knn_overlap", "knn_overlap_chance", "distance_rank_correlation")
RIDGE = 1e-12  # share of a reduced dimension's variance: what is below is rounding of phi's single precision


def held_out_quality(phi: Reduction, windows: Mapping[str, Windows], seed: int) -> dict[str, Any] | None:
    """The quality on validation windows that were not fitted on; if there are none, on such training windows."""
    for split in ("validate", "train"):
        if len(windows[split]):
            rng = np.random.default_rng(seed)
            inside, outside = windows["fitted"].draw(INSIDE, rng), windows[split].draw(OUTSIDE, rng)
            return {"split": split, "fitted_windows": len(inside), **quality(phi, inside, outside, seed=seed)}
    return None


def quality(phi: Reduction, inside: Float32, outside: Float32, *, neighbors: int = 10, seed: int = 0) -> dict[str, Any]:
    """Measure what phi preserves, on teacher embeddings (n, D) inside and outside of what it was fitted on.

    Returns a JSON-ready dictionary; what so few windows do not give is None. windows and compared_windows: how many are
    outside, and how many different ones of them are compared. explained_variance: share of the standardised variance
    outside that a linear map of the reduced windows, fitted inside, recovers; for principal components, that in their
    span. trustworthiness and continuity, in [0, 1]: few windows became neighbours that were far apart, and few
    neighbours were torn apart (Venna & Kaski, ICANN 2001). knn_overlap: mean share of the nearest neighbours of the
    teacher's space that are among the nearest in the reduced one (Lee & Verleysen, Neurocomputing 2009: Q_NX), and
    knn_overlap_chance: that of an unrelated space. distance_rank_correlation: Spearman's, of all pairs' distances.
    """
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    known, expected = _standardised(inside, outside)
    reduced = transform_all(phi, outside)
    fitted, predictors = _standardised(transform_all(phi, inside), reduced)
    # Not LinearRegression: reduced dimensions may be constant, or depend on each other.
    linear = Ridge(RIDGE * len(known), solver="cholesky").fit(fitted, known)
    residual = np.square(expected - linear.predict(predictors)).sum()
    chosen = np.random.default_rng(seed).permutation(len(outside))[:COMPARED]
    chosen = chosen[np.sort(np.unique(outside[chosen], axis=0, return_index=True)[1])]
    result: dict[str, Any] = {
        "windows": len(outside),
        "compared_windows": len(chosen),
        "neighbors": neighbors,
        "explained_variance": float(1.0 - residual / np.square(expected).sum()),
        **dict.fromkeys(COMPARISONS),
    }
    # Both as precise as phi's output, not more, and computed in double precision.
    spaces = [rows[chosen].astype(np.float32).astype(np.float64) for rows in (expected, reduced)]
    distances = [pdist(rows) for rows in spaces]
    if len(chosen) > 2 and all(np.ptp(each) for each in distances):
        result["distance_rank_correlation"] = float(spearmanr(*distances).statistic)
    if len(chosen) >= 2 * neighbors + 2:
        near, reduced_near = (NearestNeighbors(n_neighbors=neighbors).fit(x).kneighbors_graph() for x in spaces)
        result["trustworthiness"] = float(trustworthiness(*spaces, n_neighbors=neighbors))
        result["continuity"] = float(trustworthiness(*spaces[::-1], n_neighbors=neighbors))
        result["knn_overlap"] = float(near.multiply(reduced_near).sum() / (len(chosen) * neighbors))
        result["knn_overlap_chance"] = neighbors / (len(chosen) - 1)
    return result


def _standardised(inside: Float32, outside: Float32) -> tuple[Float64, Float64]:
    """Both by mean and standard deviation of the windows inside."""
    moments = Moments([inside])
    scale = np.where(moments.std > 0, moments.std, 1.0)
    return (inside - moments.mean) / scale, (outside - moments.mean) / scale
