"""``kernel_pca``: principal components in the feature space of a kernel, by Nystroem's method."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Arrays, Float32, Float64, take
from edgesea.reduction.pca import CUTOFF, principal_axes
from edgesea.reduction.reservoir import Reservoir
from edgesea.reduction.standardised import Moments, Standardised

Kernel = Literal["rbf", "poly"]
BLOCK = 1 << 22  # kernel values that are computed at once (32 MB)


class KernelPCA(Standardised):
    """Kernel PCA of standardised embeddings (Schoelkopf, Smola & Mueller, Neural Computation 1998).

    The kernel is approximated with m landmarks z_1 ... z_m, chosen uniformly from the windows (Williams & Seeger,
    "Using the Nystroem method to speed up kernel machines", NIPS 2000). With K_mm = U S U^T and k(x) = (k(x, z_i))_i,
    the inner products of the features

        S^(-1/2) U^T k(x)

    are the kernel's among the landmarks, and approximately its elsewhere. Directions whose eigenvalue is below 1e-12
    of the largest are left out. phi is exact PCA of these features over all windows: with all windows as landmarks it
    is kernel PCA itself. The features are those of K_mm^(-1/2) k(x) but for a rotation, which PCA undoes.

    Parameters
    ----------
    size : int
        Dimensions d to keep.
    whiten : bool
        Scale the outputs to unit variance.
    kernel : {"rbf", "poly"}
        exp(-gamma |x - y|^2), or (gamma x . y + coef0)^degree.
    gamma : float, optional
        1 / number of dimensions that vary by default; after `fit`, the value that was used.
    degree : int
        Of poly.
    coef0 : float
        Of poly; at least 0, as negative ones give no kernel.
    landmarks : int
        m; all windows if there are fewer. Memory is that of some (m, m) matrices.
    seed : int
        Seed of the choice of landmarks.
    """

    method = "kernel_pca"
    landmark_rows: Float32  # (m, n), not standardised
    projection: Float64  # (m, d)
    offset: Float64  # (d,): the projected mean of the features
    variance: Float64  # of all components, as shares of the total

    def __init__(
        self,
        size: int,
        whiten: bool = False,
        kernel: Kernel = "rbf",
        gamma: float | None = None,
        degree: int = 3,
        coef0: float = 1.0,
        landmarks: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(size)
        self.whiten, self.kernel, self.gamma, self.degree, self.coef0 = whiten, kernel, gamma, degree, coef0
        self.landmarks, self.seed = landmarks, seed
        if kernel not in get_args(Kernel):
            raise EdgeseaError(f"kernel_pca: unknown kernel {kernel!r}; known: {', '.join(get_args(Kernel))}")
        if gamma is not None and not 0 < gamma < np.inf:
            raise EdgeseaError(f"kernel_pca: gamma must be above 0, not {gamma}")
        if degree < 1 or degree != int(degree):
            raise EdgeseaError(f"kernel_pca: degree must be a whole number of at least 1, not {degree}")
        if not 0 <= coef0 < np.inf:
            raise EdgeseaError(f"kernel_pca: coef0 must be at least 0, not {coef0}")
        if landmarks < 2:
            raise EdgeseaError(f"kernel_pca: landmarks must be at least 2, not {landmarks}")

    def fit(self, rows: Iterable[Float32]) -> None:
        """Choose landmarks and learn the projection.

        Parameters
        ----------
        rows : iterable of ndarray, (b, n) float32
            Seen twice, each batch discarded after use.

        Raises
        ------
        EdgeseaError
            If there are too few windows, a value is NaN or infinite, nothing varies, d > n, or the features span fewer
            than d dimensions.
        """
        sample = Reservoir(self.landmarks, np.random.default_rng(self.seed))
        moments = self.measure(sample.watch(rows))
        if self.gamma is None:
            self.gamma = 1.0 / int(moments.varies.sum())
        self.landmark_rows = sample.rows
        root = self._whitening()
        features = Moments(root.shape[1], full=True)
        for batch in rows:
            for values in self._kernel_values(batch):
                features.update(values @ root)
        if features.count != moments.count:
            raise EdgeseaError(f"kernel_pca: {moments.count} windows in the first pass, {features.count} in the second")
        self._check_finite(features.scatter)
        values, vectors = principal_axes(features.scatter / (features.count - 1))
        rank = int(np.count_nonzero(values > values[0] * CUTOFF))
        if self.output_size > rank:
            raise EdgeseaError(
                f"kernel_pca: the kernel's features of {len(self.landmark_rows)} landmarks span {rank} dimensions, not "
                f"{self.output_size}; lower size, or raise landmarks or gamma"
            )
        components = vectors[: self.output_size]
        if self.whiten:
            components = components / np.sqrt(values[: self.output_size])[:, None]
        self.projection, self.offset = root @ components.T, components @ features.mean
        self.variance = values / values.sum()

    def _whitening(self) -> Float64:
        """U S^(-1/2) of the landmarks' kernel matrix, (m, r)."""
        kernel = np.concatenate(list(self._kernel_values(self.landmark_rows)))
        self._check_finite(kernel)
        values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
        used = values > values[-1] * CUTOFF
        result: Float64 = vectors[:, used] / np.sqrt(values[used])
        return result

    def _check_finite(self, values: Float64) -> None:
        if not np.isfinite(values).all():
            raise EdgeseaError("kernel_pca: the kernel overflows; lower degree or gamma")

    def _kernel_values(self, embeddings: NDArray[np.floating]) -> Iterator[Float64]:
        """Kernel of embeddings (b, n) and landmarks, some rows (<= b, m) at a time."""
        from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

        landmarks = self.standardise(self.landmark_rows)
        step = max(1, BLOCK // len(landmarks))
        for first in range(0, len(embeddings), step):
            block = self.standardise(embeddings[first : first + step])
            with np.errstate(over="ignore"):  # `fit` refuses what overflows
                values = (
                    rbf_kernel(block, landmarks, self.gamma)
                    if self.kernel == "rbf"
                    else polynomial_kernel(block, landmarks, self.degree, self.gamma, self.coef0)
                )
            yield values

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Project embeddings (b, n) to (b, d) float32.

        Raises
        ------
        EdgeseaError
            If n is not the size that was fitted.
        """
        self.check_shape(embeddings)
        blocks = [values @ self.projection - self.offset for values in self._kernel_values(embeddings)]
        return np.concatenate([np.zeros((0, self.output_size)), *blocks]).astype(np.float32)

    def report(self) -> dict[str, Any]:
        """Also the share of the features' variance that is kept (not that of the embeddings)."""
        return {**super().report(), "feature_variance": float(self.variance[: self.output_size].sum())}

    def arrays(self) -> Arrays:
        """mean, scale, landmarks (float32, as the teacher gives them), projection, offset, variance."""
        return {
            **super().arrays(),
            "landmarks": self.landmark_rows,
            "projection": self.projection,
            "offset": self.offset,
            "variance": self.variance,
        }

    def set_arrays(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned."""
        super().set_arrays(arrays)
        self.landmark_rows = take(arrays, "landmarks", None, self.input_size)
        self.projection = take(arrays, "projection", len(self.landmark_rows), self.output_size)
        self.offset, self.variance = take(arrays, "offset", self.output_size), take(arrays, "variance", None)
