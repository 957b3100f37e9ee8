"""Windows of a table that a reduction is fitted on or measured on, read in bounded memory."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Float32
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Chunk, Table

Int64 = NDArray[np.int64]
Select = Callable[[Chunk], Int64]  # chunk -> some of its windows (rows of the chunk, ascending)


class Windows:
    """Some windows of a table; iterating gives their embeddings (b, n) float32, a chunk at a time, and can be repeated.

    Only chunks that hold some of the windows are read.
    """

    def __init__(self, table: Table, select: Select) -> None:
        self.table, self.select = table, select
        counts = {(chunk.part, chunk.group): len(select(chunk)) for chunk in table.chunks()}
        self.counts = {place: count for place, count in counts.items() if count}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Float32]:
        with tqdm(total=len(self), unit="window", desc="reduce", disable=None) as bar:
            for place, count in self.counts.items():
                rows = self._embeddings(place, slice(None))
                if not np.isfinite(rows).all():
                    raise EdgeseaError(f"{self.table.path}: embeddings hold NaN or Inf; extract or import them again")
                yield rows
                bar.update(count)

    def others(self, split: str) -> "Windows":
        """The windows of a split that are not among these."""
        return Windows(self.table, lambda chunk: np.setdiff1d(chunk.select(split), self.select(chunk), True))

    def draw(self, size: int, rng: np.random.Generator) -> Float32:
        """Draw windows uniformly without replacement, all if there are fewer; (k, n), in the order of the table."""
        chosen: Int64 = np.sort(rng.choice(len(self), min(size, len(self)), replace=False))
        firsts = np.cumsum([0, *self.counts.values()])
        drawn = zip(self.counts, firsts, np.split(chosen, np.searchsorted(chosen, firsts[1:-1])), strict=False)
        return np.concatenate([self._embeddings(place, rows - first) for place, first, rows in drawn if len(rows)])

    def _embeddings(self, place: tuple[int, int], rows: Int64 | slice) -> Float32:
        """Some of the windows chosen in the chunk at a place (part, row group)."""
        selected = self.select(self.table.chunk(*place))[rows]
        return self.table.embeddings(*place)[selected].astype(np.float32)


def in_subset(subset: Subset, chunk: Chunk) -> Int64:
    """The windows of a chunk that are in a subset."""
    first, last = np.searchsorted(subset.part, [chunk.part, chunk.part + 1])  # a subset is sorted
    windows = subset.window[first:last] - chunk.first_window
    return windows[(windows >= 0) & (windows < len(chunk.clip))]
