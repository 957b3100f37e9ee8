"""The interface of a reduction phi: R^n -> R^d, the options of each method, and the files of one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import atomic_path, write_json
from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]
REDUCTION_FILE, ARRAYS_FILE = "reduction.json", "reduction.safetensors"

OPTIONS: dict[str, tuple[str, ...]] = {
    "pca": ("size", "whiten"),
    "kernel_pca": ("size", "whiten", "kernel", "gamma", "degree", "coef0", "landmarks", "seed"),
    "umap": ("size", "n_neighbors", "min_dist", "metric", "references", "seed"),
    "random_projection": ("size", "seed"),
    "identity": (),
}
"""Method -> the options of `edgesea reduce` that it uses."""


def used_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the options that decide what a method does: two reductions that agree in these are equal.

    Parameters
    ----------
    method : str
        One of `OPTIONS`.
    options : mapping
        At least the options that are used.

    Returns
    -------
    dict
        Those that `OPTIONS` names, in its order; without ``degree`` and ``coef0`` unless the kernel is poly.

    Raises
    ------
    KeyError
        If one is missing.
    EdgeseaError
        If the method is unknown.
    """
    if method not in OPTIONS:
        raise EdgeseaError(f"unknown method {method!r}; known: {', '.join(OPTIONS)}")
    unused = ("degree", "coef0") if method == "kernel_pca" and options["kernel"] != "poly" else ()
    return {name: options[name] for name in OPTIONS[method] if name not in unused}


class Reduction(ABC):
    """phi.

    A class takes the options of its method as arguments, of the same names, and keeps them as attributes.

    Parameters
    ----------
    size : int
        d.

    Attributes
    ----------
    method : str
        Its name.
    input_size, output_size : int
        n and d.
    windows : int
        How many it was fitted on.
    """

    method: ClassVar[str]

    def __init__(self, size: int) -> None:
        self.input_size, self.output_size, self.windows = 0, size, 0

    @abstractmethod
    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn.

        Parameters
        ----------
        rows : iterable of ndarray, (b, n) float32
            Every ``iter(rows)`` starts again, as that of a list does. Each batch is discarded after use unless the
            method's documentation says otherwise.

        Raises
        ------
        EdgeseaError
            If the embeddings cannot be reduced so.
        """

    @abstractmethod
    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Apply phi to each row: (b, n) -> (b, d) float32, independent of the other rows."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """What ``reduction.safetensors`` holds."""

    @abstractmethod
    def set_arrays(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned; sizes and options are set.

        Raises
        ------
        KeyError, ValueError
            If an array is missing or of the wrong shape.
        """

    def report(self) -> dict[str, Any]:
        """Method, sizes, options (those that it used), and what else is known of phi; JSON-ready."""
        options = used_options(self.method, {**vars(self), "size": self.output_size})
        options.pop("size", None)
        sizes = {"input_size": self.input_size, "output_size": self.output_size}
        return {"method": self.method, **sizes, **options, "windows": self.windows}

    def save(self, folder: Path, provenance: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        """Write ``reduction.json`` and ``reduction.safetensors``.

        Parameters
        ----------
        folder : Path
            Where to.
        provenance, kept : dict
            Where phi comes from and what it keeps; JSON-ready.
        """
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        with atomic_path(folder / ARRAYS_FILE) as temporary:
            temporary.write_bytes(save(arrays))
        write_json(folder / REDUCTION_FILE, {**self.report(), "kept": kept, "provenance": provenance})

    @classmethod
    def restore(cls, info: dict[str, Any], arrays: Arrays) -> Self:
        """Make the reduction that `save` wrote, from the content of its two files.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a value is missing or of the wrong type or shape.
        """
        phi = cls(**used_options(cls.method, {**info, "size": int(info["output_size"])}))
        phi.input_size, phi.output_size = int(info["input_size"]), int(info["output_size"])
        phi.windows = int(info["windows"])
        phi.set_arrays(arrays)
        return phi

    def check_shape(self, embeddings: NDArray[np.floating]) -> None:
        """Refuse embeddings whose shape is not (b, n)."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.input_size:
            raise EdgeseaError(
                f"{self.method}: embeddings must have shape (b, {self.input_size}), not {embeddings.shape}"
            )


def take(arrays: Arrays, name: str, *shape: int | None) -> NDArray[Any]:
    """Array of a name and shape (None: any size).

    Raises
    ------
    KeyError, ValueError
        If it is missing or has another shape.
    """
    array = arrays[name]
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} {array.shape}, not {shape}")
    return array
