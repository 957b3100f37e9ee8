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
    last: int = 1  # row behind the last; a shard that cannot be used counts as one
    samples: int = 0  # of each row
    size: int = 0  # dimensions
    step: int = 1  # rows that are best read at once
    first: int = 0
    reason: str = ""  # why it cannot be used

    @property
    def clip(self) -> str:
        """The name of the shard if it cannot be used, else of its first row."""
        return self.name if self.reason else self.clip_at(self.first)

    def clip_at(self, row: int) -> str:
        """The name of a row's clip."""
        return f"{self.name}#{row:06d}"


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
    files = [(shard.name, file_size(shard.path), 0 if shard.reason else shard.last) for shard in shards]
    identity = repr((sorted(asdict(layout).items()), files)).encode("utf-8", "surrogateescape")
    plan = {
        "framing": asdict(framing),
        "level": {"unit": "dB SPL" if "level" in layout.columns else "dB(A) re full scale", "rate": None},
        "input": {"kind": "shards", **asdict(layout)},
        "manifest_sha256": hashlib.sha256(identity).hexdigest(),
    }
    clips, read = sum(shard.last for shard in shards), partial(_read_slice, layout=layout)
    return Job(first.size, plan, _cut_slices(shards, part_clips), read, clips)


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
            return Shard(name, path, len(audio), math.prod(audio.shape[1:]), math.prod(embedding.shape[1:]), step)
    except EdgeseaError as error:
        return Shard(name, path, reason=str(error))
    except DAMAGED as error:
        return Shard(name, path, reason=f"cannot be read: {error}")


def _cut_slices(shards: Sequence[Shard], part_clips: int) -> list[list[Shard]]:
    """Cut the shards into parts of `part_clips` rows, and these into what is read at once."""
    parts: dict[int, list[Shard]] = defaultdict(list)
    before = 0  # rows of the shards before
    for shard in shards:
        steps, ends = range(0, shard.last, shard.step), range(-before % part_clips, shard.last, part_clips)
        for first, last in pairwise(sorted({*steps, *ends, shard.last})):
            parts[(before + first) // part_clips].append(replace(shard, first=first, last=last))
        before += shard.last
    return list(parts.values())


def _read_slice(rows: Shard, layout: Layout) -> Iterator[tuple[Piece | tuple[str, str], Float32]]:
    """The rows of a slice, each the only piece of a clip, and its embedding (1, D); (name, reason) if unusable."""
    if rows.reason:
        raise EdgeseaError(rows.reason)
    where, shape, nothing = slice(rows.first, rows.last), (rows.last - rows.first, -1), np.zeros((1, 1), np.float32)
    names = [rows.clip_at(row) for row in range(rows.first, rows.last)]
    try:
        with h5py.File(rows.path, "r") as file:
            audio, embeddings = (file[key][where].reshape(shape) for key in (layout.audio, layout.embedding))
            columns = {name: file[key][where] for name, key in layout.known.items()}
    except DAMAGED as error:
        yield from (((name, f"cannot be read: {error}"), nothing) for name in names)
        return
    for index, name in enumerate(names):
        try:
            values = {column: _plain(data[index]) for column, data in columns.items()}
            yield _read_row(name, rows.path, values, audio[index], embeddings[index], layout)
        except EdgeseaError as error:
            yield (name, str(error)), nothing


def _plain(value: Any) -> Any:
    """A value of a data set as a manifest would have it; None for NaN."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(plain, float):
        return None if math.isnan(plain) else int(plain) if plain.is_integer() else plain
    return plain


def _read_row(
    clip: str, path: Path, values: dict[str, Any], audio: NDArray[Any], embedding: NDArray[Any], layout: Layout
) -> tuple[Piece, Float32]:
    if isinstance(time := values.get("time"), int | float):
        try:
            values["time"] = datetime.fromtimestamp(time, UTC)
        except (ValueError, OverflowError, OSError):
            raise EdgeseaError(f"time {time} is neither ISO 8601 nor seconds since 1970") from None
    entry = make_entry(clip, path, values, layout.validate, folder=clip.split("/")[0] if "/" in clip else "")
    if "level" in values and not entry.level:
        raise EdgeseaError(f"level {values['level']} is not a number")
    # int16 is taken on the scale of the table, so that it is stored as it is where the rates are equal.
    samples = np.asarray(audio, np.float32) / np.float32(PCM_SCALE if audio.dtype.kind == "i" else 1.0)
    with np.errstate(over="ignore"):
        vector = np.asarray(embedding, np.float32)
    for what, numbers in (("audio", samples), ("embedding", vector)):
        if not np.isfinite(numbers).all():
            raise EdgeseaError(f"the {what} holds NaN or Inf")
    starts = np.zeros(1, np.int64)
    length = round(len(samples) / layout.audio_rate * layout.sample_rate)
    if entry.level:  # the readings fill the window, so their number is their rate where it lasts one second
        levels = measured_level(entry.level, len(entry.level), starts, length, length)
    else:
        levels = a_weighted_level(samples[None], layout.audio_rate)
    resampled = Resampler(layout.audio_rate, layout.sample_rate).feed(samples, last=True)[:length]
    pcm, clipped = to_pcm(np.pad(resampled, (0, length - len(resampled))))
    return Piece(entry, 0, pcm, starts, levels, clipped), vector[None]
