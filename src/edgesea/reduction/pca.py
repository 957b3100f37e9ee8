"""``pca``, ``kernel_pca``, ``random_projection``, ``identity``; and standardisation, with which learned ones begin."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import BLOCK, Batches, Float32, Float64, Reduction

ROWS = 4096  # rows accumulated at once: enough for BLAS, small enough for a cache of doubles
CUTOFF = 1e-12  # eigenvalues below this share of the largest are rounding noise
KEYS = 1 << 20  # random keys at once
OVERFLOW = 1e140  # of kernel values: their squares are summed


class Moments:
    """Count, mean and scatter of batches of vectors (b, n), in double precision.

    The scatter is the matrix, sum of (x - mean)(x - mean)^T, or only its diagonal. Blocks are merged by the pairwise
    update of Chan, Golub & LeVeque (1979), which does not cancel when the mean is large.
    """

    def __init__(self, batches: Iterable[NDArray[np.floating]], full: bool = False) -> None:
        self.count = 0
        self.mean: Float64 = np.zeros(())
        self.scatter: Float64 = np.zeros(())
        for rows in batches:
            for first in range(0, len(rows), ROWS):
                block = rows[first : first + ROWS].astype(np.float64)
                mean = block.mean(0)
                block -= mean
                self._add(len(block), mean, block.T @ block if full else np.square(block).sum(0))

    @classmethod
    def merged(cls, several: "Iterable[Moments]") -> "Moments":
        """Those of all batches together; takes the others' memory."""
        moments = cls([])
        for each in several:
            if each.count:
                moments._add(each.count, each.mean, each.scatter)
        return moments

    def _add(self, count: int, mean: Float64, scatter: Float64) -> None:
        total, delta = self.count + count, mean - self.mean
        moved = delta * (self.count * count / total)
        scatter += self.scatter
        scatter += np.outer(delta, moved) if scatter.ndim == 2 else delta * moved
        self.count, self.mean, self.scatter = total, self.mean + delta * (count / total), scatter

    @property
    def std(self) -> Float64:
        """Standard deviation of each dimension; 0 of one that is constant up to rounding."""
        std = np.sqrt((np.diag(self.scatter) if self.scatter.ndim == 2 else self.scatter) / self.count)
        return np.where(std > 1e-7 * np.maximum(np.abs(self.mean), 1e-30), std, 0.0)


class Standardised(Reduction):
    """A reduction of embeddings whose dimensions are centred and divided by their standard deviations."""

    saved: ClassVar[tuple[str, ...]] = ("mean", "scale")
    size: int
    whiten: bool
    mean: Float64
    scale: Float64  # 1 for dimensions that do not vary

    def measure(self, rows: Iterable[Float32], full: bool = False) -> Moments:
        """Learn mean and scale from one pass; the moments returned are those before standardisation."""
        moments = Moments.merged(Batches.of(rows).map(partial(Moments, full=full)))
        if moments.count < 2:
            raise EdgeseaError(f"{self.method}: at least two windows are needed")
        self.input_size, self.output_size, self.windows = len(moments.mean), self.size, moments.count
        self.require("size", 1 <= self.size <= self.input_size, f"in 1 ... {self.input_size}, the embedding's")
        if not moments.std.any():
            raise EdgeseaError(
                f"{self.method}: all windows have the same embedding (silent recordings?); choose others"
            )
        self.mean, self.scale = moments.mean, np.where(moments.std > 0, moments.std, 1.0)
        return moments

    def standardise(self, embeddings: NDArray[np.floating]) -> Float64:
        """(b, n) -> (b, n) float64."""
        return np.asarray((embeddings.astype(np.float64) - self.mean) / self.scale)


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
        self.components, self.variance = principal_components(self, covariance)

    def describe(self) -> dict[str, Any]:
        """Also the shares of the standardised variance in the components: in all of phi's, and in each of the n."""
        shares = {"explained_variance": float(self.variance[: self.output_size].sum())}
        return {**super().describe(), **shares, "explained_variance_ratio": self.variance.tolist()}

    def explained_variance(self, rows: Iterable[Float32]) -> float | None:
        """Share of the standardised variance that lies in the span of the components."""
        explained, total = np.reshape(list(Batches.of(rows).map(self._variances)), (-1, 2)).sum(0).tolist()
        return explained / total if total else None

    def _variances(self, batches: Iterable[Float32]) -> tuple[float, float]:
        """The standardised variance in the span of the components, and all of it, times the windows."""
        basis = self.components / np.linalg.norm(self.components, axis=1, keepdims=True)
        explained = total = 0.0
        for standardised in map(self.standardise, batches):
            total += float(np.square(standardised).sum())
            explained += float(np.square(standardised @ basis.T).sum())
        return explained, total


@dataclass(eq=False)
class KernelPCA(Standardised):
    """Kernel PCA of standardised embeddings (Schoelkopf, Smola & Mueller, Neural Computation 1998).

    The kernel is approximated with m landmarks z_1 ... z_m, chosen uniformly from the windows (Williams & Seeger,
    "Using the Nystroem method to speed up kernel machines", NIPS 2000). With K_mm = U S U^T and k(x) = (k(x, z_i))_i,
    the inner products of the features

        S^(-1/2) U^T k(x)

    are the kernel's among the landmarks, and approximately its elsewhere. phi is exact PCA of these features over all
    windows: with all windows as landmarks it is kernel PCA itself. scikit-learn's Nystroem has the same features but
    for a rotation; it keeps directions that are rounding noise, and would choose landmarks from windows in memory.
    """

    size: int
    whiten: bool = False  # scale the outputs to unit variance
    kernel: str = "rbf"  # exp(-gamma |x - y|^2), or (gamma x . y + coef0)^degree
    gamma: float | None = None  # None: 1 / number of dimensions that vary; `fit` sets it
    degree: int = field(default=3, metadata={"kernel": "poly"})
    coef0: float = field(default=1.0, metadata={"kernel": "poly"})  # negative ones give no kernel
    landmarks: int = 1000  # m; all windows if there are fewer. Memory is that of some (m, m) matrices
    seed: int = 0
    method, slow = "kernel_pca", True
    saved = (*Standardised.saved, "landmarks_", "projection", "offset", "variance")

    def __post_init__(self) -> None:
        self.require("gamma", self.gamma is None or 0 < self.gamma < np.inf, "above 0")
        self.require("degree", self.degree >= 1, "at least 1")
        self.require("coef0", 0 <= self.coef0 < np.inf, "at least 0")
        self.require("landmarks", self.landmarks >= 2, "at least 2")

    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn the scale in a first pass, choose landmarks, and learn the projection in a second pass."""
        moments = self.measure(rows)
        self.landmarks_: Float32 = Batches.of(rows).take(self._draw_landmarks())  # (m, n), not standardised
        if self.gamma is None:
            self.gamma = 1.0 / np.count_nonzero(moments.std)
        kernel = self._kernel(self.landmarks_)
        values, columns = np.linalg.eigh((kernel + kernel.T) / 2)
        used = values > values[-1] * CUTOFF
        root = columns[:, used] / np.sqrt(values[used])
        features = Moments.merged(Batches.of(rows).map(partial(self._features, root)))
        components, self.variance = principal_components(self, features.scatter / (features.count - 1))
        self.projection = root @ components.T  # (m, d)
        self.offset = components @ features.mean  # (d,)

    def _draw_landmarks(self) -> NDArray[np.int64]:
        """Numbers of windows, ascending. Each gets a random key; the smallest keys stay (Vitter, ACM TOMS 1985)."""
        rng, keys, numbers = np.random.default_rng(self.seed), np.zeros(0), np.zeros(0, np.int64)
        for first in range(0, self.windows, KEYS):
            new = np.arange(first, min(first + KEYS, self.windows))
            keys, numbers = np.concatenate([keys, rng.random(len(new))]), np.concatenate([numbers, new])
            smallest = np.argsort(keys)[: self.landmarks]
            keys, numbers = keys[smallest], numbers[smallest]
        return np.sort(numbers)

    def _features(self, root: Float64, batches: Iterable[Float32]) -> Moments:
        """Moments of the features of batches."""
        blocks = (batch[first : first + BLOCK] for batch in batches for first in range(0, len(batch), BLOCK))
        return Moments((self._kernel(block) @ root for block in blocks), full=True)

    def _kernel(self, embeddings: NDArray[np.floating]) -> Float64:
        """Kernel of embeddings (b, n) and landmarks: (b, m)."""
        from sklearn.metrics.pairwise import pairwise_kernels

        rows, landmarks = self.standardise(embeddings), self.standardise(self.landmarks_)
        options = {"gamma": self.gamma, "degree": self.degree, "coef0": self.coef0}
        with np.errstate(over="ignore"):
            values = np.asarray(pairwise_kernels(rows, landmarks, self.kernel, filter_params=True, **options))
        if not np.abs(values).max() < OVERFLOW:
            raise EdgeseaError("kernel_pca: the kernel overflows; lower degree or gamma")
        return values

    def _transform(self, embeddings: NDArray[np.floating]) -> Float64:
        return np.asarray(self._kernel(embeddings) @ self.projection - self.offset)

    def describe(self) -> dict[str, Any]:
        """Also the share of the features' variance in the components (not that of the embeddings)."""
        return {**super().describe(), "feature_variance": float(self.variance[: self.output_size].sum())}


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
        for count, self.input_size in Batches.of(rows).map(_shape):
            self.windows += count
        self.output_size = self.input_size
        if not self.windows:
            raise EdgeseaError("identity: there are no windows")

    def _transform(self, embeddings: NDArray[np.floating]) -> NDArray[np.floating]:
        return embeddings

    def explained_variance(self, rows: Iterable[Float32]) -> float | None:
        """All of it, if there are windows."""
        return 1.0 if any(len(batch) for batch in rows) else None


def _shape(batches: Iterable[Float32]) -> tuple[int, int]:
    """Windows, and dimensions (0: there are no windows)."""
    count = size = 0
    for rows in batches:
        count, size = count + len(rows), rows.shape[1]
    return count, size


def principal_components(phi: Standardised, covariance: Float64) -> tuple[Float64, Float64]:
    """Leading eigenvectors in rows (phi.size, n), and the shares (n,) of all in the variance.

    The largest entry of an eigenvector is positive; whitened ones are divided by the standard deviation along them.
    """
    values, columns = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), columns[:, ::-1].T
    rank = int(np.count_nonzero(values > values[0] * CUTOFF))
    phi.require("size", phi.size <= rank, f"at most {rank}, what the {phi.windows} windows (or the landmarks) span")
    largest = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)]
    components = (vectors * np.sign(largest)[:, None])[: phi.size]
    return components / np.sqrt(values[: phi.size])[:, None] if phi.whiten else components, values / values.sum()
