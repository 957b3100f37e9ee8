"""Weights from Keras HDF5 files without Keras: the layers of a file, and their arrays under torch's names."""

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
Layer = tuple[str, dict[str, NDArray[Any]]]

MAX_BYTES = (
    512 * 2**20
)  # many times the largest published file; keeps a damaged or hostile file from filling the memory

# Names of the arrays, in Keras and in torch
CONVOLUTION = {"kernel": "weight", "bias": "bias"}
BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# Constants of kapre's spectrogram layers: the DFT kernels, and the mel filters under the name that Keras made up
FRONT_END = {"real_kernels", "imag_kernels", "Variable"}


def read_keras_h5(path: Path) -> list[Layer]:
    """The layers of a Keras weight file that hold arrays.

    Reads what ``save_weights`` of Keras 1 and 2 and ``save`` of Keras 1 to 3 write as ``.h5``, gzipped or not. The
    arrays of a nested model appear as layers of their own.

    Parameters
    ----------
    path : Path
        An HDF5 file, or a gzipped one (recognised by its content); at most 512 MB when decompressed.

    Returns
    -------
    list of (name, arrays)
        In the topological order of the model. `arrays` maps short names (``kernel``, ``moving_mean``, ...) to ndarrays.

    Raises
    ------
    EdgeseaError
        If the file is missing, damaged, too large, or not a Keras weight file with layer names.
    """
    try:
        import h5py
    except ImportError as error:
        raise EdgeseaError("h5py is not installed; it comes with: pip install edgesea") from error

    content = io.BytesIO(_read_bytes(path))
    try:
        with h5py.File(content, "r") as file:
            return _read_layers(file, path)
    except EdgeseaError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError and more for a damaged file
        raise EdgeseaError(f"{path}: not a readable HDF5 file with Keras weights ({_first_line(error)})") from error


def keras_to_torch(layers: Sequence[Layer], names: Sequence[str], source: Path | str) -> dict[str, Float32]:
    """The arrays of the layers of a Keras file, with the names and axes of a torch state dict.

    Parameters
    ----------
    layers : sequence of (name, arrays)
        Convolutions and batch normalisations, as `read_keras_h5` gives them. Spectrogram layers are passed over.
    names : sequence of str
        The torch modules that take the layers, in the same order.
    source : Path
        The file, for the messages.

    Returns
    -------
    dict of str to ndarray
        float32; kernels (h, w, in, out) are turned into (out, in, h, w). `weights.check_shapes` compares the names
        and the shapes with those of a model.

    Raises
    ------
    EdgeseaError
        If the number of layers is not that of `names`, or a layer is neither a 2-d convolution nor a complete batch
        normalisation.
    """
    layers = [(layer, arrays) for layer, arrays in layers if not arrays.keys() <= FRONT_END]
    if len(layers) != len(names):
        found = ", ".join(layer for layer, _ in layers[:4]) + (", ..." if len(layers) > 4 else "")
        raise EdgeseaError(
            f"{source}: these are the weights of another model: {len(layers)} layers with weights ({found or 'none'}) "
            f"instead of {len(names)}"
        )
    state: dict[str, Float32] = {}
    for (layer, arrays), name in zip(layers, names, strict=True):
        for key, array in _torch_arrays(layer, arrays, source):
            state[f"{name}.{key}"] = array
    return state


def _torch_arrays(layer: str, arrays: Mapping[str, NDArray[Any]], source: Path | str) -> Iterator[tuple[str, Float32]]:
    """The arrays of one layer with torch's names and axes."""
    if arrays.keys() == BATCH_NORM.keys():
        keys = BATCH_NORM
    elif "kernel" in arrays and arrays.keys() <= CONVOLUTION.keys() and arrays["kernel"].ndim == 4:
        keys = CONVOLUTION
    else:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise EdgeseaError(
            f"{source}: these are the weights of another model: layer {layer!r} is neither a 2-d convolution nor a "
            f"batch normalisation ({found})"
        )
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise EdgeseaError(f"{source}: {layer}/{name} has dtype {array.dtype} instead of a floating-point one")
        axes = (3, 2, 0, 1) if name == "kernel" else range(array.ndim)
        yield keys[name], np.array(array.transpose(axes), np.float32, order="C")


def _read_bytes(path: Path) -> bytes:
    """Content of a file, decompressed if it is gzipped."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if zipped else file as stream:
                content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise EdgeseaError(f"{path}: no such weight file") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise EdgeseaError(f"{path}: damaged or incomplete gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise EdgeseaError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_BYTES:
        raise EdgeseaError(f"{path}: larger than {MAX_BYTES // 2**20} MB, no weight file of a supported model")
    return content


def _read_layers(file: Any, path: Path) -> list[Layer]:
    root = file.get("model_weights", file)
    names = _names(root, "layer_names")
    if names is None and "layers" in file:
        raise EdgeseaError(
            f"{path}: a Keras 3 weight file (.weights.h5), which does not name its layers in order; load it in Keras "
            "and store the whole model with model.save('NAME.h5')"
        )
    if names is None:
        raise EdgeseaError(f"{path}: an HDF5 file, but not one with Keras weights (no attribute 'layer_names')")
    return [layer for name in names for layer in _read_layer(root[name], name, path)]


def _read_layer(group: Any, name: str, path: Path) -> list[Layer]:
    """The arrays of a layer; for a nested model, those of each of its layers."""
    layers: dict[str, dict[str, NDArray[Any]]] = {}
    for weight in _names(group, "weight_names") or []:
        dataset = group[weight]
        if dataset.nbytes > MAX_BYTES:
            raise EdgeseaError(f"{path}: {weight} claims {dataset.nbytes // 2**20} MB, no array of a supported model")
        scope, _, short = weight.rpartition("/")
        layers.setdefault(scope, {})[short.partition(":")[0]] = np.asarray(dataset[()])
    if len(layers) == 1:
        return [(name, arrays) for arrays in layers.values()]
    return [(scope.rpartition("/")[2], arrays) for scope, arrays in layers.items()]


def _names(group: Any, attribute: str) -> list[str] | None:
    """A list of names among the attributes; Keras cuts a long one into ``<attribute>0``, ``<attribute>1``, ..."""
    if attribute in group.attrs:
        parts = [attribute]
    else:
        parts = [f"{attribute}{i}" for i in range(len(group.attrs)) if f"{attribute}{i}" in group.attrs]
    if not parts:
        return None
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
