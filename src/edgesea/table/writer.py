"""Writing a table part by part: rows go to temporary files, which become visible when the part is complete."""

import csv
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import PLAN_FILE, atomic_path, claim, read_json, versions, write_json
from edgesea.errors import EdgeseaError
from edgesea.table.clips import Piece
from edgesea.table.reader import CLIPS, SKIPPED_FILE, SKIPPED_KEY, TABLE_FILE, WINDOWS, Table, part_path, part_skipped

log = logging.getLogger(__name__)

FLUSH_BYTES = 32 << 20
TEXT = pa.string()


def _schema(**columns: pa.DataType) -> pa.Schema:
    optional = ("sensor", "time", "label")
    return pa.schema([pa.field(name, kind, nullable=name in optional) for name, kind in columns.items()])


@contextmanager
def write_part(table: Path, part: int, size: int, dtype: str) -> Iterator["PartWriter"]:
    """Write part `part` of the table at `table`, for embeddings of `size` numbers; if the body raises, none remains.

    The clips and the windows are written in row groups of about 32 MB that belong together: row group ``i`` of the
    windows refers to rows of row group ``i`` of the clips.
    """
    clips = _schema(clip=TEXT, sensor=TEXT, time=TEXT, split=TEXT, label=TEXT, offset=pa.int64(), pcm=pa.binary())
    embedding = pa.list_(pa.type_for_alias(dtype), size)
    windows = _schema(clip=pa.int32(), start=pa.int64(), level=pa.float32(), embedding=embedding)
    parquet = partial(pq.ParquetWriter, compression="zstd", compression_level=1)
    with (  # left in reverse order: the windows are renamed first, so a part whose clips exist is complete
        atomic_path(part_path(table, CLIPS, part)) as clips_path,
        atomic_path(part_path(table, WINDOWS, part)) as windows_path,
        parquet(clips_path, clips) as clips_file,
        parquet(windows_path, windows) as windows_file,
    ):
        writer = PartWriter(clips_file, windows_file, np.dtype(dtype))
        yield writer
        writer.flush()
        clips_file.add_key_value_metadata({SKIPPED_KEY: json.dumps(sorted(writer.skipped)).encode()})


class PartWriter:
    """Collects the pieces of a part, and writes them to its two files."""

    def __init__(self, clips: pq.ParquetWriter, windows: pq.ParquetWriter, dtype: np.dtype[Any]) -> None:
        self.windows = self.clipped = 0  # samples beyond full scale
        self.skipped: list[tuple[str, str]] = []  # clips that cannot be used, and why
        self._files, self._dtype = (clips, windows), dtype
        self._rows = self._bytes = 0
        self._clips: list[dict[str, Any]] = []
        self._windows: list[tuple[NDArray[Any], ...]] = []

    def add(self, piece: Piece, embeddings: NDArray[np.floating]) -> None:
        """Add a piece of a clip, with the embeddings (windows, size) of its windows."""
        if (largest := np.abs(embeddings).max()) > np.finfo(self._dtype).max:
            clip = piece.entry.clip
            raise EdgeseaError(
                f"{clip}: an embedding holds {largest:g}, too large for {self._dtype}; try dtype=float32"
            )
        row = {name: getattr(piece.entry, name) for name in ("clip", "sensor", "time", "split", "label")}
        self._clips.append({**row, "offset": piece.offset, "pcm": piece.pcm.astype("<i2").tobytes()})
        clip_rows = np.full(len(piece.starts), self._rows, np.int32)  # a long clip has several
        self._windows.append((clip_rows, piece.starts, piece.levels, embeddings.astype(self._dtype)))
        self._rows += 1
        self.windows += len(piece.starts)
        self.clipped += piece.clipped
        self._bytes += piece.pcm.nbytes + embeddings.nbytes
        if self._bytes >= FLUSH_BYTES:
            self.flush()

    def skip(self, clip: str, reason: str) -> None:
        """Leave out a clip."""
        self.skipped.append((clip, reason))
        log.warning("skipped %s: %s", clip, reason)

    def flush(self) -> None:
        """Write a row group of each file."""
        if not self._clips:
            return
        *columns, embeddings = (np.concatenate(blocks) for blocks in zip(*self._windows, strict=True))
        schema = self._files[1].schema
        lists = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), type=schema.field("embedding").type)
        clips = pa.Table.from_pylist(self._clips, schema=self._files[0].schema)
        windows = pa.Table.from_arrays([*map(pa.array, columns), lists], schema=schema)
        for file, rows in zip(self._files, (clips, windows), strict=True):
            file.write_table(rows, row_group_size=1 << 30)
        self._clips, self._windows, self._bytes = [], [], 0


class _RestartError(Exception):
    """A source turned out to be unusable after some of its pieces had been stored."""


class TableWriter:
    """Writes the parts of a table that are not there yet.

    Makes the folder `out` for the table of `plan`, or makes sure that it holds this one. If a former call ended before
    a single clip was stored, what it left is removed, and its plan does not bind: what it failed for may have been an
    option, or files that have been repaired since.
    """

    def __init__(self, out: Path, plan: dict[str, Any], task: str) -> None:
        self.windows = self.clipped = 0  # written by this call; samples beyond full scale
        self._out, self._plan, self._task = out, plan, task
        self._failed: dict[str, str] = {}  # sources for which this part was given up, and why
        self._last: Any = None  # source of the last piece
        self._began = time.perf_counter()
        if (out / PLAN_FILE).exists() and not _has_clips(out):
            for path in (*out.glob("*/part-*.parquet"), out / SKIPPED_FILE):
                path.unlink(missing_ok=True)
            if read_json(out / PLAN_FILE) != plan:
                write_json(out / PLAN_FILE, plan)
        claim(out, plan, "table")

    @property
    def speed(self) -> float:
        """Windows per second so far."""
        return self.windows / (time.perf_counter() - self._began)

    def missing(self, parts: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Iterator[Any]]]:
        """Each missing part and its sources, which have a `path` and a `clip`; again without those that failed late."""
        with tqdm(total=sum(map(len, parts)), unit="clip", desc=self._task, disable=None, smoothing=0.05) as bar:

            def remaining(sources: Sequence[Any]) -> Iterator[Any]:
                for source in sources:
                    if source.clip not in self._failed:
                        yield source
                    bar.update()

            for part, sources in enumerate(parts):
                self._failed = {}
                while part_skipped(self._out, part) is None:
                    (self._out / TABLE_FILE).unlink(missing_ok=True)  # it says that all parts are there
                    bar.n = sum(map(len, parts[:part]))
                    bar.set_postfix_str(f"{self.speed:.0f} windows/s")
                    yield part, remaining(sources)

    @contextmanager
    def part(self, part: int) -> Iterator[PartWriter]:
        """Write a part; it does not appear if a source failed late, or another command has claimed the folder."""
        size, dtype = self._plan["teacher"]["embedding_size"], self._plan["dtype"]
        try:
            with write_part(self._out, part, size, dtype) as writer:
                writer.skipped += self._failed.items()
                yield writer
                if (self._out / PLAN_FILE).exists() and read_json(self._out / PLAN_FILE) != self._plan:
                    raise EdgeseaError(
                        f"{self._out}: another command has begun another table here; choose a new folder"
                    )
        except _RestartError:
            return
        self.windows += writer.windows
        self.clipped += writer.clipped

    def store(self, writer: PartWriter, result: tuple[Any, ...]) -> None:
        """Store what `edgesea.embed.engine.embed_sources` gives; EdgeseaError if the teacher gave NaN."""
        match result:
            case source, Piece() as piece, embeddings:
                writer.add(piece, embeddings)
                self._last = source
            case _, (clip, reason), _:
                writer.skip(clip, reason)
            case source, reason:
                if reason == f"{self._plan['teacher']['id']} gave NaN or Inf":  # not the fault of the clip
                    raise EdgeseaError(f"{source.path}: {reason}")
                reason = reason.removeprefix(f"{source.path}: ")
                if source is self._last:
                    self._failed[source.clip] = reason
                    raise _RestartError
                writer.skip(source.clip, reason)

    def finish(self, clips: int, max_skipped: float) -> dict[str, Any]:
        """Write skipped.csv and, last of all, table.json, unless a former call has done it; returns what is reported.

        EdgeseaError if none of the `clips` could be used, or more than `max_skipped` of them could not.
        """
        out, plan = self._out, self._plan
        finished = (out / TABLE_FILE).exists()
        skipped = [row for part in range(plan["parts"]) for row in part_skipped(out, part) or []]
        if not finished:
            with atomic_path(out / SKIPPED_FILE) as path, path.open("w", -1, "utf-8", "surrogateescape", "") as file:
                csv.writer(file, lineterminator="\n").writerows([("clip", "reason"), *skipped])
        used = clips - len(skipped)
        if used == 0 or len(skipped) > max_skipped * clips:
            remedy = f"or raise max_skipped ({max_skipped})" if used else "or the options"
            raise EdgeseaError(
                f"{len(skipped)} of {clips} clips cannot be used (first: {skipped[0][0]}: {skipped[0][1]}); all are "
                f"listed in {out / SKIPPED_FILE}; repair them {remedy}"
            )
        if not finished:
            by_split: Counter[str] = Counter()
            for chunk in Table(out, plan).chunks():
                by_split.update(chunk.splits[chunk.clip].tolist())
            for stale in out.glob("*/.*.tmp"):  # left by killed calls
                stale.unlink(missing_ok=True)
            counts = {"clips": used, "skipped": len(skipped), "windows": by_split.total()}
            splits = {"windows_by_split": dict(sorted(by_split.items()))}
            write_json(out / TABLE_FILE, {**plan, **counts, **splits, "versions": versions()})
        info = Table(out).info
        return {"table": str(out), **{key: info[key] for key in ("clips", "windows", "skipped", "windows_by_split")}}


def _has_clips(out: Path) -> bool:
    """Whether anything of a table is there that is worth keeping."""
    if (out / TABLE_FILE).exists():
        return True
    try:
        return any(pq.read_metadata(path).num_rows for path in sorted((out / CLIPS).glob("part-*.parquet")))
    except (OSError, ValueError):  # damaged: there were some
        return True
