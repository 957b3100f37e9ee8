"""What linear methods share: phi(x) = C (x - mean) / scale."""

import numpy as np
from numpy.typing import NDArray

from edgesea.reduction.base import Arrays, Float32, Float64, take
from edgesea.reduction.standardised import Standardised


class Linear(Standardised):
    """Standardisation, then a matrix.

    Attributes
    ----------
    components : ndarray, (d, n) float64
        The matrix.
    """

    components: Float64

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Project embeddings (b, n) to (b, d) float32.

        Raises
        ------
        EdgeseaError
            If n is not the size that was fitted.
        """
        self.check_shape(embeddings)
        return np.asarray(self.standardise(embeddings) @ self.components.T, np.float32)

    def arrays(self) -> Arrays:
        """mean, scale, components: float64."""
        return {**super().arrays(), "components": self.components}

    def set_arrays(self, arrays: Arrays) -> None:
        """Take over mean, scale and components."""
        super().set_arrays(arrays)
        self.components = take(arrays, "components", self.output_size, self.input_size)
