"""Standardisation, which every learned method begins with: moments of a stream of vectors in double precision."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Arrays, Float32, Float64, Reduction, take

ROWS = 4096  # rows accumulated at once: enough for BLAS, small enough for a cache of doubles


class Moments:
    """Count, mean and scatter of a stream of vectors, in double precision.

    Blocks are merged by the pairwise update of Chan, Golub & LeVeque (1979), which does not cancel when the mean is
    large.

    Parameters
    ----------
    size : int
        Dimensions n.
    full : bool
        Whether `scatter` is the matrix, sum of (x - mean)(x - mean)^T, or only its diagonal.
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
        """Standard deviation of each dimension (n,): that of the vectors seen, not the estimate for unseen ones."""
        result: Float64 = np.sqrt((np.diag(self.scatter) if self.scatter.ndim == 2 else self.scatter) / self.count)
        return result

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Dimensions (n,) that are not constant.

        A constant one leaves rounding noise of the order of its magnitude, which is not to be blown up.
        """
        result: NDArray[np.bool_] = self.std > 1e-7 * np.maximum(np.abs(self.mean), 1e-30)
        return result


class Standardised(Reduction):
    """A reduction of embeddings whose dimensions are centred and divided by their standard deviations.

    Dimensions that do not vary in the windows fitted are divided by 1.
    """

    mean: Float64
    scale: Float64

    def measure(self, batches: Iterable[Float32], full: bool = False) -> Moments:
        """Learn mean and scale from one pass.

        Parameters
        ----------
        batches : iterable of ndarray, (b, n) float32
            Seen once.
        full : bool
            Whether the scatter matrix is wanted.

        Returns
        -------
        Moments
            Of the embeddings, not standardised.

        Raises
        ------
        EdgeseaError
            If there are fewer than two windows, a value is NaN or infinite, nothing varies, or d > n.
        """
        moments: Moments | None = None
        for batch in finite(batches, self.method):
            moments = moments or Moments(batch.shape[1], full)
            moments.update(batch)
        if moments is None or moments.count < 2:
            raise EdgeseaError(f"{self.method}: at least two windows are needed")
        size = len(moments.mean)
        if not 1 <= self.output_size <= size:
            raise EdgeseaError(
                f"{self.method}: size must lie in 1 ... {size} (the embedding's), not {self.output_size}"
            )
        if not moments.varies.any():
            raise EdgeseaError(
                f"{self.method}: all windows have the same embedding; choose other windows or another teacher"
            )
        self.input_size, self.windows = size, moments.count
        self.mean, self.scale = moments.mean, np.where(moments.varies, moments.std, 1.0)
        return moments

    def standardise(self, embeddings: NDArray[np.floating]) -> Float64:
        """(b, n) -> (b, n) float64."""
        result: Float64 = (embeddings.astype(np.float64) - self.mean) / self.scale
        return result

    def arrays(self) -> Arrays:
        """mean, scale: float64."""
        return {"mean": self.mean, "scale": self.scale}

    def set_arrays(self, arrays: Arrays) -> None:
        """Take over mean and scale."""
        self.mean, self.scale = take(arrays, "mean", self.input_size), take(arrays, "scale", self.input_size)


def finite(batches: Iterable[Float32], method: str) -> Iterator[Float32]:
    """Pass batches on.

    Raises
    ------
    EdgeseaError
        If a value is NaN or infinite.
    """
    for batch in batches:
        if not np.isfinite(batch).all():
            raise EdgeseaError(f"{method}: the embeddings hold NaN or Inf; extract or import the table again")
        yield batch
