"""Embeddings of audio files, with any student or teacher, as ``.npz`` files: ``embed``, `process_file`."""

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edgesea.artifact import FULL
from edgesea.audio.framing import Framing
from edgesea.audio.io import check_readable, checked_count, checked_flag, checked_hop
from edgesea.embed.engine import FileEmbedding, embed_files
from edgesea.embed.memory import DEFAULT_MODEL
from edgesea.embed.results import is_there, model_provenance, result_paths, spelled, write_embedding
from edgesea.errors import EdgeseaError, EdgeseaWarning
from edgesea.models import Backend, ModelOrName, load_model
from edgesea.models.base import EmbeddingModel, window_of

log = logging.getLogger(__name__)
ENDS = 2**16  # bytes


def embed(
    inputs: list[Path],
    model: str = DEFAULT_MODEL,
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

    edgesea embed AUDIO ... [MODEL] embeds files and folders. With --stdin it embeds raw PCM from standard input; see
    edgesea stream.

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
        Embed everything, and replace what is there. Otherwise a result is kept if it was made of the same recording
        with the same model, hop and centring; any other file of its name is an error.
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
    OSError
        If the disk is full.
    """
    options = _Options(checked_hop("hop", hop), center, batch_size, overwrite, workers, quiet)
    targets = result_paths(inputs, out, suffix, recursive)
    network = load_model(model, weights, device, backend)
    failed: dict[str, str] = {}
    files = present = windows = 0
    for outcome in _outcomes(network, targets, options):
        if outcome.error:
            failed[str(outcome.path)] = outcome.error
            log.error("%s: %s", outcome.path, outcome.error)
        elif outcome.present:
            present += 1
        else:
            files, windows = files + 1, windows + outcome.windows
            for remark in [] if quiet else outcome.remarks:
                log.warning("%s: %s", outcome.path, remark)
    if len(failed) == len(targets):
        path, reason = next(iter(failed.items()))
        raise EdgeseaError(f"none of {len(targets)} files could be embedded (first: {path}: {reason})")
    return {"files": files, "present": present, "failed": failed, "windows": windows}


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
        Embed the file again, and replace what has the result's name (edgel3 always does, openl3 has this option).
        Otherwise a result is kept if it was made of the same recording with the same model, hop and centring; any other
        file of its name is an error.

    Returns
    -------
    Path
        The result, also if it was there.

    Raises
    ------
    EdgeseaError
        If the file is missing, cannot be decoded, is empty or holds NaN or Inf; if the result cannot be written, or is
        one of something else; as `get_embedding` for the options.
    OSError
        If the disk is full.

    Warns
    -----
    EdgeseaWarning
        If the audio is shorter than a window (zeros fill it up), or silent.
    """
    options = _Options(checked_hop("hop_size", hop_size), center, batch_size, overwrite, quiet=True)
    return _process([path], output_dir, suffix, model, options)[0]


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
        Audio files. Those whose results would have the same name keep their endings: ``<name>.flac.npz``.
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
    EdgeseaError, OSError
        As `process_file`; if a file is there but cannot be used, after all others have been embedded.

    Warns
    -----
    EdgeseaWarning
        As `process_file`.
    """
    if isinstance(paths, str | Path):
        raise EdgeseaError(f"paths must be a list of files, not {str(paths)!r}; for one file there is process_file")
    options = _Options(checked_hop("hop_size", hop_size), center, batch_size, overwrite, workers)
    return _process(list(paths), output_dir, suffix, model, options)


@dataclass(frozen=True)
class _Options:
    """How files are embedded; checked when it is made."""

    hop: float
    center: bool
    batch_size: int
    overwrite: bool
    workers: int = 2
    quiet: bool = False

    def __post_init__(self) -> None:
        checked_flag("center", self.center)
        checked_flag("overwrite", self.overwrite)
        checked_count("batch_size", self.batch_size)
        checked_count("workers", self.workers)


@dataclass(frozen=True)
class _Outcome:
    """What became of a file: embedded, present (its result was there), or failed with an error."""

    path: Path
    windows: int = 0
    present: bool = False
    error: str = ""
    remarks: list[str] = field(default_factory=list)


def _process(
    paths: Sequence[Path | str],
    output_dir: Path | str | None,
    suffix: str | None,
    model: ModelOrName,
    options: _Options,
) -> list[Path]:
    files = [_audio_path(path) for path in paths]
    targets = result_paths(files, output_dir, suffix or "")
    failed = []
    for outcome in _outcomes(load_model(model), targets, options):
        if outcome.error:
            failed.append(f"{outcome.path}: {outcome.error}")
        if outcome.present:
            log.info("%s: skipped, for %s exists", outcome.path, targets[outcome.path])
        for remark in outcome.remarks:
            warnings.warn(f"{outcome.path}: {remark}", EdgeseaWarning, stacklevel=3)
    if failed:
        others = f"{len(failed)} of {len(targets)} files could not be embedded: " if len(targets) > 1 else ""
        raise EdgeseaError(others + "; ".join(failed))
    results = {spelled(path): target for path, target in targets.items()}  # a file may be named in several ways
    return [results[spelled(path)] for path in files]


def _audio_path(path: Path | str) -> Path:
    if not isinstance(path, str | Path):
        raise EdgeseaError(f"expected the path of an audio file, not {path!r}")
    found = Path(path)
    if found.is_dir():
        raise EdgeseaError(f"{found}: is a folder; name the files in it, or embed it: edgesea embed {found}")
    return found


def _outcomes(model: EmbeddingModel, targets: Mapping[Path, Path], options: _Options) -> Iterator[_Outcome]:
    """Embed the keys of `targets` and write what they give to its values; what is told of is written."""
    framing = Framing(window_of(model), options.hop, bool(options.center))
    made_by = model_provenance(model, framing.hop, framing.center)
    todo: dict[Path, dict[str, Any]] = {}  # with what their results are made of
    for path, target in targets.items():
        try:
            provenance = _recording(path) | made_by
            if not options.overwrite and is_there(target, provenance):
                yield _Outcome(path, present=True)
            else:
                todo[path] = provenance
        except (EdgeseaError, OSError) as error:
            yield _Outcome(path, error=_reason(error, target).removeprefix(f"{path}: "))
    with tqdm(total=len(todo), unit="file", desc="embed", disable=options.quiet or None) as bar:
        for result in embed_files(model, list(todo), framing, options.batch_size, options.workers):
            bar.update()
            yield _written(framing, result, targets[result.path], todo[result.path], options.overwrite)


def _recording(path: Path) -> dict[str, Any]:
    """What tells a recording from another one of its name, or from itself before it was changed, as JSON values.

    Recorders on one schedule make files of equal names, sizes and times; what they heard is in the first and last 64
    KiB as well, which are read soon also of a file of hours.
    """
    check_readable(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        for place in (0, max(0, status.st_size - ENDS)):
            file.seek(place)
            digest.update(file.read(ENDS))
    told = {"source": path.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    return told | {"sha256_of_ends": digest.hexdigest()}


def _written(
    framing: Framing,
    result: FileEmbedding,
    target: Path,
    provenance: Mapping[str, Any],
    overwrite: bool,
) -> _Outcome:
    """Write the embeddings of a file, if there are any."""
    if result.embedding is None:
        return _Outcome(result.path, error=result.error)
    try:
        if not overwrite and is_there(target, provenance):  # by now, from another process
            return _Outcome(result.path, present=True)
        write_embedding(target, result.embedding, framing.timestamps(len(result.embedding)), provenance)
    except (EdgeseaError, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # the next one would not fit either
        return _Outcome(result.path, error=_reason(error, target))
    return _Outcome(result.path, len(result.embedding), remarks=list(result.warnings))


def _reason(error: EdgeseaError | OSError, path: Path) -> str:
    """What is wrong, without the name of a temporary file."""
    return f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
