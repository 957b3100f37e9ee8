"""Students on disk: checkpoint folders with their model card, and the published SEA weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edgesea.artifact import atomic_path, read_json, write_json
from edgesea.errors import EdgeseaError, explained
from edgesea.models.base import check_shapes
from edgesea.models.cost import sizes
from edgesea.models.published import EDGEL3_URL, GIT_BLOBS, fetch, fetch_hub, is_hub_id, keras_to_torch, read_keras_h5
from edgesea.models.student_config import FILTERS, Arrays, Head, StudentConfig, array_shapes

if TYPE_CHECKING:
    from edgesea.models.student_torch import Student

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
KIND = "edgesea.student"
ARCHITECTURE = "architecture"  # the one key of the weights' metadata: safetensors writes several in a random order
PUBLISHED = {f"edgel3/{name}": f"edgel3_sea_ust_audio_emb_{filters[-1]}.h5.gz" for name, filters in FILTERS.items()}
# The folders of an absolute path, which is the whole text or follows as in ``onnx:FILE`` and ``hear:module:id@FILE``
FOLDERS = re.compile(r"(?:^|(?<=[:@]))(?:[A-Za-z]:)?[/\\](?![/\\])(?:[^:@]*[/\\])?")


@dataclass(frozen=True)
class StudentFile:
    """A student as it was read, for either back end."""

    id: str  # name under which it was loaded
    config: StudentConfig
    arrays: Arrays  # with torch's names and axes
    path: Path  # the weight file
    provenance: dict[str, Any] = field(default_factory=dict)  # what it learned from, where this is recorded


def save_student(student: "Student", folder: Path, provenance: Mapping[str, Any], card: str) -> None:
    """Write ``config.json`` + ``model.safetensors`` + the model card; an earlier checkpoint is replaced."""
    from safetensors.numpy import save

    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in student.state_dict().items()}
    architecture = student.config.stored()  # in the weights, too, so that their digest covers it
    weights = save(arrays, metadata={ARCHITECTURE: json.dumps(architecture)})
    for name, content in ((WEIGHTS_FILE, weights), (CARD_FILE, card.encode())):  # save_file lets nobody else read it
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    config = {"model": KIND, "architecture": architecture, "provenance": without_folders(dict(provenance))}
    write_json(folder / CONFIG_FILE, config)


def without_folders(value: Any) -> Any:
    """JSON values with the mere names of files that were named by absolute paths: where they lie is private."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def model_card(
    config: StudentConfig, provenance: Any, source: str = "PATH", domain: str = "", license: str = "", scores: str = ""
) -> str:
    """Markdown for a student with the `provenance` of its `config.json`; `scores` are Markdown, too."""
    provenance = without_folders(provenance)
    teacher, reduction, fit = (provenance.get(key) or {} for key in ("teacher", "reduction", "scores"))
    purpose = " that approximate the reduced embedding of the teacher\n`{id}` on the recordings it was trained on"
    size, behind = sizes(config), ""
    if provenance.get("training", {}).get("projector"):
        behind = ", behind the projector that it was trained with"
    template = Path(__file__).with_name("card.md").read_text("utf-8")
    card = template.format(
        config=config,
        license=f"license: {json.dumps(license)}\n" if license else "",
        title=f"Student of {teacher['id']}" if teacher else "Student",
        purpose=purpose.format(**teacher) if teacher else "",
        teacher=f"`{teacher['id']}`, {teacher['embedding_size']} dimensions" if teacher else "",
        domain=domain,
        reduction=f"{reduction['method']}, to {config.embedding_size} dimensions" if reduction else "",
        parameters=f"{size['parameters']:,}".replace(",", " "),
        kib=[size[key] / 1024 for key in ("flash_float32", "flash_int8", "activation_bytes")],
        millions=size["macs"] / 1e6,
        milliseconds=(1e3 * config.n_fft / config.sample_rate, 1e3 * config.hop_length / config.sample_rate),
        name=config.name(),
        levels="absolute" if config.stages else "relative to the window's maximum",
        r2="" if fit.get("r2") is None else f"{fit['r2']:.3f} (share of the target's variance explained{behind})",
        cosine="" if fit.get("cosine") is None else f"{fit['cosine']:.3f}{behind}",
        scores=scores,
        source=source,
        samples=round(config.window * config.sample_rate),
    )
    return re.sub(r"^\| .* \|  \|\n", "", card, flags=re.MULTILINE)  # facts that are not known


def is_student(path: Path) -> bool:
    """Whether there is a student here: a checkpoint folder, or a Keras or .tflite file, which is not looked into."""
    if not path.is_dir():
        return path.is_file() and path.name.endswith((".h5", ".h5.gz", ".tflite"))
    try:
        return bool(read_json(path / CONFIG_FILE)["model"] == KIND)
    except (EdgeseaError, OSError, KeyError, TypeError):
        return False


def read_student(path_or_id: Path | str) -> StudentFile:
    """Read a checkpoint folder, one of the Hugging Face Hub, or published SEA weights; see `edgesea.load_student`."""
    name, path = str(path_or_id), Path(path_or_id)
    if isinstance(path_or_id, str) and not path.exists():  # a Path means a place here
        if name in PUBLISHED:
            path = fetch(EDGEL3_URL + PUBLISHED[name], PUBLISHED[name], git_blob=GIT_BLOBS[PUBLISHED[name]])
        elif is_hub_id(name):
            path = fetch_hub(name, (CONFIG_FILE, WEIGHTS_FILE))
    if path.is_file() and path.name.endswith((".h5", ".h5.gz")):
        file = _published_student(path)
    elif (path / CONFIG_FILE).is_file():
        file = _checkpoint_student(path, name)
    elif (made := path if path.suffix == ".tflite" else path / "student.tflite").is_file():
        remedy = f"name {made} as the model of embed or evaluate, or the folder of the student that it was made of"
        raise EdgeseaError(f"{name}: an export, not a student; {remedy}")
    else:
        known = f"a published .h5 or .h5.gz file, {', '.join(PUBLISHED)}, or owner/name of the Hugging Face Hub"
        raise EdgeseaError(f"{name}: no student here; give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, {known}")
    if file.config.head in get_args(Head):
        check_shapes({key: array.shape for key, array in file.arrays.items()}, array_shapes(file.config), file.path)
    return file


def _checkpoint_student(folder: Path, id: str) -> StudentFile:
    from safetensors.numpy import load

    path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_json(path)
    with explained(f"{path}: not the configuration of a student"):  # a changed value may fail anywhere
        if config["model"] != KIND:
            raise TypeError(f"its model is not {KIND}")
        architecture = StudentConfig(**config["architecture"])
    with explained(f"{weights}: cannot be read"):
        content = weights.read_bytes()  # safetensors opens no file whose name is not UTF-8
        arrays: Arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        text = header.get("__metadata__", {}).get(ARCHITECTURE)  # missing in the weights of other programs
        trained = StudentConfig(**json.loads(text)) if text else architecture
    if trained != architecture:  # most changes would give wrong embeddings silently
        given, right = asdict(architecture), asdict(trained)
        wrong = ", ".join(f"{key} is {given[key]} instead of {right[key]}" for key in right if given[key] != right[key])
        raise EdgeseaError(f"{path}: not what {WEIGHTS_FILE} was trained with: {wrong}")
    return StudentFile(id, architecture, arrays, weights, config.get("provenance") or {})


def _published_student(path: Path) -> StudentFile:
    """A SEA student from edgel3's Keras file; the size of its last convolution tells which one it is."""
    layers = read_keras_h5(path)
    sizes = [0, *(layer["kernel"].shape[-1] for layer in layers.values() if "kernel" in layer)]
    name = f"sea-{sizes[-1]}"
    if name not in FILTERS:
        raise EdgeseaError(f"{path}: these are the weights of another model: none of {', '.join(FILTERS)}")
    config = StudentConfig.named(name, head="relu_max")
    arrays: Arrays = dict(keras_to_torch(layers, array_shapes(config), path))
    return StudentFile(f"edgel3/{name}", config, arrays, path)
