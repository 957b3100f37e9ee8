"""Models stored as ONNX files, run by onnxruntime."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.models.base import Float32
from edgesea.models.function import FunctionModel, split_rate
from edgesea.models.weights import file_digest


def load_onnx(spec: str, device: str = "cpu") -> FunctionModel:
    """Load an ONNX file with one input (B, W) float32 and one output (B, D).

    Parameters
    ----------
    spec : str
        ``onnx:FILE`` or ``onnx:FILE@RATE`` (the first part may be left out); RATE in Hz is needed if the file's
        metadata have no ``sample_rate``. If W is fixed in the file, the model accepts no other windows; if B is fixed,
        windows are passed in groups of B.
    device : str
        cpu; auto: whatever this build of onnxruntime can use; cuda, cuda:1.

    Raises
    ------
    EdgeseaError
        If the file is missing, is no such ONNX model, the sample rate is unknown or contradictory, or onnxruntime
        cannot use the device.
    """
    text = spec.removeprefix("onnx:")
    model_id = f"onnx:{text}"
    name, rate = (text, None) if Path(text).is_file() else split_rate(text)
    path = Path(name)
    session = _session(path, device)
    batch, samples = _input_shape(session, path)
    outputs = session.get_outputs()
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        found = ", ".join(f"{output.name} {output.shape}" for output in outputs)
        raise EdgeseaError(f"{path}: must have one output of shape (B, D), not {found}")
    rate = _sample_rate(session, path, rate)
    size = outputs[0].shape[1]
    return FunctionModel(
        id=model_id,
        function=partial(_run, session, batch),
        sample_rate=rate,
        window=samples / rate if samples else None,
        embedding_size=size if isinstance(size, int) else 0,
        digest=file_digest(path),
    )


def _session(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EdgeseaError("onnxruntime is not installed; it comes with: pip install edgesea") from error
    if not path.is_file():
        raise EdgeseaError(f"{path}: no such ONNX file")
    providers = _providers(device, onnxruntime.get_available_providers(), path)
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise EdgeseaError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from error


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


def _input_shape(session: Any, path: Path) -> tuple[int | None, int | None]:
    """B and W of the only input; None where the file leaves them open."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
        raise EdgeseaError(f"{path}: must have one input of shape (B, W) and type tensor(float), not {found}")
    batch, samples = (size if isinstance(size, int) else None for size in inputs[0].shape)
    return batch, samples


def _sample_rate(session: Any, path: Path, given: int | None) -> int:
    """The rate in Hz from the file's metadata or from the user."""
    stored = session.get_modelmeta().custom_metadata_map.get("sample_rate")
    if stored is None:
        if given is None:
            raise EdgeseaError(f"{path}: no sample_rate in its metadata; name it as onnx:{path}@RATE (RATE in Hz)")
        return given
    if not stored.isdigit():
        raise EdgeseaError(f"{path}: the sample_rate in its metadata is not a whole number of Hz: {stored!r}")
    if given is not None and given != int(stored):
        raise EdgeseaError(f"{path}: made for {stored} Hz according to its metadata, not for {given} Hz")
    return int(stored)


def _run(session: Any, batch: int | None, windows: Float32) -> Float32:
    """Output of the session; for a fixed batch size in groups, the last one filled with silence."""
    name = session.get_inputs()[0].name
    if batch is None:
        return np.asarray(session.run(None, {name: windows})[0])
    fill = -len(windows) % batch
    padded = np.pad(windows, ((0, fill), (0, 0)))
    results = [session.run(None, {name: group})[0] for group in np.split(padded, len(padded) // batch)]
    return np.asarray(np.concatenate(results)[: len(windows)])
