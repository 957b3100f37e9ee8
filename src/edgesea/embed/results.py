"""Embeddings on disk: ``.npz`` files with `embedding`, `timestamps` and, as JSON, what they were made of."""

import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import atomic_path, check_file, differences, versions, walk
from edgesea.audio.io import audio_suffixes, is_audio
from edgesea.errors import EdgeseaError
from edgesea.models import is_teacher
from edgesea.models.base import EmbeddingModel
from edgesea.models.student_files import is_student

ENDING = ".npz"


def model_provenance(model: EmbeddingModel, hop: float, center: bool) -> dict[str, Any]:
    """What of a model and a framing decides about embeddings, as JSON values; `hop` in seconds."""
    version = versions().get("edgesea", "unknown")
    return {"model": model.id, "digest": model.digest, "hop": hop, "center": center, "edgesea": version}


def write_embedding(
    path: Path, embedding: NDArray[np.float32], timestamps: NDArray[np.float64], provenance: Mapping[str, Any]
) -> None:
    """Write embeddings, atomically.

    Parameters
    ----------
    path : Path
        File to be made or replaced; its folder is made if it is missing.
    embedding : ndarray, (T, D) float32
        May be mapped from a file.
    timestamps : ndarray, (T,) float64
        In seconds.
    provenance : mapping
        What they were made of, as JSON values.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    text = json.dumps(dict(provenance), ensure_ascii=False)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, embedding=embedding, timestamps=timestamps, provenance=np.array(text))


def read_provenance(path: Path) -> dict[str, Any]:
    """What the embeddings of a file were made of; the embeddings themselves are not read.

    Raises
    ------
    EdgeseaError
        If the file is damaged, or none that `write_embedding` made.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = json.loads(file["provenance"].item())
            complete = {"embedding", "timestamps"} <= set(file.files)
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise EdgeseaError(f"{path}: not a complete file of edgesea's embeddings") from error
    if not isinstance(found, dict) or not complete:
        raise EdgeseaError(f"{path}: not a complete file of edgesea's embeddings")
    return found


def is_there(path: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether a file holds the embeddings that are made of `provenance`; False if there is none.

    A student is the same if its digest is, whatever it was called. A teacher must have the same id, too, and one
    without a digest be of the same version of edgesea. (A HEAR module without a weight file may change unnoticed.)

    Raises
    ------
    EdgeseaError
        If it is made of something else, damaged or no such file, so that it must not be replaced unasked; or if nothing
        can be written there.
    """
    check_file(path)
    if not path.exists():
        return False
    remedy = "choose another folder or suffix, or overwrite it"
    try:
        found = read_provenance(path)
    except EdgeseaError as error:
        raise EdgeseaError(f"{error}; {remedy}") from error
    deciding = set(provenance)
    if provenance["digest"]:
        deciding -= {"edgesea"} if is_teacher(provenance["model"]) else {"edgesea", "model"}
    there, here = ({key: made.get(key) for key in deciding} for made in (found, provenance))
    if there != here:
        raise EdgeseaError(f"{path}: exists, made of other input ({'; '.join(differences(there, here))}); {remedy}")
    return True


def name_end(suffix: str) -> str:
    """What stands between a recording's name and the ending of its embeddings: ``_suffix``, ``.suffix`` or nothing."""
    return suffix if suffix.startswith(".") or not suffix else f"_{suffix}"


def result_paths(
    inputs: Sequence[Path], out: Path | str | None, suffix: str = "", recursive: bool = True
) -> dict[Path, Path]:
    """Where the embeddings of audio files go.

    Parameters
    ----------
    inputs : sequence of Path
        Audio files, and folders that are searched for them.
    out : path, optional
        Folder for the results, which keep their place below the folder searched; default: beside each audio file.
    suffix : str
        Appended to the name, after an underscore unless it begins with a dot.
    recursive : bool
        Search the folders below a folder, too.

    Returns
    -------
    dict of Path to Path
        Every audio file, once, and its result: ``<stem>[_suffix].npz``. Files that would have the same one all keep
        their endings (``b.wav.npz`` and ``b.flac.npz``). A file that was found below several folders has its place
        below the outermost. So the order in which they are named is of no account.

    Raises
    ------
    EdgeseaError
        If an input is missing, a folder holds no audio, the suffix is no part of a name, or two results would still be
        one.
    """
    if not isinstance(suffix, str) or any(sign in suffix for sign in ("/", os.sep, "\0")):
        raise EdgeseaError(f"suffix must be a part of a file's name, not {suffix!r}; choose a folder with out=")
    if not isinstance(out, str | Path | None):
        raise EdgeseaError(f"expected the path of a folder for the results, not {out!r}")
    ending = name_end(suffix) + ENDING
    paths: dict[str, Path] = {}  # by what tells files apart
    below: dict[str, Path] = {}  # their place below `out`
    for given in map(Path, inputs):
        for path in _found(given, recursive):
            name = spelled(path)
            paths.setdefault(name, path)
            place = path.parent.relative_to(given) if given.is_dir() else Path()
            below[name] = max(below.get(name, Path()), place, key=lambda place: len(place.parts))
    folders = {name: path.parent if out is None else Path(out) / below[name] for name, path in paths.items()}
    shared = Counter((spelled(folders[name]), path.stem) for name, path in paths.items())
    targets: dict[Path, Path] = {}
    sources: dict[str, Path] = {}
    for name, path in paths.items():
        base = path.stem if shared[spelled(folders[name]), path.stem] == 1 else path.name
        targets[path] = folders[name] / f"{base}{ending}"
        other = sources.setdefault(spelled(targets[path]), path)
        if other != path:
            raise EdgeseaError(f"{path} and {other} would both give {targets[path]}; choose another folder for one")
    return targets


def spelled(path: Path) -> str:
    """The path in the one way of all in which it can be spelled; links are not followed, for they are names."""
    return os.path.abspath(path)  # noqa: PTH100


def _found(given: Path, recursive: bool) -> list[Path]:
    """The file itself, or the audio files of a folder in order of their names."""
    if not given.exists():
        raise EdgeseaError(f"{given}: no such file or folder")
    if is_student(given):
        raise EdgeseaError(f"{given}: a model, where a recording was expected; the model comes last")
    if not given.is_dir():
        return [given]
    found = sorted(filter(is_audio, walk(given) if recursive else given.iterdir()))
    if not found:
        raise EdgeseaError(f"{given}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
    return found
