"""Embeddings of audio files as ``.npz`` files (``embed``, `process_file`), and of raw PCM from a pipe (``stream``)."""

import json
import logging
import os
import select
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import atomic_path, check_file, differences, versions
from edgesea.audio.framing import Float32, Framing
from edgesea.audio.io import Truncated, audio_suffixes, checked_count, checked_flag, find_audio
from edgesea.audio.resampling import Resampling
from edgesea.cluster import results
from edgesea.embed.engine import DEFAULT_MODEL, Stream, embed_files, framing_of
from edgesea.errors import FULL, EdgeseaError, EdgeseaWarning, explained
from edgesea.models import ModelOrName, is_teacher, load_model, shared_model
from edgesea.models.base import EmbeddingModel
from edgesea.models.engine import Engine, Precision
from edgesea.models.student_files import is_student

log = logging.getLogger(__name__)
HEADERS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b".snd")  # that audio files begin with
GROUP = 128  # files that are embedded by one call
Targets = dict[str, tuple[Path, Path]]  # files and their results, by the absolute name of the file
Options = tuple[Framing, int, int | None, Truncated]  # the last of `embed_files`
Missing = tuple[Path, Path, dict[str, Any]]  # a file, its result, and what that is made of
Written = tuple[Path, int, str, Sequence[str]]  # a file, its windows (0: not embedded), its error, warnings


def embed(
    audio: list[Path],
    *,
    model: str = DEFAULT_MODEL,
    out: Path | None = None,
    weights: Path | None = None,
    hop: float = 0.1,
    center: bool = True,
    resampler: Resampling = "soxr",
    suffix: str = "",
    recursive: bool = True,
    overwrite: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    quiet: bool = False,
    truncated: Truncated = "skip",
) -> dict[str, Any]:
    """Embed audio files; each gives ``<name>[_suffix].npz`` with `embedding` (T, D) and `timestamps` (T,) in seconds.

    Run again, it skips the results that are there. For raw PCM from standard input see edgesea stream.

    Parameters
    ----------
    audio : list of Path
        Audio files, and folders that are searched for them. The last word may be the model.
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 (128, 256, 512), or a teacher's id.
    out : Path, optional
        Folder for the results, which keep their place below the folder searched; default: beside each audio file.
    weights : Path, optional
        A teacher's weight file.
    hop : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    resampler : {"soxr", "resampy"}
        What brings audio to the model's rate; resampy (edgesea[compat]) gives the numbers of edgel3 and openl3.
    suffix : str
        Appended to the name, after an underscore unless it begins with a dot.
    recursive : bool
        Search the folders below a folder, too (openl3 and edgel3 do not).
    overwrite : bool
        Embed everything, and replace what is there. Otherwise a result of the same recording, model, hop and centring
        is skipped, and any other file of its name is an error.
    batch_size : int
        Windows embedded at once; short files share a batch.
    workers : int, optional
        Threads that decode ahead; default: OMP_NUM_THREADS, or one for each processor, but 8 at most.
    device : str
        auto, cpu, cuda, mps.
    engine : {"auto", "torch", "onnx", "openvino"}
        What computes the network: onnx or openvino (edgesea[openvino]) on the CPU; torch (edgesea[train])
        anywhere. auto: torch on a GPU; else onnx for students in float32, and openvino, if it is installed, for others.
    precision : {"float32", "float16", "bfloat16"}
        In which the network is computed: bfloat16 by openvino, where the processor has it; float16 on a GPU.
    quiet : bool
        Show no progress, and nothing but errors.
    truncated : {"skip", "use"}
        What becomes of recordings that end, or are damaged, before the end that they announce: an error, or what is
        there is used.

    Returns
    -------
    dict
        files embedded, present (skipped), failed (file: reason), windows.
    """
    if len(audio) > 1 and model == DEFAULT_MODEL:  # the last one may be the model
        last = audio[-1]
        if is_student(last) if last.exists() else last.suffix.lower() not in audio_suffixes():
            model, audio = str(last), audio[:-1]
    targets = result_paths(audio, out, suffix, recursive)
    network, load, jobs = shared_model(load_model, model, weights, device, engine, precision)
    options = (framing_of(network, hop, center, resampler), batch_size, workers, truncated)
    written = _write_missing(network, load, targets, options, overwrite, precision, jobs)
    files, windows, failed = 0, 0, {}
    for file, count, error, found in tqdm(written, "embed", len(targets), unit="file", disable=quiet or None):
        if error:
            failed[str(file)] = error
            log.error("%s: %s", file, error)
        files, windows = files + (count > 0), windows + count
        for warning in [] if quiet else found:
            log.warning("%s: %s", file, warning)
    if len(failed) == len(targets):
        first, reason = next(iter(failed.items()))
        raise EdgeseaError(f"none of {len(targets)} files could be embedded (first: {first}: {reason})")
    return {"files": files, "present": len(targets) - files - len(failed), "failed": failed, "windows": windows}


def process_file(
    path: Path | str,
    output_dir: Path | str | None = None,
    suffix: str | None = None,
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
    overwrite: bool = False,
    resampler: Resampling = "soxr",
) -> Path:
    """Embed an audio file; the result is ``<name>[_suffix].npz`` with `embedding` (T, D) and `timestamps` (T,).

    Parameters
    ----------
    path : path
    output_dir : path, optional
        Folder for the result, made if it is missing; default: that of the audio.
    suffix : str, optional
        Appended to the name, after an underscore unless it begins with a dot.
    model, hop_size, center, batch_size, resampler
        As of `get_embedding`.
    overwrite : bool
        Embed the file again and replace what has the result's name, as edgel3 does. Otherwise a result of the same
        recording, model, hop and centring is skipped, and any other file of its name is an error.

    Returns
    -------
    Path
        The result. EdgeseaError: the file cannot be used, the result cannot be written, or an argument is invalid.
    """
    return process_files([path], output_dir, suffix, model, hop_size, center, batch_size, overwrite, 1, resampler)[0]


def process_files(
    paths: Sequence[Path | str],
    output_dir: Path | str | None = None,
    suffix: str | None = None,
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
    overwrite: bool = False,
    workers: int | None = None,
    resampler: Resampling = "soxr",
) -> list[Path]:
    """Embed many audio files as `process_file` does, decoded ahead in `workers` threads and in shared batches.

    Files whose results would have one name keep their endings (``<name>.flac.npz``). If one cannot be used, that is an
    error after all others have been embedded.
    """
    if isinstance(paths, str | Path):
        raise EdgeseaError(f"paths must be a list of files, not {str(paths)!r}; for one file there is process_file")
    if folder := next((path for path in paths if Path(path).is_dir()), None):
        raise EdgeseaError(f"{folder}: a folder; name the files in it, or embed it: edgesea embed {folder}")
    targets = result_paths(paths, output_dir, suffix or "")
    network, failed = load_model(model), []
    options: Options = (framing_of(network, hop_size, center, resampler), batch_size, workers, "skip")
    precision: Precision = getattr(network, "precision", "float32")
    for path, _, error, found in _write_missing(network, lambda: network, targets, options, overwrite, precision):
        failed += [f"{path}: {error}"] if error else []
        for warning in found:
            warnings.warn(f"{path}: {warning}", EdgeseaWarning, stacklevel=2)
    if failed:
        raise EdgeseaError(f"{len(failed)} of {len(targets)} files could not be embedded: {'; '.join(failed)}")
    return [targets[_absolute(path)][1] for path in paths]


def _write_missing(
    model: EmbeddingModel,
    load: Callable[[], EmbeddingModel],
    targets: Targets,
    options: Options,
    overwrite: bool,
    precision: Precision,
    jobs: int = 1,
) -> Iterator[Written]:
    """Have files embedded and their results written, unless they are there, by `jobs` processes or elsewhere."""
    framing, batch_size, workers, _ = options
    checked_count("batch_size", batch_size), checked_count("workers", 1 if workers is None else workers)
    checked_flag("overwrite", overwrite)
    made_by = {"model": model.id, "digest": model.digest, "hop": framing.hop, "center": framing.center}
    made_by |= {"resampler": framing.resampler, "precision": precision}
    made_by |= {"edgesea": versions().get("edgesea", "unknown")}
    missing: list[Missing] = []
    for path, target in targets.values():
        try:
            check_file(target)
            made_of = {"source": path.name, "bytes": path.stat().st_size, **made_by}
            if overwrite or not target.exists():
                missing.append((path, target, made_of))
                continue
            _check_result(target, made_of)
            yield path, 0, "", ()
        except (EdgeseaError, OSError) as error:
            yield path, 0, str(error), ()
    groups = ((missing[first : first + GROUP],) for first in range(0, len(missing), GROUP))
    yield from chain.from_iterable(results(partial(_write_group, load, options), groups, jobs))


def _write_group(load: Callable[[], EmbeddingModel], options: Options, missing: list[Missing]) -> Iterator[Written]:
    """Embed files with a model and write their results; batches do not reach over the end of the group."""
    files, framing = {path: (target, made_of) for path, target, made_of in missing}, options[0]
    for path, embedding, error, found in embed_files(load(), list(files), *options):
        count = 0
        if embedding is not None:
            count = len(embedding)
            target, made_of = files[path]
            provenance, timestamps = np.array(json.dumps(made_of)), framing.timestamps(count)
            try:
                with atomic_path(target) as temporary, temporary.open("wb") as file:
                    np.savez(file, embedding=embedding, timestamps=timestamps, provenance=provenance)
            except OSError as problem:
                if problem.errno in FULL:
                    raise  # the next one would not fit either
                count, error = 0, f"{target}: {problem.strerror or problem}"
        yield path, count, error, found


def _check_result(path: Path, made_of: dict[str, Any]) -> None:
    """EdgeseaError unless a file is the result that is made of this."""
    remedy = "choose another folder or suffix, or overwrite it"
    with explained(f"{path}: exists, and is not a result of edgesea; {remedy}"), np.load(path) as file:
        once = {"resampler": "soxr", "precision": "float32"}  # the only ones
        found = {**once, **json.loads(file["provenance"].item())}
    # a student is the same if its weights are, whatever it is called
    free = ("edgesea", "model") if made_of["digest"] and not is_teacher(made_of["model"]) else ("edgesea",)
    here = {key: value if key in free else made_of.get(key, value) for key, value in found.items()}
    if found != here:
        raise EdgeseaError(f"{path}: exists, made of other input ({'; '.join(differences(found, here))}); {remedy}")


def result_ending(suffix: str, ending: str = ".npz") -> str:
    """What follows a recording's name in that of its embeddings: ``_suffix.npz``, ``.suffix.npz`` or ``.npz``."""
    return ("" if suffix.startswith(".") or not suffix else "_") + suffix + ending


def result_paths(
    inputs: Sequence[Path | str], out: Path | str | None, suffix: str = "", recursive: bool = True
) -> Targets:
    """Every audio file of the inputs, once, and the path of its result; see `embed`.

    Files that would have the same result all keep their endings: ``b.wav.npz`` and ``b.flac.npz``.
    """
    if any(sign in suffix for sign in ("/", os.sep, "\0")):
        raise EdgeseaError(f"suffix must be a part of a file's name, not {suffix!r}; choose a folder with out=")
    found: Targets = {}  # at first with the place of the file among the results
    for given in map(Path, inputs):
        if not given.exists():
            raise EdgeseaError(f"{given}: no such file or folder")
        if is_student(given):
            raise EdgeseaError(f"{given}: a model, where a recording was expected; the model comes last")
        base, paths = (given, find_audio(given, recursive)) if given.is_dir() else (given.parent, [given])
        for path in paths:
            found.setdefault(_absolute(path), (path, Path(base if out is None else out, path.relative_to(base))))
    stems = Counter(_absolute(place.with_suffix("")) for _, place in found.values())
    sources: dict[str, Path] = {}  # by the absolute name of their results
    for key, (path, place) in found.items():
        name = path.stem if stems[_absolute(place.with_suffix(""))] == 1 else path.name
        found[key] = path, (target := place.with_name(name + result_ending(suffix)))
        if (other := sources.setdefault(_absolute(target), path)) != path:
            raise EdgeseaError(f"{path} and {other} would both give {target}; choose another folder for one")
    return found


def _absolute(path: Path | str) -> str:
    """One name for a path, however it is written; links are not followed, for they are names."""
    return os.path.abspath(path)  # noqa: PTH100


def stream(
    model: str = DEFAULT_MODEL,
    *,
    sample_rate: int | None = None,
    channels: int = 1,
    encoding: Literal["s16le", "f32le"] = "s16le",
    lines: Literal["json", "csv"] = "json",
    weights: Path | None = None,
    hop: float = 0.1,
    center: bool = True,
    batch_size: int = 64,
    device: str = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
) -> None:
    """Embed raw PCM from standard input: a line for each window as soon as it is complete, until the input ends.

    For example: arecord -t raw -f S16_LE -r 48000 | edgesea stream MODEL --sample_rate 48000

    Ctrl-C, SIGTERM and SIGHUP end it, too, after the windows of what has been read. Timestamps are rounded to
    microseconds; embeddings are exact as float32.

    Parameters
    ----------
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 (128, 256, 512), or a teacher's id.
    sample_rate : int
        Rate of the samples in Hz; it must be given.
    channels : int
        Number of interleaved channels; they are averaged.
    encoding : {"s16le", "f32le"}
        16-bit integers or 32-bit floating point, both little-endian.
    lines : {"json", "csv"}
        ``{"timestamp": 0.1, "embedding": [...]}``, or ``0.1,...`` below a header.
    weights : Path, optional
        A teacher's weight file.
    hop : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    batch_size : int
        Windows embedded at once, at most.
    device : str
        auto, cpu, cuda, mps.
    engine : {"auto", "torch", "onnx", "openvino"}
        See edgesea embed.
    precision : {"float32", "float16", "bfloat16"}
        See edgesea embed.
    """
    if sample_rate is None:
        raise EdgeseaError("raw PCM has no header with its sample rate; give it, e.g. --sample_rate 48000")
    if sys.stdin is None or sys.stdin.isatty():
        raise EdgeseaError("stream reads raw PCM from a pipe: arecord -t raw ... | edgesea stream ...")
    checked_count("channels", channels)
    dtype = np.dtype("<i2" if encoding == "s16le" else "<f4")
    embedder = Stream(load_model(model, weights, device, engine, precision), hop, center, sample_rate, batch_size)
    if lines == "csv":
        print("timestamp", *(f"e{index}" for index in range(embedder.model.embedding_size)), sep=",", flush=True)
    stopped = list[int]()  # an Event's lock would wait for itself if a second signal came while it is set
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and shells in the background, ignore some
            signal.signal(number, lambda number, _: stopped.append(number))
    data, begun = b"", False  # what is left of a sample; whether there was any
    while not stopped:
        if os.name != "nt" and not select.select([sys.stdin], [], [], 0.1)[0]:  # Windows cannot wait for a pipe
            continue
        if not (more := os.read(sys.stdin.fileno(), 1 << 16)):
            break
        if not begun and more.startswith(HEADERS):
            raise EdgeseaError(f"not raw PCM but a file ({more[:4]!r}); use arecord -t raw, or: edgesea embed FILE")
        begun, data = True, data + more
        samples = np.frombuffer(data, dtype, len(data) // (channels * dtype.itemsize) * channels)
        data = data[samples.nbytes :]
        _print(*embedder.feed(samples.reshape(-1, channels)), lines)
    if not (begun or stopped):
        raise EdgeseaError("standard input holds no samples")
    _print(*embedder.finish(), lines)


def _print(embedding: Float32, timestamps: NDArray[np.float64], lines: str) -> None:
    for row, time in zip(embedding, timestamps.round(6).tolist(), strict=True):
        values = [str(value) for value in row]  # the shortest text that is this float32
        json = f'{{"timestamp": {time}, "embedding": [{", ".join(values)}]}}'
        print(json if lines == "json" else ",".join([str(time), *values]), flush=True)
