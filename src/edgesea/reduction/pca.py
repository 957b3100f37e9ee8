"""Standardisation, with which learned methods begin, and ``pca``, ``random_projection`` and ``identity``."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Float32, Float64, Reduction

ROWS = 4096  # rows accumulated at once: enough for BLAS, small enough for a cache of doubles
CUTOFF = 1e-12  # eigenvalues below this share of the largest are rounding noise


class Moments:
    """Count, mean and scatter of a stream of vectors, in double precision.

    The scatter is the matrix, sum of (x - mean)(x - mean)^T, or only its diagonal. Blocks are merged by the pairwise
    update of Chan, Golub & LeVeque (1979), which does not cancel when the mean is large.
    """

    def __init__(self, size: int, full: bool) -> None:
        self.count = 0
        self.mean: Float64 = np.zeros(size)
        self.scatter: Float64 = np.zeros((size, size) if full else size)

    def update(self, rows: NDArray[np.floating]) -> None:
        """Add rows (b, n)."""
        full = self.scatter.ndim == 2
        for first in range(0, len(rows), ROWS):
            block = rows[first : first + ROWS].astype(np.float64)
            mean = block.mean(0)
            block -= mean
            total = self.count + len(block)
            delta = mean - self.mean
            moved = delta * (self.count * len(block) / total)
            self.scatter += block.T @ block if full else np.square(block).sum(0)
            self.scatter += np.outer(delta, moved) if full else delta * moved
            self.mean += delta * (len(block) / total)
            self.count = total

    @property
    def std(self) -> Float64:
        """Standard deviation of each dimension; 0 of one that is constant up to rounding."""
        std = np.sqrt((np.diag(self.scatter) if self.scatter.ndim == 2 else self.scatter) / self.count)
        return np.where(std > 1e-7 * np.maximum(np.abs(self.mean), 1e-30), std, 0.0)


class Standardised(Reduction):
    """A reduction of embeddings whose dimensions are centred and divided by their standard deviations."""

    saved: ClassVar[tuple[str, ...]] = ("mean", "scale")
    size: int
    mean: Float64
    scale: Float64  # 1 for dimensions that do not vary

    def measure(self, batches: Iterable[Float32], full: bool = False) -> Moments:
        """Learn mean and scale from one pass; the moments returned are those before standardisation."""
        moments: Moments | None = None
        for batch in batches:
            moments = moments or Moments(batch.shape[1], full)
            moments.update(batch)
        if moments is None or moments.count < 2:
            raise EdgeseaError(f"{self.method}: at least two windows are needed")
        self.input_size, self.output_size, self.windows = len(moments.mean), self.size, moments.count
        self.require("size", 1 <= self.size <= self.input_size, f"in 1 ... {self.input_size}, the embedding's")
        if not moments.std.any():
            raise EdgeseaError(f"{self.method}: all windows have the same embedding; choose other windows")
        self.mean, self.scale = moments.mean, np.where(moments.std > 0, moments.std, 1.0)
        return moments

    def standardise(self, embeddings: NDArray[np.floating]) -> Float64:
        """(b, n) -> (b, n) float64."""
        result: Float64 = (embeddings.astype(np.float64) - self.mean) / self.scale
        return result


class Linear(Standardised):
    """Standardisation, then a matrix: phi(x) = C (x - mean) / scale."""

    saved = (*Standardised.saved, "components")
    components: Float64  # (d, n)

    def _transform(self, embeddings: NDArray[np.floating]) -> Float64:
        return np.asarray(self.standardise(embeddings) @ self.components.T)


@dataclass(eq=False)
class PCA(Linear):
    """Projection of standardised embeddings on the leading eigenvectors of their covariance."""

    size: int
    whiten: bool = False  # scale the outputs to unit variance
    method = "pca"
    saved = (*Linear.saved, "variance")

    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn mean, scale and components in one pass; dimensions that do not vary contribute nothing."""
        moments = self.measure(rows, full=True)
        covariance = moments.scatter / (moments.count - 1) / np.outer(self.scale, self.scale)
        constant = moments.std == 0
        covariance[constant] = covariance[:, constant] = 0.0
        source = f"pca: the {moments.count} windows"
        self.components, self.variance = principal_components(covariance, self.size, self.whiten, source)

    def describe(self) -> dict[str, Any]:
        """Also the shares of the standardised variance in the components: in all of phi's, and in each of the n."""
        explained = float(self.variance[: self.output_size].sum())
        ratios = self.variance.tolist()
        return {**super().describe(), "explained_variance": explained, "explained_variance_ratio": ratios}

    def explained_variance(self, rows: Iterable[Float32]) -> float | None:
        """Share of the standardised variance that lies in the span of the components."""
        basis = self.components / np.linalg.norm(self.components, axis=1, keepdims=True)
        explained = total = 0.0
        for standardised in map(self.standardise, rows):
            total += float(np.square(standardised).sum())
            explained += float(np.square(standardised @ basis.T).sum())
        return explained / total if total else None


@dataclass(eq=False)
class RandomProjection(Linear):
    """Standardisation, then a matrix of independent normal numbers with variance 1 / d.

    Squared distances are preserved on average, with a relative standard deviation of sqrt(2 / d): Johnson &
    Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space", 1984.
    """

    size: int
    seed: int = 0
    method = "random_projection"

    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn mean and scale, and draw the matrix."""
        self.measure(rows)
        normal = np.random.default_rng(self.seed).standard_normal((self.output_size, self.input_size))
        self.components = normal / np.sqrt(self.output_size)


@dataclass(eq=False)
class Identity(Reduction):
    """phi(x) = x, for students of the teacher's full size."""

    method = "identity"

    def fit(self, rows: Iterable[Float32]) -> None:
        """Find out how wide the embeddings are."""
        for batch in rows:
            self.input_size = self.output_size = batch.shape[1]
            self.windows += len(batch)
        if not self.windows:
            raise EdgeseaError("identity: there are no windows")

    def _transform(self, embeddings: NDArray[np.floating]) -> NDArray[np.floating]:
        return embeddings

    def explained_variance(self, rows: Iterable[Float32]) -> float | None:
        """All of it, if there are windows."""
        return 1.0 if any(len(batch) for batch in rows) else None


def principal_components(covariance: Float64, size: int, whiten: bool, source: str) -> tuple[Float64, Float64]:
    """Leading eigenvectors in rows (d, n), and the shares (n,) of all in the variance.

    The largest entry of an eigenvector is positive; whitened ones are divided by the standard deviation along them.
    """
    values, columns = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), columns[:, ::-1].T
    rank = int(np.count_nonzero(values > values[0] * CUTOFF))
    if size > rank:
        raise EdgeseaError(f"{source} span {rank} dimensions, not {size}; lower size or choose more")
    largest = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)]
    components = (vectors * np.sign(largest)[:, None])[:size]
    return components / np.sqrt(values[:size])[:, None] if whiten else components, values / values.sum()
