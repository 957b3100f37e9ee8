"""``random_projection``: a Gaussian matrix; the baseline that learns nothing but the standardisation."""

from collections.abc import Iterable

import numpy as np

from edgesea.reduction.base import Float32
from edgesea.reduction.linear import Linear


class RandomProjection(Linear):
    """Standardisation, then a matrix of independent normal numbers with variance 1 / d.

    Squared distances are kept on average, with a relative standard deviation of sqrt(2 / d): Johnson & Lindenstrauss,
    "Extensions of Lipschitz mappings into a Hilbert space", 1984; Dasgupta & Gupta, "An elementary proof of a theorem
    of Johnson and Lindenstrauss", Random Structures & Algorithms 2003.

    Parameters
    ----------
    size : int
        Dimensions d.
    seed : int
        Seed of the matrix.
    """

    method = "random_projection"

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size)
        self.seed = seed

    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn mean and scale, and draw the matrix.

        Parameters
        ----------
        rows : iterable of ndarray, (b, n) float32
            Seen once, each batch discarded after use.

        Raises
        ------
        EdgeseaError
            If there are no windows, a value is NaN or infinite, nothing varies, or d > n.
        """
        self.measure(rows)
        normal = np.random.default_rng(self.seed).standard_normal((self.output_size, self.input_size))
        self.components = normal / np.sqrt(self.output_size)
