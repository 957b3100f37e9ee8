"""Writing one part of a table: rows go to temporary files, which become visible when the part is complete."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgesea.artifact import atomic_path
from edgesea.table.manifest import ClipEntry
from edgesea.table.schema import CLIPS, SKIPPED_KEY, WINDOWS, clips_schema, part_path, windows_schema

FLUSH_BYTES = 32 << 20


class PartWriter:
    """Context manager that writes part `part` of the table at `table`.

    The clips and the windows are written in row groups of about 32 MB that belong together: row group ``i`` of the
    windows refers to rows of row group ``i`` of the clips. If the body raises, nothing of the part remains.

    Parameters
    ----------
    table : Path
        Folder of the table.
    part : int
        Number of the part.
    size : int
        Dimensions of an embedding.
    dtype : {"float16", "float32"}
        How embeddings are stored.
    """

    def __init__(self, table: Path, part: int, size: int, dtype: str) -> None:
        self.rows = 0
        self.windows = 0
        self.skipped: list[tuple[str, str]] = []
        self._dtype = dtype
        self._paths = [part_path(table, kind, part) for kind in (CLIPS, WINDOWS)]
        self._schemas = [clips_schema(), windows_schema(size, dtype)]
        self._stack = ExitStack()
        self._clips: list[dict[str, Any]] = []
        self._windows: list[dict[str, NDArray[Any]]] = []
        self._bytes = 0

    def __enter__(self) -> "PartWriter":
        with ExitStack() as stack:  # so that nothing remains if a disk has no space left for the first bytes
            # Left in reverse order: the windows are renamed first, so a part whose clips exist is complete.
            temporary = [stack.enter_context(atomic_path(path)) for path in self._paths]
            self._writers = [
                stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd", compression_level=1))
                for path, schema in zip(temporary, self._schemas, strict=True)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._flush()
                self._writers[0].add_key_value_metadata({SKIPPED_KEY: json.dumps(self.skipped).encode()})
                for writer in self._writers:
                    writer.close()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)

    def add(
        self,
        entry: ClipEntry,
        offset: int,
        pcm: NDArray[np.int16],
        starts: Sequence[int] | NDArray[np.int64],
        levels: NDArray[np.float32],
        embeddings: NDArray[np.float32],
    ) -> None:
        """Add a piece of a clip with its windows.

        Parameters
        ----------
        entry : ClipEntry
            The clip.
        offset : int
            Position of `pcm` in the clip, in samples at the student's rate.
        pcm : ndarray, (samples,) int16
            The audio that the windows cover.
        starts : sequence of int, or ndarray (windows,) int64
            First sample of each window in the clip.
        levels : ndarray, (windows,) float32
            Levels in dB.
        embeddings : ndarray, (windows, size) float32
            Teacher embeddings.
        """
        row = {name: getattr(entry, name) for name in ("clip", "sensor", "time", "split", "label")}
        self._clips.append({**row, "offset": offset, "pcm": pcm.astype("<i2").tobytes()})
        self._windows.append(
            {
                "clip": np.full(len(starts), self.rows, np.int32),
                "start": np.asarray(starts, np.int64),
                "level": levels.astype(np.float32),
                "embedding": embeddings.astype(self._dtype),
            }
        )
        self.rows += 1
        self.windows += len(starts)
        self._bytes += pcm.nbytes + embeddings.nbytes
        if self._bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._clips:
            return
        self._writers[0].write_table(pa.Table.from_pylist(self._clips, schema=self._schemas[0]), row_group_size=1 << 30)
        columns = {name: np.concatenate([block[name] for block in self._windows]) for name in self._schemas[1].names}
        schema = self._schemas[1]
        values = pa.array(columns["embedding"].reshape(-1))
        arrays = [
            pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type)
            if name == "embedding"
            else pa.array(columns[name])
            for name in schema.names
        ]
        self._writers[1].write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=1 << 30)
        self._clips, self._windows, self._bytes = [], [], 0
