"""Students on disk: checkpoint folders, and the published SEA weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import atomic_path, read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.models.config import StudentConfig, array_shapes, keras_order
from edgesea.models.download import EDGEL3_URL, GIT_BLOBS, fetch, fetch_hub, is_hub_id
from edgesea.models.keras_h5 import keras_to_torch, read_keras_h5
from edgesea.models.weights import file_digest

if TYPE_CHECKING:
    from edgesea.models.student import Student

Arrays = dict[str, NDArray[Any]]
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
KIND = "edgesea.student"
ARCHITECTURE = "architecture"  # the one key of the weights' metadata: safetensors writes several in a random order
PUBLISHED = {"sea-512": 512, "sea-256": 256, "sea-128": 128, "sea-64": 64}


@dataclass(frozen=True)
class StudentFile:
    """A student as it was read, for either back end.

    Attributes
    ----------
    id, digest : str
        Name under which it was loaded; sha256 of its weight file.
    config : StudentConfig
        Its architecture.
    arrays : dict of str to ndarray
        Its weights in single precision, with torch's names and axes; whoever makes a network of them checks the shapes.
    path : Path
        The weight file.
    """

    id: str
    digest: str
    config: StudentConfig
    arrays: Arrays
    path: Path


def save_student(student: "Student", folder: Path, provenance: Mapping[str, Any], card: str) -> None:
    """Write a student as ``config.json`` + ``model.safetensors`` + model card.

    The weights carry the architecture, too: it decides as much about the embeddings as they do, and so is in their
    digest.

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
    from safetensors.numpy import save

    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in student.state_dict().items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:  # not by save_file, which lets nobody else read it
        temporary.write_bytes(save(arrays, metadata={ARCHITECTURE: json.dumps(student.config.to_dict())}))
    with atomic_path(folder / CARD_FILE) as temporary:
        temporary.write_text(card, "utf-8")
    config = {"model": KIND, "architecture": student.config.to_dict(), "provenance": dict(provenance)}
    write_json(folder / CONFIG_FILE, config)


def is_student(path: Path) -> bool:
    """Whether there is a student here: a checkpoint folder or a Keras file, which is not looked into."""
    if path.is_dir():
        try:
            config = read_json(path / CONFIG_FILE)
        except (EdgeseaError, OSError):
            return False
        return isinstance(config, dict) and config.get("model") == KIND
    return path.is_file() and path.name.endswith((".h5", ".h5.gz"))


def read_student(path_or_id: Path | str) -> StudentFile:
    """Read a checkpoint folder, one of the Hugging Face Hub, or published SEA weights; see `edgesea.load_student`."""
    if not isinstance(path_or_id, str | Path):
        raise EdgeseaError(f"expected the path or id of a student, not {path_or_id!r}")
    name = str(path_or_id)
    path = Path(path_or_id)
    if isinstance(path_or_id, str) and name.startswith("edgel3/") and not path.exists():
        short = name.removeprefix("edgel3/")
        if short not in PUBLISHED:
            raise EdgeseaError(
                f"unknown student {name!r}; published: {', '.join('edgel3/' + key for key in PUBLISHED)}"
            )
        file = f"edgel3_sea_ust_audio_emb_{PUBLISHED[short]}.h5.gz"
        path = fetch(EDGEL3_URL + file, file, git_blob=GIT_BLOBS[file])
    if path.is_file() and path.name.endswith((".h5", ".h5.gz")):
        return _published_student(path)
    if isinstance(path_or_id, str) and is_hub_id(name):  # a Path means a place here
        path = fetch_hub(name, (CONFIG_FILE, WEIGHTS_FILE))
    if not (path / CONFIG_FILE).is_file():
        raise EdgeseaError(
            f"{name}: no student here{'' if path.exists() else ' (no such file or folder)'}; expected a folder with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}, owner/name of one on the Hugging Face Hub (owner/name@main if there "
            "is a folder owner here), a published .h5 or .h5.gz file, or one of "
            + ", ".join("edgel3/" + key for key in PUBLISHED)
        )
    return _checkpoint_student(path, name)


def _checkpoint_student(folder: Path, id: str) -> StudentFile:
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or config.get("model") != KIND:
        raise EdgeseaError(f"{folder / CONFIG_FILE}: not the configuration of an edgesea student")
    try:
        architecture = StudentConfig.from_dict(config["architecture"])
        array_shapes(architecture)
    except Exception as error:  # a changed value fails somewhere in the making of the network
        raise EdgeseaError(f"{folder / CONFIG_FILE}: no student can be made of it: {error}") from error
    weights = folder / WEIGHTS_FILE
    arrays, trained = _read_weights(weights)
    if trained is not None:
        _check_unchanged(architecture.to_dict(), trained, folder)
    return StudentFile(id, file_digest(weights), architecture, arrays, weights)


def _check_unchanged(given: dict[str, Any], trained: dict[str, Any], folder: Path) -> None:
    """Refuse an architecture that is not that of the weights; most changes would give wrong embeddings silently."""
    changed = [key for key in trained if trained[key] != given[key]]
    if changed:
        listed, remedy = (", ".join(f'"{key}": {json.dumps(it[key])}' for key in changed) for it in (given, trained))
        raise EdgeseaError(
            f"{folder / CONFIG_FILE}: it says {listed}, but the weights in {WEIGHTS_FILE} were trained with {remedy}; "
            "write that, or train another student"
        )


def _read_weights(path: Path) -> tuple[Arrays, dict[str, Any] | None]:
    """The arrays of a safetensors file, floats in single precision, and the architecture if it is there."""
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file

    try:
        arrays: Arrays = load_file(path)
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(ARCHITECTURE)
        trained = None if text is None else StudentConfig.from_dict(json.loads(text)).to_dict()
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:  # TypeError, KeyError: numpy lacks it
        raise EdgeseaError(f"{path}: cannot be read: {error}") from error
    single = {
        name: array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }
    return single, trained


def _published_student(path: Path) -> StudentFile:
    """A SEA student from edgel3's Keras file; the size of its last convolution tells which one it is."""
    layers = read_keras_h5(path)
    kernels = [arrays["kernel"] for _, arrays in layers if "kernel" in arrays]
    if not kernels:
        raise EdgeseaError(f"{path}: these are the weights of another model: no convolution in it")
    name = f"sea-{kernels[-1].shape[-1]}"
    config = StudentConfig.named(name, head="relu_max")
    arrays: Arrays = dict(keras_to_torch(layers, keras_order(config), path))
    return StudentFile(f"edgel3/{name}", file_digest(path), config, arrays, path)
