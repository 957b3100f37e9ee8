"""``import``: a table from embeddings that exist already, without a teacher."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
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
from edgesea.table import clips, manifest
from edgesea.table.clips import DTYPES, ClipEntry, Float32, Manifest, Piece
from edgesea.table.paths import clip_name

SHARDS = (".h5", ".hdf5")
STAMP_TOLERANCE = 1e-3  # s; and 1e-6 of the timestamp itself, which may be in single precision
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
    sample_rate: int = 16000,
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
        Folder of shards, or of audio files with their embeddings; or a manifest of audio files (as of `edgesea
        extract`).
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
        The manifest's own names of its columns, as of `edgesea extract`; or shards' data sets with one value for each
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
        clips, windows, skipped; windows_per_second of this call.

    EdgeseaError: the source or the options are unusable, `out` holds another table, or too much had to be skipped.
    """
    clips.check_options(sample_rate, level_rate, max_skipped, part_clips=part_clips, workers=workers)
    Framing(1.0 if window is None else window, 1.0 if hop is None else hop)  # raises EdgeseaError if they are unusable
    from edgesea.table.shards import SLICE_ROWS, Shards
    from edgesea.table.writer import write_table

    place = Path(source)
    endings = tuple(result_ending(suffix, ending) for ending in (".npz", ".npy", ".npy.gz"))  # the preferred one first
    paths = sorted(path for path in walk(place) if path.name[0] != ".") if place.is_dir() else [place]
    shards, found = ([path for path in paths if path.name.lower().endswith(some)] for some in (SHARDS, endings))
    if shards and found:
        raise EdgeseaError(f"{shards[0]}, a shard, and {found[0]}, embeddings beside audio: move one kind elsewhere")
    of_pairs = {"hop": hop, "center": center, "suffix": suffix or None, "root": root}
    for name, given in (of_pairs if shards else {"audio_rate": audio_rate}).items():
        if given is not None:
            raise EdgeseaError(f"{name}={given} is of no use for {'HDF5 shards' if shards else 'audio files'}; omit it")
    read: Callable[[Any], Iterator[tuple[Any, Float32]]]
    parts: Sequence[Sequence[Any]]
    if shards:
        rate = checked_rate("audio_rate (shards do not record it)", audio_rate or 0)
        rows = Shards(audio_key, embedding_key, rate, sample_rate, dict(columns or {}), validate)
        base = place if place.is_dir() else place.parent
        framing, size, parts, count, digest = rows.survey(shards, base, window, part_clips, max_skipped)
        read, measured, options = rows.read, "level" in rows.columns, {"kind": "shards", **asdict(rows)}
    else:
        if place.is_dir() and not found:
            wanted = f"{' '.join(SHARDS)} or x{' x'.join(endings)}"
            raise EdgeseaError(f"{place}: no {wanted}; to embed audio: edgesea extract")
        listed = manifest.read_manifest(place, root and Path(root), columns, validate)
        entries = _with_embeddings(listed, endings, found, place)
        pairs = Pairs(entries, window or 1.0, hop, center, sample_rate)
        measured = any(entries.columns["level"])
        framing, size, parts, count = pairs.framing, pairs.size, clips.cut_parts(entries, part_clips), len(entries)
        read, digest = partial(pairs.read, level_rate=level_rate if measured else None), _digest(entries)
        options = {"kind": "embeddings beside audio", "suffix": suffix, "hop": hop, "center": center}
    framing.at(sample_rate)  # raises EdgeseaError if windows or hops are shorter than a sample
    about = {"id": teacher, "sha256": None, "sample_rate": None, "embedding_size": size}
    level = {"unit": "dB SPL" if measured else "dB(A) re full scale", "rate": None if shards else level_rate}
    stored = {"sample_rate": sample_rate, "dtype": dtype, "parts": len(parts), "part_clips": part_clips}
    origin = {"framing": framing.plan(), "level": level, "input": options, "manifest_sha256": digest}
    depth = SLICE_ROWS if shards else 2  # pieces of one source that may wait; a row of a shard is a piece
    embed = partial(embed_sources, None, read=read, batch_size=1, workers=workers, depth=depth)
    return write_table(Path(out), {"teacher": about, **stored, **origin}, parts, embed, count, max_skipped, "import")


def _with_embeddings(entries: Manifest, endings: tuple[str, ...], found: Sequence[Path], root: Path) -> Manifest:
    """The clips with their embeddings; ``x.wav.npz`` goes before ``x.npz``, as in `embed`.

    The files `found` below `root` that belong to no clip become clips that cannot be used.
    """
    owners: dict[Path | None, str] = {}
    result = []
    for entry in entries:
        names = [base + ending for base in (entry.path.name, entry.path.stem) for ending in endings]
        path = next((path for name in names if file_state(path := entry.path.with_name(name))), None)
        owner = owners.setdefault(path, entry.clip)
        problem = f"no embeddings of its own: {path and path.name} is taken for those of {owner}"
        if path is None:
            problem = f"no embeddings beside it ({', '.join(names[len(endings) :])})"
        result.append(entry._replace(embeddings=path if path and owner == entry.clip else problem))
    orphans = ((clip_name(path.relative_to(root)), path) for path in found if path not in owners)
    alone = "embeddings without audio of that name beside them"
    result += [
        ClipEntry(name, path, split="train", embeddings=alone, size=manifest.file_size(path)) for name, path in orphans
    ]
    columns = zip(DTYPES.items(), zip(*sorted(result, key=lambda entry: entry.clip), strict=True), strict=True)
    return Manifest(entries.root, {name: np.fromiter(cells, object).astype(dtype) for (name, dtype), cells in columns})


def _digest(entries: Manifest) -> str:
    """sha256 of the manifest, and of the names and sizes of the files of embeddings."""
    files = (entry.embeddings for entry in entries)
    fields = ((path,) if isinstance(path, str) else (path.name, manifest.file_size(path)) for path in files)
    return manifest.sha256([manifest.manifest_digest(entries), *map(repr, fields)])


class Pairs:
    """Audio files with their embeddings, whose framing the options and the first timestamps settle."""

    def __init__(
        self, entries: Sequence[ClipEntry], window: float, hop: float | None, center: bool | None, sample_rate: int
    ) -> None:
        problem = ""
        for path in (entry.embeddings for entry in entries if isinstance(entry.embeddings, Path)):
            try:
                if not hop and path.suffix != ".npz":
                    raise EdgeseaError(f"{path.name}: hop is needed in seconds, because there are no timestamps")
                rows, stamps = load_embeddings(path)
                if hop or (stamps is not None and len(stamps) > 1):
                    break
                raise EdgeseaError(f"{path.name}: hop is needed in seconds, because no timestamps tell it")
            except EdgeseaError as error:
                problem = problem or f"{path.parent / str(error)}"
        else:
            raise EdgeseaError(f"no embeddings tell their hop (first: {problem})")
        # openl3's timestamps begin at 0, the middle of a centred window or the start of another; half a window is the
        # middle of one that is not centred.
        late = not center and stamps is not None and stamps[0] > STAMP_TOLERANCE
        self.path, self.size, self.sample_rate = path, rows.shape[1], sample_rate
        self.first = window / 2 if late else 0.0  # timestamp of the first window in seconds
        self.framing = Framing(window, hop or _spacing(stamps), center is not False and not late)
        self.cut = f"windows of {window:g} s every {self.framing.hop:g} s (center={self.framing.center})"
        self.stamped = hop is None  # every file must have timestamps
        self.guessed = center is None and not late  # neither an option nor timestamps say that clips are centred
        self.load(path)

    def load(self, path: Path) -> NDArray[Any]:
        """The embeddings (windows, D) of a file; EdgeseaError unless dimensions and timestamps are those of others."""
        rows, stamps = load_embeddings(path)
        if rows.shape[1] != self.size:
            raise EdgeseaError(f"{path.name}: {rows.shape[1]} dimensions, but {self.path.name} has {self.size}")
        expected = self.first + self.framing.timestamps(len(rows))
        if stamps is None and self.stamped:
            raise EdgeseaError(f"{path.name}: no timestamps that tell its hop; give it as hop")
        if stamps is not None and not _close(stamps, expected):
            found, wanted = (", ".join(f"{stamp:.6g}" for stamp in some[:3]) for some in (stamps, expected))
            raise EdgeseaError(f"{path.name}: timestamps {found} ..., not {wanted} ... s; wrong hop, window or center?")
        return rows

    def read(self, entry: ClipEntry, level_rate: float | None) -> Iterator[tuple[Piece, Float32]]:
        """Decode a clip and read its embeddings, up to 64 windows at a time.

        The other resampler may have given a sample more or less, and with it a window, and some tools leave out a last
        window that the audio does not fill: if the numbers of windows differ by one, the smaller counts.
        """
        if isinstance(path := entry.embeddings, str):
            raise EdgeseaError(path)
        rows, seen, window = self.load(path), 0, self.framing.at(self.sample_rate).window
        for piece, _ in clips.clip_pieces(entry, self.framing, self.sample_rate, None, level_rate):
            with np.errstate(over="ignore"):
                block = np.asarray(rows[seen : seen + len(piece.starts)], np.float32)
            seen += len(piece.starts)
            if len(block):
                starts, levels = piece.starts[: len(block)], piece.levels[: len(block)]
                pcm = piece.pcm[: starts[-1] + window - piece.offset]
                yield replace(piece, pcm=pcm, starts=starts, levels=levels), block
        if seen == len(rows):
            return
        with AudioFile(entry.path) as audio:
            frames = audio.frames or sum(map(len, audio.chunks()))
            length = round(frames * self.sample_rate / audio.sample_rate)

        def fits(center: bool) -> bool:
            framing = replace(self.framing, center=center).at(self.sample_rate)
            return framing.count(length - ROUNDING) <= len(rows) <= framing.count(length + ROUNDING)

        center = self.framing.center
        if abs(seen - len(rows)) > 1 or (self.guessed and fits(not center) and not fits(center)):
            hint = f"; they would fit center={not center}" if fits(not center) else ""
            raise EdgeseaError(f"{path.name}: {len(rows)} embeddings, but its audio has {seen} {self.cut}{hint}")


def load_embeddings(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Embeddings (windows, D), and their timestamps (windows,) in seconds if the file has any; nothing is unpickled."""
    stamps = None
    try:
        packed = path.suffix == ".gz"
        with gzip.open(path) if packed else nullcontext(path) as file:
            rows = np.load(file, None if packed else "r", allow_pickle=False)
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
        even = even and (len(rows) == 1 or stamps[0] < stamps[-1])
        if not even or not _close(stamps, np.linspace(stamps[0], stamps[-1], len(rows))):
            raise EdgeseaError(f"{path.name}: the timestamps are not {len(rows)} evenly spaced numbers")
    return rows, stamps


def _close(stamps: NDArray[Any], others: NDArray[Any]) -> bool:
    return np.allclose(stamps, others, rtol=1e-6, atol=STAMP_TOLERANCE)


def _spacing(stamps: Any) -> float:
    """Seconds between timestamps: the six decimals or the fraction that they may be multiples of, else their mean.

    Single precision leaves the mean of all spacings uncertain by 1e-7 of it, so it takes 1/30 for another number.
    """
    mean = float(stamps[-1] - stamps[0]) / (len(stamps) - 1)
    precision = 2.0**-22 if np.array_equal(stamps, stamps.astype(np.float32)) else 1e-9
    candidates = round(mean, 6), float(Fraction(mean).limit_denominator(FINEST))
    return next((value for value in candidates if abs(value - mean) <= precision * mean), mean)
