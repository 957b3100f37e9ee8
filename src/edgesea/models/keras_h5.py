"""Weights from Keras HDF5 files without Keras: the layers of a file, and their arrays under torch's names."""

import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
Layer = tuple[str, dict[str, NDArray[Any]]]

# Names of the arrays of a layer, in Keras and in torch
CONVOLUTION = {"kernel": "weight", "bias": "bias"}
BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
TORCH_NAMES = CONVOLUTION | BATCH_NORM
# Constants of kapre's spectrogram layers: the DFT kernels, and the mel filters under the name that Keras made up
FRONT_END = {"real_kernels", "imag_kernels", "Variable"}


def read_keras_h5(path: Path) -> list[Layer]:
    """(name, arrays by short name) of the layers with weights of a Keras file, maybe gzipped, in topological order."""
    import h5py

    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        with h5py.File(io.BytesIO(content), "r") as h5:
            root = h5.get("model_weights", h5)
            return [layer for name in _names(root, "layer_names") for layer in _read_layer(root[name], name)]
    except Exception as error:  # a damaged file raises OSError, EOFError, zlib.error, KeyError, RuntimeError and more
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise EdgeseaError(f"{path}: not a readable HDF5 file with Keras weights ({reason})") from error


def _read_layer(group: Any, name: str) -> list[Layer]:
    """The arrays of a layer; for a nested model, those of each of its layers."""
    layers: dict[str, dict[str, NDArray[Any]]] = {}
    for weight in _names(group, "weight_names"):
        scope, _, short = weight.rpartition("/")
        layers.setdefault(scope, {})[short.partition(":")[0]] = np.asarray(group[weight][()])
    is_nested = len(layers) > 1
    return [(scope.rpartition("/")[2] if is_nested else name, arrays) for scope, arrays in layers.items()]


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
        found = f"{len(layers)} layers with weights instead of {len(names)}"
        raise EdgeseaError(f"{source}: these are the weights of another model: {found}")
    state: dict[str, Float32] = {}
    for (layer, arrays), name in zip(layers, names, strict=True):
        is_norm = arrays.keys() == BATCH_NORM.keys()
        is_convolution = "kernel" in arrays and arrays.keys() <= CONVOLUTION.keys() and arrays["kernel"].ndim == 4
        if not (is_norm or is_convolution) or any(array.dtype.kind != "f" for array in arrays.values()):
            found = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in arrays.items())
            raise EdgeseaError(f"{source}: these are the weights of another model: its layer {layer!r} has {found}")
        for key, array in arrays.items():
            axes = (3, 2, 0, 1) if key == "kernel" else range(array.ndim)  # from (height, width, in, out)
            state[f"{name}.{TORCH_NAMES[key]}"] = np.array(array.transpose(axes), np.float32, order="C")
    return state
