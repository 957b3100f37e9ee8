"""A subset on disk: which windows of a table were chosen, by what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edgesea.artifact import atomic_path, digest
from edgesea.errors import EdgeseaError, explained
from edgesea.table.reader import arrow_file

_KEY = b"edgesea"


def table_key(info: Mapping[str, Any]) -> str:
    """Hash of what decides which windows a table has, in which order, and their embeddings, from its ``table.json``."""
    names = ("manifest_sha256", "teacher", "sample_rate", "framing", "dtype", "part_clips", "windows")
    return digest([info[name] for name in names])


@dataclass(frozen=True)
class Subset:
    """Windows of a table, sorted by their place in it."""

    part: NDArray[np.int64]  # (k,): part of the table
    window: NDArray[np.int64]  # (k,): row in that part's windows
    info: dict[str, Any]  # method, options and the table's key

    def __len__(self) -> int:
        return len(self.part)

    def within(self, parts: range) -> "Subset":
        """Those in some parts."""
        some = slice(*np.searchsorted(self.part, [parts.start, parts.stop]))
        return Subset(self.part[some], self.window[some], {})

    def save(self, path: Path) -> None:
        """Write one Parquet file with the columns ``part`` and ``window``."""
        table = pa.table({"part": pa.array(self.part, pa.int32()), "window": pa.array(self.window, pa.int64())})
        with atomic_path(path) as temporary, arrow_file(temporary, "wb") as file:
            pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(self.info)}), file)

    @classmethod
    def load(cls, path: Path) -> "Subset":
        if not path.exists():
            raise EdgeseaError(f"{path}: no such subset; make one: edgesea sample")
        with explained(f"{path}: not a subset; make one, under another name: edgesea sample"):
            table = pq.ParquetFile(arrow_file(path)).read()
            info = json.loads(table.schema.metadata[_KEY])
            return cls(table["part"].to_numpy().astype(np.int64), table["window"].to_numpy(), info)
