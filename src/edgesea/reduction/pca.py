"""``pca``: standardisation and exact principal components from one pass, in memory that only the dimension sets."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Arrays, Float32, Float64, take
from edgesea.reduction.linear import Linear

CUTOFF = 1e-12  # eigenvalues below this share of the largest are rounding noise


class PCA(Linear):
    """Principal components of standardised embeddings.

    Each dimension is centred and divided by its standard deviation (those that do not vary, by 1), then projected on
    the leading eigenvectors of the covariance. The sign of a component is such that its largest entry is positive.

    Parameters
    ----------
    size : int
        Dimensions d to keep.
    whiten : bool
        Scale the outputs to unit variance.

    Attributes
    ----------
    components : ndarray, (d, n) float64
        Divided by the outputs' standard deviation if whitened.
    variance : ndarray, (n,) float64
        Variances of all n components, as shares of the total.
    """

    method = "pca"
    variance: Float64

    def __init__(self, size: int, whiten: bool = False) -> None:
        super().__init__(size)
        self.whiten = whiten

    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn mean, scale and components.

        Parameters
        ----------
        rows : iterable of ndarray, (b, n) float32
            Seen once, each batch discarded after use.

        Raises
        ------
        EdgeseaError
            If there are no windows, a value is NaN or infinite, nothing varies, or d > n.
        """
        moments = self.measure(rows, full=True)
        covariance = moments.scatter / (moments.count - 1) / np.outer(self.scale, self.scale)
        covariance[~moments.varies] = covariance[:, ~moments.varies] = 0.0
        values, vectors = principal_axes(covariance)
        self.variance = values / values.sum()
        rank = int(np.count_nonzero(values > values[0] * CUTOFF))
        if self.output_size > rank:
            raise EdgeseaError(f"pca: the {moments.count} windows span {rank} dimensions, not {self.output_size}")
        self.components = vectors[: self.output_size]
        if self.whiten:
            self.components = self.components / np.sqrt(values[: self.output_size])[:, None]

    def report(self) -> dict[str, Any]:
        """Windows seen, dimensions, and the share of the standardised variance that is kept."""
        return {
            **super().report(),
            "explained_variance": float(self.variance[: self.output_size].sum()),
            "explained_variance_ratio": self.variance.tolist(),
        }

    def arrays(self) -> Arrays:
        """mean, scale, components, variance: float64."""
        return {**super().arrays(), "variance": self.variance}

    def set_arrays(self, arrays: Arrays) -> None:
        """Take over mean, scale, components and variance."""
        super().set_arrays(arrays)
        self.variance = take(arrays, "variance", self.input_size)


def principal_axes(covariance: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues and eigenvectors of a covariance matrix, the largest first.

    Parameters
    ----------
    covariance : ndarray, (n, n) float64
        Symmetric.

    Returns
    -------
    values : ndarray, (n,) float64
        At least 0.
    vectors : ndarray, (n, n) float64
        In rows; the largest entry of each is positive.
    """
    values, columns = np.linalg.eigh(covariance)
    vectors = columns[:, ::-1].T
    largest = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)]
    return np.maximum(values[::-1], 0.0), vectors * np.sign(largest)[:, None]
