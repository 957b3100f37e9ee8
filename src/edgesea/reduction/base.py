"""The interface of a reduction phi: R^n -> R^d, and how one is read from disk."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
REDUCTION_FILE, ARRAYS_FILE = "reduction.json", "reduction.safetensors"


class Reduction(Protocol):
    """phi.

    Attributes
    ----------
    method : str
        Its name.
    input_size, output_size : int
        n and d.
    """

    method: str
    input_size: int
    output_size: int

    def fit(self, batches: Iterable[Float32]) -> None:
        """Learn from batches (b, n) float32, seen once."""
        ...

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Apply phi to each row: (b, n) -> (b, d) float32, independent of the other rows."""
        ...

    def report(self) -> dict[str, Any]:
        """What phi keeps, JSON-ready."""
        ...

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Write ``reduction.json`` and ``reduction.safetensors``."""
        ...
