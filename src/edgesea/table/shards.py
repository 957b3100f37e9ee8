"""HDF5 shards: data sets of audio and embeddings with one window in each row, as the l3embedding pipeline writes."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
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
from edgesea.table.clips import PCM_SCALE, Job, Piece, to_pcm
from edgesea.table.manifest import COLUMNS, ClipEntry, clip_name, file_size, make_entry, split_rule

Float32 = NDArray[np.float32]

SLICE_ROWS = 64  # rows that are read at once, unless the chunks that HDF5 compressed are larger
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError)  # what h5py raises


@dataclass(frozen=True)
class Layout:
    """How shards are laid out, and what becomes of their rows; a part of the table's plan."""

    audio: str  # names of the data sets
    embedding: str
    audio_rate: int  # Hz
    sample_rate: int  # Hz, of the audio that is stored
    columns: dict[str, str]  # data sets of what else is known of each row, by the names in `COLUMNS`
    validate: float | str  # which rows validate

    def known(self) -> dict[str, str]:
        """`columns`, and the data set that decides which rows validate, if there is one."""
        condition = split_rule(self.validate)[1]
        return {**self.columns, "condition": condition} if condition else self.columns


@dataclass(frozen=True)
class Shard:
    """An HDF5 file, or a slice of its rows, which a thread reads at once; each row is a clip of one window."""

    name: str  # path below the source, with forward slashes
    path: Path
    first: int = 0
    last: int = 1  # row behind the last; a shard that cannot be used counts as one
    samples: int = 0  # of each row
    size: int = 0  # dimensions
    step: int = 1  # rows that are best read at once
    reason: str = ""  # why it cannot be used

    @property
    def names(self) -> list[str]:
        """The names of the clips."""
        return [self.name] if self.reason else [f"{self.name}#{row:06d}" for row in range(self.first, self.last)]

    @property
    def clip(self) -> str:
        """The name of the first."""
        return self.names[0]


def shards_job(
    paths: Sequence[Path], root: Path, layout: Layout, window: float | None, part_clips: int, max_skipped: float
) -> Job:
    """The import of HDF5 shards; see `edgesea.table.importing.import_table`."""
    if unknown := sorted(layout.columns.keys() - set(COLUMNS[1:])):
        raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known for shards: {', '.join(COLUMNS[1:])}")
    bar = tqdm(paths, "shards", unit="shard", disable=None)
    shards = sorted((_inspect(path, root, layout) for path in bar), key=lambda shard: shard.name)
    good, bad = [shard for shard in shards if not shard.reason], [shard for shard in shards if shard.reason]
    if not good or len(bad) > max_skipped * len(shards):
        remedy = f"or raise max_skipped ({max_skipped})" if good else "or the options"
        first = f"{bad[0].path}: {bad[0].reason}"
        raise EdgeseaError(f"{len(bad)} of {len(shards)} shards cannot be used (first: {first}); repair them {remedy}")
    for shard in good:
        if (shard.size, shard.samples) != (good[0].size, good[0].samples):
            one, other = (f"{s.path} has {s.size} dimensions and {s.samples} samples a row" for s in (good[0], shard))
            raise EdgeseaError(f"{one}, {other}; import them one by one")
    samples, rate = good[0].samples, layout.audio_rate
    if window is not None and round(window * rate) != samples:
        raise EdgeseaError(
            f"{good[0].path}: rows of {samples} samples last {samples / rate:g} s at audio_rate={rate}, not "
            f"window={window:g} s"
        )
    framing = Framing(samples / rate, samples / rate, center=False)
    framing.at(layout.sample_rate)
    files = [(shard.name, file_size(shard.path), 0 if shard.reason else shard.last) for shard in shards]
    identity = repr((sorted(asdict(layout).items()), files)).encode("utf-8", "surrogateescape")
    plan = {
        "framing": asdict(framing),
        "level": {"unit": "dB SPL" if "level" in layout.columns else "dB(A) re full scale", "rate": None},
        "input": {"kind": "shards", **asdict(layout)},
        "manifest_sha256": hashlib.sha256(identity).hexdigest(),
    }
    clips = sum(shard.last for shard in shards)
    return Job(
        good[0].size, plan, cut_slices(shards, part_clips), partial(read_slice, layout=layout), clips, SLICE_ROWS
    )


def _inspect(path: Path, root: Path, layout: Layout) -> Shard:
    name = clip_name(path.relative_to(root))
    try:
        with h5py.File(path, "r") as file:
            for key in (layout.audio, layout.embedding, *layout.known().values()):
                if not isinstance(file.get(key), h5py.Dataset):
                    raise EdgeseaError(f"no data set {key!r}; it has {', '.join(file) or 'none'}")
                if len(file[key]) != len(file[layout.audio]):
                    raise EdgeseaError(
                        f"{len(file[key])} rows in {key}, but {len(file[layout.audio])} in {layout.audio}"
                    )
            audio, embedding = file[layout.audio], file[layout.embedding]
            for data, kinds in ((audio, ("f2", "f4", "f8", "i2")), (embedding, ("f2", "f4", "f8"))):
                row = data.shape[1:]
                if not row or data.size == 0 or math.prod(row) != max(row) or data.dtype.str[1:] not in kinds:
                    raise EdgeseaError(f"{data.name} is {data.dtype} of shape {data.shape}, not {kinds} of (rows, n)")
            chunk = audio.chunks[0] if audio.chunks else 1
            step = max(1, SLICE_ROWS // chunk) * chunk
            return Shard(name, path, 0, len(audio), math.prod(audio.shape[1:]), math.prod(embedding.shape[1:]), step)
    except DAMAGED as error:  # EdgeseaError is a ValueError
        return Shard(name, path, reason=str(error) if isinstance(error, EdgeseaError) else f"cannot be read: {error}")


def cut_slices(shards: Sequence[Shard], part_clips: int) -> list[list[Shard]]:
    """Cut the shards into parts of `part_clips` rows, and these into what is read at once."""
    parts: list[list[Shard]] = [[]]
    free = part_clips
    for shard in shards:
        first = 0
        while first < shard.last:
            if not free:
                parts.append([])
                free = part_clips
            last = min(first + shard.step, first + free, shard.last)
            parts[-1].append(replace(shard, first=first, last=last))
            free -= last - first
            first = last
    return parts


def read_slice(rows: Shard, layout: Layout) -> Iterator[tuple[Piece | tuple[str, str], Float32]]:
    """The rows of a slice, each the only piece of a clip, and its embedding (1, D); (name, reason) if unusable."""
    if rows.reason:
        raise EdgeseaError(rows.reason)
    where, shape, nothing = slice(rows.first, rows.last), (rows.last - rows.first, -1), np.zeros((0, 1), np.float32)
    try:
        with h5py.File(rows.path, "r") as file:
            audio, embeddings = (file[key][where].reshape(shape) for key in (layout.audio, layout.embedding))
            columns = {name: file[key][where] for name, key in layout.known().items()}
    except DAMAGED as error:
        yield from (((name, f"cannot be read: {error}"), nothing) for name in rows.names)
        return
    for index, name in enumerate(rows.names):
        try:
            entry = _entry(name, rows.path, {column: _plain(data[index]) for column, data in columns.items()}, layout)
            yield _read_row(entry, audio[index], embeddings[index], layout)
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


def _entry(clip: str, path: Path, values: dict[str, Any], layout: Layout) -> ClipEntry:
    if isinstance(time := values.get("time"), int | float):
        try:
            values["time"] = datetime.fromtimestamp(time, UTC)
        except (ValueError, OverflowError, OSError):
            raise EdgeseaError(f"time {time} is neither ISO 8601 nor seconds since 1970") from None
    entry = make_entry(clip, path, values, layout.validate, folder=clip.split("/")[0] if "/" in clip else "")
    if "level" in values and not entry.level:
        raise EdgeseaError(f"level {values['level']} is not a number")
    return entry


def _read_row(entry: ClipEntry, audio: NDArray[Any], embedding: NDArray[Any], layout: Layout) -> tuple[Piece, Float32]:
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
