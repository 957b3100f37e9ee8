"""Candidates of a subset, grouped into frames: the windows of one sensor on one day."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgesea.table.reader import Chunk, Table

Int64 = NDArray[np.int64]
FrameLength = Literal["day", "none"]


@dataclass(frozen=True)
class Candidates:
    """Windows that may be chosen.

    Attributes
    ----------
    part, window : ndarray, (n,) int64
        Where each stands in the table.
    frame : ndarray, (n,) int64
        Index into `names`.
    names : list of (sensor, day)
        The frames; "" where unknown.
    """

    part: Int64
    window: Int64
    frame: Int64
    names: list[tuple[str, str]]


def candidates(table: Table, split: str | None, frame: FrameLength) -> Candidates:
    """Collect the windows of a split (None: all), grouped by sensor and, if wanted, by day, where these are known."""
    names: dict[tuple[str, str], int] = {}
    parts, windows, frames = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for chunk in table.chunks():
        rows = chunk.select(split)
        keys = [names.setdefault(key, len(names)) for key in map(_namer(chunk, frame), range(len(chunk.names)))]
        parts.append(np.full(len(rows), chunk.part))
        windows.append(rows + chunk.first_window)
        frames.append(np.asarray(keys, np.int64)[chunk.clip[rows]])
    return Candidates(np.concatenate(parts), np.concatenate(windows), np.concatenate(frames), list(names))


def _namer(chunk: Chunk, frame: FrameLength) -> Callable[[int], tuple[str, str]]:
    def name(clip: int) -> tuple[str, str]:
        day = datetime.fromisoformat(chunk.times[clip]).date().isoformat() if chunk.times[clip] else ""
        return chunk.sensors[clip] or "", day if frame == "day" else ""

    return name


def quotas(sizes: Int64, total: int) -> Int64:
    """Share `total` out over frames as equally as their sizes allow.

    Parameters
    ----------
    sizes : ndarray, (frames,) int64
        Windows in each frame.
    total : int
        At most ``sizes.sum()``.

    Returns
    -------
    ndarray, (frames,) int64
        Small frames are taken whole; the others differ by at most one, the larger frames first.
    """
    result = np.zeros_like(sizes)
    order = np.argsort(sizes, kind="stable")
    remaining = total
    for position, index in enumerate(order):
        result[index] = min(sizes[index], remaining // (len(order) - position))
        remaining -= result[index]
    return result
