"""Models of other programs, as functions from windows to embeddings: ``callable:``, ``hear:`` and ``onnx:``.

The API of ``hear:`` is that of the HEAR benchmark (https://hearbenchmark.com/hear-api.html).
"""

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.models.base import Float32, check_windows, file_digest, window_of

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
            self.embedding_size = self._call(silence, "a trial window of silence").shape[1]

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W)."""
        windows = np.ascontiguousarray(windows, np.float32)
        check_windows(self, windows)
        if not len(windows):
            return np.zeros((0, self.embedding_size), np.float32)
        result = self._call(windows, "windows")
        if result.shape[1] != self.embedding_size:
            raise EdgeseaError(
                f"{self.id}: returned embeddings of {result.shape[1]} dimensions instead of {self.embedding_size}"
            )
        return result

    def _call(self, windows: Float32, what: str) -> Float32:
        try:
            result = np.asarray(self.function(windows))
        except EdgeseaError:
            raise
        except Exception as error:  # foreign code may raise anything
            raise EdgeseaError(
                f"{self.id}: failed on {what} {windows.shape}: {type(error).__name__}: {error}"
            ) from error
        if result.ndim != 2 or result.shape[0] != windows.shape[0] or result.dtype.kind not in "fiu":
            raise EdgeseaError(
                f"{self.id}: must return numbers of shape ({windows.shape[0]}, D) for windows {windows.shape}, "
                f"not {result.dtype} of shape {result.shape}"
            )
        return result.astype(np.float32, copy=False)


def split_rate(text: str) -> tuple[str, int | None]:
    """Cut ``NAME@RATE`` into the name and the rate in Hz; the rate is None if the text does not end like this."""
    name, at, rate = text.rpartition("@")
    return (name, int(rate)) if at and rate.isascii() and rate.isdigit() else (text, None)


def _import(name: str, model_id: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # foreign code may raise anything when it is imported
        raise EdgeseaError(
            f"{model_id}: cannot import {name} ({type(error).__name__}: {error}); install its package, "
            "or add its folder to PYTHONPATH"
        ) from error


def load_callable(id: str, device: str = "cpu") -> FunctionModel:
    """Load ``callable:package.module:function@RATE`` (Hz); the model's digest is that of the module's file.

    The function chooses its device itself.
    """
    target, rate = split_rate(id.removeprefix("callable:"))
    module_name, _, name = target.partition(":")
    if not module_name or not name or rate is None:
        raise EdgeseaError(f"{id!r}: a callable is named as callable:package.module:function@RATE (RATE in Hz)")
    module = _import(module_name, id)
    try:
        function = attrgetter(name)(module)
    except AttributeError as error:
        raise EdgeseaError(f"{id}: module {module_name} has no {name!r}") from error
    if not callable(function):
        raise EdgeseaError(f"{id}: {name!r} is a {type(function).__name__}, not a function")
    source = Path(getattr(module, "__file__", None) or "")
    return FunctionModel(id, function, rate, digest=file_digest(source) if source.is_file() else "")


def load_hear(id: str, device: str = "cpu") -> FunctionModel:
    """Load ``hear:package.module[:weights]``; the scene embedding of a window is its embedding.

    `weights` is what the module's ``load_model`` takes: a path, or a name that the module knows. A torch model is moved
    to `device`; models of other frameworks choose their device themselves.
    """
    from torch import nn

    module_name, _, weights = id.removeprefix("hear:").partition(":")
    if not module_name:
        raise EdgeseaError(f"{id!r}: a HEAR model is named as hear:package.module[:weights]")
    path = Path(weights)
    # Some modules overlook a missing file; with an @, it may be in a syntax of the module (``id@FILE``)
    if (path.is_absolute() or path.suffix.lower() in WEIGHT_SUFFIXES) and "@" not in weights and not path.exists():
        raise EdgeseaError(f"{id}: no such weight file: {weights}")
    module = _import(module_name, id)
    _require(module, ("load_model", "get_scene_embeddings"), id)
    try:
        model = module.load_model(weights) if weights else module.load_model()
    except Exception as error:  # foreign code
        gone = f"; there is no file {weights}" if weights and not path.exists() else ""
        raise EdgeseaError(f"{id}: load_model failed ({type(error).__name__}: {error}){gone}") from error
    if isinstance(model, nn.Module):
        model.to(device)
    elif device != "cpu":
        log.info("%s: not a torch module, so it chooses its device itself; %s is not passed on", id, device)
    _require(model, ("sample_rate", "scene_embedding_size"), f"{id}: its model")
    return FunctionModel(
        id=id,
        function=partial(_scene_embeddings, module.get_scene_embeddings, model),
        sample_rate=int(model.sample_rate),
        embedding_size=int(model.scene_embedding_size),
        digest=file_digest(path) if path.is_file() else str(getattr(model, "digest", "")),
    )


def _require(thing: object, names: tuple[str, ...], what: str) -> None:
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        raise EdgeseaError(f"{what} has no {' and no '.join(missing)}, which the HEAR API asks for")


def _scene_embeddings(function: Callable[..., Any], model: Any, windows: Float32) -> Float32:
    """Call ``get_scene_embeddings``; a torch model runs on its device, in evaluation mode and without gradients."""
    import torch
    from torch import nn

    audio = torch.from_numpy(windows)
    if isinstance(model, nn.Module):
        model.eval()
        audio = audio.to(next((parameter.device for parameter in model.parameters()), audio.device))
    with torch.inference_mode():
        result = function(audio, model)
    return np.asarray(result.float().cpu() if isinstance(result, torch.Tensor) else result, np.float32)


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
        raise EdgeseaError(
            f"{path}: device {device!r} cannot be used: this build of onnxruntime has {', '.join(available)}; "
            "choose auto or cpu, or for cuda install onnxruntime-gpu"
        )
    cuda = [("CUDAExecutionProvider", {"device_id": index or "0"})] if kind == "cuda" else []
    providers = available if kind == "auto" else [*cuda, "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise EdgeseaError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [it.shape for it in (*inputs, *outputs)]
    if len(inputs) != 1 or [len(shape) for shape in shapes] != [2, 2] or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{it.name} {it.type} {it.shape}" for it in (*inputs, *outputs))
        raise EdgeseaError(
            f"{path}: must have one input of shape (B, W), tensor(float), and one output of shape (B, D), not {found}"
        )
    stored = session.get_modelmeta().custom_metadata_map.get("sample_rate")
    rates = {str(rate) for rate in (stored, given) if rate is not None}
    if len(rates) != 1 or not (rate := rates.pop()).isdigit():
        raise EdgeseaError(
            f"{path}: one sample rate in Hz is needed, but its metadata have {stored}, and the name has {given}; "
            f"name it as onnx:{path}@RATE"
        )
    batch, samples, size = (it if isinstance(it, int) else 0 for it in (*shapes[0], shapes[1][1]))  # 0: open
    function = partial(_run, session, batch)
    return FunctionModel(id, function, int(rate), samples / int(rate) if samples else None, size, file_digest(path))


def _run(session: Any, batch: int, windows: Float32) -> Float32:
    """Output of the session; for a fixed batch size in groups, the last one filled with silence."""
    name = session.get_inputs()[0].name
    if not batch:
        return np.asarray(session.run(None, {name: windows})[0])
    padded = np.pad(windows, ((0, -len(windows) % batch), (0, 0)))
    results = [session.run(None, {name: group})[0] for group in np.split(padded, len(padded) // batch)]
    return np.asarray(np.concatenate(results)[: len(windows)])
