"""Teachers and students by name."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgesea.errors import EdgeseaError, missing_extra

if TYPE_CHECKING:
    from edgesea.models.base import EmbeddingModel
    from edgesea.models.student import Student

DEVICES = ("cpu", "cuda", "mps", "xpu")
TEACHERS = (
    "spectral",
    "efficientat/{mn04,mn05,mn10,mn20,mn40}",
    "openl3/{env,music}-{mel128,mel256,linear}-{512,6144}",
    "hear:package.module[:weights]",
    "onnx:file.onnx[@rate]",
    "callable:package.module:function@rate",
)


def is_teacher(name: str) -> bool:
    """Whether `name` has the form of a teacher's id."""
    return name == "spectral" or name.startswith(("efficientat/", "openl3/", "hear:", "onnx:", "callable:"))


def resolve_device(device: str) -> str:
    """``auto`` becomes the best device of this machine; other names are checked.

    Raises
    ------
    EdgeseaError
        If torch is missing or the device does not exist here.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_extra("torch", "train") from error
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        known = torch.device(device).type in DEVICES
    except RuntimeError:  # it lists twenty kinds that torch may have been built for
        known = False
    if not known:
        raise EdgeseaError(
            f"device {device!r} cannot be used: unknown; choose auto, {', '.join(DEVICES)}, or as cuda:1"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0].partition(". ")[0]
        raise EdgeseaError(f"device {device!r} cannot be used here: {reason}; choose auto or cpu") from error
    return device


def load_teacher(id: str, weights: Path | str | None = None, device: str = "cpu") -> "EmbeddingModel":
    """Load a teacher.

    Parameters
    ----------
    id : str
        ``spectral``; ``efficientat/mn04`` (mn05, mn10, mn20, mn40); ``openl3/CONTENT-REPR-SIZE`` with content env or
        music, input representation mel128, mel256 or linear, and size 512 or 6144; ``hear:package.module[:weights]``;
        ``onnx:file.onnx[@rate]``; ``callable:package.module:function@rate``.
    weights : path, optional
        Local weight file; default: the published one, downloaded once and verified.
    device : str
        Where it runs: cpu, cuda, cuda:1, mps, or auto.

    Returns
    -------
    EmbeddingModel
        With ``sample_rate`` (Hz), ``embedding_size`` and ``embed(windows: (B, W) float32) -> (B, D) float32``.

    Raises
    ------
    EdgeseaError
        If the id is unknown, or the weights are missing, damaged or those of another model.
    """
    device = resolve_device(device)
    family, separator, rest = id.partition("/")
    prefix, colon, spec = id.partition(":")
    path = None if weights is None else Path(weights)
    if path is not None and not path.is_file():
        raise EdgeseaError(f"{path}: no such weight file (of teacher {id})")
    if path is not None and (colon or id == "spectral"):
        raise EdgeseaError(f"teacher {id} takes no weights option")
    model: EmbeddingModel
    if id == "spectral":
        from edgesea.models.spectral import Spectral

        model = Spectral()
    elif separator and family == "efficientat":
        from edgesea.models.efficientat import load_efficientat

        model = load_efficientat(rest, path)
    elif separator and family == "openl3":
        from edgesea.models.openl3 import load_openl3

        model = load_openl3(rest, path)
    elif colon and prefix == "hear":
        from edgesea.models.hear import load_hear

        model = load_hear(spec)
    elif colon and prefix == "onnx":
        from edgesea.models.onnx import load_onnx

        model = load_onnx(spec)
    elif colon and prefix == "callable":
        from edgesea.models.function import load_callable

        model = load_callable(spec)
    else:
        raise EdgeseaError(f"unknown teacher {id!r}; known: {', '.join(TEACHERS)}")
    from edgesea.models.base import TorchModel

    return model.to(device).eval() if isinstance(model, TorchModel) else model


def load_student(path_or_id: Path | str, device: str = "cpu") -> "Student":
    """Load a student from a checkpoint folder or from published SEA weights.

    Parameters
    ----------
    path_or_id : path or str
        A folder with ``config.json`` and ``model.safetensors``; a published ``edgel3_sea_*.h5`` or ``.h5.gz`` file; or
        ``edgel3/sea-512``, ``edgel3/sea-256``, ``edgel3/sea-128``, ``edgel3/sea-64``, downloaded once and verified.
    device : str
        Where it runs: cpu, cuda, cuda:1, mps, or auto.

    Returns
    -------
    Student
        With ``sample_rate`` (Hz), ``embedding_size`` and ``embed(windows: (B, W) float32) -> (B, D) float32``.

    Raises
    ------
    EdgeseaError
        If there is no student, or its files are damaged or do not fit together.
    """
    device = resolve_device(device)
    from edgesea.models.student_files import read_student

    return read_student(path_or_id).to(device).eval()
