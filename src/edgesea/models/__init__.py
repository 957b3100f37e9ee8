"""Teachers and students by name."""

from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from edgesea.cluster import is_here
from edgesea.cluster.elsewhere import count_gpus, may_have_gpu
from edgesea.errors import EdgeseaError, needs
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.engine import ENGINES, LITERT, Engine, EngineModel, Precision, choose_engine
from edgesea.parallel import thread_count

if TYPE_CHECKING:
    from edgesea.models.student_files import StudentFile
    from edgesea.models.student_torch import Student

ModelOrName: TypeAlias = EmbeddingModel | Path | str
TEACHERS = (
    "spectral",
    "efficientat/{mn04,mn05,mn10,mn20,mn40}",
    "openl3/{env,music}-{mel128,mel256,linear}-{512,6144}",
    "hear:package.module[:weights]",
    "onnx:file.onnx[@rate]",
    "callable:package.module:function@rate",
)
TFLITE = ".tflite"  # how names of exported students end


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
def load_teacher(
    id: str,
    weights: Path | str | None = None,
    device: str = "cpu",
    engine: Engine = "auto",
    precision: Precision = "float32",
) -> EmbeddingModel:
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
    engine : {"auto", "torch", "onnx", "openvino"}
        What computes the network of efficientat and openl3; all give the same numbers. ``onnx`` and ``openvino``
        (edgesea[openvino]) run on the CPU. ``auto``: on the CPU openvino, if it is installed, or else onnx; elsewhere
        torch.
    precision : {"float32", "float16", "bfloat16"}
        In which the network is computed: bfloat16 by openvino where the processor has it, and by torch; float16 by
        torch on a GPU.

    Returns
    -------
    EmbeddingModel
        With ``sample_rate`` (Hz), ``embedding_size`` and ``embed(windows: (B, W) float32) -> (B, D) float32``.

    EdgeseaError: the id is unknown, the weights are missing, damaged or those of another model, or the engine cannot be
    used.
    """
    if not is_teacher(id):
        raise EdgeseaError(f"unknown teacher {id!r}; known: {', '.join(TEACHERS)}")
    path = None if weights is None else Path(weights)
    if path and not has_network(id):
        raise EdgeseaError(f"teacher {id} takes no weights option")
    if path and not path.is_file():
        raise EdgeseaError(f"{path}: no such weight file (of teacher {id})")
    if not has_network(id) and (engine not in ("auto", "torch") or precision != "float32"):
        raise EdgeseaError(f"teacher {id} has no network for engines; choose engine=auto and precision=float32")
    if ":" in id:
        from edgesea.models import foreign

        if id.startswith("onnx:"):
            return foreign.load_onnx(id, device)  # onnxruntime names its devices differently
        device = resolve_device(device)
        return foreign.load_hear(id, device) if id.startswith("hear:") else foreign.load_callable(id)
    place, engine = place_and_engine(id, device, engine, precision)
    from edgesea.models.teachers import load_network, on_engine
    from edgesea.models.torch_model import for_inference

    model = load_network(id, path)
    return for_inference(model, place, precision) if engine == "torch" else on_engine(model, engine, precision)


def has_network(id: str) -> bool:
    """Whether a teacher has a network that engines can compute."""
    return id.startswith(("efficientat/", "openl3/"))


def place_and_engine(id: str, device: str, engine: Engine, precision: Precision) -> tuple[str, Engine]:
    """Where, and by which engine, a teacher or student is computed."""
    place = "cpu" if device == "auto" and engine in ENGINES else resolve_device(device)
    if is_teacher(id) and not has_network(id):
        return place, "torch"
    return place, choose_engine(engine, precision, place, not is_teacher(id))


@needs("torch", "train")
def load_student(
    path_or_id: Path | str,
    device: str = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    threads: int | None = None,
) -> "Student | EngineModel":
    """Load a student from a checkpoint folder, from the Hugging Face Hub, or from published SEA weights.

    Parameters
    ----------
    path_or_id : path or str
        A folder with ``config.json`` and ``model.safetensors``; ``owner/name`` or ``owner/name@revision`` of the
        Hugging Face Hub; a ``.tflite`` file of `edgesea export` (needs edgesea[export]); a published
        ``edgel3_sea_*.h5`` or ``.h5.gz`` file; or ``edgel3/sea-512``, ``edgel3/sea-256``, ``edgel3/sea-128``,
        ``edgel3/sea-64``, downloaded once and verified.
    device : str
        Where it runs: cpu, cuda, cuda:1, mps, or auto.
    engine, precision
        As of `load_teacher`; ``onnx`` and ``openvino`` need no torch. On the CPU ``auto`` is onnx in float32, where it
        is as fast, and else openvino.
    threads : int, optional
        Threads of onnx and openvino; default: the environment's ``OMP_NUM_THREADS``, or else all cores.

    Returns
    -------
    Student or EngineModel
        With ``sample_rate`` (Hz), ``embedding_size`` and ``embed(windows: (B, W) float32) -> (B, D) float32``.

    EdgeseaError: there is no student, its files are damaged or do not fit together, the engine cannot be used, or torch
    or huggingface-hub is missing where it is needed.
    """
    from edgesea.models.student_config import Head
    from edgesea.models.student_files import read_student

    if (path := Path(path_or_id)).name.endswith(TFLITE):
        if device not in ("auto", "cpu") or engine != "auto" or precision != "float32":
            raise EdgeseaError(f"{path_or_id}: LiteRT computes it, on the CPU; leave device, engine and precision out")
        if not path.is_file():
            raise EdgeseaError(f"{path}: no such file; write one: edgesea export")
        return tflite_student(path.read_bytes(), str(path), threads)
    place, chosen = place_and_engine("", device, engine, precision)
    file = read_student(path_or_id)
    if chosen == "torch" or (engine == "auto" and file.config.head not in get_args(Head)):
        from edgesea.models.student_torch import torch_student
        from edgesea.models.torch_model import for_inference

        return for_inference(torch_student(file), place, precision)
    return student_model(file, chosen, precision, threads)


def student_model(
    file: "StudentFile", engine: Engine = "onnx", precision: Precision = "float32", threads: int | None = None
) -> EngineModel:
    """A student that was read, on an engine."""
    from edgesea.audio.logmel_numpy import OverlappingLogMel
    from edgesea.models.graph import student_graph
    from edgesea.models.student_config import parameter_count

    config, digest = file.config, file_digest(file.path)
    about = file.id, digest, config.sample_rate, config.window, config.embedding_size, parameter_count(config)
    front_end, graph = OverlappingLogMel(config.front_end()), student_graph(config, file.arrays)
    return EngineModel(*about, front_end, graph, engine, precision, threads or thread_count())


def tflite_student(content: bytes, id: str, threads: int | None = None) -> EngineModel:
    """The student of a .tflite file, which has its exact integers if it is in int8."""
    from edgesea.audio.logmel_numpy import OverlappingLogMel
    from edgesea.models.litert import read_tflite
    from edgesea.models.student_config import parameter_count

    config, facts = read_tflite(content, id)
    about = id, sha256(content).hexdigest(), config.sample_rate, config.window, config.embedding_size
    front_end = OverlappingLogMel(config.front_end())
    count, threads = parameter_count(config), threads or thread_count()
    return EngineModel(*about, count, front_end, content, LITERT, threads=threads, facts=facts)


def load_model(
    model: ModelOrName,
    weights: Path | None = None,
    device: str = "cpu",
    engine: Engine = "auto",
    precision: Precision = "float32",
) -> EmbeddingModel:
    """A student or a teacher, if `model` is not loaded already; a Path is a student, and never an id."""
    if isinstance(model, str):
        if is_teacher(model):
            return load_teacher(model, weights, device, engine, precision)
        if not any(sign in model for sign in ("/", "\\", ".h5", TFLITE)) and not Path(model).exists():
            raise EdgeseaError(f"{model!r}: neither a student's folder nor a teacher; known: {', '.join(TEACHERS)}")
    if isinstance(model, Path | str):
        if weights is not None:
            raise EdgeseaError(f"{model}: a student, but weights are a teacher's; name a student's file as the model")
        return load_student(model, device, engine, precision)
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
    model = load(name, weights, device, *more) if is_here(jobs) else load(name, weights, "cpu")
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
