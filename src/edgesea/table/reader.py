"""Reading a table, one chunk (a row group of a part) at a time."""

import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgesea.artifact import PLAN_FILE, read_json
from edgesea.audio.framing import Framing
from edgesea.audio.resampling import Resampler
from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch, thread_count
from edgesea.table.clips import to_pcm

Float32 = NDArray[np.float32]

CLIPS, WINDOWS = "clips", "windows"
MIXTURES = "mixtures"  # folder of a table of mixtures of the clips, if there is one
TABLE_FILE = "table.json"
SKIPPED_FILE = "skipped.csv"
SKIPPED_KEY = b"edgesea.skipped"  # schema metadata of a clips part: JSON list of [clip, reason]
PART_KEY = b"edgesea.part"  # and the rest of `PartInfo`
END_BYTES = 1 << 14
SMALL = ("clip", "sensor", "time", "split", "label", "offset", "start", "level")  # columns, of clips and of windows
READERS, FEW = 4, 8  # threads, and the parts that one of them reads together
RUN = 64  # parts whose small columns are read together where several workers read a table
SCALE = 1 / 32767  # of parts that were written before each clip had its own


def part_path(table: Path, kind: str, part: int) -> Path:
    """The file of a part of ``clips`` or ``windows``."""
    return table.joinpath(kind, f"part-{part:05d}.parquet")


@dataclass(frozen=True)
class Chunk:
    """The unit of reading: row group `group` of part `part`, with all columns but audio and embeddings."""

    part: int
    group: int
    first_window: int  # row in the part of the first window
    clip: NDArray[np.int64]  # (windows,) row of each window's clip among these
    start: NDArray[np.int64]  # (windows,) first sample of each window in its clip
    level: Float32  # (windows,) dB
    offsets: NDArray[np.int64]  # (clips,) first sample of each clip row's audio in the clip
    names: NDArray[np.object_]  # (clips,) what the clip rows say; None where they do not
    sensors: NDArray[np.object_]
    times: NDArray[np.object_]
    splits: NDArray[np.object_]
    labels: NDArray[np.object_]

    def select(self, split: str | None) -> NDArray[np.int64]:
        """Windows (indices in the chunk) of one split, or of all."""
        if split is None:
            return np.arange(len(self.clip))
        return np.flatnonzero((self.splits == split)[self.clip])


class Table:
    """A finished table in the folder `path`; `info` replaces the ``table.json`` that is not written yet."""

    def __init__(self, path: Path | str, info: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        if info is None and not (self.path / TABLE_FILE).is_file():
            unfinished = (self.path / CLIPS).is_dir()
            remedy = "finish it by running the same command again" if unfinished else "make one: edgesea extract"
            raise EdgeseaError(f"{self.path}: {'unfinished table' if unfinished else 'no table here'}; {remedy}")
        try:
            self.info: dict[str, Any] = info or read_json(self.path / TABLE_FILE)
            self.parts: int = self.info["parts"]
            self.sample_rate: int = self.info["sample_rate"]
            self.embedding_size: int = self.info["teacher"]["embedding_size"]
            self.framing = Framing(**self.info["framing"])
            self.framing.at(self.sample_rate)  # raises EdgeseaError if windows or hops are shorter than a sample
            self.embedding_dtype: np.dtype[Any] = np.dtype(self.info["dtype"])
            if info is None:
                self.counts: dict[str, int] = dict(self.info["windows_by_split"])  # windows of each split
        except (LookupError, TypeError, ValueError) as error:  # EdgeseaError is a ValueError
            reason = f"damaged ({type(error).__name__}: {error})"
            remedy = "delete it, then run the command that made the table again: it is written anew from the parts"
            raise EdgeseaError(f"{self.path / TABLE_FILE}: {reason}; {remedy}") from error
        self._files: dict[tuple[str, int], pq.ParquetFile] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self.path,)  # for other processes, which open files of their own

    def _file(self, kind: str, part: int) -> pq.ParquetFile:
        if (kind, part) not in self._files:
            if len(self._files) > 64:
                self._files.clear()
            with _reading(self.path, kind, part) as path:
                # Without a buffer, for columns are small and neighbours, or one is read alone: twice as fast.
                file = pq.ParquetFile(arrow_file(path), pre_buffer=False, page_checksum_verification=True)
                if kind == CLIPS:
                    _checked(self.path, part, file.metadata)
                self._files[kind, part] = file
        return self._files[kind, part]

    def _read(self, kind: str, part: int, group: int, columns: list[str]) -> pa.Table:
        file = self._file(kind, part)
        with _reading(self.path, kind, part):
            return file.read_row_group(group, columns, use_threads=False)

    def runs(self) -> list[range]:
        """All parts, in runs of `RUN`."""
        return [range(first, min(first + RUN, self.parts)) for first in range(0, self.parts, RUN)]

    def chunk(self, part: int, group: int, columns: Sequence[str] = SMALL) -> Chunk:
        """Read the small columns of one chunk, or some of them; the others hold nothing."""
        clips, windows = (self._read(kind, part, group, [*columns]) for kind in (CLIPS, WINDOWS))
        metadata = [self._file(kind, part).metadata for kind in (CLIPS, WINDOWS)]
        first_clip, first_window = (sum(data.row_group(i).num_rows for i in range(group)) for data in metadata)
        none = pa.chunked_array([pa.nulls(len(clips), pa.string())])  # there was a time without labels

        def cells(table: pa.Table, name: str) -> NDArray[Any]:
            column = table[name] if name in table.column_names else none
            return np.asarray(column.to_numpy(zero_copy_only=False))

        clip = cells(windows, "clip").astype(np.int64) - first_clip
        numbers = cells(windows, "start"), cells(windows, "level"), cells(clips, "offset")
        texts = (np.asarray(cells(clips, name), object) for name in ("clip", "sensor", "time", "split", "label"))
        return Chunk(part, group, first_window, clip, *numbers, *texts)

    def chunks(self, parts: Iterable[int] | None = None, columns: Sequence[str] = SMALL) -> Iterator[Chunk]:
        """The small columns of every chunk (of some parts), in order; threads read ahead, for slow network drives."""
        wanted = list(range(self.parts) if parts is None else parts)
        sources = (partial(self._chunks, wanted[first : first + FEW], columns) for first in range(0, len(wanted), FEW))
        return chain.from_iterable(chain.from_iterable(prefetch(sources, READERS, 1)))

    def _chunks(self, parts: Iterable[int], columns: Sequence[str]) -> Iterator[list[Chunk]]:
        source = Table(self.path, self.info)  # with files of its own: threads do not share them
        groups = ((part, group) for part in parts for group in range(source._file(WINDOWS, part).num_row_groups))
        yield [source.chunk(*place, columns) for place in groups]

    def windows_by_split(self) -> Iterator[tuple[int, int, Mapping[str, int]]]:
        """(part, row group, windows of each split) of every chunk, in order, from the footers of the parts."""

        def count(part: int) -> list[Mapping[str, int]]:
            with _reading(self.path, CLIPS, part):
                if (info := part_info(self.path, part)) is None:
                    raise FileNotFoundError("no such file")
            if info.splits is None:  # written by an earlier version
                return [Counter(chunk.splits[chunk.clip].tolist()) for chunk in next(self._chunks([part], SMALL))]
            return [*info.splits]

        with ThreadPoolExecutor(READERS) as pool:
            for part, counts in enumerate(pool.map(count, range(self.parts))):
                yield from ((part, group, splits) for group, splits in enumerate(counts))

    def embeddings(self, part: int, group: int) -> NDArray[np.floating]:
        """Embeddings (windows, D) of a chunk, in the dtype they are stored in."""
        column = self._read(WINDOWS, part, group, ["embedding"])["embedding"].combine_chunks()
        values: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(-1, self.embedding_size)

    def audio(
        self, chunk: Chunk, rows: NDArray[np.int64], sample_rate: int | None = None
    ) -> tuple[NDArray[np.int16], Float32]:
        """The windows `rows` (n, W) of a chunk and the scales (n, 1) that their samples are to be multiplied by.

        Zero where a window reaches over the beginning of its clip. At another `sample_rate` (Hz) than the table's, what
        is stored of a clip is resampled as a whole, and a window begins with the last sample that is not later.
        """
        clips = self._read(CLIPS, chunk.part, chunk.group, ["pcm", "scale"])
        pcm = [np.frombuffer(value.as_buffer(), "<i2") for value in clips["pcm"]]
        has_scales, rate = "scale" in clips.column_names, sample_rate or self.sample_rate
        scales = clips["scale"].to_numpy().copy() if has_scales else np.full(len(pcm), SCALE, np.float32)
        used = np.unique(chunk.clip[rows]) if rate != self.sample_rate else ()

        def resampled(clip: int) -> tuple[NDArray[np.int16], float]:
            resampler = Resampler(self.sample_rate, rate, self.framing.resampler)
            return to_pcm(resampler.feed(pcm[clip] * scales[clip], last=True))

        with ThreadPoolExecutor(thread_count()) as pool:
            for clip, found in zip(used, pool.map(resampled, used), strict=True):
                pcm[clip], scales[clip] = found
        result = np.zeros((len(rows), self.framing.at(rate).window), np.int16)
        for out, row in zip(result, rows, strict=True):
            clip = chunk.clip[row]
            begin = int(chunk.start[row] - chunk.offsets[clip]) * rate // self.sample_rate
            audio = pcm[clip][max(0, begin) : begin + len(out)]
            out[max(0, -begin) : max(0, -begin) + len(audio)] = audio
        return result, scales[chunk.clip[rows], None]


def arrow_file(path: Path, mode: str = "rb") -> pa.NativeFile:
    """Open a file for pyarrow, which by itself opens none whose name is not UTF-8."""
    return pa.OSFile(os.fsencode(path), mode)


@contextmanager
def _reading(table: Path, kind: str, part: int) -> Iterator[Path]:
    """Name the file of a part, and the remedy, if it cannot be read."""
    path = part_path(table, kind, part)
    try:
        yield path
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())  # pyarrow ends some texts with a new line
        remedy = f"delete {part_path(table, CLIPS, part)}, then run the command that made the table again"
        raise EdgeseaError(f"{path}: cannot be read: {reason}; {remedy}: it makes this part anew") from error


def parts_done(table: Path) -> tuple[int, int, float] | None:
    """How many parts of a table are there, of how many, and when the last one came; None before there is a plan."""
    if not (table / PLAN_FILE).is_file():
        return None
    total, folder = int(read_json(table / PLAN_FILE)["parts"]), table / CLIPS
    if not folder.is_dir():
        return 0, total, 0.0
    done, last = sum(path.name.startswith("part-") for path in folder.iterdir()), folder.stat().st_mtime
    mixed = parts_done(table / MIXTURES) or (0, 0, 0.0)
    return done + mixed[0], total + mixed[1], max(last, mixed[2])


class PartInfo(NamedTuple):
    """What the footer of a part's clips says; of a part of an earlier version, only what was skipped."""

    skipped: list[tuple[str, str]]  # clips that were left out, and why
    splits: list[dict[str, int]] | None = None  # of each row group, the windows of each split
    part: int | None = None  # its number
    plan: str | None = None  # digest of the table's plan
    windows: list[int] | None = None  # `file_end` of the file with its windows


def part_info(table: Path, part: int, plan: str | None = None) -> PartInfo | None:
    """What the footer of a part says; None if the part is not there.

    OSError or ValueError if it is damaged, has another number, or belongs to a table of another `plan` (its digest).
    """
    if not (path := part_path(table, CLIPS, part)).exists():
        return None
    info = _checked(table, part, pq.read_metadata(arrow_file(path)))
    if plan and info.plan not in (None, plan):
        raise ValueError("it is a part of another table")
    if info.windows is None:
        pq.read_metadata(arrow_file(part_path(table, WINDOWS, part)))
    return info


def _checked(table: Path, part: int, footer: pq.FileMetaData) -> PartInfo:
    """What the footer of a part's clips says, if it is that of this part, and the file with its windows is as long."""
    metadata, windows = footer.metadata or {}, part_path(table, WINDOWS, part)
    skipped = [(clip, reason) for clip, reason in json.loads(metadata.get(SKIPPED_KEY, b"[]"))]
    info = PartInfo(skipped, **json.loads(metadata.get(PART_KEY, b"{}")))
    if info.part not in (None, part):
        raise ValueError(f"it is part {info.part}")
    if info.windows not in (None, file_end(windows)):
        raise ValueError(f"{windows} is not the file that belongs to it, or not whole")
    return info


def file_end(path: Path) -> list[int]:
    """Bytes of a file and the checksum (CRC-32) of the last of them, where the statistics of a part are."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES))
        return [size, zlib.crc32(file.read())]
