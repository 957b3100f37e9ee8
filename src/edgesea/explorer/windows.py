"""What is shown of windows: places on a map, what their clips say, neighbours, the student's errors, sound."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import atomic_path, versions
from edgesea.embed.engine import embed_rows
from edgesea.errors import EdgeseaError
from edgesea.explorer.sound import LONGEST, Blocks, flac, page_rate
from edgesea.export.windows import open_table
from edgesea.models import load_student
from edgesea.models.base import EmbeddingModel
from edgesea.parallel import thread_count
from edgesea.reduction.base import Float32, Reduction, method_class, transform_all
from edgesea.reduction.windows import Windows, in_subset, load_reduction_of, open_subset
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Chunk, Table, arrow_file

Int64 = NDArray[np.int64]
BATCH = 256  # windows that the student embeds at once
ROWS = 512  # windows that are compared with all others at once
HELD = 4000.0  # seconds of audio in memory at a time
LEAST, UMAP_NEEDS = 3, 50  # windows; two span no map
ORDER = ("clip", "start", "time", "hour", "sensor", "label", "level", "split", "subset")
NEIGHBORS = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])


class Parts(NamedTuple):
    """What is explored."""

    table: Table
    model: EmbeddingModel | None  # the student
    phi: Reduction | None
    subset: Subset | None


def open_parts(
    table: Path, student: Path | str | None, reduction: Path | None, subset: Path | None, device: str
) -> Parts:
    """Open a table and what belongs to it; EdgeseaError if it does not."""
    source = Table(table)
    model = None if student is None else load_student(student, device)
    if model is not None:  # a student's file says of its windows what its configuration does
        open_table(table, cast(Any, model), {}, str(student), True)
    phi = None if reduction is None else load_reduction_of(reduction, source)
    if phi and model and phi.output_size != model.embedding_size:
        other = f"reduces to {phi.output_size} dimensions, but {student} has {model.embedding_size}"
        raise EdgeseaError(f"{reduction}: {other}; give the reduction that the student was trained on")
    return Parts(source, model, phi, None if subset is None else open_subset(Path(subset), source))


class Explored:
    """The windows of a table that are explored: their Parquet file is written, and what a page shows is here.

    `frame` has a row for each window, `shown` the rows of the page; `nearest` has the neighbours of these in the space
    of teacher and student, as numbers (m, k) in `shown`, -1 where there are no more; `blocks` their sound.
    """

    def __init__(
        self, parts: Parts, layout: str, most: int, most_shown: int, neighbors: int, seed: int, path: Path
    ) -> None:
        self.parts, self.seed, self.total = parts, seed, int(parts.table.info["windows"])
        if self.total < LEAST:
            raise EdgeseaError(f"{parts.table.path}: {self.total} windows; a map needs at least {LEAST}")
        rng = np.random.default_rng(seed)
        self.chosen = _drawn(self.total, most, rng)
        if self._seconds(min(len(self.chosen), most_shown)) > LONGEST:
            most_shown = min(most_shown, int(LONGEST / parts.table.framing.window))
        self.shown = _drawn(len(self.chosen), most_shown, rng)
        described = [_described(parts, *some) for some in _chunks(parts.table, self.chosen)]
        self.frame = pd.concat(described, ignore_index=True).dropna(axis=1, how="all")
        clips, names = pd.factorize(self.frame["clip"])
        self.places = np.column_stack([clips, self.frame["start"]])
        # Overlapping windows are neighbours of no interest; nor are those of the same clip, if there are others enough.
        self.apart = np.inf if len(names) > neighbors else parts.table.framing.window
        teacher = np.concatenate(list(_windows(parts.table, self.chosen[self.shown])))
        self.layout, placing = _fitted(layout, teacher, seed)
        student = self._write(path, placing, teacher, neighbors)
        places = self.places[self.shown]
        self.nearest = {
            name: nearest(rows, places, rows, places, neighbors, self.apart)[0]
            for name, rows in (("teacher", teacher), ("student", student))
            if rows is not None
        }

    def _seconds(self, count: int) -> float:
        """Of the sound of some windows: those of a sample hardly overlap."""
        framing = self.parts.table.framing
        return count * (framing.window if count < self.total else min(framing.window, framing.hop))

    def _write(self, path: Path, placing: Reduction, teacher: Float32, neighbors: int) -> Float32 | None:
        """Write the Parquet file, complete `frame` and `blocks`; returns the student's embeddings of the page."""
        table, model, phi, _ = self.parts
        rate, shown = page_rate(table.sample_rate), np.isin(np.arange(len(self.chosen)), self.shown)
        self.blocks = Blocks(rate, table.framing.at(rate).window, self._seconds(len(self.shown)))
        numbers = ["x", "y", "error"] if model and phi else ["x", "y"]
        values, embedded, first = {name: np.empty(len(self.frame), np.float32) for name in numbers}, [], 0
        about = {"table": table.info["manifest_sha256"], "student": model and model.digest, "layout": self.layout}
        about |= {"windows_of_table": self.total, "seed": self.seed, "versions": versions()}
        schema = pa.Schema.from_pandas(self.frame.assign(**values), preserve_index=False)
        full = schema.append(pa.field("audio", pa.binary())).append(pa.field("neighbors", NEIGHBORS))
        full = full.with_metadata({"edgesea": json.dumps(about)})
        others = self.places[self.shown]
        bar = tqdm(total=len(self.chosen), unit="window", desc="explore", disable=None)
        with (
            bar,
            atomic_path(path) as temporary,
            arrow_file(temporary, "wb") as file,
            pq.ParquetWriter(file, full) as writer,
            ThreadPoolExecutor(thread_count()) as pool,
        ):
            for chunk, rows, embeddings in _batches(table, self.chosen):
                here = slice(first, first := first + len(rows))
                values["x"][here], values["y"][here] = transform_all(placing, embeddings)[:, :2].T
                if model:
                    outputs = _embedded(model, table, chunk, rows)
                    embedded.append(outputs[shown[here]])
                if model and phi:
                    values["error"][here] = np.square(outputs - phi.transform(embeddings)).mean(1)
                found = nearest(embeddings, self.places[here], teacher, others, neighbors, self.apart)
                lists = [{"ids": self.shown[i[i >= 0]], "distances": d[i >= 0]} for i, d in zip(*found, strict=True)]
                pcm, _ = table.audio(chunk, rows)
                sounds = list(pool.map(partial(flac, rate=table.sample_rate), pcm))
                batch = self.frame.iloc[here].assign(**{name: column[here] for name, column in values.items()})
                columns = pa.Table.from_pandas(batch, schema, preserve_index=False).columns
                writer.write_table(pa.table([*columns, pa.array(sounds), pa.array(lists, NEIGHBORS)], full))
                self._hear(chunk, rows[shown[here]], rate)
                bar.update(len(rows))
        self.frame = self.frame.assign(**values)
        return np.concatenate(embedded) if embedded else None

    def _hear(self, chunk: Chunk, rows: Int64, rate: int) -> None:
        """Add some windows of a chunk to the sound of the page."""
        if not len(rows):
            return
        pcm, scales = self.parts.table.audio(chunk, rows, rate)
        for row, audio in zip(rows, pcm * scales, strict=True):
            start = int(chunk.start[row]) * rate // self.parts.table.sample_rate
            self.blocks.add(str(chunk.names[chunk.clip[row]]), start, audio)


def _drawn(total: int, most: int, rng: np.random.Generator) -> Int64:
    """Ascending numbers of all, or of a uniform sample."""
    return np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))


def _chunks(table: Table, chosen: Int64) -> Iterator[tuple[Chunk, Int64]]:
    """The chunks that hold some of the chosen windows of a table, and their rows there."""
    first = 0
    for chunk in table.chunks():
        begin, end = np.searchsorted(chosen, [first, first + len(chunk.clip)])
        if end > begin:
            yield chunk, chosen[begin:end] - first
        first += len(chunk.clip)


def _windows(table: Table, chosen: Int64) -> Windows:
    """Their embeddings, a chunk at a time."""
    every = ((chunk, np.isin(np.arange(len(chunk.clip)), rows)) for chunk, rows in _chunks(table, chosen))
    return Windows(table, {(chunk.part, chunk.group): np.packbits(mask) for chunk, mask in every})


def _batches(table: Table, chosen: Int64) -> Iterator[tuple[Chunk, Int64, Float32]]:
    """Windows of a chunk and their embeddings, not too many at a time: their audio may overlap by far."""
    step = max(1, int(HELD / table.framing.window))
    for (chunk, rows), embeddings in zip(_chunks(table, chosen), _windows(table, chosen), strict=True):
        for first in range(0, len(rows), step):
            yield chunk, rows[first : first + step], embeddings[first : first + step]


def _described(parts: Parts, chunk: Chunk, rows: Int64) -> pd.DataFrame:
    """What is known of some windows of a chunk; times are those on the wall where the sensor is."""
    clip, start = chunk.clip[rows], chunk.start[rows] / parts.table.sample_rate
    texts = {"clip": chunk.names, "sensor": chunk.sensors, "label": chunk.labels, "split": chunk.splits}
    frame = pd.DataFrame({name: values[clip] for name, values in texts.items()})
    begins = [datetime.fromisoformat(text).replace(tzinfo=None) if text else None for text in chunk.times]
    time = pd.Series(begins, dtype="datetime64[ms]")[clip].reset_index(drop=True)
    time = (time + pd.Series(pd.to_timedelta(start, "s"))).astype("datetime64[ms]")
    frame = frame.assign(start=start, time=time, hour=time.dt.hour + time.dt.minute / 60, level=chunk.level[rows])
    if parts.subset is not None:
        frame["subset"] = np.isin(rows, in_subset(parts.subset, chunk))
    return frame[[name for name in ORDER if name in frame]]


def _fitted(layout: str, rows: Float32, seed: int) -> tuple[str, Reduction]:
    """The name of a layout, and what places embeddings in two dimensions by it, learned on some."""
    if layout == "auto":
        layout = "umap" if find_spec("umap") and len(rows) >= UMAP_NEEDS else "pca"
    options = {"seed": seed, "metric": "cosine"} if layout == "umap" else {}
    placing = method_class(layout)(size=2, **options)  # type: ignore[call-arg]
    placing.fit([rows])
    return layout, placing


def _embedded(model: EmbeddingModel, table: Table, chunk: Chunk, rows: Int64) -> Float32:
    """A student's embeddings of some windows of a chunk."""
    pcm, scales = table.audio(chunk, rows, model.sample_rate)
    firsts = range(0, len(rows), BATCH)
    return np.concatenate([embed_rows(model, pcm[i : i + BATCH] * scales[i : i + BATCH]) for i in firsts])


def nearest(
    rows: Float32, places: NDArray[np.float64], references: Float32, others: NDArray[np.float64], k: int, apart: float
) -> tuple[Int64, Float32]:
    """Of each row, the `k` references (or -1) whose cosine is largest, and their distances 1 - cosine: (n, k) each.

    `places` and `others` (n, 2) are the clip and the start of rows and references; what is in the same clip and less
    than `apart` (s) away is no neighbour.
    """
    k = min(k, len(references))
    numbers, distances = np.full((len(rows), k), -1, np.int64), np.full((len(rows), k), np.inf, np.float32)
    unit = _unit(references).T
    for first in range(0, len(rows), ROWS):
        some = slice(first, first + ROWS)
        far = 1 - _unit(rows[some]) @ unit
        same = places[some, None, 0] == others[:, 0]
        if np.isfinite(apart):
            same &= np.abs(places[some, None, 1] - others[:, 1]) < apart
        far[same] = np.inf
        found = np.argpartition(far, k - 1)[:, :k]
        order = np.take_along_axis(found, np.argsort(np.take_along_axis(far, found, 1), axis=1, kind="stable"), 1)
        distances[some] = np.take_along_axis(far, order, 1)
        numbers[some] = np.where(np.isfinite(distances[some]), order, -1)
    return numbers, distances


def _unit(rows: Float32) -> Float32:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30), np.float32)
