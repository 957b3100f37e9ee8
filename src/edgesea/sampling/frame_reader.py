"""Reading a table frame by frame, in memory that neither its size nor its order sets."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesea.sampling.frames import FrameIndex, Int64, frame_rng, frames_of, local_seconds
from edgesea.sampling.spl import DAY
from edgesea.table.reader import Table

SMALL_BYTES = 28  # of a window, without its embedding


@dataclass(frozen=True)
class FrameWindows:
    """The windows of a frame that a method chooses from, in the order of the table.

    Attributes
    ----------
    part, window : ndarray, (n,) int64
        Where each stands in the table.
    level : ndarray, (n,) float32
        dB.
    seconds_of_day : ndarray, (n,) float64
        Local time in seconds after midnight; NaN where unknown.
    embeddings : ndarray, (n, D), or None
        In the dtype of the table; None for methods that do not need them.
    """

    part: Int64
    window: Int64
    level: NDArray[np.float32]
    seconds_of_day: NDArray[np.float64]
    embeddings: NDArray[np.floating] | None

    def __len__(self) -> int:
        return len(self.part)


@dataclass
class _Filling:
    """A frame of which only some windows have been read."""

    windows: FrameWindows
    wanted: Int64 | None  # which of the frame's windows, sorted; None: all
    bytes: int
    seen: int = 0
    filled: int = 0


class FrameReader:
    """Whole frames of a table, in one pass over it, or in several if too many frames are mixed up for the memory.

    Parameters
    ----------
    table : Table
        The table.
    index : FrameIndex
        Its frames.
    frames : iterable of int
        Which of them to read.
    with_embeddings : bool
        Whether the embeddings are needed.
    pool : int, optional
        Of a larger frame only so many windows are read, drawn uniformly.
    seed : int
        Seed of that draw.
    budget : int
        Bytes that unfinished frames may take together; one frame is always read, however large.

    Attributes
    ----------
    passes : int
        How often it went through the table so far.
    """

    def __init__(
        self,
        table: Table,
        index: FrameIndex,
        frames: list[int],
        *,
        with_embeddings: bool,
        pool: int | None = None,
        seed: int = 0,
        budget: int = 1 << 30,
    ) -> None:
        self._table, self._index, self._pool, self._seed, self._budget = table, index, pool, seed, budget
        self._shape: tuple[int, ...] | None = (table.embedding_size,) if with_embeddings else None
        self._dtype = np.dtype(table.info["dtype"])
        self._pending = set(frames)
        self._first: dict[int, tuple[int, int]] = {}
        for key, members in index.chunks.items():
            for frame in members:
                self._first.setdefault(frame, key)
        self._filling: dict[int, _Filling] = {}
        self.passes = 0
        self._stopped = False

    def stop(self) -> None:
        """Let the iteration end at the next chunk; to be called from another thread."""
        self._stopped = True

    def __iter__(self) -> Iterator[tuple[int, FrameWindows]]:
        """Yield (frame, its windows), each as soon as it is complete."""
        while self._pending:
            self.passes += 1
            for key, members in self._index.chunks.items():
                if self._stopped:
                    return
                admitted = [frame for frame in members if self._admit(frame, key)]
                if admitted:
                    yield from self._read(key, set(admitted))

    def _admit(self, frame: int, key: tuple[int, int]) -> bool:
        """Whether the frame's windows in this chunk are wanted: from its first chunk on, if there is room for it."""
        if frame in self._filling:
            return True
        if frame not in self._pending or self._first[frame] != key:
            return False
        size = int(self._index.sizes[frame])
        count = size if self._pool is None else min(size, self._pool)
        needed = count * (SMALL_BYTES + (self._dtype.itemsize * self._shape[0] if self._shape else 0))
        if self._filling and sum(each.bytes for each in self._filling.values()) + needed > self._budget:
            return False
        windows = FrameWindows(
            np.empty(count, np.int64),
            np.empty(count, np.int64),
            np.empty(count, np.float32),
            np.empty(count),
            np.empty((count, *self._shape), self._dtype) if self._shape else None,
        )
        wanted = None
        if count < size:
            rng = frame_rng(self._seed, self._index.names[frame], "pool")
            wanted = np.sort(rng.choice(size, count, replace=False))
        self._filling[frame] = _Filling(windows, wanted, needed)
        return True

    def _read(self, key: tuple[int, int], admitted: set[int]) -> Iterator[tuple[int, FrameWindows]]:
        chunk = self._table.chunk(*key)
        rows = chunk.select(self._index.split)
        seconds = local_seconds(chunk, self._table.sample_rate, self._index.zone)
        _, place = frames_of(chunk, rows, seconds[rows], self._index.length)
        embeddings = self._table.embeddings(*key) if self._shape else None
        for number, frame in enumerate(self._index.chunks[key]):
            if frame not in admitted:
                continue
            filling = self._filling[frame]
            mine = rows[place == number]
            first, filling.seen = filling.seen, filling.seen + len(mine)
            if filling.wanted is not None:
                low, high = np.searchsorted(filling.wanted, [first, filling.seen])
                mine = mine[filling.wanted[low:high] - first]
            target = slice(filling.filled, filling.filled + len(mine))
            filling.filled += len(mine)
            windows = filling.windows
            windows.part[target] = chunk.part
            windows.window[target] = mine + chunk.first_window
            windows.level[target] = chunk.level[mine]
            windows.seconds_of_day[target] = seconds[mine] % DAY
            if windows.embeddings is not None and embeddings is not None:
                windows.embeddings[target] = embeddings[mine]
            if filling.seen == self._index.sizes[frame]:
                self._pending.remove(frame)
                del self._filling[frame]
                yield frame, windows
