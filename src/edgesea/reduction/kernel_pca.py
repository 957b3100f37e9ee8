"""``kernel_pca``: principal components in the feature space of a kernel, by Nystroem's method."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import BLOCK, Float32, Float64
from edgesea.reduction.pca import CUTOFF, Moments, Standardised, principal_components

Kernel = Literal["rbf", "poly"]
OVERFLOW = 1e140  # of kernel values: their squares are summed


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
    kernel: Kernel = "rbf"  # exp(-gamma |x - y|^2), or (gamma x . y + coef0)^degree
    gamma: float | None = None  # None: 1 / number of dimensions that vary; `fit` sets it
    degree: int = 3  # of poly
    coef0: float = 1.0  # of poly; negative ones give no kernel
    landmarks: int = 1000  # m; all windows if there are fewer. Memory is that of some (m, m) matrices
    seed: int = 0
    method = "kernel_pca"
    saved = (*Standardised.saved, "landmarks_", "projection", "offset", "variance")

    def __post_init__(self) -> None:
        self.require("kernel", self.kernel in get_args(Kernel), "rbf or poly")
        self.require("gamma", self.gamma is None or 0 < self.gamma < np.inf, "above 0")
        self.require("degree", self.degree >= 1 and self.degree == int(self.degree), "a whole number of at least 1")
        self.require("coef0", 0 <= self.coef0 < np.inf, "at least 0")
        self.require("landmarks", self.landmarks >= 2, "at least 2")

    @classmethod
    def used_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Without degree and coef0 unless the kernel is poly."""
        unused = () if options["kernel"] == "poly" else ("degree", "coef0")
        return {field.name: options[field.name] for field in fields(cls) if field.name not in unused}

    def fit(self, rows: Iterable[Float32]) -> None:
        """Choose landmarks in a first pass, and learn the projection in a second."""
        reservoir = Reservoir(self.landmarks, self.seed)
        moments = self.measure(reservoir.watch(rows))
        if self.gamma is None:
            self.gamma = 1.0 / np.count_nonzero(moments.std)
        self.landmarks_ = reservoir.rows  # (m, n), not standardised
        kernel = self._kernel(self.landmarks_)
        values, columns = np.linalg.eigh((kernel + kernel.T) / 2)
        used = values > values[-1] * CUTOFF
        root = columns[:, used] / np.sqrt(values[used])
        features = Moments(root.shape[1], full=True)
        for batch in rows:
            for first in range(0, len(batch), BLOCK):
                features.update(self._kernel(batch[first : first + BLOCK]) @ root)
        source = f"kernel_pca: the kernel's features of {len(self.landmarks_)} landmarks"
        covariance = features.scatter / (features.count - 1)
        components, self.variance = principal_components(covariance, self.size, self.whiten, source)
        self.projection = root @ components.T  # (m, d)
        self.offset = components @ features.mean  # (d,)

    def _kernel(self, embeddings: NDArray[np.floating]) -> Float64:
        """Kernel of embeddings (b, n) and landmarks: (b, m)."""
        from sklearn.metrics.pairwise import pairwise_kernels

        rows, landmarks = self.standardise(embeddings), self.standardise(self.landmarks_)
        options = {"gamma": self.gamma, "degree": self.degree, "coef0": self.coef0}
        with np.errstate(over="ignore"):
            values: Float64 = pairwise_kernels(rows, landmarks, metric=self.kernel, filter_params=True, **options)
        if not np.abs(values).max() < OVERFLOW:
            raise EdgeseaError("kernel_pca: the kernel overflows; lower degree or gamma")
        return values

    def _transform(self, embeddings: NDArray[np.floating]) -> Float64:
        return np.asarray(self._kernel(embeddings) @ self.projection - self.offset)

    def describe(self) -> dict[str, Any]:
        """Also the share of the features' variance in the components (not that of the embeddings)."""
        return {**super().describe(), "feature_variance": float(self.variance[: self.output_size].sum())}


class Reservoir:
    """Rows of a stream chosen uniformly without replacement: each gets a random key, and the smallest keys stay.

    Vitter, "Random sampling with a reservoir", ACM Transactions on Mathematical Software 1985. How the stream is cut
    into batches does not matter; the rows stay in its order.
    """

    rows: Float32

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._rng, self._keys = size, np.random.default_rng(seed), np.zeros(0)

    def watch(self, batches: Iterable[Float32]) -> Iterator[Float32]:
        """Pass batches (b, n) on, and choose from them."""
        for batch in batches:
            rows = np.concatenate([self.rows, batch]) if len(self._keys) else batch
            keys = np.concatenate([self._keys, self._rng.random(len(batch))])
            if len(keys) > self._size:
                chosen = np.sort(np.argpartition(keys, self._size)[: self._size])
                rows, keys = rows[chosen], keys[chosen]
            self.rows, self._keys = rows, keys
            yield batch
