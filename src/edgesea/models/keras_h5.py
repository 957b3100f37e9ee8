"""Weights from Keras HDF5 files without Keras: the layers of a file, and their arrays under torch's names."""

import gzip
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError, explained
from edgesea.models.base import Float32

Layers = dict[str, dict[str, NDArray[Any]]]  # arrays by their short names, by layer

# Names of the arrays of a layer in torch, where they differ
TORCH_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
TORCH_NAMES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
# Constants of kapre's spectrogram layers: the DFT kernels, and the mel filters under the name that Keras made up
FRONT_END = {"real_kernels", "imag_kernels", "Variable"}


def read_keras_h5(path: Path) -> Layers:
    """The layers with weights of a Keras file, maybe gzipped, in topological order; nested models are taken apart."""
    import h5py

    layers: Layers = {}
    # A damaged file raises OSError, EOFError, zlib.error, KeyError, RuntimeError and more
    with explained(f"{path}: not a readable HDF5 file with Keras weights"):
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        with h5py.File(io.BytesIO(content), "r") as h5:
            root = h5.get("model_weights", h5)
            for name in _names(root, "layer_names"):
                for weight in _names(root[name], "weight_names"):
                    scope, _, short = weight.rpartition("/")
                    layers.setdefault(f"{name}/{scope}", {})[short.partition(":")[0]] = root[name][weight][()]
    return layers


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names among the attributes; Keras cuts a long one into ``<attribute>0``, ``<attribute>1``, ..."""
    parts = [f"{attribute}{i}" for i in range(len(group.attrs)) if f"{attribute}{i}" in group.attrs]
    names = [name for part in parts or [attribute] for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def keras_to_torch(layers: Layers, arrays: Iterable[str], source: Path | str) -> dict[str, Float32]:
    """The weights of a file in float32, with torch's names and axes; whether they fit is for `base.check_shapes`.

    `arrays` are the names of a torch model's arrays, whose modules take the layers in the same order. Spectrogram
    layers are passed over.
    """
    layers = {name: weights for name, weights in layers.items() if not weights.keys() <= FRONT_END}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
    if len(layers) != len(modules):
        found = f"{len(layers)} layers with weights instead of {len(modules)}"
        raise EdgeseaError(f"{source}: these are the weights of another model: {found}")
    state: dict[str, Float32] = {}
    for (layer, weights), module in zip(layers.items(), modules, strict=True):
        for key, array in weights.items():
            if array.dtype.kind != "f":
                raise EdgeseaError(f"{source}: the weights {layer}/{key} are {array.dtype}, not floating point")
            axes = (3, 2, 0, 1) if array.ndim == 4 else range(array.ndim)  # from (height, width, in, out)
            state[f"{module}.{TORCH_NAMES.get(key, key)}"] = np.array(array.transpose(axes), np.float32, order="C")
    return state
