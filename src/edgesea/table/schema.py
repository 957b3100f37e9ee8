"""The on-disk layout of a table: names, columns, and what ``table.json`` says."""

from pathlib import Path

import pyarrow as pa

CLIPS, WINDOWS = "clips", "windows"
TABLE_FILE = "table.json"
SKIPPED_FILE = "skipped.csv"
SKIPPED_KEY = b"edgesea.skipped"  # schema metadata of a clips part: JSON list of [clip, reason]
DTYPES = {"float16": pa.float16(), "float32": pa.float32()}


def clips_schema() -> pa.Schema:
    """Columns of ``clips/``; a long clip has several rows, `offset` (samples) tells where each one's audio begins."""
    return pa.schema(
        [
            pa.field("clip", pa.string(), nullable=False),
            pa.field("sensor", pa.string()),
            pa.field("time", pa.string()),
            pa.field("split", pa.string(), nullable=False),
            pa.field("label", pa.string()),  # missing in tables of edgesea before there were labels
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("pcm", pa.binary(), nullable=False),
        ]
    )


def windows_schema(size: int, dtype: str) -> pa.Schema:
    """Columns of ``windows/`` for embeddings of `size` dimensions stored as `dtype`."""
    return pa.schema(
        [
            pa.field("clip", pa.int32(), nullable=False),  # row of clips/ in the same part
            pa.field("start", pa.int64(), nullable=False),  # samples from the start of the clip
            pa.field("level", pa.float32(), nullable=False),  # dB
            pa.field("embedding", pa.list_(DTYPES[dtype], size), nullable=False),
        ]
    )


def part_path(table: Path, kind: str, part: int) -> Path:
    """The file of a part of ``clips`` or ``windows``."""
    return table / kind / f"part-{part:05d}.parquet"
