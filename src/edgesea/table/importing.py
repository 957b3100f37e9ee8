"""``import``: a table from embeddings that exist already, without a teacher."""

import gzip
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import file_state, walk
from edgesea.audio.framing import FINEST, Framing
from edgesea.audio.io import AudioFile, checked_rate
from edgesea.embed.engine import embed_sources
from edgesea.embed.files import result_ending
from edgesea.errors import EdgeseaError
from edgesea.table import clips
from edgesea.table.clips import ClipEntry, Piece

log = logging.getLogger(__name__)
Float32 = NDArray[np.float32]

SHARDS = (".h5", ".hdf5")
STAMP_TOLERANCE = 1e-3  # s; and 1e-6 of the timestamp itself, which may be in single precision
MP3_TOLERANCE = 0.05  # of the length that an MP3 file announces: what `AudioFile` grants
ROUNDING = 2  # samples that resamplers may make more or less of the same audio


def import_table(
    source: Path,
    out: Path,
    *,
    teacher: str = "imported",
    audio_rate: int | None = None,
    audio_key: str = "audio",
    embedding_key: str = "l3_embedding",
    suffix: str = "",
    window: float | None = None,
    hop: float | None = None,
    center: bool | None = None,
    root: Path | None = None,
    columns: dict[str, str] | None = None,
    validate: float | str = 0.1,
    sample_rate: int = 8000,
    level_rate: float = 1.0,
    dtype: Literal["float16", "float32"] = "float16",
    part_clips: int = 1024,
    workers: int = 2,
    max_skipped: float = 0.5,
) -> dict[str, Any]:
    """Make a table from audio and embeddings that exist already: HDF5 shards, or files of embeddings beside the audio.

    A shard (.h5, .hdf5) has data sets of audio (N, samples) and of embeddings (N, D); each row becomes a clip of one
    window. Files of embeddings are x.npz (`embedding` and `timestamps`, as openl3, edgel3 and `edgesea embed` write
    them), x.npy or x.npy.gz (windows, dimensions) beside x.wav.

    Started again with the same options, it resumes at the first missing part. What cannot be used is listed in
    ``skipped.csv`` with the reason.

    Parameters
    ----------
    source : Path
        Folder of shards, or of audio files with their embeddings; or a manifest of audio files (.csv or .parquet, as of
        `edgesea extract`).
    out : Path
        Folder of the table.
    teacher : str
        Id of the model that made the embeddings, for the record: openl3/env-mel256-512 ...
    audio_rate : int, optional
        Rate in Hz of the audio in shards, which do not record it.
    audio_key : str
        Shards' data set of audio: int16, or floating-point numbers in [-1, 1].
    embedding_key : str
        Shards' data set of embeddings.
    suffix : str
        What follows the audio file's name and an underscore in that of its embeddings: emb for x_emb.npz.
    window : float, optional
        Length of a window in seconds; default: 1, or that of the rows of a shard.
    hop : float, optional
        Seconds between windows, where there are no timestamps (.npy).
    center : bool, optional
        Whether half a window of zeros preceded each audio file; default: yes, as in openl3, unless timestamps begin at
        half a window.
    root : Path, optional
        Folder that the manifest's paths are relative to; default: the manifest's own.
    columns : dict, optional
        The manifest's own names of its columns, e.g. {path: filename}; or shards' data sets with one value for each
        row, e.g. {sensor: sensor_id, time: timestamp, level: spl, split: split, label: class}. Times given as numbers
        are seconds since 1970 in UTC; `edgesea sample` has the option time_zone for them.
    validate : float or str
        Which clips without a split validate: a share (chosen by a hash of the clip's name; subfolders `train` and
        `validate` go first) or a condition on the manifest, or on a data set of the shards, e.g. fold=5.
    sample_rate : int
        Rate in Hz of the stored audio: the student's.
    level_rate : float
        Readings per second of the manifest's `level` lists.
    dtype : {"float16", "float32"}
        How embeddings are stored.
    part_clips : int
        Clips in a part: what a killed import loses at most.
    workers : int
        Threads that read ahead.
    max_skipped : float
        Largest share of clips, and of shards, that may be skipped; a shard that is lost as a whole counts as one clip.

    Returns
    -------
    dict
        clips, windows, skipped; clipped samples and windows_per_second of this call.

    Raises
    ------
    EdgeseaError
        If the source or the options are unusable, `out` holds another table, or too much had to be skipped.
    """
    clips.check_options(sample_rate, level_rate, max_skipped, part_clips=part_clips, workers=workers)
    Framing(1.0 if window is None else window, 1.0 if hop is None else hop)  # raises EdgeseaError if they are unusable
    from edgesea.table.shards import SLICE_ROWS, Layout, shards_job
    from edgesea.table.writer import write_table

    place = Path(source)
    endings = tuple(result_ending(suffix, ending) for ending in (".npz", ".npy", ".npy.gz"))  # the preferred one first
    shards, found = _find(place, SHARDS), _find(place, endings)
    if shards and found:
        kinds = f"HDF5 shards ({shards[0]}) and embeddings beside audio ({found[0]})"
        raise EdgeseaError(f"{place}: holds both {kinds}; move one kind to a folder of its own and import each")
    of_pairs = {"hop": hop, "center": center, "suffix": suffix or None, "root": root}
    for name, given in (of_pairs if shards else {"audio_rate": audio_rate}).items():
        if given is not None:
            raise EdgeseaError(f"{name}={given} is of no use for {'HDF5 shards' if shards else 'audio files'}; omit it")
    if shards:
        if audio_rate is None:
            raise EdgeseaError("audio_rate: needed in Hz, because HDF5 shards do not record the rate of their audio")
        checked_rate("audio_rate", audio_rate)
        layout = Layout(audio_key, embedding_key, audio_rate, sample_rate, dict(columns or {}), validate)
        job = shards_job(shards, place if place.is_dir() else place.parent, layout, window, part_clips, max_skipped)
    else:
        if place.is_dir() and not found:
            kinds = f"HDF5 shards ({' '.join(SHARDS)}) nor embeddings (x{' x'.join(endings)})"
            raise EdgeseaError(f"{place}: neither {kinds}; to embed audio: edgesea extract")
        manifest = clips.read_manifest(place, root and Path(root), columns, validate)
        entries = _with_embeddings(manifest, endings, found, place)
        reference = _find_reference(entries, window or 1.0, hop, center)
        reference.framing.at(sample_rate)  # raises EdgeseaError if windows or hops are shorter than a sample
        measured = any(entry.level for entry in entries)
        rate = level_rate if measured else None
        read = partial(_read_pair, reference=reference, sample_rate=sample_rate, level_rate=rate)
        sha256 = hashlib.sha256(clips.manifest_digest(entries).encode())
        for path in (entry.embeddings for entry in entries):
            fields = (path,) if isinstance(path, str) else (path.name, clips.file_size(path))
            sha256.update(repr(fields).encode("utf-8", "surrogateescape"))
        given_as = {"kind": "embeddings beside audio", "suffix": suffix, "hop": hop, "center": center}
        parts, digest = clips.cut_parts(entries, part_clips), sha256.hexdigest()
        job = clips.Job(reference.framing, reference.size, measured, given_as, digest, parts, read, len(entries))
    unit = "dB SPL" if job.measured else "dB(A) re full scale"
    plan = {
        "teacher": {"id": teacher, "sha256": None, "sample_rate": None, "embedding_size": job.size},
        "sample_rate": sample_rate,
        "dtype": dtype,
        "parts": len(job.parts),
        "part_clips": part_clips,
        "framing": asdict(job.framing),
        "level": {"unit": unit, "rate": None if shards else level_rate},
        "input": job.input,
        "manifest_sha256": job.digest,
    }
    depth = SLICE_ROWS if shards else 2  # pieces of one source that may wait; a row of a shard is a piece
    embed = partial(embed_sources, None, read=job.read, batch_size=1, workers=workers, depth=depth)
    result = write_table(Path(out), plan, job.parts, embed, job.clips, max_skipped, "import")
    if result["clipped"]:
        log.warning("%d samples beyond full scale were clipped", result["clipped"])
    return result


def _find(source: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a kind below a folder, or a file of it."""
    paths = (path for path in walk(source) if not path.name.startswith(".")) if source.is_dir() else (source,)
    return sorted(path for path in paths if path.name.lower().endswith(endings))


# --- audio files with their embeddings beside them


def _with_embeddings(
    entries: Sequence[ClipEntry], endings: tuple[str, ...], found: Sequence[Path], root: Path
) -> list[ClipEntry]:
    """The clips with their embeddings; ``x.wav.npz`` goes before ``x.npz``, as in `embed`.

    The files `found` below `root` that belong to no clip become clips that cannot be used.
    """
    owners: dict[Path, str] = {}
    result = []
    for entry in entries:
        names = [base + ending for base in (entry.path.name, entry.path.stem) for ending in endings]
        path = next((path for name in names if file_state(path := entry.path.with_name(name))), None)
        if path is None:
            embeddings: Path | str = f"no embeddings beside it ({', '.join(names[len(endings) :])})"
        elif (owner := owners.setdefault(path, entry.clip)) != entry.clip:
            embeddings = f"no embeddings of its own: {path.name} is taken for those of {owner}"
        else:
            embeddings = path
        result.append(replace(entry, embeddings=embeddings))
    orphan = ClipEntry("", root, None, None, "train", None, None, "embeddings without audio of that name beside them")
    orphans = (path for path in found if path not in owners)
    result += [replace(orphan, clip=clips.clip_name(path.relative_to(root)), path=path) for path in orphans]
    return sorted(result, key=lambda entry: entry.clip)


@dataclass(frozen=True)
class Reference:
    """What all embeddings must agree with."""

    name: str  # of the file that tells it
    size: int  # dimensions
    framing: Framing
    first: float  # timestamp of the first window in seconds
    stamped: bool  # every file must have timestamps, because the hop was not given
    guessed: bool  # neither an option nor timestamps say that clips are centred


def load_embeddings(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Embeddings (windows, D), and their timestamps (windows,) in seconds if the file has any; nothing is unpickled."""
    stamps = None
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                rows = np.load(file, allow_pickle=False)
        else:
            rows = np.load(path, "r", allow_pickle=False)
            if isinstance(rows, np.lib.npyio.NpzFile):
                with rows as arrays:
                    rows, stamps = arrays["embedding"], arrays.get("timestamps")
    except Exception as error:  # numpy, zipfile, gzip and zlib raise a dozen kinds
        reason = "damaged, or not an array of numbers" if "pickle" in str(error) else str(error) or type(error).__name__
        raise EdgeseaError(f"{path.name}: cannot be read: {reason}") from error
    if rows.ndim != 2 or rows.size == 0 or rows.dtype.kind != "f":
        raise EdgeseaError(f"{path.name}: {rows.dtype} of shape {rows.shape}, not floats (windows, dimensions)")
    if stamps is not None:
        even = stamps.shape == (len(rows),) and stamps.dtype.kind in "fiu"
        if even and len(rows) > 1:
            line = np.linspace(stamps[0], stamps[-1], len(rows))
            even = stamps[0] < stamps[-1] and np.allclose(stamps, line, rtol=1e-6, atol=STAMP_TOLERANCE)
        if not even:
            raise EdgeseaError(f"{path.name}: the timestamps are not {len(rows)} evenly spaced numbers")
    return rows, stamps


def _find_reference(entries: Sequence[ClipEntry], window: float, hop: float | None, center: bool | None) -> Reference:
    """Settle the framing by the options and by the first timestamps."""
    chosen: tuple[Path, int, NDArray[Any] | None] | None = None
    problem = ""
    files = [entry.embeddings for entry in entries if isinstance(entry.embeddings, Path)]
    for path in sorted(files, key=lambda path: path.suffix != ".npz"):  # the only ones that may have timestamps first
        try:
            rows, stamps = load_embeddings(path)
        except EdgeseaError as error:
            problem = problem or f"{path.parent / str(error)}"
            continue
        if chosen is None or stamps is not None:
            chosen = path, rows.shape[1], stamps
        if path.suffix != ".npz" or (stamps is not None and (len(stamps) > 1 or hop)):
            break
    if chosen is None:
        raise EdgeseaError(f"no embeddings can be read (first: {problem})")
    path, size, stamps = chosen
    step = hop if stamps is None or len(stamps) < 2 else _spacing(stamps)
    if step is None:
        raise EdgeseaError(f"hop: needed in seconds, because {path} has no timestamps that tell it")
    if hop and abs(step - hop) > 1e-6 * hop:
        raise EdgeseaError(f"{path}: timestamps every {step:g} s, but hop is {hop:g} s; omit hop")
    # openl3's begin at 0, the middle of a centred window or the start of another; half a window is the middle of one
    # that is not centred.
    start = 0.0 if stamps is None else float(stamps[0])
    first = 0.0 if abs(start) <= STAMP_TOLERANCE else window / 2
    if abs(start - first) > STAMP_TOLERANCE or (first and center):
        wanted = f"neither at 0 nor, without center, at half a window ({window / 2:g} s)"
        raise EdgeseaError(f"{path}: timestamps begin at {start:g} s, {wanted}; is window={window:g} right?")
    centered = center is not False and not first
    framing = Framing(window, hop or step, centered)
    return Reference(path.name, size, framing, first, hop is None, centered and center is None)


def _spacing(stamps: NDArray[Any]) -> float:
    """Seconds between timestamps: the six decimals or the fraction that they may be multiples of, else their mean.

    Single precision leaves the mean of all spacings uncertain by 1e-7 of it, so it takes 1/30 for another number.
    """
    mean = float(stamps[-1] - stamps[0]) / (len(stamps) - 1)
    precision = 2.0**-22 if np.array_equal(stamps, stamps.astype(np.float32)) else 1e-9
    candidates = round(mean, 6), float(Fraction(mean).limit_denominator(FINEST))
    return next((value for value in candidates if abs(value - mean) <= precision * mean), mean)


def _misfit(count: int, framing: Framing, length: int, sample_rate: int) -> int:
    """By how many windows `count` differs from that of `length` samples, more or less."""
    low, high = (framing.at(sample_rate).count(length + more) for more in (-ROUNDING, ROUNDING))
    return max(low - count, count - high, 0)


def _read_pair(
    entry: ClipEntry, reference: Reference, sample_rate: int, level_rate: float | None
) -> Iterator[tuple[Piece, Float32]]:
    """Decode a clip and read its embeddings, up to 64 windows at a time.

    The other resampler may have given a sample more or less, and with it a window, and some tools leave out a last
    window that the audio does not fill: if the numbers of windows differ by one, the smaller counts.
    """
    path = entry.embeddings
    if isinstance(path, str):
        raise EdgeseaError(path)
    rows, stamps = load_embeddings(path)
    if rows.shape[1] != reference.size:
        raise EdgeseaError(f"{path.name}: {rows.shape[1]} dimensions, but {reference.name} has {reference.size}")
    if stamps is None and reference.stamped:
        raise EdgeseaError(f"{path.name}: no timestamps that tell its hop; give it as hop")
    expected = reference.first + reference.framing.timestamps(len(rows))
    if stamps is not None and not np.allclose(stamps, expected, rtol=1e-6, atol=STAMP_TOLERANCE):
        found, wanted = (", ".join(f"{stamp:.6g}" for stamp in some[:3]) for some in (stamps, expected))
        raise EdgeseaError(f"{path.name}: timestamps {found} ... s, but other files have {wanted} ... s")
    with AudioFile(entry.path) as audio:  # its header, to find a misfit before anything is decoded
        length = round(audio.frames * sample_rate / audio.sample_rate)
    framing, window = reference.framing, reference.framing.at(sample_rate).window
    count, problem = framing.at(sample_rate).count(length), f"{path.name}: {len(rows)} embeddings, but its audio has"
    cut = f"windows of {framing.window:g} s every {framing.hop:g} s (center={framing.center})"
    slack = 1 + (MP3_TOLERANCE * count if entry.path.suffix.lower() == ".mp3" else 0)
    other = replace(framing, center=not framing.center)
    other_fits = not _misfit(len(rows), other, length, sample_rate)
    misfit = _misfit(len(rows), framing, length, sample_rate)
    if misfit > slack or (misfit and reference.guessed and other_fits):
        hint = f"; they would fit center={other.center}" if other_fits else ""
        raise EdgeseaError(f"{problem} {count} {cut}{hint}")
    seen = 0
    for piece, _ in clips.clip_pieces(entry, framing, sample_rate, None, level_rate):
        with np.errstate(over="ignore"):
            block = np.asarray(rows[seen : seen + len(piece.starts)], np.float32)
        seen += len(piece.starts)
        if len(block):
            starts, levels = piece.starts[: len(block)], piece.levels[: len(block)]
            yield (
                replace(piece, pcm=piece.pcm[: starts[-1] + window - piece.offset], starts=starts, levels=levels),
                block,
            )
    if abs(seen - len(rows)) > 1:
        raise EdgeseaError(f"{problem} {seen} {cut}")
