"""What a table holds, in a form that tests can compare."""

import gzip
from pathlib import Path
from typing import Any

import h5py
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


def embeddings_of(table: Table, split: str | None = None) -> np.ndarray:
    """The embeddings of one split, or of all windows, float32."""
    rows = [table.embeddings(chunk.part, chunk.group)[chunk.select(split)] for chunk in table.chunks()]
    return np.concatenate(rows).astype(np.float32)


def windows_of(table: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each clip starts, levels, embeddings, and the audio of its windows."""
    source, result = Table(table), {}
    for chunk in source.chunks():
        audio = np.multiply(*source.audio(chunk, np.arange(len(chunk.clip))))
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


def assert_stored(found: np.ndarray, audio: np.ndarray) -> None:
    """Assert that audio from a table is what was stored, to 16 bits."""
    np.testing.assert_allclose(found, audio, rtol=0, atol=np.abs(audio).max() / 32000)


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


def audio_rows(rows: int, rate: int = 8000, seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    """Noise of different loudness in each row, int16."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, round(seconds * rate))) * rng.uniform(50, 5000, (rows, 1))
    return np.clip(np.rint(noise), -32767, 32767).astype(np.int16)


def embedding_rows(rows: int, seed: int = 0, size: int = 12) -> np.ndarray:
    return np.random.default_rng(100 + seed).standard_normal((rows, size)).astype(np.float32)


def write_shard(path: Path, audio: np.ndarray, embedding: np.ndarray, **more: Any) -> Path:
    """As an earlier pipeline wrote them: gzip, in chunks that h5py chooses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("audio", data=audio, compression="gzip")
        file.create_dataset("l3_embedding", data=embedding, compression="gzip")
        for name, values in more.items():
            file[name] = values
    return path
