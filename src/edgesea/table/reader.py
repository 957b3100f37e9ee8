"""Reading a table, one chunk (a row group of a part) at a time."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgesea.artifact import read_json
from edgesea.audio.framing import Framing, SampleFraming
from edgesea.errors import EdgeseaError
from edgesea.table.schema import CLIPS, SKIPPED_KEY, TABLE_FILE, WINDOWS, part_path

Float32 = NDArray[np.float32]

NEEDED = ("parts", "sample_rate", "teacher", "framing")  # of a table's plan
FINISHED = ("dtype", "part_clips", "manifest_sha256", "windows", "windows_by_split")  # of table.json, besides


@dataclass(frozen=True)
class Chunk:
    """The unit of reading: row group `group` of part `part`, with all columns but audio and embeddings.

    Attributes
    ----------
    part, group : int
        Where it stands in the table.
    first_clip, first_window : int
        Row in the part of its first clip row and of its first window.
    clip : ndarray, (windows,) int
        Row of each window's clip, counted from `first_clip`.
    start : ndarray, (windows,) int
        First sample of each window in its clip.
    level : ndarray, (windows,) float32
        Levels in dB.
    names, sensors, times, splits, labels : ndarray of object, (clips,)
        What the clip rows say; None where they do not.
    offsets : ndarray, (clips,) int
        First sample of each clip row's audio in the clip.
    """

    part: int
    group: int
    first_clip: int
    first_window: int
    clip: NDArray[np.int64]
    start: NDArray[np.int64]
    level: Float32
    names: NDArray[np.object_]
    sensors: NDArray[np.object_]
    times: NDArray[np.object_]
    splits: NDArray[np.object_]
    labels: NDArray[np.object_]
    offsets: NDArray[np.int64]

    def select(self, split: str | None) -> NDArray[np.int64]:
        """Windows (indices in the chunk) of one split, or of all."""
        if split is None:
            return np.arange(len(self.clip))
        return np.flatnonzero((self.splits == split)[self.clip])


class Table:
    """A finished table on disk.

    Parameters
    ----------
    path : path
        Its folder.
    info : dict, optional
        What ``table.json`` will say, for a table whose parts are all there but which is not finished.

    Raises
    ------
    EdgeseaError
        If there is no finished table, or ``table.json`` is damaged.
    """

    def __init__(self, path: Path | str, info: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        if info is None and not (self.path / TABLE_FILE).is_file():
            unfinished = (self.path / CLIPS).is_dir()
            remedy = "finish it by running the same command again" if unfinished else "make one: edgesea extract"
            raise EdgeseaError(f"{self.path}: {'unfinished table' if unfinished else 'no table here'}; {remedy}")
        self.info: dict[str, Any] = _read_info(self.path / TABLE_FILE) if info is None else info
        self.parts: int = self.info["parts"]
        self.sample_rate: int = self.info["sample_rate"]
        self.embedding_size: int = self.info["teacher"]["embedding_size"]
        self.framing = Framing(**self.info["framing"])
        self.sample_framing: SampleFraming = self.framing.at(self.sample_rate)
        self._files: dict[tuple[str, int], pq.ParquetFile] = {}

    def _file(self, kind: str, part: int) -> pq.ParquetFile:
        if (kind, part) not in self._files:
            if len(self._files) > 64:
                self._files.clear()
            try:
                self._files[kind, part] = pq.ParquetFile(part_path(self.path, kind, part))
            except (OSError, ValueError) as error:
                raise _damaged(self.path, kind, part, error) from error
        return self._files[kind, part]

    def _read(self, kind: str, part: int, group: int, columns: list[str]) -> pa.Table:
        file = self._file(kind, part)
        try:
            return file.read_row_group(group, columns)
        except (OSError, ValueError) as error:
            raise _damaged(self.path, kind, part, error) from error

    def chunk_ids(self) -> Iterator[tuple[int, int]]:
        """(part, row group) of every chunk, in order."""
        for part in range(self.parts):
            for group in range(self._file(WINDOWS, part).num_row_groups):
                yield part, group

    def chunk(self, part: int, group: int) -> Chunk:
        """Read the small columns of one chunk."""
        clips_file, windows_file = self._file(CLIPS, part), self._file(WINDOWS, part)
        clips = self._read(CLIPS, part, group, ["clip", "sensor", "time", "split", "label", "offset"])
        windows = self._read(WINDOWS, part, group, ["clip", "start", "level"])
        first_clip = sum(clips_file.metadata.row_group(i).num_rows for i in range(group))
        first_window = sum(windows_file.metadata.row_group(i).num_rows for i in range(group))
        names, sensors, times, splits = (
            clips[name].to_numpy(zero_copy_only=False).astype(object) for name in ("clip", "sensor", "time", "split")
        )
        # A part that was written before there were labels lacks the column; pyarrow passes over names it cannot find.
        known = "label" in clips.column_names
        labels = clips["label"].to_numpy(zero_copy_only=False).astype(object) if known else np.full(len(names), None)
        return Chunk(
            part=part,
            group=group,
            first_clip=first_clip,
            first_window=first_window,
            clip=windows["clip"].to_numpy().astype(np.int64) - first_clip,
            start=windows["start"].to_numpy(),
            level=windows["level"].to_numpy(),
            names=names,
            sensors=sensors,
            times=times,
            splits=splits,
            labels=labels,
            offsets=clips["offset"].to_numpy(),
        )

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk's small columns, in order."""
        for part, group in self.chunk_ids():
            yield self.chunk(part, group)

    def embeddings(self, part: int, group: int) -> NDArray[np.floating]:
        """Embeddings (windows, D) of a chunk, in the dtype they are stored in."""
        column = self._read(WINDOWS, part, group, ["embedding"])["embedding"].combine_chunks()
        values: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(-1, self.embedding_size)

    def iter_embeddings(self, split: str | None = "train") -> Iterator[Float32]:
        """Embeddings (n, D) float32 of one split (None: all), a chunk at a time."""
        for chunk in self.chunks():
            rows = chunk.select(split)
            if len(rows):
                yield self.embeddings(chunk.part, chunk.group)[rows].astype(np.float32)

    def audio(self, chunk: Chunk, rows: NDArray[np.int64]) -> NDArray[np.int16]:
        """Cut the windows `rows` of a chunk out of its clips.

        Returns
        -------
        ndarray, (len(rows), W) int16
            Zero where a window reaches over the beginning of its clip.
        """
        column = self._read(CLIPS, chunk.part, chunk.group, ["pcm"])["pcm"]
        pcm = [np.frombuffer(value.as_buffer(), "<i2") for value in column]
        result = np.zeros((len(rows), self.sample_framing.window), np.int16)
        for out, row in zip(result, rows, strict=True):
            clip = chunk.clip[row]
            begin = chunk.start[row] - chunk.offsets[clip]
            audio = pcm[clip][max(0, begin) : begin + len(out)]
            out[max(0, -begin) : max(0, -begin) + len(audio)] = audio
        return result

    @cached_property
    def embedding_dtype(self) -> np.dtype[Any]:
        """The dtype that embeddings are stored in: float16 or float32."""
        dtype: np.dtype[Any] = np.dtype(self.info["dtype"])
        return dtype

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of windows of each split."""
        return dict(self.info["windows_by_split"])


def _read_info(path: Path) -> dict[str, Any]:
    """What ``table.json`` says, if it is all there."""
    remedy = "delete it, then run the command that made the table again: it is written anew from the parts"
    try:
        info = read_json(path)
    except EdgeseaError as error:
        raise EdgeseaError(f"{error}; {remedy}") from error
    if not isinstance(info, dict):
        raise EdgeseaError(f"{path}: does not describe a table; {remedy}")
    missing = [name for name in (*NEEDED, *FINISHED) if name not in info]
    if missing:
        raise EdgeseaError(f"{path}: incomplete, without {', '.join(missing)}; {remedy}")
    kinds = {"parts": int, "sample_rate": int, "teacher": dict, "framing": dict, "windows_by_split": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(info[name], kind)]
    if not wrong and "embedding_size" not in info["teacher"]:
        wrong = ["teacher"]
    if not wrong and set(info["framing"]) != {"window", "hop", "center"}:
        wrong = ["framing"]
    if wrong:
        raise EdgeseaError(f"{path}: {wrong[0]} is {info[wrong[0]]!r}, which describes no table; {remedy}")
    return info


def _damaged(table: Path, kind: str, part: int, error: Exception) -> EdgeseaError:
    reason = " ".join(str(error).split())  # pyarrow ends some texts with a new line
    clips = part_path(table, CLIPS, part)  # without it, the part counts as missing
    which = "it" if kind == CLIPS else str(clips)
    return EdgeseaError(
        f"{part_path(table, kind, part)}: cannot be read: {reason}; delete {which}, then run the command that made the "
        "table again: it makes this part anew"
    )


def part_skipped(table: Path, part: int) -> list[tuple[str, str]] | None:
    """What a finished part left out, as (clip, reason); None if the part is not there."""
    path = part_path(table, CLIPS, part)
    if not path.exists():
        return None
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, ValueError) as error:
        raise _damaged(table, CLIPS, part, error) from error
    return [(clip, reason) for clip, reason in json.loads(metadata.get(SKIPPED_KEY, b"[]"))]


def stack(blocks: Sequence[Float32], size: int) -> Float32:
    """Concatenate blocks (n_i, size), also none."""
    return np.concatenate(blocks) if blocks else np.zeros((0, size), np.float32)
