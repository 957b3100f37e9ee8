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

from edgesea.audio.io import audio_suffixes, is_audio
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, check_file, differences, walk
from edgesea.models.base import EmbeddingModel

ENDING = ".npz"


def model_provenance(model: EmbeddingModel, hop: float, center: bool) -> dict[str, Any]:
    """What of a model and a framing decides about embeddings, as JSON values; `hop` in seconds."""
    return {"model": model.id, "digest": model.digest, "hop": hop, "center": center}


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
    found = {key: value for key, value in found.items() if key in provenance}
    if found != provenance:
        raise EdgeseaError(
            f"{path}: exists, made of other input ({'; '.join(differences(found, provenance))}); {remedy}"
        )
    return True


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
        Every audio file and its result: ``<stem>[_suffix].npz``. Files that would have the same one all keep their
        endings (``b.wav.npz`` and ``b.flac.npz``), so that the order in which they are named is of no account.

    Raises
    ------
    EdgeseaError
        If an input is missing, a folder holds no audio, the suffix is no part of a name, or two results would still be
        one.
    """
    if not isinstance(suffix, str) or "/" in suffix or os.sep in suffix:
        raise EdgeseaError(f"suffix must be a part of a file's name, not {suffix!r}; choose a folder with out=")
    ending = f"{suffix}{ENDING}" if suffix.startswith(".") or not suffix else f"_{suffix}{ENDING}"
    folders: dict[Path, Path] = {}  # of the results
    for given in map(Path, inputs):
        for path in _found(given, recursive):
            below = path.parent.relative_to(given) if given.is_dir() else ""
            folders.setdefault(path, path.parent if out is None else Path(out) / below)
    shared = Counter((folders[path], path.stem) for path in {_spelled(path): path for path in folders}.values())
    targets: dict[Path, Path] = {}
    sources: dict[Path, Path] = {}
    for path, folder in folders.items():
        target = folder / f"{path.stem if shared[folder, path.stem] < 2 else path.name}{ending}"
        other = sources.setdefault(target, path)
        if _spelled(other) != _spelled(path):
            raise EdgeseaError(f"{path} and {other} would both give {target}; embed them one by one")
        targets[path] = target
    return targets


def _spelled(path: Path) -> str:
    """The path in the one way of all in which it can be spelled; links are not followed, for they are names."""
    return os.path.abspath(path)  # noqa: PTH100


def _found(given: Path, recursive: bool) -> list[Path]:
    """The file itself, or the audio files of a folder in order of their names."""
    if not given.exists():
        raise EdgeseaError(f"{given}: no such file or folder")
    if not given.is_dir():
        return [given]
    found = sorted(filter(is_audio, walk(given) if recursive else given.iterdir()))
    if not found:
        raise EdgeseaError(f"{given}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
    return found
