"""HDF5 shards: data sets of audio and embeddings with one window in each row, as the l3embedding pipeline writes."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.audio.framing import Framing
from edgesea.audio.io import to_mono
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.audio.resampling import Resampler
from edgesea.errors import EdgeseaError
from edgesea.table import clips, manifest
from edgesea.table.clips import ClipEntry, Float32, Piece
from edgesea.table.manifest import COLUMNS
from edgesea.table.paths import clip_name
from edgesea.table.sheet import as_text, some
from edgesea.table.writer import check_skipped

SLICE_ROWS = 64  # rows that are read at once, unless the chunks that HDF5 compressed are larger
FLOATS = ("float16", "float32", "float64")
# What h5py raises, datetime for numbers that are not times, and EdgeseaError, which is a ValueError.
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError, OverflowError)


class Slice(NamedTuple):
    """Rows of a shard, which a thread reads at once; each is a clip of one window."""

    clip: str  # name of the shard: its path below the source, with forward slashes
    path: Path
    rows: range  # a shard that cannot be used counts as one
    reason: str  # why it cannot be used


@dataclass(frozen=True)
class Shards:
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
        condition = manifest.split_rule(self.validate)[1]
        return {**self.columns, "condition": condition} if condition else self.columns

    def survey(
        self, paths: Sequence[Path], root: Path, window: float | None, part_clips: int, max_skipped: float
    ) -> tuple[Framing, int, list[list[Slice]], int, str]:
        """The framing, the dimensions, the slices of each part, the number of clips, and a digest of all shards."""
        if unknown := sorted(self.columns.keys() - set(COLUMNS[1:])):
            raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known for shards: {', '.join(COLUMNS[1:])}")
        parts: dict[int, list[Slice]] = defaultdict(list)
        shapes: dict[tuple[int, int], Path] = {}  # dimensions and samples of a row, and the first shard that has them
        total, files, bad, values = 0, [], [], set[str]()  # these of the condition
        named = sorted((clip_name(path.relative_to(root)), path) for path in paths)
        for name, path in tqdm(named, "shards", unit="shard", disable=None):
            try:
                (count, step, shape, found), reason = self._inspect(path), ""
                values |= found
                shapes.setdefault(shape, path)
            except DAMAGED as error:
                count, step, reason = 1, 1, _reason(error)
                bad.append((str(path), reason))
            files.append((name, manifest.file_size(path), 0 if reason else count))
            cuts = {*range(0, count, step), *range(-total % part_clips, count, part_clips), count}
            for first, last in pairwise(sorted(cuts)):
                parts[(total + first) // part_clips].append(Slice(name, path, range(first, last), reason))
            total += count
        check_skipped(bad, len(files), max_skipped, "shards")
        _, condition, wanted = manifest.split_rule(self.validate)
        if condition and wanted not in values:
            known = some(sorted(values))
            raise EdgeseaError(f"{root}: no row has {condition}={wanted}, so nothing would validate; it has {known}")
        if len(shapes) > 1:
            one, other, *_ = (f"{path} has {n} dimensions and {row} samples a row" for (n, row), path in shapes.items())
            raise EdgeseaError(f"{one}, {other}; import them one by one")
        (((size, samples), path),) = shapes.items()
        seconds = samples / self.audio_rate
        if window is not None and round(window * self.audio_rate) != samples:
            raise EdgeseaError(f"{path}: {seconds:g} s a row at audio_rate={self.audio_rate}, not window={window:g} s")
        digest = manifest.sha256([repr((sorted(asdict(self).items()), files))])
        return Framing(seconds, seconds), size, list(parts.values()), total, digest

    def _inspect(self, path: Path) -> tuple[int, int, tuple[int, int], set[str]]:
        """Rows of a shard, how many are best read at once, dimensions and samples of each, values of the condition."""
        condition = self.known.get("condition")
        with h5py.File(path, "r") as file:
            for key in (self.audio, self.embedding, *self.known.values()):
                if not isinstance(file.get(key), h5py.Dataset):
                    raise EdgeseaError(f"no data set {key!r}; it has {', '.join(file) or 'none'}")
                if (rows := len(file[key])) != (count := len(file[self.audio])):
                    raise EdgeseaError(f"{rows} rows in {key}, but {count} in {self.audio}")
            audio, embedding = file[self.audio], file[self.embedding]
            for data, kinds in ((audio, (*FLOATS, "int16")), (embedding, FLOATS)):
                row = data.shape[1:]
                if not row or data.size == 0 or math.prod(row) != max(row) or data.dtype.name not in kinds:
                    raise EdgeseaError(f"{data.name} is {data.dtype} of shape {data.shape}, not {kinds} of (rows, n)")
            chunk = audio.chunks[0] if audio.chunks else 1
            values = {as_text(value) for value in file[condition][()].tolist()} if condition else set()
            shape = max(embedding.shape[1:]), max(audio.shape[1:])
            return count, max(1, SLICE_ROWS // chunk) * chunk, shape, values

    def read(self, source: Slice) -> Iterator[tuple[Piece | tuple[str, str], Float32]]:
        """The rows of a slice, each the only piece of a clip, and its embedding (1, D); (name, reason) if unusable."""
        if source.reason:
            raise EdgeseaError(source.reason)
        where, nothing = slice(source.rows.start, source.rows.stop), np.zeros((1, 1), np.float32)
        names = [f"{source.clip}#{row:06d}" for row in source.rows]
        try:
            with h5py.File(source.path, "r") as file:
                audio, embeddings = (file[key][where].reshape(len(names), -1) for key in (self.audio, self.embedding))
                columns = {name: file[key][where].tolist() for name, key in self.known.items()}
        except DAMAGED as error:
            yield from (((name, _reason(error)), nothing) for name in names)
            return
        for index, name in enumerate(names):
            row = {column: _plain(values[index]) for column, values in columns.items()}
            try:
                yield self._read_row(name, source.path, row, audio[index], embeddings[index])
            except DAMAGED as error:
                yield (name, _reason(error)), nothing

    def _read_row(
        self, clip: str, path: Path, row: dict[str, Any], audio: NDArray[Any], embedding: NDArray[Any]
    ) -> tuple[Piece, Float32]:
        if isinstance(row.get("time"), int | float):
            row["time"] = datetime.fromtimestamp(row["time"], UTC)
        convert, by_name = manifest.conversions(self.validate), manifest.split_rule(self.validate)[0]
        known = {name: convert[name](value) for name, value in row.items()}
        splits = known.pop("split", ""), manifest.folder_split(clip), known.pop("condition", "")
        split = next(filter(None, splits), None) or manifest.hash_split(clip, by_name)
        entry = ClipEntry(clip, path, **known, split=split)
        if "level" in row and not entry.level:
            raise EdgeseaError(f"level {row['level']} is not a number")
        samples = to_mono(audio)
        with np.errstate(over="ignore"):
            vector = np.asarray(embedding, np.float32)
        for what, numbers in (("audio", samples), ("embedding", vector)):
            if not np.isfinite(numbers).all():
                raise EdgeseaError(f"the {what} holds NaN or Inf")
        length, starts = round(len(samples) / self.audio_rate * self.sample_rate), np.zeros(1, np.int64)
        if entry.level:  # the readings fill the window, so their number is their rate where it lasts one second
            levels = measured_level(entry.level, len(entry.level), starts, length, length)
        else:
            levels = a_weighted_level(samples[None], self.audio_rate)
        resampled = Resampler(self.audio_rate, self.sample_rate).feed(samples, last=True)[:length]
        pcm, scale = clips.to_pcm(np.pad(resampled, (0, length - len(resampled))))
        return Piece(entry, 0, pcm, starts, levels, scale), vector[None]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, EdgeseaError) else f"cannot be read: {error}"


def _plain(value: Any) -> Any:
    """A value of a data set as a manifest would have it; None for NaN."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value
