"""Models of other programs: ``callable:``, ``onnx:`` and ``hear:`` (https://hearbenchmark.com/hear-api.html)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError, explained
from edgesea.models.base import Float32, check_windows, file_digest, window_of
from edgesea.parallel import thread_count

log = logging.getLogger(__name__)
WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".h5", ".gz", ".npz", ".safetensors", ".onnx", ".keras")


@dataclass
class FunctionModel:
    """A model (see `base.EmbeddingModel`) that calls a function; EdgeseaError names what that does wrong."""

    id: str  # name under which it was loaded
    function: Callable[[Float32], Any]  # from windows (B, W) float32 in [-1, 1] to array-like embeddings (B, D)
    sample_rate: int  # Hz
    window: float | None = None  # length in seconds of the windows it accepts; None: any
    embedding_size: int = 0  # D; 0: find it by calling the function with one window of silence
    digest: str = ""  # sha256 of its weights; "" if unknown

    def __post_init__(self) -> None:
        if self.sample_rate <= 0:
            raise EdgeseaError(f"{self.id}: the sample rate must be positive, not {self.sample_rate} Hz")
        if not self.embedding_size:
            silence = np.zeros((1, round(window_of(self) * self.sample_rate)), np.float32)
            self.embedding_size = self._call(silence).shape[1]

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W)."""
        windows = np.ascontiguousarray(windows, np.float32)
        check_windows(self, windows)
        return self._call(windows) if len(windows) else np.zeros((0, self.embedding_size), np.float32)

    def _call(self, windows: Float32) -> Float32:
        with explained(f"{self.id}: failed on windows {windows.shape}"):
            result = np.asarray(self.function(windows))
        rows, size = len(windows), self.embedding_size or "D"
        fits = result.ndim == 2 and len(result) == rows and size in ("D", result.shape[1])
        if not fits or result.dtype.kind not in "fiu":
            found = f"{result.dtype} of shape {result.shape}"
            raise EdgeseaError(f"{self.id}: must return numbers of shape ({rows}, {size}), not {found}")
        return result.astype(np.float32, copy=False)


def split_rate(text: str) -> tuple[str, int | None]:
    """Cut ``NAME@RATE`` into the name and the rate in Hz; the rate is None if the text does not end like this."""
    name, at, rate = text.rpartition("@")
    return (name, int(rate)) if at and rate.isascii() and rate.isdigit() else (text, None)


def _attributes(source: Any, id: str, *names: str) -> list[Any]:
    """Attributes of a module (or of the module that is named) or of a model."""
    if isinstance(source, str):
        with explained(f"{id}: cannot import {source}; install its package, or add its folder to PYTHONPATH"):
            source = import_module(source)
    with explained(f"{id}: does not have what is needed: {', '.join(names)}"):
        return [attrgetter(name)(source) for name in names]


def load_callable(id: str) -> FunctionModel:
    """Load ``callable:package.module:function@RATE`` (Hz), which chooses its device; the digest is of the module."""
    target, rate = split_rate(id.removeprefix("callable:"))
    module, _, name = target.partition(":")
    if not module or not name or rate is None:
        raise EdgeseaError(f"{id!r}: a callable is named as callable:package.module:function@RATE (RATE in Hz)")
    (function,) = _attributes(module, id, name)
    if not callable(function):
        raise EdgeseaError(f"{id}: {name!r} is not a function, but of type {type(function).__name__}")
    source = Path(getattr(import_module(module), "__file__", None) or "")
    return FunctionModel(id, function, rate, digest=file_digest(source) if source.is_file() else "")


def load_hear(id: str, device: str = "cpu") -> FunctionModel:
    """Load ``hear:package.module[:weights]``; `weights` is what ``load_model`` takes: a path, or a name it knows.

    A torch model runs on `device`, in evaluation mode and without gradients.
    """
    import torch

    module, _, weights = id.removeprefix("hear:").partition(":")
    if not module:
        raise EdgeseaError(f"{id!r}: a HEAR model is named as hear:package.module[:weights]")
    path = Path(weights)
    # Some modules overlook a missing file; with an @, it may be in a syntax of the module (``id@FILE``)
    if (path.is_absolute() or path.suffix.lower() in WEIGHT_SUFFIXES) and "@" not in weights and not path.exists():
        raise EdgeseaError(f"{id}: no such weight file: {weights}")
    load, get_embeddings = _attributes(module, id, "load_model", "get_scene_embeddings")
    with explained(f"{id}: load_model failed"):
        model = load(weights) if weights else load()
    is_torch = isinstance(model, torch.nn.Module)
    if is_torch:
        model.eval().to(device)
    elif device != "cpu":
        log.info("%s: not a torch module, so it chooses its device itself; %s is not passed on", id, device)

    def embed(windows: Float32) -> Any:
        with torch.inference_mode():
            result = get_embeddings(torch.from_numpy(windows).to(device if is_torch else "cpu"), model)
        return np.asarray(result.float().cpu() if isinstance(result, torch.Tensor) else result, np.float32)

    rate, size = _attributes(model, id, "sample_rate", "scene_embedding_size")
    digest = file_digest(path) if path.is_file() else str(getattr(model, "digest", ""))
    return FunctionModel(id, embed, int(rate), None, int(size), digest)


def load_onnx(id: str, device: str = "cpu") -> FunctionModel:
    """Load ``onnx:FILE[@RATE]`` with one input (B, W) float32 and one output (B, D), run by onnxruntime.

    RATE in Hz is needed if the file's metadata have no ``sample_rate``. If W is fixed in the file, the model accepts no
    other windows; if B is fixed, windows are passed in groups of B. Device ``auto`` is whatever this build of
    onnxruntime can use.
    """
    import onnxruntime

    text = id.removeprefix("onnx:")
    name, given = (text, None) if Path(text).is_file() else split_rate(text)
    path = Path(name)
    if not path.is_file():
        raise EdgeseaError(f"{path}: no such ONNX file")
    available = onnxruntime.get_available_providers()
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu") and not (kind == "cuda" and "CUDAExecutionProvider" in available):
        remedy = f"this onnxruntime has {', '.join(available)}; choose auto or cpu, or for cuda install onnxruntime-gpu"
        raise EdgeseaError(f"{path}: device {device!r} cannot be used: {remedy}")
    cuda = [("CUDAExecutionProvider", {"device_id": index or "0"})] if kind == "cuda" else []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others on the machine need the processor
    with explained(f"{path}: onnxruntime cannot load it"):
        providers = available if kind == "auto" else [*cuda, "CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    ends = [*session.get_inputs(), *session.get_outputs()]
    if [len(end.shape) for end in ends] != [2, 2] or len(session.get_inputs()) != 1 or ends[0].type != "tensor(float)":
        found = ", ".join(f"{end.name} {end.type} {end.shape}" for end in ends)
        raise EdgeseaError(f"{path}: must have one input (B, W), tensor(float), and one output (B, D), not {found}")
    stored = session.get_modelmeta().custom_metadata_map.get("sample_rate")
    rates = {str(rate) for rate in (stored, given) if rate is not None}
    if len(rates) != 1 or not (rate := rates.pop()).isdigit():
        found = f"the file's metadata have {stored}, its name {given}"
        raise EdgeseaError(f"{path}: one sample rate in Hz is needed, but {found}; name it as onnx:{path}@RATE")
    batch, samples, size = (it if isinstance(it, int) else 0 for it in (*ends[0].shape, ends[1].shape[1]))  # 0: open

    def embed(windows: Float32) -> Float32:
        padding = -len(windows) % batch if batch else 0  # with silence, to whole groups of a fixed batch size
        padded = np.pad(windows, ((0, padding), (0, 0)))
        groups = np.split(padded, len(padded) // batch) if batch else [padded]
        results = [session.run(None, {ends[0].name: group})[0] for group in groups]
        return np.concatenate(results)[: -padding or None]

    return FunctionModel(id, embed, int(rate), samples / int(rate) if samples else None, size, file_digest(path))
