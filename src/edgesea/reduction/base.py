"""The interface of a reduction phi: R^n -> R^d, its two files, and the methods there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import atomic_path, read_json, write_json
from edgesea.cluster import results
from edgesea.errors import EdgeseaError, explained

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
T = TypeVar("T")
REDUCTION_FILE, ARRAYS_FILE = "reduction.json", "reduction.safetensors"
BLOCK = 1024  # rows that are transformed at once
ROWS = 8 * BLOCK  # and by one call, so that blocks, and bytes, are the same everywhere

METHODS = {  # method -> its class
    "pca": "edgesea.reduction.pca:PCA",
    "kernel_pca": "edgesea.reduction.pca:KernelPCA",
    "umap": "edgesea.reduction.umap:Umap",
    "random_projection": "edgesea.reduction.pca:RandomProjection",
    "identity": "edgesea.reduction.pca:Identity",
}


class Batches:
    """Embeddings in batches (b, n), as any iterable gives them; those of a table are `windows.Windows`."""

    def __init__(self, batches: Iterable[Float32]) -> None:
        self.batches = batches

    @staticmethod
    def of(rows: Iterable[Float32]) -> "Batches":
        """The same, with these methods."""
        return rows if isinstance(rows, Batches) else Batches(rows)

    def __iter__(self) -> Iterator[Float32]:
        return iter(self.batches)

    def map(self, function: Callable[[Iterable[Float32]], T]) -> Iterator[T]:
        """The results of a function for runs of the batches, in order: here of one with all of them."""
        yield function(self)

    def take(self, chosen: NDArray[np.int64]) -> Float32:
        """The embeddings of some windows, whose numbers are ascending."""
        return np.concatenate(list(self))[chosen]


@dataclass(eq=False)
class Reduction(ABC):
    """phi. A method is a dataclass whose fields are its options, named as those of `edgesea reduce`.

    The metadata of a field are the values of other options without which it has no effect. `fit` sets the sizes, the
    number of windows, and the arrays that are named in `saved`.
    """

    method: ClassVar[str]
    slow: ClassVar[bool] = False  # whether `transform` is worth to be handed out to other machines
    saved: ClassVar[tuple[str, ...]] = ()  # arrays in reduction.safetensors; their names there lack a final "_"
    input_size = output_size = windows = 0  # n, d, and how many windows it was fitted on

    def require(self, name: str, valid: bool, rule: str) -> None:
        """Refuse the value of an option unless it is valid."""
        if not valid:
            raise EdgeseaError(f"{self.method}: {name} must be {rule}, not {getattr(self, name)!r}")

    @abstractmethod
    def fit(self, rows: Iterable[Float32]) -> None:
        """Learn from batches (b, n). Every ``iter(rows)`` starts again; no batch has to be held after use."""

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Apply phi to each row, independent of the other rows: (b, n) -> (b, d) float32."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.input_size:
            raise EdgeseaError(f"{self.method}: embeddings have shape {embeddings.shape}, not (b, {self.input_size})")
        result = np.empty((len(embeddings), self.output_size), np.float32)
        for first in range(0, len(embeddings), BLOCK):
            result[first : first + BLOCK] = self._transform(embeddings[first : first + BLOCK])
        return result

    @abstractmethod
    def _transform(self, embeddings: NDArray[np.floating]) -> NDArray[np.floating]:
        """The same for some rows of the right size, in any precision."""

    def explained_variance(self, rows: Iterable[Float32]) -> float | None:
        """Share of the standardised variance of batches that phi preserves; None if the method has no such share."""
        return None

    def describe(self) -> dict[str, Any]:
        """Method, sizes, options, and what else is known of phi; JSON-ready."""
        sizes = {"input_size": self.input_size, "output_size": self.output_size}
        options = used_options(self.method, vars(self))
        options.pop("size", None)
        return {"method": self.method, **sizes, **options, "windows": self.windows}

    def save(self, folder: Path, provenance: dict[str, Any], quality: dict[str, Any] | None = None) -> None:
        """Write ``reduction.json`` and ``reduction.safetensors``."""
        from safetensors.numpy import save

        arrays = {name.removesuffix("_"): np.ascontiguousarray(getattr(self, name)) for name in self.saved}
        with atomic_path(folder / ARRAYS_FILE) as temporary:
            temporary.write_bytes(save(arrays))
            (folder / REDUCTION_FILE).unlink(missing_ok=True)  # of an earlier reduction, which must not describe these
        write_json(folder / REDUCTION_FILE, {**self.describe(), "kept": quality, "provenance": provenance})


def transform_all(phi: Reduction, embeddings: Float32) -> Float32:
    """As `Reduction.transform`, of many rows: by a slow method where `cluster.using` says."""
    if not phi.slow:
        return phi.transform(embeddings)
    calls = ((embeddings[first : first + ROWS],) for first in range(0, len(embeddings), ROWS))
    return np.concatenate([phi.transform(embeddings[:0]), *results(phi.transform, calls)])


def method_class(method: str) -> type[Reduction]:
    """The class of a method."""
    if method not in METHODS:
        raise EdgeseaError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    found: type[Reduction] = resolve_name(METHODS[method])
    return found


def used_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options of `edgesea reduce` that decide what a method does."""
    used = [field for field in fields(method_class(method)) if field.metadata.items() <= options.items()]
    return {field.name: options[field.name] for field in used}


def load_reduction(folder: Path | str) -> Reduction:
    """Load a reduction that `edgesea reduce` wrote; EdgeseaError if it is missing or damaged."""
    from safetensors.numpy import load

    path = Path(folder)
    if not (path / REDUCTION_FILE).is_file():
        raise EdgeseaError(f"{path}: not a reduction ({REDUCTION_FILE} is missing); create one with `edgesea reduce`")
    info = read_json(path / REDUCTION_FILE)
    with explained(f"{path}: its two files are damaged or do not match; reduce again"):
        arrays = load((path / ARRAYS_FILE).read_bytes())
        phi = method_class(info["method"])(**used_options(info["method"], {**info, "size": info["output_size"]}))
        phi.input_size, phi.output_size, phi.windows = info["input_size"], info["output_size"], info["windows"]
        for name in phi.saved:
            setattr(phi, name, arrays[name.removesuffix("_")])
        if phi._transform(np.zeros((1, phi.input_size), np.float32)).shape[1] != phi.output_size:
            raise TypeError(f"no arrays for {phi.output_size} dimensions")
    return phi
