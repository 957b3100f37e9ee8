"""Tables with embeddings, levels, sensors and times of our own choice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.artifact import write_json
from edgesea.table.clips import ClipEntry, Piece
from edgesea.table.writer import write_part


def write_table(folder: Path, parts: Sequence[Sequence[Mapping[str, Any]]], dtype: str = "float32") -> Path:
    """Write a table of parts of clips, each a mapping with `embeddings` (windows, D) and any of sensor, time, split,
    levels (windows,); windows are a second long and a second apart, the audio is silent."""
    rate, by_split, size = 100, dict.fromkeys(("train", "validate", "test"), 0), 0
    for number, clips in enumerate(parts):
        size = np.asarray(clips[0]["embeddings"]).shape[1]
        with write_part(folder, number, size, dtype) as writer:
            for index, clip in enumerate(clips):
                embeddings = np.asarray(clip["embeddings"], np.float32)
                count, split, name = len(embeddings), clip.get("split", "train"), f"{number}-{index}.wav"
                known = {"sensor": clip.get("sensor"), "time": clip.get("time"), "split": split, "level": None}
                entry = ClipEntry(clip=name, file=name, label=None, **known)
                levels = np.asarray(clip.get("levels", np.arange(count)), np.float32)
                piece = Piece(entry, 0, np.zeros(count * rate, np.int16), np.arange(count) * rate, levels)
                writer.add(piece, embeddings)
                by_split[split] += count
    counts = {"parts": len(parts), "part_clips": max(map(len, parts)), "clips": sum(map(len, parts))}
    info = {
        "teacher": {"id": "made", "sha256": None, "sample_rate": rate, "embedding_size": size},
        "sample_rate": rate,
        "framing": {"window": 1.0, "hop": 1.0, "center": False},
        "dtype": dtype,
        "manifest_sha256": str(folder.name),
        "windows": sum(by_split.values()),
        "windows_by_split": by_split,
    }
    write_json(folder / "table.json", info | counts)
    return folder
