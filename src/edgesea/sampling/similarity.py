"""Features whose inner products are the similarities of windows, or of sensors: what a k-DPP is given."""

from typing import Literal

import numpy as np

from edgesea.sampling.dpp import Float64, Floating, pivoted_cholesky

Similarity = Literal["cosine", "linear"]

EARTH_RADIUS_KM = 6371.0088  # mean radius (IUGG)


def similarity_features(embeddings: Floating, similarity: Similarity) -> Float64:
    """Features X (n, d) with X X^T = the similarities of embeddings (n, d): x . y (linear) or x . y / |x||y| (cosine).

    Under cosine, a row of zeros is similar to nothing, not even to itself.
    """
    rows = np.array(embeddings, np.float64)
    if similarity == "cosine":
        largest = np.abs(rows).max(1, initial=0.0)
        rows /= np.where(largest > 0, largest, 1.0)[:, None]  # keeps the squares of huge and of tiny rows in range
        length = np.linalg.norm(rows, axis=1)
        rows /= np.where(length > 0, length, 1.0)[:, None]
    return rows


def position_features(latitude: Float64, longitude: Float64, *, scale_km: float | None = None) -> Float64:
    """Features (n, <= n) whose inner products are exp(-distance / scale), with the distance along the earth's surface.

    Positions are in degrees, the scale is the median distance of different positions by default. This kernel, unlike
    the Gaussian one, is positive definite on a sphere: Feragen, Lauze & Hauberg, "Geodesic exponential kernels: when
    curvature and linearity conflict", CVPR 2015.
    """
    north, east = np.radians(latitude), np.radians(longitude)
    # The haversine formula keeps its digits for sensors a few metres apart.
    haversine = np.sin((north[:, None] - north) / 2) ** 2
    haversine += np.cos(north[:, None]) * np.cos(north) * np.sin((east[:, None] - east) / 2) ** 2
    distance = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(haversine.clip(max=1.0)))
    different = distance[distance > 1e-12 * distance.max()]
    scale = scale_km or (np.median(different) if len(different) else 1.0)
    kernel = np.exp(-distance / scale)
    return pivoted_cholesky(np.diag(kernel), kernel.__getitem__, len(kernel), tolerance=1e-12)[1]
