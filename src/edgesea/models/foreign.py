"""Models of other programs, as functions from windows to embeddings: ``callable:``, ``hear:`` and ``onnx:``.

The API of ``hear:`` is that of the HEAR benchmark (https://hearbenchmark.com/hear-api.html).
"""

import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError, missing_extra
from edgesea.models.base import Float32, check_windows, file_digest, window_of

log = logging.getLogger(__name__)
# Endings of weight files
ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".h5", ".gz", ".npz", ".safetensors", ".onnx", ".keras")


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


def load_callable(spec: str) -> FunctionModel:
    """Load ``callable:package.module:function@RATE`` (Hz); the model's digest is that of the module's file."""
    text = spec.removeprefix("callable:")
    target, rate = split_rate(text)
    module_name, _, name = target.partition(":")
    if not module_name or not name or rate is None:
        raise EdgeseaError(f"{spec!r}: a callable is named as callable:package.module:function@RATE (RATE in Hz)")
    try:
        function = attrgetter(name)(_import(module_name, f"callable:{text}"))
    except AttributeError as error:
        raise EdgeseaError(f"callable:{text}: module {module_name} has no {name!r}") from error
    if not callable(function):
        raise EdgeseaError(f"callable:{text}: {name!r} is a {type(function).__name__}, not a function")
    source = Path(getattr(sys.modules[module_name], "__file__", None) or "")
    return FunctionModel(f"callable:{text}", function, rate, digest=file_digest(source) if source.is_file() else "")


def split_rate(text: str) -> tuple[str, int | None]:
    """Cut ``NAME@RATE`` into the name and the rate in Hz; the rate is None if the text does not end like this."""
    name, at, rate = text.rpartition("@")
    if at and rate.isascii() and rate.isdigit():
        return name, int(rate)
    return text, None


def _import(name: str, model_id: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # foreign code may raise anything when it is imported
        raise EdgeseaError(
            f"{model_id}: cannot import {name} ({type(error).__name__}: {error}); install its package, "
            "or add its folder to PYTHONPATH"
        ) from error


def load_hear(spec: str, device: str = "cpu") -> FunctionModel:
    """Load ``hear:package.module[:weights]``; the scene embedding of a window is its embedding.

    `weights` is what the module's ``load_model`` takes: a path, or a name that the module knows. A torch model is moved
    to `device`; models of other frameworks choose their device themselves.
    """
    try:
        from torch import nn
    except ImportError as error:
        raise missing_extra("torch", "train") from error
    text = spec.removeprefix("hear:")
    model_id = f"hear:{text}"
    module_name, _, weights = text.partition(":")
    if not module_name:
        raise EdgeseaError(f"{spec!r}: a HEAR model is named as hear:package.module[:weights]")
    # Some modules overlook a missing file; with an @, it may be in a syntax of the module (``id@FILE``)
    is_file_name = "@" not in weights and (Path(weights).is_absolute() or weights.lower().endswith(ENDINGS))
    if is_file_name and not Path(weights).exists():
        raise EdgeseaError(f"{model_id}: no such weight file: {weights}")
    module = _import(module_name, model_id)
    _require(module, ("load_model", "get_scene_embeddings"), f"{model_id}: {module_name}")
    try:
        model = module.load_model(weights) if weights else module.load_model()
    except Exception as error:  # foreign code
        gone = f"; there is no file {weights}" if weights and not Path(weights).exists() else ""
        raise EdgeseaError(f"{model_id}: load_model failed ({type(error).__name__}: {error}){gone}") from error
    if isinstance(model, nn.Module):
        model.to(device)
    elif device != "cpu":
        log.info("%s: not a torch module, so it chooses its device itself; %s is not passed on", model_id, device)
    _require(model, ("sample_rate", "scene_embedding_size"), f"{model_id}: the model of {module_name}")
    return FunctionModel(
        id=model_id,
        function=partial(_scene_embeddings, module.get_scene_embeddings, model),
        sample_rate=int(model.sample_rate),
        embedding_size=int(model.scene_embedding_size),
        digest=file_digest(Path(weights)) if Path(weights).is_file() else str(getattr(model, "digest", "")),
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
    if isinstance(result, torch.Tensor):
        return np.asarray(result.float().cpu().numpy())
    return np.asarray(result, np.float32)


def load_onnx(spec: str, device: str = "cpu") -> FunctionModel:
    """Load ``onnx:FILE[@RATE]`` with one input (B, W) float32 and one output (B, D), run by onnxruntime.

    RATE in Hz is needed if the file's metadata have no ``sample_rate``. If W is fixed in the file, the model accepts no
    other windows; if B is fixed, windows are passed in groups of B. Device ``auto`` is whatever this build of
    onnxruntime can use.
    """
    import onnxruntime

    text = spec.removeprefix("onnx:")
    name, rate = (text, None) if Path(text).is_file() else split_rate(text)
    path = Path(name)
    if not path.is_file():
        raise EdgeseaError(f"{path}: no such ONNX file")
    providers = _providers(device, onnxruntime.get_available_providers(), path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise EdgeseaError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise EdgeseaError(f"{path}: must have one input of shape (B, W) and type tensor(float), not {found}")
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        found = ", ".join(f"{value.name} {value.shape}" for value in outputs)
        raise EdgeseaError(f"{path}: must have one output of shape (B, D), not {found}")
    rate = _onnx_rate(session, path, rate)
    batch, samples, size = (
        it if isinstance(it, int) else None for it in (*inputs[0].shape, outputs[0].shape[1])
    )  # None where the file leaves them open
    return FunctionModel(
        id=f"onnx:{text}",
        function=partial(_run, session, batch),
        sample_rate=rate,
        window=samples / rate if samples else None,
        embedding_size=size or 0,
        digest=file_digest(path),
    )


def _providers(device: str, available: list[str], path: Path) -> list[Any]:
    """What onnxruntime calls the devices on which it may run a model, the preferred one first."""
    kind, _, index = device.partition(":")
    if kind == "auto":
        return available
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind == "cuda" and "CUDAExecutionProvider" in available:
        return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]
    hint = " or install onnxruntime-gpu" if kind == "cuda" else ""
    raise EdgeseaError(
        f"{path}: device {device!r} cannot be used: this build of onnxruntime has {', '.join(available)}; "
        f"choose auto or cpu{hint}"
    )


def _onnx_rate(session: Any, path: Path, given: int | None) -> int:
    """The rate in Hz from the file's metadata or from the user."""
    stored = session.get_modelmeta().custom_metadata_map.get("sample_rate", given)
    if stored is None:
        raise EdgeseaError(f"{path}: no sample_rate in its metadata; name it as onnx:{path}@RATE (RATE in Hz)")
    if not str(stored).isdigit():
        raise EdgeseaError(f"{path}: the sample_rate in its metadata is not a whole number of Hz: {stored!r}")
    if given not in (None, int(stored)):
        raise EdgeseaError(f"{path}: made for {stored} Hz according to its metadata, not for {given} Hz")
    return int(stored)


def _run(session: Any, batch: int | None, windows: Float32) -> Float32:
    """Output of the session; for a fixed batch size in groups, the last one filled with silence."""
    name = session.get_inputs()[0].name
    if batch is None:
        return np.asarray(session.run(None, {name: windows})[0])
    padded = np.pad(windows, ((0, -len(windows) % batch), (0, 0)))
    results = [session.run(None, {name: group})[0] for group in np.split(padded, len(padded) // batch)]
    return np.asarray(np.concatenate(results)[: len(windows)])
