"""What others published: downloaded once into a cache and verified; and weights from Keras files without Keras."""

import gzip
import hashlib
import io
import logging
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.config import cache_folder
from edgesea.errors import EdgeseaError, explained, missing_extra
from edgesea.models.base import Float32, file_digest

log = logging.getLogger(__name__)

OPENL3_URL = "https://github.com/marl/openl3/raw/models/"
EDGEL3_URL = "https://github.com/ksangeeta2429/edgel3/raw/models/"
# git's ids of the published files in the branches behind the two URLs
GIT_BLOBS = dict(line.split(",") for line in Path(__file__).with_name("published.csv").read_text("utf-8").splitlines())
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?", re.ASCII)

Layers = dict[str, dict[str, NDArray[Any]]]  # arrays by their short names, by layer

# Names of the arrays of a layer in torch, where they differ
TORCH_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
TORCH_NAMES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
# Constants of kapre's spectrogram layers: the DFT kernels, and the mel filters under the name that Keras made up
FRONT_END = {"real_kernels", "imag_kernels", "Variable"}


def fetch(url: str, name: str, *, git_blob: str | None = None) -> Path:
    """The file `name` of the cache folder, downloaded first if it is not there; EdgeseaError if it is another one.

    A file without a known git blob id is trusted the first time: its sha256 is written to ``NAME.sha256`` beside it and
    compared on every later use.
    """
    import pooch
    import requests

    path = cache_folder() / name
    # Without the header a server may send a .gz file as an encoded .h5 file, which would arrive decompressed
    headers = {"Accept-Encoding": "identity"}
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16, timeout=30, headers=headers)
    by_hand = f"put the file there in another way: {path}, or give it as weights=FILE or, of a student, as the model"
    try:
        is_new = not path.is_file()
        pooch.retrieve(url, None, name, path.parent, downloader=downloader)
        problem = _mismatch(path, git_blob)
        if problem and is_new:
            path.unlink()
    except requests.RequestException as error:
        reason = getattr(error.args[0] if error.args else error, "reason", error)  # the last of many attempts
        raise EdgeseaError(f"{url}: cannot be downloaded ({str(reason).rpartition('): ')[2]}); {by_hand}") from error
    except OSError as error:
        reason = error.strerror or error
        raise EdgeseaError(f"{path}: cannot be used ({reason}); set EDGESEA_CACHE to a writable folder") from error
    if problem:
        remedy = f"it came from {url}; {by_hand}" if is_new else "delete it to download it again"
        raise EdgeseaError(f"{path}: not the published file: {problem}; {remedy}")
    return path


def _mismatch(path: Path, git_blob: str | None) -> str:
    """How the hash of a file differs from the expected one; "" if it does not. The first sha256 is recorded."""
    if git_blob is not None:
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return "" if found == git_blob else f"git blob id {found} instead of {git_blob}"
    record, found = path.with_name(f"{path.name}.sha256"), file_digest(path)
    if not record.is_file():
        record.write_text(f"{found}  {path.name}\n")
    expected = record.read_text().partition(" ")[0]
    return "" if found == expected else f"sha256 {found} instead of {expected} (if it was changed, delete {record})"


def is_hub_id(name: str) -> bool:
    """Whether `name` is ``owner/name[@revision]`` of the Hugging Face Hub, not a path here or an id of ours."""
    # Where owner is a folder here, as in runs/cty, a mistyped path is more likely, unless there is a revision
    match = HUB_ID.fullmatch(name)
    is_place = Path(name).exists() or (match and not match[2] and Path(name.partition("/")[0]).is_dir())
    return bool(match and not is_place and not name.startswith(("edgel3/", "efficientat/", "openl3/")))


def fetch_hub(id: str, files: Sequence[str]) -> Path:
    """The folder with `files` of ``owner/name[@revision]``; from the cache if the Hub does not answer."""
    hub = huggingface_hub(id)
    repository, _, revision = id.partition("@")
    download = partial(hub.snapshot_download, repository, revision=revision or None, allow_patterns=list(files))
    try:
        # Asked first, because snapshot_download would wait without end for a network that swallows packets
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT  # 10 s, unless the environment says otherwise
        hub.HfApi().repo_info(repository, revision=revision or "main", timeout=timeout)
        return Path(download())
    except Exception as error:  # of several libraries
        reason = shorten(str(error), 300, placeholder=" ...") or type(error).__name__
        if not isinstance(error, hub.errors.RepositoryNotFoundError | hub.errors.RevisionNotFoundError):
            with suppress(OSError, ValueError):  # it is not in the cache
                folder = Path(download(local_files_only=True))
                if all((folder / name).is_file() for name in files):
                    log.warning("%s: taken from the cache; the Hugging Face Hub did not answer: %s", id, reason)
                    return folder
        raise EdgeseaError(f"{id}: no folder here, and the Hugging Face Hub does not give it: {reason}") from error


def huggingface_hub(id: str) -> ModuleType:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        remedy = missing_extra("huggingface-hub", "hub")
        raise EdgeseaError(f"{id}: looks like a model on the Hugging Face Hub, but {remedy}") from error


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
