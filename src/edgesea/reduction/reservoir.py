"""A uniform sample of rows that stream by, in memory that only the size of the sample sets."""

from collections.abc import Iterable, Iterator

import numpy as np

from edgesea.reduction.base import Float32, Float64


class Reservoir:
    """Rows chosen uniformly without replacement: every row gets a random key, and the smallest keys stay.

    Vitter, "Random sampling with a reservoir", ACM Transactions on Mathematical Software 1985. How the rows are cut
    into batches does not matter.

    Parameters
    ----------
    size : int
        How many to keep; all if there are fewer.
    rng : Generator
        Source of randomness.

    Attributes
    ----------
    rows : ndarray, (k, n) float32
        The sample, in the order of the stream.
    """

    rows: Float32

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._keys: Float64 = np.zeros(0)

    def watch(self, batches: Iterable[Float32]) -> Iterator[Float32]:
        """Pass batches (b, n) on, and choose from them."""
        for batch in batches:
            keys = self._rng.random(len(batch))
            highest = self._keys.max() if len(self._keys) == self._size else np.inf
            better = keys < highest
            if better.any():
                self._add(batch[better], keys[better])
            yield batch

    def _add(self, rows: Float32, keys: Float64) -> None:
        if len(self._keys):
            rows, keys = np.concatenate([self.rows, rows]), np.concatenate([self._keys, keys])
        if len(keys) > self._size:
            chosen = np.sort(np.argpartition(keys, self._size)[: self._size])
            rows, keys = rows[chosen], keys[chosen]
        self.rows, self._keys = rows, keys
