"""HDF5 shards: data sets of audio and embeddings with one window in each row, as the l3embedding pipeline writes."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import file_state
from edgesea.audio.io import Resampler
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.errors import EdgeseaError
from edgesea.table.building import Skipped
from edgesea.table.importing.pieces import EmbeddedPiece, clip_name
from edgesea.table.importing.rows import CONDITION, row_entry, split_rule
from edgesea.table.manifest import ClipEntry
from edgesea.table.pieces import PCM_SCALE, to_pcm

if TYPE_CHECKING:
    import h5py

Float32 = NDArray[np.float32]

SLICE_ROWS = 64  # rows that are read at once, unless the chunks that HDF5 compressed are larger
DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError)  # what h5py raises


@dataclass(frozen=True)
class Layout:
    """How shards are laid out, and what becomes of their rows.

    Attributes
    ----------
    audio, embedding : str
        Names of the data sets.
    audio_rate, sample_rate : int
        Rates in Hz: of the shards' audio, and of the audio that is stored.
    columns : dict
        Data sets with what else is known of each row, by the names in `edgesea.table.importing.rows`.
    validate : float or str
        Which rows validate.
    """

    audio: str
    embedding: str
    audio_rate: int
    sample_rate: int
    columns: dict[str, str]
    validate: float | str

    def known(self) -> dict[str, str]:
        """`columns`, and the data set that decides which rows validate, if there is one."""
        _, condition, _ = split_rule(self.validate)
        return {**self.columns, **({CONDITION: condition} if condition else {})}


@dataclass(frozen=True)
class Shard:
    """One HDF5 file.

    Attributes
    ----------
    clip : str
        Its name: the path below the source, with forward slashes.
    path : Path
        The file.
    rows, samples, size : int
        Windows; samples and dimensions of each.
    step : int
        Rows that are best read at once.
    reason : str
        Why it cannot be used, if it cannot; then it has no rows.
    """

    clip: str
    path: Path
    rows: int = 0
    samples: int = 0
    size: int = 0
    step: int = 1
    reason: str = ""


@dataclass(frozen=True)
class Slice:
    """Rows `first` to `last` - 1 of a shard: what a thread reads at once."""

    shard: Shard
    first: int
    last: int

    @property
    def clip(self) -> str:
        """The name of its first row, or that of a shard that cannot be used."""
        return self.shard.clip if self.shard.reason else row_name(self.shard, self.first)

    @property
    def path(self) -> Path:
        """The shard's file."""
        return self.shard.path


def row_name(shard: Shard, row: int) -> str:
    """The name of the clip that a row is."""
    return f"{shard.clip}#{row:06d}"


def find_shards(paths: Sequence[Path], root: Path, layout: Layout, max_skipped: float) -> list[Shard]:
    """Look into all shards, sorted by name.

    Raises
    ------
    EdgeseaError
        If too many cannot be used, or two do not fit together.
    """
    bar = tqdm(paths, "shards", unit="shard", disable=None)
    shards = sorted((_inspect(path, clip_name(path, root), layout) for path in bar), key=lambda shard: shard.clip)
    good, bad = [shard for shard in shards if not shard.reason], [shard for shard in shards if shard.reason]
    if not good or len(bad) > max_skipped * len(shards):
        remedy = f"mend them or raise max_skipped ({max_skipped})" if good else "mend them or the options"
        raise EdgeseaError(
            f"{len(bad)} of {len(shards)} shards cannot be used (first: {bad[0].path}: {bad[0].reason}); {remedy}"
        )
    for shard in good:
        for name, what in (("size", "dimensions"), ("samples", "samples a row")):
            one, other = getattr(good[0], name), getattr(shard, name)
            if one != other:
                raise EdgeseaError(f"{good[0].path} has {one} {what}, {shard.path} has {other}; import them one by one")
    return shards


def _inspect(path: Path, clip: str, layout: Layout) -> Shard:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            keys = (layout.audio, layout.embedding, *layout.known().values())
            missing = [key for key in keys if not isinstance(file.get(key), h5py.Dataset)]
            if missing:
                options = {layout.audio: "audio_key", layout.embedding: "embedding_key"}
                raise EdgeseaError(
                    f"no data set {missing[0]!r}; it has {', '.join(file) or 'none'}: "
                    f"give {options.get(missing[0], 'another name in columns or validate')}"
                )
            counts = {key: file[key].shape[0] if file[key].shape else 0 for key in keys}
            if len(set(counts.values())) > 1:
                text = ", ".join(f"{count} in {key}" for key, count in counts.items())
                raise EdgeseaError(f"unequal numbers of rows: {text}")
            audio, embedding = file[layout.audio], file[layout.embedding]
            samples, size = _row_size(audio, integers=True), _row_size(embedding)
            chunk = audio.chunks[0] if audio.chunks else 1
            return Shard(clip, path, len(audio), samples, size, max(1, SLICE_ROWS // chunk) * chunk)
    except DAMAGED as error:  # EdgeseaError is a ValueError
        reason = str(error) if isinstance(error, EdgeseaError) else f"cannot be read: {error}"
        return Shard(clip, path, reason=reason)


def _row_size(data: "h5py.Dataset", integers: bool = False) -> int:
    """Numbers in a row of (rows, n), (rows, 1, n) or (rows, n, 1): floats, or also int16."""
    if data.dtype.kind != "f" and not (integers and data.dtype.kind == "i" and data.dtype.itemsize == 2):
        wanted = "int16 or floating-point numbers" if integers else "floating-point numbers"
        raise EdgeseaError(f"{data.name} is {data.dtype}, where {wanted} are needed")
    shape = data.shape
    if len(shape) not in (2, 3) or min(shape) < 1 or (len(shape) == 3 and 1 not in shape[1:]):
        raise EdgeseaError(
            f"{data.name} has the shape {shape}, where (rows, n) is needed, or (rows, 1, n), (rows, n, 1)"
        )
    return int(max(shape[1:]))


def shards_digest(shards: Sequence[Shard], layout: Layout) -> str:
    """sha256 of the shards' names, sizes and rows, and of how they are read: the identity of the table."""
    files = [(shard.clip, (file_state(shard.path) or (-1,))[0], shard.rows) for shard in shards]
    text = repr((sorted(asdict(layout).items()), files))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def cut_slices(shards: Sequence[Shard], part_clips: int) -> list[list[Slice]]:
    """Cut the shards into parts of `part_clips` rows, and these into what is read at once."""
    parts: list[list[Slice]] = [[]]
    free = part_clips
    for shard in shards:
        first = 0
        while first < max(1, shard.rows):  # a shard that cannot be used counts as one clip
            if not free:
                parts.append([])
                free = part_clips
            last = max(first + 1, min(first + shard.step, first + free, shard.rows))
            parts[-1].append(Slice(shard, first, last))
            free -= last - first
            first = last
    return parts


def read_slice(rows: Slice, layout: Layout) -> Iterator[tuple[ClipEntry, EmbeddedPiece] | Skipped]:
    """Read some rows of a shard, each of which is a clip of one window.

    Yields
    ------
    (ClipEntry, EmbeddedPiece) or Skipped
        For each row.

    Raises
    ------
    EdgeseaError
        If the shard cannot be used.
    """
    import h5py

    shard = rows.shard
    if shard.reason:
        raise EdgeseaError(shard.reason)
    names = [row_name(shard, row) for row in range(rows.first, rows.last)]
    try:
        with h5py.File(shard.path, "r") as file:
            where = slice(rows.first, rows.last)
            audio = file[layout.audio][where].reshape(len(names), shard.samples)
            embeddings = file[layout.embedding][where].reshape(len(names), shard.size)
            columns = {name: file[key][where] for name, key in layout.known().items()}
    except DAMAGED as error:
        yield from (Skipped(name, f"cannot be read: {error}") for name in names)
        return
    for index, name in enumerate(names):
        try:
            values = {column: data[index] for column, data in columns.items()}
            entry = row_entry(name, shard.path, values, layout.validate)
            yield entry, _piece(entry, audio[index], embeddings[index], layout)
        except EdgeseaError as error:
            yield Skipped(name, str(error))


def _piece(entry: ClipEntry, audio: NDArray[Any], embedding: NDArray[Any], layout: Layout) -> EmbeddedPiece:
    """A row as the piece of a clip."""
    # int16 is taken on the scale of the table, so that it is stored as it is where the rates are equal.
    samples = np.asarray(audio, np.float32) / np.float32(PCM_SCALE if audio.dtype.kind == "i" else 1.0)
    with np.errstate(over="ignore"):
        vector = np.asarray(embedding, np.float32)
    for what, values in (("audio", samples), ("embedding", vector)):
        if not np.isfinite(values).all():
            raise EdgeseaError(f"the {what} holds NaN or Inf")
    starts = np.zeros(1, np.int64)
    length = round(len(samples) / layout.audio_rate * layout.sample_rate)
    levels = (
        # The readings fill the window, so their number is their rate where the window lasts one second.
        measured_level(entry.level, len(entry.level), starts, length, length)
        if entry.level
        else a_weighted_level(samples[None], layout.audio_rate)
    )
    resampled = Resampler(layout.audio_rate, layout.sample_rate).feed(samples, last=True)[:length]
    pcm, clipped = to_pcm(np.pad(resampled, (0, length - len(resampled))))
    return EmbeddedPiece(0, pcm, starts, levels, vector[None], clipped)
