"""Features whose inner products are the similarities of windows, or of sensors: what a k-DPP is given.

A k-DPP is exact for the features it gets. These reproduce their similarity exactly, too:

    linear            x . y
    cosine            x . y / |x||y|
    centered_cosine   the same after subtracting the mean of the rows: for embeddings that share a large common part
    rbf               exp(-gamma |x - y|^2), for as many windows as `most`; above that it is an approximation, whose
                      largest error is known and logged

and `position_features` does so for sensors.
"""

import logging
from typing import Literal, get_args

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.sampling.checks import Float64, Floating, finite_column, finite_rows
from edgesea.sampling.cholesky import pivoted_cholesky

log = logging.getLogger(__name__)

Similarity = Literal["cosine", "centered_cosine", "linear", "rbf"]

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)
EXACT = 1e-12  # residual, as a share of the diagonal, below which a kernel counts as reproduced
NOTED = 0.01  # error of a similarity above which a warning is logged


def similarity_features(
    embeddings: Floating, similarity: Similarity = "cosine", *, gamma: float | None = None, most: int = 512
) -> Float64:
    """Features X with X X^T = the similarities of the embeddings.

    Parameters
    ----------
    embeddings : ndarray, (n, d) float
        One row for each window.
    similarity : {"cosine", "centered_cosine", "linear", "rbf"}
        See the top of this module. A row of zeros stays one under cosine: similar to nothing, not even to itself.
    gamma : float, optional
        Of rbf: 1 / the median squared distance of different rows by default, so that typical similarities are 1 / e.
    most : int
        Of rbf: how many features at most, the pivots of a Cholesky decomposition. The error of the similarity of
        windows i and j is at most sqrt(r_i r_j), where r_i is what the features lack of the similarity 1 of i with
        itself; a warning is logged if the largest is above 0.01.

    Returns
    -------
    ndarray, (n, d) or, for rbf, (n, <= most) float64

    Raises
    ------
    EdgeseaError
        If the similarity is unknown, the embeddings are not finite, or gamma is not positive.
    """
    if similarity not in get_args(Similarity):
        raise EdgeseaError(f"unknown similarity {similarity!r}; choose from {', '.join(get_args(Similarity))}")
    rows = finite_rows(embeddings)
    if similarity == "rbf":
        return _rbf_features(rows, gamma, most)
    if similarity == "centered_cosine" and len(rows):
        rows = _centered(rows)
    return rows if similarity == "linear" else _unit_rows(rows)


def position_features(latitude: Floating, longitude: Floating, *, scale_km: float | None = None) -> Float64:
    """Features whose inner products are exp(-distance / scale), with the distance along the earth's surface.

    This kernel, unlike the Gaussian one, is positive definite on a sphere: Feragen, Lauze & Hauberg, "Geodesic
    exponential kernels: when curvature and linearity conflict", CVPR 2015.

    Parameters
    ----------
    latitude, longitude : ndarray, (n,) float
        In degrees, of n sensors.
    scale_km : float, optional
        Distance at which the similarity is 1 / e; the median distance of different positions by default.

    Returns
    -------
    ndarray, (n, <= n) float64
        One column for each different position.

    Raises
    ------
    EdgeseaError
        If a position is missing (NaN) or out of range, or the scale is not positive.
    """
    north = np.radians(finite_column(latitude, "latitude", len(latitude), low=-90.0, high=np.nextafter(90.0, 91.0)))
    east = np.radians(finite_column(longitude, "longitude", len(north), low=-180.0, high=np.nextafter(360.0, 361.0)))
    # The haversine formula keeps its digits for sensors a few metres apart.
    haversine = np.sin((north[:, None] - north) / 2) ** 2
    haversine += np.cos(north[:, None]) * np.cos(north) * np.sin((east[:, None] - east) / 2) ** 2
    distance = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(haversine.clip(max=1.0)))
    scale = _typical(distance) if scale_km is None else scale_km
    if not 0 < scale < np.inf:
        raise EdgeseaError(f"scale_km must be above 0, not {scale}")
    kernel = np.exp(-distance / scale)
    return pivoted_cholesky(np.diag(kernel), kernel.__getitem__, len(kernel), tolerance=EXACT).factor


def _unit_rows(rows: Float64) -> Float64:
    """Divide rows by their length, in place; rows of zeros stay."""
    # The largest entry first, whose division keeps the squares of huge and of tiny rows in range.
    for length in (np.abs(rows).max(1, initial=0.0), None):
        norm = np.linalg.norm(rows, axis=1) if length is None else length
        rows /= np.where(norm > 0, norm, 1.0)[:, None]
    return rows


def _centered(rows: Float64) -> Float64:
    """Subtract the mean, in place. What rounding leaves of a row that equals it must not be blown up to unit length."""
    largest = np.abs(rows).max(1, initial=0.0)
    rows -= rows.mean(0)
    rows[np.abs(rows).max(1, initial=0.0) <= len(rows) * np.finfo(np.float64).eps * largest] = 0.0
    return rows


def _rbf_features(rows: Float64, gamma: float | None, most: int) -> Float64:
    rows -= rows.mean(0) if len(rows) else 0.0  # distances stay, and lose fewer digits below
    squared = np.einsum("ij,ij->i", rows, rows)

    def distances(i: int) -> Float64:
        result: Float64 = squared + squared[i] - 2 * (rows @ rows[i])
        return result.clip(min=0.0)

    if gamma is None:
        # A few hundred rows spread over the table are enough for a median.
        some = np.linspace(0, len(rows) - 1, min(len(rows), 256)).astype(np.int64)
        gamma = 1 / _typical(np.stack([distances(i)[some] for i in some])) if len(rows) else 1.0
    if not 0 < gamma < np.inf:
        raise EdgeseaError(f"gamma must be above 0, not {gamma}")
    result = pivoted_cholesky(
        np.ones(len(rows)), lambda i: np.exp(-gamma * distances(i)), min(most, len(rows)), tolerance=EXACT
    )
    error = result.residual.max(initial=0.0)
    log.log(
        logging.WARNING if error > NOTED else logging.DEBUG,
        "rbf similarities of %d windows: %d features, largest error %.2g (more features lower it)",
        len(rows),
        result.factor.shape[1],
        error,
    )
    return result.factor


def _typical(distances: Float64) -> float:
    """Median of the distances of different points; 1 if there are none."""
    different = distances[distances > 1e-12 * distances.max(initial=0.0)]
    return float(np.median(different)) if len(different) else 1.0
