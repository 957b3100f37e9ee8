"""Teachers and students by name."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from edgesea.errors import EdgeseaError, missing_extra
from edgesea.models.base import EmbeddingModel

if TYPE_CHECKING:
    from edgesea.models.student_onnx import OnnxStudent
    from edgesea.models.student_torch import Student

Backend = Literal["auto", "torch", "onnx"]
ModelOrName: TypeAlias = EmbeddingModel | Path | str
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
    """``auto`` becomes the best device of this machine that torch can use, other names are checked.

    Without torch, auto is the CPU, and other devices raise EdgeseaError.
    """
    if device == "cpu":
        return device
    try:
        import torch
    except ImportError as error:
        if device == "auto":
            return "cpu"
        raise missing_extra("torch", "train") from error
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if device.partition(":")[0] not in DEVICES:
            raise RuntimeError("unknown")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0].partition(". ")[0]
        raise EdgeseaError(
            f"device {device!r} cannot be used: {reason}; choose auto, {', '.join(DEVICES)}, or e.g. cuda:1"
        ) from error
    return device


def load_teacher(id: str, weights: Path | str | None = None, device: str = "cpu") -> EmbeddingModel:
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
    path = None if weights is None else Path(weights)
    if path is not None and not path.is_file():
        raise EdgeseaError(f"{path}: no such weight file (of teacher {id})")
    if path is not None and (id == "spectral" or ":" in id):
        raise EdgeseaError(f"teacher {id} takes no weights option")
    try:
        if not id.startswith("onnx:"):  # onnxruntime names its devices differently
            device = resolve_device(device)
        if id.startswith(("onnx:", "hear:", "callable:")):
            from edgesea.models import foreign

            load = {"onnx": foreign.load_onnx, "hear": foreign.load_hear, "callable": foreign.load_callable}
            return load[id.partition(":")[0]](id, device)
        if id == "spectral":
            from edgesea.models.spectral import Spectral

            return Spectral().to(device).eval()
        if id.startswith("efficientat/"):
            from edgesea.models.efficientat import load_efficientat

            return load_efficientat(id.removeprefix("efficientat/"), path).to(device).eval()
        if id.startswith("openl3/"):
            from edgesea.models.openl3 import load_openl3

            return load_openl3(id.removeprefix("openl3/"), path).to(device).eval()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise missing_extra("torch", "train") from error
    raise EdgeseaError(f"unknown teacher {id!r}; known: {', '.join(TEACHERS)}")


def load_student(
    path_or_id: Path | str, device: str = "auto", backend: Backend = "auto", threads: int | None = None
) -> "Student | OnnxStudent":
    """Load a student from a checkpoint folder, from the Hugging Face Hub, or from published SEA weights.

    Parameters
    ----------
    path_or_id : path or str
        A folder with ``config.json`` and ``model.safetensors``; ``owner/name`` or ``owner/name@revision`` of the
        Hugging Face Hub; a published ``edgel3_sea_*.h5`` or ``.h5.gz`` file; or ``edgel3/sea-512``, ``edgel3/sea-256``,
        ``edgel3/sea-128``, ``edgel3/sea-64``, downloaded once and verified.
    device : str
        Where it runs: cpu, cuda, cuda:1, mps, or auto.
    backend : {"auto", "torch", "onnx"}
        What computes the network; both give the same numbers. ``onnx`` runs on the CPU, and needs no torch. ``auto``:
        onnx on the CPU, where it is the faster one, and torch elsewhere.
    threads : int, optional
        Threads of the onnx back end; default: the environment's ``OMP_NUM_THREADS``, or else all cores.

    Returns
    -------
    Student or OnnxStudent
        With ``sample_rate`` (Hz), ``embedding_size`` and ``embed(windows: (B, W) float32) -> (B, D) float32``.

    Raises
    ------
    EdgeseaError
        If there is no student, its files are damaged or do not fit together, or torch or huggingface-hub is missing
        where it is needed.
    """
    from edgesea.models.student_config import Head
    from edgesea.models.student_files import read_student

    if backend not in get_args(Backend):
        raise EdgeseaError(f"unknown backend {backend!r}; choose {', '.join(get_args(Backend))}")
    if backend == "onnx" and device not in ("auto", "cpu"):
        raise EdgeseaError(f"backend onnx runs on the CPU, not on {device}; choose backend=torch or device=cpu")
    if backend == "torch" and find_spec("torch") is None:
        raise missing_extra("torch", "train")
    if threads is not None and threads < 1:
        raise EdgeseaError(f"threads must be at least 1, not {threads}")
    place = "cpu" if backend == "onnx" else resolve_device(device)
    file = read_student(path_or_id)
    if backend == "onnx" or (backend == "auto" and place == "cpu" and file.config.head in get_args(Head)):
        from edgesea.models.student_onnx import OnnxStudent

        return OnnxStudent(file, threads)
    from edgesea.models.student_torch import torch_student

    return torch_student(file).to(place)


def load_model(
    model: ModelOrName, weights: Path | None = None, device: str = "cpu", backend: Backend = "auto"
) -> EmbeddingModel:
    """A student or a teacher: `model` is loaded already, a student's path (a Path is never an id), or an id of either.

    `weights` are a teacher's; see `load_teacher` and `load_student`.
    """
    if isinstance(model, str):
        if is_teacher(model):
            return load_teacher(model, weights, device)
        if not any(sign in model for sign in ("/", "\\", ".h5")) and not Path(model).exists():
            raise EdgeseaError(
                f"unknown teacher {model!r}; known: {', '.join(TEACHERS)}; nor is there a student's folder of that name"
            )
    if isinstance(model, Path | str):
        if weights is not None:
            raise EdgeseaError(
                f"{model}: a student; weights are a teacher's (name the weight file of a student as the model)"
            )
        return load_student(model, device, backend)
    if isinstance(model, type) or not isinstance(model, EmbeddingModel):
        raise EdgeseaError(
            f"model must be a loaded student or teacher, or a path or id of one, not {type(model).__name__}"
        )
    return model
