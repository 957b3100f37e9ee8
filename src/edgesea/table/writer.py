"""Writing a table part by part: rows go to temporary files, which become visible when the part is complete."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import TEMPORARY, atomic_path, claimed, delete, digest, versions, write_json
from edgesea.cluster import is_here, results
from edgesea.embed.engine import Failure
from edgesea.errors import EdgeseaError
from edgesea.table import reader
from edgesea.table.clips import Piece
from edgesea.table.reader import CLIPS, WINDOWS, PartInfo, Table, arrow_file, part_info, part_path
from edgesea.table.sheet import write_skipped

log = logging.getLogger(__name__)

FLUSH_BYTES = 32 << 20
LOUD = 2.0**-14  # the scale of audio at twice full scale, beyond which resampling alone does not carry it
TEXT = pa.string()


def _schema(**columns: pa.DataType) -> pa.Schema:
    optional = ("sensor", "time", "label")
    return pa.schema([pa.field(name, kind, nullable=name in optional) for name, kind in columns.items()])


@contextmanager
def write_part(table: Path, part: int, size: int, dtype: str, plan: str | None = None) -> Iterator["PartWriter"]:
    """Write part `part` of the table at `table`, for embeddings of `size` numbers; if the body raises, none remains.

    The clips and the windows are written in row groups of about 32 MB that belong together: row group ``i`` of the
    windows refers to rows of row group ``i`` of the clips. The footer of the clips says which windows these are.
    """
    audio = {"offset": pa.int64(), "scale": pa.float32(), "pcm": pa.binary()}
    clips = _schema(clip=TEXT, sensor=TEXT, time=TEXT, split=TEXT, label=TEXT, **audio)
    embedding = pa.list_(pa.type_for_alias(dtype), size)
    windows = _schema(clip=pa.int32(), start=pa.int64(), level=pa.float32(), embedding=embedding)
    parquet = partial(pq.ParquetWriter, compression="zstd", compression_level=1, write_page_checksum=True)
    with (  # left in reverse order: the windows are renamed first, so a part whose clips exist is complete
        atomic_path(part_path(table, CLIPS, part)) as clips_path,
        atomic_path(part_path(table, WINDOWS, part)) as windows_path,
        arrow_file(clips_path, "wb") as clips_sink,
        parquet(clips_sink, clips) as clips_file,
    ):
        with arrow_file(windows_path, "wb") as windows_sink, parquet(windows_sink, windows) as windows_file:
            writer = PartWriter(clips_file, windows_file, np.dtype(dtype))
            yield writer
            writer.flush()
        about = {"splits": writer.splits, "part": part, "plan": plan, "windows": reader.file_end(windows_path)}
        texts = {reader.SKIPPED_KEY: sorted(writer.skipped), reader.PART_KEY: about}
        clips_file.add_key_value_metadata({key: json.dumps(text).encode() for key, text in texts.items()})


class PartWriter:
    """Collects the pieces of a part, and writes them to its two files."""

    def __init__(self, clips: pq.ParquetWriter, windows: pq.ParquetWriter, dtype: np.dtype[Any]) -> None:
        self.windows = 0
        self.loud: set[str] = set()  # clips that exceed twice full scale
        self.skipped: list[tuple[str, str]] = []  # clips that cannot be used, and why
        self.splits: list[Counter[str]] = []  # of each row group, the windows of each split
        self._files, self._dtype = (clips, windows), dtype
        self._rows = self._bytes = 0
        self._clips: list[dict[str, Any]] = []
        self._windows: list[tuple[NDArray[Any], ...]] = []

    def add(self, piece: Piece, embeddings: NDArray[np.floating]) -> None:
        """Add a piece of a clip, with the embeddings (windows, size) of its windows."""
        if (largest := np.abs(embeddings).max()) > np.finfo(self._dtype).max:
            problem = f"an embedding holds {largest:g}, too large for {self._dtype}; try dtype=float32"
            raise EdgeseaError(f"{piece.entry.clip}: {problem}")
        row = {name: getattr(piece.entry, name) for name in ("clip", "sensor", "time", "split", "label")}
        audio = {"offset": piece.offset, "scale": piece.scale, "pcm": piece.pcm.astype("<i2").tobytes()}
        self._clips.append(row | audio)
        clip_rows = np.full(len(piece.starts), self._rows, np.int32)  # a long clip has several
        self._windows.append((clip_rows, piece.starts, piece.levels, embeddings.astype(self._dtype)))
        self._rows += 1
        self.windows += len(piece.starts)
        self.loud |= {piece.entry.clip} if piece.scale > LOUD else set()
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
        splits = Counter[str]()
        for row, (rows_of_clip, *_) in zip(self._clips, self._windows, strict=True):
            splits[row["split"]] += len(rows_of_clip)
        self.splits.append(splits)
        self._clips, self._windows, self._bytes = [], [], 0


class _RestartError(Exception):
    """A source turned out to be unusable after some of its pieces had been stored."""


def write_table(
    out: Path,
    plan: dict[str, Any],
    parts: Sequence[Sequence[Any]],
    embed: Callable[[Iterator[Any]], Iterator[Any]],
    clips: int,
    max_skipped: float,
    task: str,
    jobs: int = 1,
) -> dict[str, Any]:
    """Write the missing parts of a table, and what describes it; returns what the command reports.

    `parts` lists the sources of each, which have a `path` and a `clip`; `embed` is `embed_sources` for them, importable
    where parts are written (see `cluster.results`). If more than `max_skipped` of the `clips` could not be used, the
    table stays unfinished, and EdgeseaError is raised.
    """

    def is_begun() -> bool:  # before the first part, a plan does not bind: an option may have been what it failed for
        return any(out.glob(f"{CLIPS}/part-*.parquet"))

    with claimed(out, plan, "table", is_begun=is_begun):
        if not is_begun():
            for path in (*out.glob("*/part-*.parquet"), out / reader.SKIPPED_FILE):
                path.unlink(missing_ok=True)
        infos = _read_infos(out, plan)
        missing = [part for part, info in enumerate(infos) if info is None]
        written = _write_missing(out, plan, parts, missing, embed, task, jobs)
        for left in out.glob(f"*/.*{TEMPORARY}"):  # by workers that were killed
            delete(left)
        return {**_finish(out, plan, _read_infos(out, plan) if missing else infos, clips, max_skipped), **written}


def _read_infos(out: Path, plan: dict[str, Any]) -> list[PartInfo | None]:
    """What the footer of each part says; None of one that is not there, or damaged, and so is made anew."""
    wanted = digest(plan)

    def read(part: int) -> PartInfo | None:
        try:
            return part_info(out, part, wanted)
        except (OSError, ValueError) as error:
            log.warning("%s: damaged (%s); it is made anew", part_path(out, CLIPS, part), " ".join(str(error).split()))
        return None

    with ThreadPoolExecutor(reader.READERS) as pool:
        return list(pool.map(read, range(plan["parts"])))


def _write_missing(
    out: Path,
    plan: dict[str, Any],
    parts: Sequence[Sequence[Any]],
    missing: Sequence[int],
    embed: Callable[[Iterator[Any]], Iterator[Any]],
    task: str,
    jobs: int,
) -> dict[str, Any]:
    if missing:
        (out / reader.TABLE_FILE).unlink(missing_ok=True)  # it says that all parts are there
    began, windows, loud = time.perf_counter(), 0, set[str]()
    total, todo = (sum(len(parts[part]) for part in some) for some in (range(len(parts)), missing))
    mixtures = plan.get("mixtures")
    unit = {"unit": "mixture", "unit_scale": mixtures["count"] / total} if mixtures else {"unit": "clip"}
    with tqdm(total=total, initial=total - todo, desc=task, disable=None, smoothing=0.05, **unit) as bar:
        write = partial(make_part, out, plan, embed, bar=bar if is_here(jobs) else None)
        done = results(write, ((part, parts[part]) for part in missing), jobs)
        for part, (count, loud_clips) in zip(missing, done, strict=True):
            windows, loud = windows + count, loud | loud_clips
            bar.set_postfix_str(f"{windows / (time.perf_counter() - began):.0f} windows/s", refresh=False)
            bar.update(0 if is_here(jobs) else len(parts[part]))
    if loud:
        log.warning("%d clips exceed twice full scale (first: %s); they are stored as they are", len(loud), min(loud))
    return {"windows_per_second": windows / (time.perf_counter() - began)}


def make_part(
    out: Path,
    plan: dict[str, Any],
    embed: Callable[[Iterator[Any]], Iterator[Any]],
    part: int,
    sources: Sequence[Any],
    bar: "tqdm[Any] | None" = None,
) -> tuple[int, set[str]]:
    """Embed the sources of a part and write it; returns how many windows it has, and its `loud` clips."""
    wanted = digest(plan)
    with suppress(OSError, ValueError):  # it is damaged
        if info := part_info(out, part, wanted):  # the worker is gone that made it and had not said so
            return sum(sum(splits.values()) for splits in info.splits or []), set()
    failed: dict[str, str] = {}  # sources that failed late, and why; the part is begun again without them
    begun = 0 if bar is None else bar.n
    while True:
        if bar is not None:
            bar.n = begun + len(failed)
        usable = (source for source in sources if source.clip not in failed)
        with suppress(_RestartError):
            with write_part(out, part, plan["teacher"]["embedding_size"], plan["dtype"], wanted) as writer:
                _fill(writer, embed(usable), failed, bar)
            return writer.windows, writer.loud


def _fill(writer: PartWriter, embedded: Iterator[Any], failed: dict[str, str], bar: "tqdm[Any] | None") -> None:
    """Store the pieces of a part; a source that fails after some of its own joins `failed`, and ends the part."""
    for clip, reason in failed.items():
        writer.skip(clip, reason)
    last: Any = None  # source of the last result
    for result in embedded:
        if bar is not None:
            bar.update(result[0] is not last)
        match result:
            case Failure(source, reason):
                reason = reason.removeprefix(f"{source.path}: ")
                if source is last:
                    failed[source.clip] = reason
                    raise _RestartError
                writer.skip(source.clip, reason)
            case _, (clip, reason), _:
                writer.skip(clip, reason)
            case _, piece, embeddings:
                writer.add(piece, embeddings)
        last = result[0]


def check_skipped(skipped: Sequence[tuple[str, str]], count: int, max_skipped: float, what: str) -> None:
    """EdgeseaError if none of `count` clips or shards can be used, or if too many are `skipped`, with the reasons."""
    if skipped and (len(skipped) == count or len(skipped) > max_skipped * count):
        remedy = f"raise max_skipped ({max_skipped})" if len(skipped) < count else "change the options"
        first = f"first: {skipped[0][0]}: {skipped[0][1]}"
        raise EdgeseaError(f"{len(skipped)} of {count} {what} cannot be used ({first}); repair them or {remedy}")


def _finish(
    out: Path, plan: dict[str, Any], infos: Sequence[PartInfo | None], clips: int, max_skipped: float
) -> dict[str, Any]:
    """Write skipped.csv and, last of all, table.json, unless a former call has done it; returns what they say."""
    finished = (out / reader.TABLE_FILE).exists()
    skipped = [*dict(row for info in infos if info for row in info.skipped).items()]  # parts of mixtures share clips
    if not finished:
        write_skipped(out / reader.SKIPPED_FILE, skipped)
    if len(skipped) == clips:  # nothing binds; with other options or repaired clips, the same folder will do
        for path in out.glob("*/part-*.parquet"):
            path.unlink()
    check_skipped(skipped, clips, max_skipped, f"clips (listed in {out / reader.SKIPPED_FILE})")
    if not finished:
        by_split: Counter[str] = Counter()
        known = [info.splits for info in infos if info and info.splits is not None]
        read = (counts for *_, counts in Table(out, plan).windows_by_split())  # of parts of earlier versions, too
        for counts in chain(*known) if len(known) == len(infos) else read:
            by_split.update(counts)
        if not by_split["train"]:
            log.warning("%s: no window is in the split train: %s", out, dict(by_split))
        windows = by_split.total()
        stored = windows if "mixtures" in plan else clips - len(skipped)
        numbers = {"clips": stored, "skipped": len(skipped), "windows": windows}
        splits = {"windows_by_split": dict(sorted(by_split.items()))}
        write_json(out / reader.TABLE_FILE, {**plan, **numbers, **splits, "versions": versions()})
    info = Table(out).info
    return {"table": str(out), **{key: info[key] for key in ("clips", "windows", "skipped", "windows_by_split")}}
