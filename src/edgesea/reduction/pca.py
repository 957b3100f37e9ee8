"""``pca``: standardisation and exact principal components from one pass, in memory that only the dimension sets."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, write_json
from edgesea.reduction.base import ARRAYS_FILE, REDUCTION_FILE, Float32

Float64 = NDArray[np.float64]
ROWS = 4096  # rows accumulated at once: enough for BLAS, small enough for a cache of doubles


class Moments:
    """Count, mean and scatter matrix of a stream of vectors, in double precision.

    Blocks are merged by the pairwise update of Chan, Golub & LeVeque (1979), which does not cancel when the mean is
    large.

    Parameters
    ----------
    size : int
        Dimensions n.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: Float64 = np.zeros(size)
        self.scatter: Float64 = np.zeros((size, size))  # sum of (x - mean)(x - mean)^T

    def update(self, rows: NDArray[np.floating]) -> None:
        """Add rows (b, n)."""
        for first in range(0, len(rows), ROWS):
            block = rows[first : first + ROWS].astype(np.float64)
            mean = block.mean(0)
            block -= mean
            total = self.count + len(block)
            delta = mean - self.mean
            self.scatter += block.T @ block
            self.scatter += np.outer(delta, delta * (self.count * len(block) / total))
            self.mean += delta * (len(block) / total)
            self.count = total


class PCA:
    """Principal components of standardised embeddings.

    Each dimension is centred and divided by its standard deviation (those that do not vary, by 1), then projected on
    the leading eigenvectors of the covariance. The sign of a component is such that its largest entry is positive.

    Parameters
    ----------
    size : int
        Dimensions d to keep.
    whiten : bool
        Scale the outputs to unit variance.
    """

    method = "pca"

    def __init__(self, size: int, whiten: bool = False) -> None:
        self.output_size = size
        self.input_size = 0
        self.whiten = whiten
        self.windows = 0
        self.mean: Float64
        self.scale: Float64
        self.components: Float64  # (d, n), divided by the outputs' standard deviation if whitened
        self.variance: Float64  # of all n components, as shares of the total

    def fit(self, batches: Iterable[Float32]) -> None:
        """Learn mean, scale and components.

        Parameters
        ----------
        batches : iterable of ndarray, (b, n) float32
            Seen once, each discarded after use.

        Raises
        ------
        EdgeseaError
            If there are no windows, a value is NaN or infinite, nothing varies, or d > n.
        """
        moments: Moments | None = None
        for batch in batches:
            if not np.isfinite(batch).all():
                raise EdgeseaError("pca: the embeddings hold NaN or Inf; extract the table again")
            moments = moments or Moments(batch.shape[1])
            moments.update(batch)
        if moments is None or moments.count < 2:
            raise EdgeseaError("pca: at least two windows are needed")
        size = len(moments.mean)
        if not 1 <= self.output_size <= size:
            raise EdgeseaError(f"pca: size must lie in 1 ... {size} (the embedding's), not {self.output_size}")
        std = np.sqrt(np.diag(moments.scatter) / moments.count)
        # A constant dimension leaves rounding noise of the order of its magnitude, which is not to be blown up.
        varies = std > 1e-7 * np.maximum(np.abs(moments.mean), 1e-30)
        if not varies.any():
            raise EdgeseaError("pca: all windows have the same embedding; choose other windows or another teacher")
        self.input_size, self.windows = size, moments.count
        self.mean, self.scale = moments.mean, np.where(varies, std, 1.0)
        covariance = moments.scatter / (moments.count - 1) / np.outer(self.scale, self.scale)
        covariance[~varies] = covariance[:, ~varies] = 0.0
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T
        self.variance = values / values.sum()
        rank = int(np.count_nonzero(values > values[0] * 1e-12))
        if self.output_size > rank:
            raise EdgeseaError(f"pca: the {moments.count} windows span {rank} dimensions, not {self.output_size}")
        components = vectors[: self.output_size]
        largest = components[np.arange(len(components)), np.abs(components).argmax(1)]
        components = components * np.sign(largest)[:, None]
        if self.whiten:
            components = components / np.sqrt(values[: self.output_size])[:, None]
        self.components = components

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Project embeddings (b, n) to (b, d) float32.

        Raises
        ------
        EdgeseaError
            If n is not the size that was fitted.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.input_size:
            raise EdgeseaError(f"pca: embeddings must have shape (b, {self.input_size}), not {embeddings.shape}")
        standardised = (embeddings.astype(np.float64) - self.mean) / self.scale
        return np.asarray(standardised @ self.components.T, np.float32)

    def report(self) -> dict[str, Any]:
        """Windows seen, dimensions, and the share of the standardised variance that is kept."""
        return {
            "method": self.method,
            "input_size": self.input_size,
            "output_size": self.output_size,
            "whiten": self.whiten,
            "windows": self.windows,
            "explained_variance": float(self.variance[: self.output_size].sum()),
            "explained_variance_ratio": self.variance.tolist(),
        }

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write ``reduction.json`` and ``reduction.safetensors`` (mean, scale, components, variance; float64)."""
        from safetensors.numpy import save_file

        names = ("mean", "scale", "components", "variance")
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        with atomic_path(folder / ARRAYS_FILE) as temporary:
            save_file(arrays, temporary)
        write_json(folder / REDUCTION_FILE, {**self.report(), "provenance": provenance})

    @classmethod
    def restore(cls, info: dict[str, Any], arrays: dict[str, Float64]) -> "PCA":
        """The PCA that `save` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a value is missing or of the wrong type or shape.
        """
        pca = cls(int(info["output_size"]), bool(info["whiten"]))
        pca.input_size, pca.windows = int(info["input_size"]), int(info["windows"])
        pca.mean, pca.scale = arrays["mean"], arrays["scale"]
        pca.components, pca.variance = arrays["components"], arrays["variance"]
        if pca.components.shape != (pca.output_size, pca.input_size):
            raise ValueError(f"components {pca.components.shape} for {pca.input_size} to {pca.output_size} dimensions")
        return pca
