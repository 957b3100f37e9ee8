"""Teachers and students by name."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from edgesea.cluster import is_here
from edgesea.cluster.elsewhere import count_gpus, may_have_gpu
from edgesea.errors import EdgeseaError, needs
from edgesea.models.base import EmbeddingModel

if TYPE_CHECKING:
    from edgesea.models.student_onnx import OnnxStudent
    from edgesea.models.student_torch import Student

Backend = Literal["auto", "torch", "onnx"]
ModelOrName: TypeAlias = EmbeddingModel | Path | str
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


@needs("torch", "train")
def resolve_device(device: str) -> str:
    """``auto`` becomes the best device that torch can use here (without torch: the CPU); other names are checked."""
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError:
        if device == "auto":
            return "cpu"
        raise
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).tolist()  # the device meta holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise EdgeseaError(f"device {device!r} cannot be used: {reason}; choose auto, cpu or e.g. cuda:1") from error
    return device


@needs("torch", "train")
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

    EdgeseaError: the id is unknown, or the weights are missing, damaged or those of another model.
    """
    if not is_teacher(id):
        raise EdgeseaError(f"unknown teacher {id!r}; known: {', '.join(TEACHERS)}")
    path = None if weights is None else Path(weights)
    if path and (id == "spectral" or ":" in id):
        raise EdgeseaError(f"teacher {id} takes no weights option")
    if path and not path.is_file():
        raise EdgeseaError(f"{path}: no such weight file (of teacher {id})")
    if ":" in id:
        from edgesea.models import foreign

        if id.startswith("onnx:"):
            return foreign.load_onnx(id, device)  # onnxruntime names its devices differently
        device = resolve_device(device)
        return foreign.load_hear(id, device) if id.startswith("hear:") else foreign.load_callable(id)
    from edgesea.models.teachers import load_network

    return load_network(id, path).to(resolve_device(device)).eval()


@needs("torch", "train")
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

    EdgeseaError: there is no student, its files are damaged or do not fit together, or torch or huggingface-hub is
    missing where it is needed.
    """
    from edgesea.models.student_config import Head
    from edgesea.models.student_files import read_student

    if backend not in get_args(Backend):
        raise EdgeseaError(f"unknown backend {backend!r}; choose {', '.join(get_args(Backend))}")
    if backend == "onnx" and device not in ("auto", "cpu"):
        raise EdgeseaError(f"backend onnx runs on the CPU, not on {device}; choose backend=torch or device=cpu")
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
    """A student or a teacher, if `model` is not loaded already; a Path is a student, and never an id."""
    if isinstance(model, str):
        if is_teacher(model):
            return load_teacher(model, weights, device)
        if not any(sign in model for sign in ("/", "\\", ".h5")) and not Path(model).exists():
            raise EdgeseaError(f"{model!r}: neither a student's folder nor a teacher; known: {', '.join(TEACHERS)}")
    if isinstance(model, Path | str):
        if weights is not None:
            raise EdgeseaError(f"{model}: a student, but weights are a teacher's; name a student's file as the model")
        return load_student(model, device, backend)
    if not isinstance(model, EmbeddingModel):
        raise EdgeseaError(f"model must be a student or a teacher, or a path or id of one, not {type(model).__name__}")
    return model


def shared_model(
    load: Callable[..., EmbeddingModel], name: Any, weights: Path | None, device: str, *more: Any
) -> tuple[EmbeddingModel, Callable[[], EmbeddingModel], int]:
    """A model for `cluster.results`: here (on the CPU, if the work is done elsewhere), what gives it there, and `jobs`.

    `load` is `load_teacher` or `load_model`, of the other arguments. Here the model goes with the last reference to it;
    another process loads it once, until it is asked for another.
    """
    jobs = count_gpus(device)
    model = load(name, weights, device if is_here(jobs) else "cpu", *more)
    return model, _Shared(model, load, name, weights, device, *more), jobs


class _Shared:
    """Gives the model that it holds; in another process, one that is loaded there."""

    def __init__(self, model: EmbeddingModel, *recipe: Any) -> None:
        self._model, self._recipe = model, recipe

    def __call__(self) -> EmbeddingModel:
        return self._model

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (_same_model, self._model.digest, *self._recipe)


def _same_model(digest: str, load: Callable[..., EmbeddingModel], *arguments: Any) -> EmbeddingModel:
    """The model, with the weights that have this digest: those of the process that hands out the work."""
    found = _shared(load, *arguments)
    if digest != found.digest:  # the file may have been replaced since
        _shared.cache_clear()
        found = _shared(load, *arguments)
        if digest != found.digest:
            raise EdgeseaError(f"{arguments[0]}: a worker has other weights than this machine; give the same to all")
    return found


@lru_cache(1)
def _shared(load: Callable[..., EmbeddingModel], *arguments: Any) -> EmbeddingModel:
    return load(*arguments)
