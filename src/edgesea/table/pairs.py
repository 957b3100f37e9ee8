"""Audio files with their embeddings beside them: which belong together, how they are framed, and reading both."""

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import file_state
from edgesea.audio.framing import FINEST, Framing
from edgesea.audio.io import AudioFile
from edgesea.embed.files import result_ending
from edgesea.errors import EdgeseaError
from edgesea.table.clips import Job, Piece, Rates, clip_pieces
from edgesea.table.manifest import ClipEntry, clip_name, cut_parts, file_size, manifest_digest

Float32 = NDArray[np.float32]
Pairs = dict[str, Path | str]  # for each clip the file with its embeddings, or why there is none

STAMP_TOLERANCE = 1e-3  # s; and 1e-6 of the timestamp itself, which may be in single precision
MP3_TOLERANCE = 0.05  # of the length that an MP3 file announces: what `AudioFile` grants
ROUNDING = 2  # samples that resamplers may make more or less of the same audio


def endings(suffix: str) -> tuple[str, ...]:
    """Endings of the files with embeddings, in the order in which they are preferred."""
    return tuple(result_ending(suffix, ending) for ending in (".npz", ".npy", ".npy.gz"))


def find_pairs(
    entries: Sequence[ClipEntry], suffix: str, found: Sequence[Path], root: Path
) -> tuple[list[ClipEntry], Pairs]:
    """The clips, and for each its embeddings; ``x.wav.npz`` goes before ``x.npz``, as in `embed`.

    The files `found` below `root` that belong to no clip become clips that cannot be used.
    """
    pairs: Pairs = {}
    owners: dict[Path, str] = {}
    for entry in entries:
        names = [base + ending for base in (entry.path.name, entry.path.stem) for ending in endings(suffix)]
        path = next((path for name in names if file_state(path := entry.path.with_name(name))), None)
        if path is None:
            pairs[entry.clip] = f"no embeddings beside it ({', '.join(names[len(names) // 2 :])})"
        elif path in owners:
            pairs[entry.clip] = f"no embeddings of its own: {path.name} is taken for those of {owners[path]}"
        else:
            pairs[entry.clip], owners[path] = path, entry.clip
    orphans = {clip_name(path.relative_to(root)): path for path in found if path not in owners}
    clips = [*entries, *(ClipEntry(clip, path, None, None, "train", None) for clip, path in orphans.items())]
    pairs |= dict.fromkeys(orphans, "embeddings without audio of that name beside them")
    return sorted(clips, key=lambda entry: entry.clip), pairs


def pairs_job(
    entries: Sequence[ClipEntry],
    found: Sequence[Path],
    root: Path,
    suffix: str,
    framing: tuple[float, float | None, bool | None],
    sample_rate: int,
    level_rate: float,
    part_clips: int,
) -> Job:
    """The import of audio files with embeddings beside them; see `edgesea.table.importing.import_table`."""
    measured = any(entry.level for entry in entries)
    clips, pairs = find_pairs(entries, suffix, found, root)
    reference = find_reference(pairs, *framing)
    reference.framing.at(sample_rate)
    digest = hashlib.sha256(manifest_digest(clips).encode())
    for entry in clips:
        path = pairs[entry.clip]
        fields = (path,) if isinstance(path, str) else (path.name, file_size(path))
        digest.update(repr(fields).encode("utf-8", "surrogateescape"))
    plan = {
        "framing": asdict(reference.framing),
        "level": {"unit": "dB SPL" if measured else "dB(A) re full scale", "rate": level_rate},
        "input": {"kind": "embeddings beside audio", "suffix": suffix, "hop": framing[1], "center": framing[2]},
        "manifest_sha256": digest.hexdigest(),
    }
    rates = Rates(reference.framing, sample_rate, None, level_rate, measured)
    read = partial(read_pair, pairs=pairs, rates=rates, reference=reference)
    return Job(reference.size, plan, cut_parts(clips, part_clips), read, len(clips), 2)


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


@dataclass(frozen=True)
class Reference:
    """What all embeddings must agree with."""

    name: str  # of the file that tells it
    size: int  # dimensions
    framing: Framing
    first: float  # timestamp of the first window in seconds
    stamped: bool  # every file must have timestamps, because the hop was not given
    guessed: bool  # neither an option nor timestamps say that clips are centred


def find_reference(pairs: Pairs, window: float, hop: float | None, center: bool | None) -> Reference:
    """Settle the framing by the options and by the first timestamps."""
    chosen: tuple[Path, int, NDArray[Any] | None] | None = None
    problem = ""
    for path in pairs.values():
        if isinstance(path, str) or (chosen and path.suffix != ".npz"):
            continue
        try:
            rows, stamps = load_embeddings(path)
        except EdgeseaError as error:
            problem = problem or f"{path.parent / str(error)}"
            continue
        if chosen is None or stamps is not None:
            chosen = path, rows.shape[1], stamps
        if stamps is not None and (len(stamps) > 1 or hop):
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
        raise EdgeseaError(
            f"{path}: timestamps begin at {start:g} s, neither at 0 nor, without center, at half a window "
            f"({window / 2:g} s); is window={window:g} right?"
        )
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


def read_pair(entry: ClipEntry, pairs: Pairs, rates: Rates, reference: Reference) -> Iterator[tuple[Piece, Float32]]:
    """Decode a clip and read its embeddings, up to 64 windows at a time.

    The other resampler may have given a sample more or less, and with it a window, and some tools leave out a last
    window that the audio does not fill: if the numbers of windows differ by one, the smaller counts.
    """
    path = pairs[entry.clip]
    if isinstance(path, str):
        raise EdgeseaError(path)
    rows, stamps = load_embeddings(path)
    _check(path.name, rows, stamps, reference)
    misfit = partial(_misfit, path.name, len(rows), rates.framing)
    with AudioFile(entry.path) as audio:  # its header, to find a misfit before anything is decoded
        length = round(audio.frames * rates.student / audio.sample_rate)
    other = replace(rates.framing, center=not rates.framing.center)

    def fits(framing: Framing, slack: float = 0) -> bool:
        low, high = (framing.at(rates.student).count(length + more) for more in (-ROUNDING, ROUNDING))
        return low - slack <= len(rows) <= high + slack

    count = rates.framing.at(rates.student).count(length)
    slack = 1 + (MP3_TOLERANCE * count if entry.path.suffix.lower() == ".mp3" else 0)
    if not fits(rates.framing) and (not fits(rates.framing, slack) or (reference.guessed and fits(other))):
        raise misfit(count, f"; they would fit center={other.center}" if fits(other) else "")
    seen = 0
    pieces = clip_pieces(entry, rates)
    for piece, _ in pieces:
        usable = min(len(piece.starts), len(rows) - seen)
        with np.errstate(over="ignore"):
            block = np.asarray(rows[seen : seen + usable], np.float32)
        if not np.isfinite(block).all():
            raise EdgeseaError(f"{path.name}: the embeddings hold NaN or Inf")
        seen += len(piece.starts)
        if seen > len(rows) + 1:
            raise misfit(seen + sum(len(more.starts) for more, _ in pieces))
        if usable > 0:
            pcm = piece.pcm[: int(piece.starts[usable - 1]) + rates.framing.at(rates.student).window - piece.offset]
            yield replace(piece, pcm=pcm, starts=piece.starts[:usable], levels=piece.levels[:usable]), block
    if seen < len(rows) - 1:
        raise misfit(seen)


def _check(name: str, rows: NDArray[Any], stamps: NDArray[Any] | None, reference: Reference) -> None:
    if rows.shape[1] != reference.size:
        raise EdgeseaError(f"{name}: {rows.shape[1]} dimensions, but {reference.name} has {reference.size}")
    if stamps is None and reference.stamped:
        raise EdgeseaError(f"{name}: no timestamps that tell its hop; give it as hop")
    if stamps is not None:
        expected = reference.first + reference.framing.timestamps(len(stamps))
        if not np.allclose(stamps, expected, rtol=1e-6, atol=STAMP_TOLERANCE):
            found, wanted = (", ".join(f"{stamp:.6g}" for stamp in some[:3]) for some in (stamps, expected))
            raise EdgeseaError(f"{name}: timestamps {found} ... s, but other files have {wanted} ... s")


def _misfit(name: str, count: int, framing: Framing, windows: int, hint: str = "") -> EdgeseaError:
    return EdgeseaError(
        f"{name}: {count} embeddings, but its audio has {windows} windows of {framing.window:g} s every "
        f"{framing.hop:g} s (center={framing.center}){hint}"
    )
