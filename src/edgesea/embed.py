"""Embeddings of audio files, with any student or teacher, as ``.npz`` files: ``embed``, `process_file`."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgesea.audio.io import AudioFile, audio_suffixes, is_audio
from edgesea.audio.windows import Framing
from edgesea.embedding import (
    DEFAULT_MODEL,
    EdgeseaWarning,
    Float32,
    ModelOrName,
    as_model,
    checked_center,
    checked_count,
    checked_hop,
    remarks,
)
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, walk
from edgesea.models import Backend
from edgesea.models.base import EmbeddingModel
from edgesea.models.inference import FileEmbedding, embed_files, load_model

log = logging.getLogger(__name__)


def embed(
    inputs: list[Path],
    model: str,
    *,
    out: Path | None = None,
    weights: Path | None = None,
    hop: float = 0.1,
    center: bool = True,
    suffix: str = "",
    recursive: bool = True,
    overwrite: bool = False,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
    backend: Backend = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Embed audio files; each gives ``<name>[_suffix].npz`` with `embedding` (T, D) and `timestamps` (T,) in seconds.

    `edgesea embed MODEL --stdin` embeds raw PCM from standard input; see `edgesea stream`.

    Parameters
    ----------
    inputs : list of Path
        Audio files, and folders that are searched for them.
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or a teacher's id.
    out : Path, optional
        Folder for the results, which keep their place below the folder searched; default: beside each audio file.
    weights : Path, optional
        A teacher's weight file.
    hop : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    suffix : str
        Appended to the name, after an underscore unless it begins with a dot.
    recursive : bool
        Search the folders below a folder, too (openl3 and edgel3 do not).
    overwrite : bool
        Embed files again whose result exists.
    batch_size : int
        Windows embedded at once; short files share a batch.
    workers : int
        Threads that decode ahead.
    device : str
        auto, cpu, cuda, mps.
    backend : {"auto", "torch", "onnx"}
        What computes a student: onnx on the CPU, torch (edgesea[train]) anywhere; auto: onnx unless there is a GPU.
    quiet : bool
        Show no progress, and tell of nothing but errors.

    Returns
    -------
    dict
        files embedded, present (skipped because the result exists), failed (file: reason), windows.

    Raises
    ------
    EdgeseaError
        If an input or the model is missing, an option is invalid, or no file could be embedded.
    """
    batch_size, workers = checked_count("batch_size", batch_size), checked_count("workers", workers)
    network = load_model(model, weights, device, backend)
    framing = Framing(network.window or 1.0, hop, center)
    targets = _targets(inputs, out, suffix, recursive)
    todo = {path: target for path, target in targets.items() if overwrite or not target.exists()}
    failed: dict[str, str] = {}
    windows = 0
    for result in _write(network, todo, framing, batch_size, workers, quiet):
        if result.embedding is None:
            failed[str(result.path)] = result.error
            log.error("%s: %s", result.path, result.error)
            continue
        windows += len(result.embedding)
        for remark in [] if quiet else _remarks(network, framing, result.path, result.embedding):
            log.warning("%s: %s", result.path, remark)
    if todo and len(failed) == len(todo):
        path, reason = next(iter(failed.items()))
        raise EdgeseaError(f"none of {len(todo)} files could be embedded (first: {path}: {reason})")
    return {
        "files": len(todo) - len(failed),
        "present": len(targets) - len(todo),
        "failed": failed,
        "windows": windows,
    }


def process_file(
    path: Path | str,
    output_dir: Path | str | None = None,
    suffix: str | None = None,
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
    overwrite: bool = False,
) -> Path:
    """Embed an audio file; the result is ``<name>[_suffix].npz`` with `embedding` (T, D) and `timestamps` (T,).

    Parameters
    ----------
    path : path
        Anything that libsndfile reads.
    output_dir : path, optional
        Folder for the result, made if it is missing; default: that of the audio.
    suffix : str, optional
        Appended to the name, after an underscore unless it begins with a dot.
    model, hop_size, center, batch_size
        As of `get_embedding`.
    overwrite : bool
        Embed the file again if the result exists (edgel3 always does, openl3 has this option).

    Returns
    -------
    Path
        The result, also if it was there.

    Raises
    ------
    EdgeseaError
        If the file is missing, cannot be decoded, is empty or holds NaN or Inf; as `get_embedding` for the options.

    Warns
    -----
    EdgeseaWarning
        If the audio is shorter than a window (zeros fill it up), or silent.
    """
    return _process([path], output_dir, suffix, model, hop_size, center, batch_size, overwrite)[0]


def process_files(
    paths: Sequence[Path | str],
    output_dir: Path | str | None = None,
    suffix: str | None = None,
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
    overwrite: bool = False,
    workers: int = 2,
) -> list[Path]:
    """Embed many audio files as `process_file` does, in shared batches and decoded ahead.

    Parameters
    ----------
    paths : sequence of paths
        Audio files. Of two whose results would have the same name, the second keeps its ending: ``<name>.flac.npz``.
    output_dir, suffix, model, hop_size, center, batch_size, overwrite
        As of `process_file`.
    workers : int
        Threads that decode ahead.

    Returns
    -------
    list of Path
        The result of each file.

    Raises
    ------
    EdgeseaError
        As `process_file`; if a file cannot be used, after all others have been embedded.

    Warns
    -----
    EdgeseaWarning
        As `process_file`.
    """
    if isinstance(paths, str | Path):
        raise EdgeseaError(f"paths must be a list of files, not {str(paths)!r}; for one file there is process_file")
    return _process(paths, output_dir, suffix, model, hop_size, center, batch_size, overwrite, workers)


def _process(
    paths: Sequence[Path | str],
    output_dir: Path | str | None,
    suffix: str | None,
    model: ModelOrName,
    hop_size: float,
    center: bool,
    batch_size: int,
    overwrite: bool,
    workers: int = 2,
) -> list[Path]:
    hop, centered = checked_hop(hop_size), checked_center(center)
    batch_size, workers = checked_count("batch_size", batch_size), checked_count("workers", workers)
    files = [_audio_path(path) for path in paths]
    targets = _targets(files, None if output_dir is None else Path(output_dir), suffix or "")
    todo = {path: target for path, target in targets.items() if overwrite or not target.exists()}
    for path in targets.keys() - todo.keys():
        log.info("%s: skipped, for %s exists", path, targets[path])
    if todo:
        network = as_model(model)
        framing = Framing(network.window or 1.0, hop, centered)
        failed = []
        for result in _write(network, todo, framing, batch_size, workers, quiet=len(todo) == 1):
            if result.embedding is None:
                failed.append(f"{result.path}: {result.error}")
                continue
            for remark in _remarks(network, framing, result.path, result.embedding):
                warnings.warn(f"{result.path}: {remark}", EdgeseaWarning, stacklevel=3)
        if failed:
            others = f"{len(failed)} of {len(todo)} files could not be embedded: " if len(todo) > 1 else ""
            raise EdgeseaError(others + "; ".join(failed))
    return [targets[path] for path in files]


def _audio_path(path: Path | str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise EdgeseaError(f"expected the path of an audio file, not {path!r}")
    found = Path(path)
    if not found.exists():
        raise EdgeseaError(f"{found}: no such file")
    if found.is_dir():
        raise EdgeseaError(f"{found}: is a folder; name the files in it, or embed it: edgesea embed {found} MODEL")
    return found


def _write(
    model: EmbeddingModel, todo: Mapping[Path, Path], framing: Framing, batch_size: int, workers: int, quiet: bool
) -> Iterator[FileEmbedding]:
    """Embed the keys of `todo` and write what they give to its values; a result that is yielded is written."""
    with tqdm(total=len(todo), unit="file", desc="embed", disable=quiet or None) as bar:
        for result in embed_files(model, list(todo), framing, batch_size, workers):
            bar.update()
            if result.embedding is not None:
                stamps = framing.timestamps(len(result.embedding))
                with atomic_path(todo[result.path]) as temporary, temporary.open("wb") as file:
                    np.savez(file, embedding=result.embedding, timestamps=stamps)
            yield result


def _remarks(model: EmbeddingModel, framing: Framing, path: Path, embedding: Float32) -> list[str]:
    """`embedding.remarks` of a file that has been embedded.

    It is decoded once more only where its embeddings leave that possible: if they are as few as those of one window's
    length, or all the same, as those of silence are.
    """
    sample_framing = framing.at(model.sample_rate)
    few = len(embedding) <= sample_framing.count(sample_framing.window)
    if not few and not np.allclose(embedding, embedding[0], rtol=1e-3, atol=1e-3 * float(np.abs(embedding).max())):
        return []
    with AudioFile(path) as file:
        return remarks(file.chunks(), file.sample_rate, framing.window)


def _targets(inputs: Sequence[Path], out: Path | None, suffix: str, recursive: bool = True) -> dict[Path, Path]:
    """Every audio file to embed, with its result's path."""
    if "/" in suffix or os.sep in suffix:
        raise EdgeseaError(f"suffix must be a part of a file's name, not {suffix!r}; choose a folder with out=")
    ending = f"{suffix}.npz" if suffix.startswith(".") or not suffix else f"_{suffix}.npz"
    sources: dict[Path, Path] = {}
    for given in map(Path, inputs):
        for path in _found(given, recursive):
            base = (
                path.parent if out is None else Path(out) / (path.parent.relative_to(given) if given.is_dir() else "")
            )
            target = base / f"{path.stem}{ending}"
            if sources.get(target, path) != path:  # the same name with another ending: keep both
                target = base / f"{path.name}{ending}"
            if sources.setdefault(target, path) != path:
                raise EdgeseaError(f"{path} and {sources[target]} would both give {target}; embed them one by one")
    return {path: target for target, path in sources.items()}


def _found(given: Path, recursive: bool) -> list[Path]:
    """The file itself, or the audio files of a folder in order of their names."""
    if not given.exists():
        raise EdgeseaError(f"{given}: no such file or folder")
    if given.is_file():
        return [given]
    found = sorted(filter(is_audio, walk(given) if recursive else given.iterdir()))
    if not found:
        raise EdgeseaError(f"{given}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
    return found
