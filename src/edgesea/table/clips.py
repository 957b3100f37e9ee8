"""The clips of a table: listed by a manifest or found below a folder, and decoded a few windows at a time."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import file_state, walk
from edgesea.audio.framing import Framing, PieceCutter, piece_starts, piece_windows
from edgesea.audio.io import AudioFile, Resampler, audio_suffixes, checked_count, checked_hop, checked_rate, is_audio
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
PIECE_WINDOWS = 64  # windows of one clip that are decoded and held together
PCM_SCALE = 32767.0  # stored value of amplitude 1
END = np.zeros(0, np.float32)  # the chunk behind the last
SPLITS = ("train", "validate", "test")
PART_BYTES = 1 << 30  # source bytes after which a part is closed early, so that long recordings do not pile up in one
COLUMNS = ("path", "sensor", "time", "split", "level", "label")


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a manifest."""

    clip: str  # name: the path below the root, with forward slashes
    path: Path
    sensor: str | None
    time: str | None  # start, ISO 8601
    split: str
    level: tuple[float, ...] | None  # measured, in dB SPL, evenly spaced from the start of the clip
    label: str | None = None  # colours the map of windows in a report; nothing is learned from it
    embeddings: Path | str = ""  # of an import: the file that holds them, or why there is none


def check_options(sample_rate: int, level_rate: float, max_skipped: float, **counts: int) -> None:
    """EdgeseaError for a number that neither `extract` nor `import_table` can use."""
    for name, count in counts.items():
        checked_count(name, count)
    checked_rate("sample_rate", sample_rate)
    checked_hop("level_rate", level_rate, "readings per second")
    if not 0 <= max_skipped <= 1:
        raise EdgeseaError(f"max_skipped must be a share from 0 to 1, not {max_skipped}")


def split_rule(validate: float | str) -> tuple[float, str, str]:
    """The option `validate`: a share, or (``fold=5``) the column and the value that clips which validate have."""
    column, equals, value = str(validate).partition("=")
    if equals:
        return 0.0, column.strip(), value.strip()
    try:
        share = float(validate)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise EdgeseaError(f"validate must be a share in [0, 1) or a condition column=value, not {validate!r}")
    return share, "", ""


def read_manifest(
    source: Path, root: Path | None = None, columns: Mapping[str, str] | None = None, validate: float | str = 0.1
) -> list[ClipEntry]:
    """List the clips of a folder or of a manifest, sorted by name, each once; options as in `extract`."""
    columns, (_, condition, _) = columns or {}, split_rule(validate)
    if unknown := sorted(columns.keys() - set(COLUMNS)):
        raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known: {', '.join(COLUMNS)}")
    if not source.exists():
        raise EdgeseaError(f"{source}: no such file or folder")
    if not source.is_dir():
        root, rows = root or source.parent, _read_rows(source, columns, condition)
    elif condition:
        raise EdgeseaError(f"validate: the condition {validate!r} needs a manifest, but {source} is a folder")
    else:
        root, rows = source, [{"path": str(path.relative_to(source))} for path in walk(source) if is_audio(path)]
    entries: dict[str, ClipEntry] = {}
    for row in rows:
        if not row["path"]:
            raise EdgeseaError(f"{source}: a row has an empty path")
        path = Path(row["path"])
        name = path.relative_to(root) if path.is_absolute() and path.is_relative_to(root) else path
        try:
            entry = make_entry(clip_name(name), root / path, row, validate, in_folder=source.is_dir())
        except EdgeseaError as error:
            raise EdgeseaError(f"{source}: {name}: {error}") from None
        entries.setdefault(entry.clip, entry)
    if not entries:
        raise EdgeseaError(f"{source}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
    return [entries[name] for name in sorted(entries)]


def _read_rows(source: Path, columns: Mapping[str, str], condition: str) -> list[dict[str, Any]]:
    """The rows of a manifest, by the names in `COLUMNS`, and ``condition``: the column that decides which validate."""
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if source.suffix == ".parquet":
            frame = pd.DataFrame(pq.read_table(source).to_pylist(), dtype=object)
        else:
            frame = pd.read_csv(source, dtype=str, na_filter=False, encoding="utf-8-sig", index_col=False)
    except (OSError, ValueError) as error:  # of pandas and pyarrow
        raise EdgeseaError(f"{source}: not a manifest in CSV or Parquet: {error}") from error
    names = {name: name for name in COLUMNS if name == "path" or name in frame} | dict(columns)
    names |= {"condition": condition} if condition else {}
    for name in names.values():
        if name not in frame:
            raise EdgeseaError(f"{source}: no column {name!r}; it has {', '.join(map(str, frame))}")
    known = pd.DataFrame({name: frame[column] for name, column in names.items()})
    known["path"] = known["path"].fillna("").astype(str).str.strip()
    return known.to_dict("records")  # type: ignore[return-value]


def clip_name(path: Path) -> str:
    """The name of a clip; bytes that are not UTF-8, which neither Parquet nor JSON can store, are spelt out."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def make_entry(clip: str, path: Path, row: Mapping[str, Any], validate: float | str, in_folder: bool) -> ClipEntry:
    """The clip that a row of a manifest or a shard describes; the folder it lies in may name its split."""
    share, condition, value = split_rule(validate)
    known = {name: cell for name, cell in row.items() if cell is not None and cell != ""}
    folder = clip.partition("/")[0] if in_folder else ""
    if "split" in known:
        split = str(known["split"])
    elif condition:
        split = "validate" if str(row["condition"]) == value else "train"
    else:
        split = folder if folder in SPLITS else hash_split(clip, share)
    if split not in SPLITS:
        raise EdgeseaError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    sensor, label = (str(known[name]) if name in known else None for name in ("sensor", "label"))
    time = _iso(known["time"]) if "time" in known else None
    level = _levels(known["level"]) if "level" in known else None
    return ClipEntry(clip, path, sensor, time, split, level, label)


def hash_split(clip: str, validate: float) -> str:
    """``validate`` for a share `validate` of all names, else ``train``; a function of the name alone."""
    position = int.from_bytes(hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return "validate" if position < validate * 2**64 else "train"


def _iso(value: Any) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise EdgeseaError(f"time {text!r} is not ISO 8601, e.g. 2019-05-01T13:45:00") from None
    return text


def _levels(value: Any) -> tuple[float, ...] | None:
    try:
        if isinstance(value, str):
            value = json.loads(value) if value.lstrip().startswith("[") else re.split(r"[\s;,]+", value.strip())
        numbers = tuple(float(item) for item in (value if isinstance(value, list | tuple) else [value]))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise EdgeseaError(f"level {value!r} is neither a number nor a list of numbers")
    return numbers or None


def cut_parts(entries: Sequence[ClipEntry], clips: int) -> list[list[ClipEntry]]:
    """Cut the manifest into parts; only names and file sizes matter, so every run cuts alike."""
    parts: list[list[ClipEntry]] = [[]]
    total = 0
    for entry in entries:
        size = max(0, file_size(entry.path))
        if parts[-1] and (len(parts[-1]) >= clips or total + size > PART_BYTES):
            parts.append([])
            total = 0
        parts[-1].append(entry)
        total += size
    return parts


def file_size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return (file_state(path) or (-1,))[0]


def manifest_digest(entries: Sequence[ClipEntry]) -> str:
    """sha256 of what the manifest says of all clips, labels excepted, and of their sizes: the identity of a table."""
    fields = ((e.clip, e.sensor, e.time, e.split, e.level, file_size(e.path)) for e in entries)
    return sha256(*map(repr, fields))


def sha256(*texts: str) -> str:
    """Hash of texts, in which bytes of file names need not be UTF-8."""
    return hashlib.sha256("".join(texts).encode("utf-8", "surrogateescape")).hexdigest()


# --- decoding


@dataclass(frozen=True)
class Piece:
    """Consecutive windows of one clip as they are stored, without their embeddings."""

    entry: ClipEntry
    offset: int  # position of `pcm` in the clip, in samples at the student's rate
    pcm: NDArray[np.int16]  # audio at the student's rate that the windows cover
    starts: NDArray[np.int64]  # first sample of each window in the clip, at the student's rate
    levels: Float32  # of each window, in dB
    clipped: int = 0  # samples beyond full scale


def clip_pieces(
    entry: ClipEntry, framing: Framing, sample_rate: int, teacher_rate: int | None, level_rate: float | None
) -> Iterator[tuple[Piece, Float32]]:
    """Decode a clip once and cut it at both rates; the student's rate decides how many windows there are.

    Yields pieces of up to 64 windows, and these windows at the teacher's rate (None: the file's own). There are fewer
    where windows do not touch, so that memory depends neither on the length of the clip nor on the hop. With a
    `level_rate`, the clip must have measured levels, so many per second.
    """
    if level_rate and not entry.level:
        raise EdgeseaError("no level in the manifest, where other clips have one; the two scales do not mix")
    with AudioFile(entry.path) as file:
        rates = sample_rate, teacher_rate or file.sample_rate
        student, teacher = (framing.at(rate) for rate in rates)
        cutters = PieceCutter(student, PIECE_WINDOWS), PieceCutter(teacher, PIECE_WINDOWS)
        cutters[1].size = cutters[0].size  # pieces of the same windows, however the two rates round
        resamplers = [Resampler(file.sample_rate, rate) for rate in rates]
        queues: tuple[list[Any], list[Any]] = [], []  # pieces that wait for those of the other rate
        for chunk in chain(file.chunks(), [END]):
            for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
                queue.extend(cutter.feed(resampler.feed(chunk, last=chunk is END)))
                if chunk is END:
                    queue.extend(cutter.finish(student.count(cutters[0].length)))
            while all(queues):
                cut, windows = queues[0].pop(0), piece_windows(queues[1].pop(0), teacher)
                offset = max(0, student.start(cut.first))
                starts = piece_starts(cut, student) + offset
                if level_rate and entry.level:
                    levels = measured_level(entry.level, level_rate, starts, student.window, sample_rate)
                else:
                    levels = a_weighted_level(windows, rates[1])
                pcm, clipped = to_pcm(cut.audio)
                yield Piece(entry, offset, pcm, starts, levels, clipped), windows


def to_pcm(audio: Float32) -> tuple[NDArray[np.int16], int]:
    """Audio in [-1, 1] as int16, and how many samples lie beyond and were clipped."""
    scaled = np.rint(audio * PCM_SCALE)
    pcm = np.clip(scaled, -32768, 32767)
    return pcm.astype(np.int16), int(np.count_nonzero(pcm != scaled))
