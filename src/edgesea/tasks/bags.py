"""Clips as bags of windows: what a task's classifier gets to see, and what it is to learn."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
CONTEXT = ("latitude", "longitude", "hour", "day", "week")


@dataclass(frozen=True)
class Bags:
    """The embeddings of clips, window by window.

    Attributes
    ----------
    rows : ndarray, (windows, D) float32
        Embeddings of all windows, clip by clip.
    counts : ndarray, (N,) int64
        Windows of each clip; 0 where it could not be embedded.
    context : ndarray, (N, 5) float64, optional
        latitude, longitude (degrees), hour (0 ... 23), day (0 is Monday), week (1 ... 53).
    """

    rows: Float32
    counts: NDArray[np.int64]
    context: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def first(self) -> NDArray[np.int64]:
        """The first row of each clip, (N,)."""
        return np.cumsum(self.counts) - self.counts

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which clips have windows, (N,)."""
        return self.counts > 0

    @property
    def owner(self) -> NDArray[np.int64]:
        """The clip of each row, (windows,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, clips: NDArray[np.integer]) -> "Bags":
        """Some of the clips, by index, in the order given."""
        counts = self.counts[clips]
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.rows[np.repeat(self.first[clips], counts) + offset]
        return Bags(rows, counts, None if self.context is None else self.context[clips])

    def with_rows(self, rows: Float32) -> "Bags":
        """The same clips with other embeddings of their windows."""
        return replace(self, rows=rows)

    def means(self) -> Float32:
        """Mean of each clip's rows, (N, D); NaN for a clip without any."""
        means = np.full((len(self), self.rows.shape[1]), np.nan, np.float32)
        present = np.flatnonzero(self.counts)
        if len(present):
            totals = np.add.reduceat(self.rows, self.first[present], axis=0, dtype=np.float64)
            means[present] = totals / self.counts[present, None]
        return means


@dataclass(frozen=True)
class Targets:
    """What a tagger is to predict for each clip.

    Attributes
    ----------
    labels : ndarray, (N, K) float32
        1 where a tag is present, 0 where not.
    given : ndarray of bool, (N, K)
        False where it is not known: the loss leaves it out.
    sensors : ndarray, (N,) int64, optional
        Number of the sensor, from 0.
    proximity : ndarray, (N, P, 2) float32, optional
        For each of P tags (1, 0) if most listeners heard it near, (0, 1) if far, (0, 0) if not known.
    """

    labels: Float32
    given: NDArray[np.bool_]
    sensors: NDArray[np.int64] | None = None
    proximity: Float32 | None = None

    def take(self, clips: NDArray[np.integer]) -> "Targets":
        """Those of some clips, by index."""
        return Targets(
            self.labels[clips],
            self.given[clips],
            None if self.sensors is None else self.sensors[clips],
            None if self.proximity is None else self.proximity[clips],
        )
