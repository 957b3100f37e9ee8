"""What a report needs to know of a table: one pass over its small columns, and a bounded sample of its windows."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Chunk, Table

SAMPLE = 2000  # windows in the map, and in the validation curve
SAMPLE_CHUNKS = 24  # chunks (about 32 MB each) that are read for them
Frame = tuple[str, str]  # sensor and day; "" where unknown


@dataclass
class TableSummary:
    """Counts over a table.

    Attributes
    ----------
    clips, windows : Counter
        By split.
    frames : dict of (sensor, day) to [windows, windows in the subset]
        "" where the table does not know the sensor or the day.
    levels, chosen_levels : Counter
        Windows of the table and of the subset by level, in whole dB (rounded down).
    chunks : list of (part, group, windows, validation windows)
        The chunks in order.
    """

    clips: Counter[str] = field(default_factory=Counter)
    windows: Counter[str] = field(default_factory=Counter)
    frames: dict[Frame, list[int]] = field(default_factory=dict)
    levels: Counter[int] = field(default_factory=Counter)
    chosen_levels: Counter[int] = field(default_factory=Counter)
    chunks: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def sensors(self) -> list[str]:
        """Known sensors, sorted."""
        return sorted({sensor for sensor, _ in self.frames} - {""}, key=natural)

    @property
    def days(self) -> list[str]:
        """Known days (ISO 8601), sorted."""
        return sorted({day for _, day in self.frames} - {""})


@dataclass(frozen=True)
class WindowSample:
    """Some windows of a table, in random order.

    Attributes
    ----------
    points : ndarray, (n, 2) float32
        First two reduced dimensions.
    level : ndarray, (n,) float32
        dB.
    sensors, splits, labels : list of str
        "" where unknown.
    validation : ndarray, (d,) float64, or None
        Share of the validation windows' standardised variance in the first 1 ... d components.
    validation_windows : int
        Windows that this share was measured on.
    """

    points: NDArray[np.float32]
    level: NDArray[np.float32]
    sensors: list[str]
    splits: list[str]
    labels: list[str]
    validation: NDArray[np.float64] | None
    validation_windows: int


def level_unit(table: "Table | None") -> str:
    """Unit of a table's levels."""
    return "dB" if table is None else str(table.info.get("level", {}).get("unit", "dB"))


def natural(name: str) -> tuple[int, str]:
    """Sorting key that puts sensor 2 before sensor 10."""
    return (int(name), name) if name.isdecimal() else (1 << 62, name)


def summarise(table: "Table", subset: "Subset | None") -> TableSummary:
    """Count clips, windows, levels and frames of a table and of the subset chosen from it, a chunk at a time."""
    summary = TableSummary()
    for chunk in table.chunks():
        chosen = np.zeros(len(chunk.clip), bool)
        if subset is not None:
            chosen[_chosen_rows(subset, chunk)] = True
        windows = np.bincount(chunk.clip, minlength=len(chunk.names))
        in_subset = np.bincount(chunk.clip[chosen], minlength=len(chunk.names))
        for row, (split, sensor, time) in enumerate(zip(chunk.splits, chunk.sensors, chunk.times, strict=True)):
            summary.clips[split] += int(chunk.offsets[row] == 0)  # a long clip has several rows
            summary.windows[split] += int(windows[row])
            counts = summary.frames.setdefault((sensor or "", _day(time)), [0, 0])
            counts[0] += int(windows[row])
            counts[1] += int(in_subset[row])
        summary.levels += _by_decibel(chunk.level)
        summary.chosen_levels += _by_decibel(chunk.level[chosen])
        summary.chunks.append((chunk.part, chunk.group, len(chunk.clip), len(chunk.select("validate"))))
    return summary


def _day(time: str | None) -> str:
    return datetime.fromisoformat(time).date().isoformat() if time else ""


def _chosen_rows(subset: "Subset", chunk: "Chunk") -> NDArray[np.int64]:
    first, last = np.searchsorted(subset.part, chunk.part, "left"), np.searchsorted(subset.part, chunk.part, "right")
    rows = subset.window[first:last] - chunk.first_window
    return np.asarray(rows[(rows >= 0) & (rows < len(chunk.clip))])


def _by_decibel(level: NDArray[np.float32]) -> Counter[int]:
    values, counts = np.unique(np.floor(level[np.isfinite(level)]).astype(np.int64), return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def sample_windows(table: "Table", summary: TableSummary, phi: Any, seed: int = 0) -> WindowSample | None:
    """Reduce a random sample of a table's windows.

    At most `SAMPLE_CHUNKS` random chunks are read, one at a time, so memory and time do not grow with the table.

    Parameters
    ----------
    table : Table
        The table.
    summary : TableSummary
        What `summarise` counted.
    phi : Reduction
        The reduction; the validation curve is measured if it is a pca, whose components are orthogonal.
    seed : int
        Seed of the choice.

    Returns
    -------
    WindowSample or None
        None if the reduction has one dimension only.
    """
    if phi.output_size < 2:
        return None
    rng = np.random.default_rng(seed)
    chunks = [summary.chunks[i] for i in sorted(rng.permutation(len(summary.chunks))[:SAMPLE_CHUNKS])]
    shown = _draw([chunk[2] for chunk in chunks], rng)
    validating = _draw([chunk[3] for chunk in chunks], rng)
    curve = _ExplainedCurve(phi) if phi.method == "pca" else None
    embedded, levels = [np.zeros((0, table.embedding_size), np.float32)], [np.zeros(0, np.float32)]
    columns: list[list[str]] = [[], [], []]
    for (part, group, *_), rows, validation_rows in zip(chunks, shown, validating, strict=True):
        chunk, embeddings = table.chunk(part, group), table.embeddings(part, group)
        embedded.append(embeddings[rows].astype(np.float32))
        if curve is not None and len(validation_rows):
            curve.update(embeddings[chunk.select("validate")[validation_rows]])
        levels.append(chunk.level[rows])
        for column, values in zip(columns, (chunk.sensors, chunk.splits, chunk.labels), strict=True):
            column += [value or "" for value in values[chunk.clip[rows]]]
    found = np.concatenate(embedded)
    # At once: some reductions (umap) take long to start.
    points = phi.transform(found)[:, :2] if len(found) else np.zeros((0, 2), np.float32)
    order = rng.permutation(len(points))  # drawn over each other without favour
    sensors, splits, labels = ([column[i] for i in order] for column in columns)
    return WindowSample(
        points[order],
        np.concatenate(levels)[order],
        sensors,
        splits,
        labels,
        None if curve is None else curve.result(),
        0 if curve is None else curve.windows,
    )


def _draw(sizes: list[int], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Choose `SAMPLE` of all rows of blocks of these sizes; returns the rows chosen in each block, sorted."""
    total = sum(sizes)
    chosen = np.sort(rng.choice(total, min(SAMPLE, total), replace=False)) if total else np.zeros(0, np.int64)
    ends = np.cumsum(sizes, dtype=np.int64)
    blocks = np.split(chosen, np.searchsorted(chosen, ends))[:-1]
    return [block - (end - size) for block, end, size in zip(blocks, ends, sizes, strict=True)]


class _ExplainedCurve:
    """Sums that give the variance explained by the first 1 ... d components, as `edgesea reduce` defines it."""

    def __init__(self, phi: Any) -> None:
        self._phi = phi
        self._basis = phi.components / np.linalg.norm(phi.components, axis=1, keepdims=True)
        self._kept, self._total, self.windows = np.zeros(len(self._basis)), 0.0, 0

    def update(self, embeddings: NDArray[np.floating]) -> None:
        standardised = (embeddings.astype(np.float64) - self._phi.mean) / self._phi.scale
        self._total += float(np.square(standardised).sum())
        self._kept += np.square(standardised @ self._basis.T).sum(0)
        self.windows += len(embeddings)

    def result(self) -> NDArray[np.float64] | None:
        return np.cumsum(self._kept) / self._total if self._total else None
