"""``identity``: the teacher's embedding as it is, for students of its full size."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Arrays, Float32, Reduction
from edgesea.reduction.standardised import finite


class Identity(Reduction):
    """phi(x) = x."""

    method = "identity"

    def __init__(self) -> None:
        super().__init__(0)

    def fit(self, rows: Iterable[Float32]) -> None:
        """Look how wide the embeddings are, and that they can be used.

        Parameters
        ----------
        rows : iterable of ndarray, (b, n) float32
            Seen once, each batch discarded after use.

        Raises
        ------
        EdgeseaError
            If there are no windows, or a value is NaN or infinite.
        """
        self.windows = 0
        for batch in finite(rows, self.method):
            self.input_size = self.output_size = batch.shape[1]
            self.windows += len(batch)
        if not self.windows:
            raise EdgeseaError("identity: there are no windows")

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Embeddings (b, n) as float32.

        Raises
        ------
        EdgeseaError
            If n is not the size that was fitted.
        """
        self.check_shape(embeddings)
        return np.asarray(embeddings, np.float32)

    def arrays(self) -> Arrays:
        """None."""
        return {}

    def set_arrays(self, arrays: Arrays) -> None:
        """Check the sizes."""
        if self.output_size != self.input_size:
            raise ValueError(f"identity from {self.input_size} to {self.output_size} dimensions")
