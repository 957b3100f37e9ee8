"""HDF5 shards: data sets of audio and embeddings with one window in each row, as the l3embedding pipeline writes."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.audio.framing import Framing
from edgesea.audio.io import Resampler
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.errors import EdgeseaError
from edgesea.table.clips import COLUMNS, PCM_SCALE, Job, Piece, clip_name, file_size, make_entry, split_rule, to_pcm
from edgesea.table.writer import check_skipped

Float32 = NDArray[np.float32]

SLICE_ROWS = 64  # rows that are read at once, unless the chunks that HDF5 compressed are larger
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError)  # what h5py raises
FLOATS = ("f2", "f4", "f8")


@dataclass(frozen=True)
class Layout:
    """How shards are laid out, and what becomes of their rows; a part of the table's plan."""

    audio: str  # names of the data sets
    embedding: str
    audio_rate: int  # Hz
    sample_rate: int  # Hz, of the audio that is stored
    columns: dict[str, str]  # data sets of what else is known of each row, by the names in `COLUMNS`
    validate: float | str  # which rows validate

    @property
    def known(self) -> dict[str, str]:
        """`columns`, and the data set that decides which rows validate, if there is one."""
        condition = split_rule(self.validate)[1]
        return {**self.columns, "condition": condition} if condition else self.columns


@dataclass(frozen=True)
class Shard:
    """An HDF5 file, or a slice of its rows, which a thread reads at once; each row is a clip of one window."""

    name: str  # path below the source, with forward slashes
    path: Path
    rows: range = range(1)  # a shard that cannot be used counts as one
    samples: int = 0  # of each row
    size: int = 0  # dimensions
    step: int = 1  # rows that are best read at once
    reason: str = ""  # why it cannot be used

    @property
    def clip(self) -> str:
        """The name of the shard if it cannot be used, else of its first row."""
        return self.name if self.reason else f"{self.name}#{self.rows.start:06d}"


def shards_job(
    paths: Sequence[Path], root: Path, layout: Layout, window: float | None, part_clips: int, max_skipped: float
) -> Job:
    """The import of HDF5 shards; see `edgesea.table.importing.import_table`."""
    if unknown := sorted(layout.columns.keys() - set(COLUMNS[1:])):
        raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known for shards: {', '.join(COLUMNS[1:])}")
    bar = tqdm(paths, "shards", unit="shard", disable=None)
    shards = sorted((_inspect(path, root, layout) for path in bar), key=lambda shard: shard.name)
    bad = [(str(shard.path), shard.reason) for shard in shards if shard.reason]
    check_skipped(bad, len(shards), max_skipped, "shards")
    first, *others = (shard for shard in shards if not shard.reason)
    for shard in others:
        if (shard.size, shard.samples) != (first.size, first.samples):
            one, other = (f"{s.path} has {s.size} dimensions and {s.samples} samples a row" for s in (first, shard))
            raise EdgeseaError(f"{one}, {other}; import them one by one")
    seconds = first.samples / layout.audio_rate
    if window is not None and round(window * layout.audio_rate) != first.samples:
        lasts = f"rows of {first.samples} samples last {seconds:g} s at audio_rate={layout.audio_rate}"
        raise EdgeseaError(f"{first.path}: {lasts}, not window={window:g} s")
    framing = Framing(seconds, seconds, center=False)
    framing.at(layout.sample_rate)
    files = [(shard.name, file_size(shard.path), 0 if shard.reason else len(shard.rows)) for shard in shards]
    identity = repr((sorted(asdict(layout).items()), files)).encode("utf-8", "surrogateescape")
    digest, given = hashlib.sha256(identity).hexdigest(), {"kind": "shards", **asdict(layout)}
    parts, read = _cut_slices(shards, part_clips), partial(_read_slice, layout=layout)
    clips = sum(len(shard.rows) for shard in shards)
    return Job(framing, first.size, "level" in layout.columns, given, digest, parts, read, clips)


def _inspect(path: Path, root: Path, layout: Layout) -> Shard:
    name = clip_name(path.relative_to(root))
    try:
        with h5py.File(path, "r") as file:
            for key in (layout.audio, layout.embedding, *layout.known.values()):
                if not isinstance(file.get(key), h5py.Dataset):
                    raise EdgeseaError(f"no data set {key!r}; it has {', '.join(file) or 'none'}")
                if (rows := len(file[key])) != (count := len(file[layout.audio])):
                    raise EdgeseaError(f"{rows} rows in {key}, but {count} in {layout.audio}")
            audio, embedding = file[layout.audio], file[layout.embedding]
            for data, kinds in ((audio, (*FLOATS, "i2")), (embedding, FLOATS)):
                row = data.shape[1:]
                if not row or data.size == 0 or math.prod(row) != max(row) or data.dtype.str[1:] not in kinds:
                    raise EdgeseaError(f"{data.name} is {data.dtype} of shape {data.shape}, not {kinds} of (rows, n)")
            chunk = audio.chunks[0] if audio.chunks else 1
            step = max(1, SLICE_ROWS // chunk) * chunk
            return Shard(name, path, range(len(audio)), max(audio.shape[1:]), max(embedding.shape[1:]), step)
    except DAMAGED as error:
        return Shard(name, path, reason=_reason(error))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, EdgeseaError) else f"cannot be read: {error}"


def _cut_slices(shards: Sequence[Shard], part_clips: int) -> list[list[Shard]]:
    """Cut the shards into parts of `part_clips` rows, and these into what is read at once."""
    parts: dict[int, list[Shard]] = defaultdict(list)
    before = 0  # rows of the shards before
    for shard in shards:
        count = len(shard.rows)
        cuts = {*range(0, count, shard.step), *range(-before % part_clips, count, part_clips), count}
        for first, last in pairwise(sorted(cuts)):
            parts[(before + first) // part_clips].append(replace(shard, rows=range(first, last)))
        before += count
    return list(parts.values())


def _read_slice(shard: Shard, layout: Layout) -> Iterator[tuple[Piece | tuple[str, str], Float32]]:
    """The rows of a slice, each the only piece of a clip, and its embedding (1, D); (name, reason) if unusable."""
    if shard.reason:
        raise EdgeseaError(shard.reason)
    where, nothing = slice(shard.rows.start, shard.rows.stop), np.zeros((1, 1), np.float32)
    names = [f"{shard.name}#{row:06d}" for row in shard.rows]
    try:
        with h5py.File(shard.path, "r") as file:
            keys = layout.audio, layout.embedding
            audio, embeddings = (file[key][where].reshape(len(names), -1) for key in keys)
            columns = {name: file[key][where].tolist() for name, key in layout.known.items()}
    except DAMAGED as error:
        yield from (((name, _reason(error)), nothing) for name in names)
        return
    for index, name in enumerate(names):
        row = {column: _plain(values[index]) for column, values in columns.items()}
        try:
            yield _read_row(name, shard.path, row, audio[index], embeddings[index], layout)
        except EdgeseaError as error:
            yield (name, str(error)), nothing


def _plain(value: Any) -> Any:
    """A value of a data set as a manifest would have it; None for NaN."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _read_row(
    clip: str, path: Path, row: dict[str, Any], audio: NDArray[Any], embedding: NDArray[Any], layout: Layout
) -> tuple[Piece, Float32]:
    if isinstance(time := row.get("time"), int | float):
        try:
            row["time"] = datetime.fromtimestamp(time, UTC)
        except (ValueError, OverflowError, OSError):
            raise EdgeseaError(f"time {time} is neither ISO 8601 nor seconds since 1970") from None
    entry = make_entry(clip, path, row, layout.validate, in_folder=True)
    if "level" in row and not entry.level:
        raise EdgeseaError(f"level {row['level']} is not a number")
    # int16 is taken on the scale of the table, so that it is stored as it is where the rates are equal.
    samples = np.asarray(audio, np.float32) / np.float32(PCM_SCALE if audio.dtype.kind == "i" else 1.0)
    with np.errstate(over="ignore"):
        vector = np.asarray(embedding, np.float32)
    for what, numbers in (("audio", samples), ("embedding", vector)):
        if not np.isfinite(numbers).all():
            raise EdgeseaError(f"the {what} holds NaN or Inf")
    length, starts = round(len(samples) / layout.audio_rate * layout.sample_rate), np.zeros(1, np.int64)
    if entry.level:  # the readings fill the window, so their number is their rate where it lasts one second
        levels = measured_level(entry.level, len(entry.level), starts, length, length)
    else:
        levels = a_weighted_level(samples[None], layout.audio_rate)
    resampled = Resampler(layout.audio_rate, layout.sample_rate).feed(samples, last=True)[:length]
    pcm, clipped = to_pcm(np.pad(resampled, (0, length - len(resampled))))
    return Piece(entry, 0, pcm, starts, levels, clipped), vector[None]
