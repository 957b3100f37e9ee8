"""Models with the API of the HEAR benchmark (https://hearbenchmark.com/hear-api.html)."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError, missing_extra
from edgesea.models.base import Float32
from edgesea.models.function import FunctionModel, import_module
from edgesea.models.weights import file_digest

log = logging.getLogger(__name__)
FUNCTIONS = ("load_model", "get_scene_embeddings")
ATTRIBUTES = ("sample_rate", "scene_embedding_size")
ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".h5", ".gz", ".npz", ".safetensors", ".onnx", ".keras")  # of weight files


def load_hear(spec: str, device: str = "cpu") -> FunctionModel:
    """Load a HEAR model; its scene embedding of a window is the embedding.

    Parameters
    ----------
    spec : str
        ``hear:package.module`` or ``hear:package.module:weights`` (the first part may be left out), with what the
        module's ``load_model`` takes: the path of a weight file, or a name that the module knows.
    device : str
        Where a torch model is moved, as torch names it. Models of other frameworks choose their device themselves.

    Raises
    ------
    EdgeseaError
        If torch is missing, or the module cannot be imported, lacks a part of the API, or cannot load the weights.
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
    if _is_file_name(weights) and not Path(weights).exists():  # some modules overlook it
        raise EdgeseaError(f"{model_id}: no such weight file: {weights}")
    module = import_module(module_name, model_id)
    _require(module, FUNCTIONS, f"{model_id}: {module_name}")
    try:
        model = module.load_model(weights) if weights else module.load_model()
    except Exception as error:  # foreign code
        gone = f"; there is no file {weights}" if weights and not Path(weights).exists() else ""
        raise EdgeseaError(f"{model_id}: load_model failed ({type(error).__name__}: {error}){gone}") from error
    if isinstance(model, nn.Module):
        model.to(device)
    elif device != "cpu":
        log.info("%s: not a torch module, so it chooses its device itself; %s is not handed on", model_id, device)
    _require(model, ATTRIBUTES, f"{model_id}: the model of {module_name}")
    return FunctionModel(
        id=model_id,
        function=partial(_scene_embeddings, module.get_scene_embeddings, model),
        sample_rate=int(model.sample_rate),
        embedding_size=int(model.scene_embedding_size),
        digest=file_digest(Path(weights)) if Path(weights).is_file() else str(getattr(model, "digest", "")),
    )


def _is_file_name(weights: str) -> bool:
    """Whether it can only be the name of a file; with an @, it may be in a syntax of the module (``id@FILE``)."""
    return "@" not in weights and (Path(weights).is_absolute() or weights.lower().endswith(ENDINGS))


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
