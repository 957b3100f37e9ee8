"""Students on disk: checkpoint folders, and the published SEA weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, disk_error, read_json, write_json
from edgesea.models.checkpoint import file_digest, load_arrays
from edgesea.models.download import EDGEL3_URL, GIT_BLOBS, fetch
from edgesea.models.keras_h5 import keras_to_torch, read_keras_h5
from edgesea.models.student import Student, StudentConfig

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
PUBLISHED = {"sea-512": 512, "sea-256": 256, "sea-128": 128, "sea-64": 64}


def save_student(student: Student, folder: Path, provenance: Mapping[str, Any], card: str) -> None:
    """Write a student as ``config.json`` + ``model.safetensors`` + model card.

    Parameters
    ----------
    student : Student
        What to save.
    folder : Path
        Created if need be; files of an earlier checkpoint are replaced.
    provenance : mapping
        JSON-ready: teacher, reduction, training, scores, versions.
    card : str
        The model card (Markdown).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    arrays = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        try:
            save_file(arrays, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # also of a full disk
            raise disk_error(str(error), folder / WEIGHTS_FILE) from error
    with atomic_path(folder / CARD_FILE) as temporary:
        temporary.write_text(card, "utf-8")
    config = {"model": "edgesea.student", "architecture": student.config.to_dict(), "provenance": dict(provenance)}
    write_json(folder / CONFIG_FILE, config)


def read_student(path_or_id: Path | str) -> Student:
    """Read a checkpoint folder or published SEA weights; see `edgesea.load_student`."""
    name = str(path_or_id)
    path = Path(path_or_id)
    if name.startswith("edgel3/") and not path.exists():
        short = name.removeprefix("edgel3/")
        if short not in PUBLISHED:
            raise EdgeseaError(
                f"unknown student {name!r}; published: {', '.join('edgel3/' + key for key in PUBLISHED)}"
            )
        file = f"edgel3_sea_ust_audio_emb_{PUBLISHED[short]}.h5.gz"
        path = fetch(EDGEL3_URL + file, file, git_blob=GIT_BLOBS[file])
    if path.is_file() and path.name.endswith((".h5", ".h5.gz")):
        return _published_student(path)
    if not (path / CONFIG_FILE).is_file():
        raise EdgeseaError(
            f"{path}: no student here; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, a published .h5 or "
            f".h5.gz file, or one of {', '.join('edgel3/' + key for key in PUBLISHED)}"
        )
    return _checkpoint_student(path)


def _checkpoint_student(folder: Path) -> Student:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("model") != "edgesea.student":
        raise EdgeseaError(f"{folder / CONFIG_FILE}: not the configuration of an edgesea student")
    try:
        student = Student(StudentConfig.from_dict(config["architecture"]))
    except Exception as error:  # a changed value fails somewhere in the making of the network
        raise EdgeseaError(f"{folder / CONFIG_FILE}: no student can be made of it: {error}") from error
    weights = folder / WEIGHTS_FILE
    try:
        arrays = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise EdgeseaError(f"{weights}: cannot be read: {error}") from error
    load_arrays(student, arrays, weights)
    student.id, student.digest = str(folder), file_digest(weights)
    return student


def _published_student(path: Path) -> Student:
    """A SEA student from edgel3's Keras file; the size of its last convolution tells which one it is."""
    layers = read_keras_h5(path)
    kernels = [arrays["kernel"] for _, arrays in layers if "kernel" in arrays]
    if not kernels:
        raise EdgeseaError(f"{path}: these are the weights of another model: no convolution in it")
    name = f"sea-{kernels[-1].shape[-1]}"
    student = Student(StudentConfig.named(name, head="relu_max"))
    load_arrays(student, keras_to_torch(layers, student.keras_order(), path), path)
    student.id, student.digest = f"edgel3/{name}", file_digest(path)
    return student
