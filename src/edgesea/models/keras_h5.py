"""Weights from Keras HDF5 files without Keras: the layers of a file, and their arrays under torch's names."""

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
Layer = tuple[str, dict[str, NDArray[Any]]]

MAX_BYTES = 512 * 2**20  # many times the largest published file; a damaged or hostile one must not fill the memory

# Names of the arrays, in Keras and in torch
CONVOLUTION = {"kernel": "weight", "bias": "bias"}
BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# Constants of kapre's spectrogram layers: the DFT kernels, and the mel filters under the name that Keras made up
FRONT_END = {"real_kernels", "imag_kernels", "Variable"}


def read_keras_h5(path: Path) -> list[Layer]:
    """(name, arrays by short name) of the layers with weights of a Keras 1 or 2 file, in topological order.

    The file may be gzipped. The arrays of a nested model appear as separate layers.
    """
    import h5py

    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if zipped else file as stream:
                content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 2**20} MB")
        with h5py.File(io.BytesIO(content), "r") as h5:
            root = h5.get("model_weights", h5)
            return [layer for name in _names(root, "layer_names") for layer in _read_layer(root[name], name)]
    except Exception as error:  # a damaged file raises OSError, EOFError, zlib.error, KeyError, RuntimeError and more
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EdgeseaError(f"{path}: not a readable HDF5 file with Keras weights ({reason})") from error


def _read_layer(group: Any, name: str) -> list[Layer]:
    """The arrays of a layer; for a nested model, those of each of its layers."""
    layers: dict[str, dict[str, NDArray[Any]]] = {}
    for weight in _names(group, "weight_names"):
        if group[weight].nbytes > MAX_BYTES:  # chunked arrays take no room in the file before they are written
            raise ValueError(f"{weight} claims {group[weight].nbytes // 2**20} MB, which no array of a model has")
        scope, _, short = weight.rpartition("/")
        layers.setdefault(scope, {})[short.partition(":")[0]] = np.asarray(group[weight][()])
    if len(layers) == 1:
        return [(name, arrays) for arrays in layers.values()]
    return [(scope.rpartition("/")[2], arrays) for scope, arrays in layers.items()]


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names among the attributes; Keras cuts a long one into ``<attribute>0``, ``<attribute>1``, ..."""
    parts = [f"{attribute}{i}" for i in range(len(group.attrs)) if f"{attribute}{i}" in group.attrs]
    names = [name for part in parts or [attribute] for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def keras_to_torch(layers: Sequence[Layer], names: Sequence[str], source: Path | str) -> dict[str, Float32]:
    """The arrays of the convolutions and batch normalisations of a file, with torch's names and axes, in float32.

    `names` are the torch modules that take the layers, in the same order. Spectrogram layers are passed over.
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
        keys = _torch_names(arrays)
        if keys is None:
            found = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in arrays.items())
            raise EdgeseaError(
                f"{source}: these are the weights of another model: layer {layer!r} is neither a 2-d convolution nor "
                f"a batch normalisation of floats ({found})"
            )
        for key, array in arrays.items():
            axes = (3, 2, 0, 1) if key == "kernel" else range(array.ndim)  # from (height, width, in, out)
            state[f"{name}.{keys[key]}"] = np.array(array.transpose(axes), np.float32, order="C")
    return state


def _torch_names(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str] | None:
    if any(array.dtype.kind != "f" for array in arrays.values()):
        return None
    if arrays.keys() == BATCH_NORM.keys():
        return BATCH_NORM
    is_convolution = "kernel" in arrays and arrays.keys() <= CONVOLUTION.keys() and arrays["kernel"].ndim == 4
    return CONVOLUTION if is_convolution else None
