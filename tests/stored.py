"""What a table holds, in a form that tests can compare."""

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edgesea.table.reader import Table

SIZE = 6  # dimensions of embeddings that are imported


def content(table: Path) -> dict[str, bytes]:
    """Every file of a table."""
    return {path.relative_to(table).as_posix(): path.read_bytes() for path in table.rglob("*") if path.is_file()}


def stamps(table: Path) -> dict[Path, int]:
    """When each was written."""
    return {path: path.stat().st_mtime_ns for path in table.rglob("*")}


def windows_of(table: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each clip starts, levels, embeddings, and the audio of its windows."""
    source, result = Table(table), {}
    for chunk in source.chunks():
        audio = source.audio(chunk, np.arange(len(chunk.clip)))
        embeddings = source.embeddings(chunk.part, chunk.group)
        for name in dict.fromkeys(chunk.names):
            rows = chunk.names[chunk.clip] == name
            result[str(name)] = chunk.start[rows], chunk.level[rows], embeddings[rows], audio[rows]
    return result


def clips_of(table: Path) -> pd.DataFrame:
    """The rows of clips, None where nothing is known."""
    return pd.read_parquet(table / "clips").astype(object).replace({float("nan"): None})


def skipped(table: Path) -> dict[str, str]:
    """The reason for each clip that was left out."""
    frame = pd.read_csv(table / "skipped.csv")
    return dict(zip(frame["clip"], frame["reason"], strict=True))


def peak_memory(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and the bytes that it held at most."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def as_pcm(audio: np.ndarray) -> np.ndarray:
    """Audio as it is stored."""
    return np.rint(audio * 32767).clip(-32768, 32767).astype(np.int16)


def rows_for(name: str, count: int) -> np.ndarray:
    """Embeddings by which clip and window can be told."""
    return np.random.default_rng(list(name.encode())).standard_normal((count, SIZE)).astype(np.float32)


def store(path: Path, rows: np.ndarray, **more: np.ndarray) -> Path:
    """Write an array as the ending of `path` says."""
    if path.name.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            np.save(file, rows)
    elif path.suffix == ".npy":
        np.save(path, rows)
    else:
        (np.savez_compressed if "compressed" in path.name else np.savez)(path, embedding=rows, **more)
    return path
