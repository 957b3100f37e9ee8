"""Windows of a table that a reduction is fitted on or measured on, read in bounded memory."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Float32
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Chunk, Table, stack

Int64 = NDArray[np.int64]
Select = Callable[[Chunk], Int64]  # chunk -> some of its windows (rows of the chunk, ascending)


class Windows:
    """Some windows of a table; iterating gives their embeddings (b, n) float32, a chunk at a time, and can be repeated.

    Only chunks that hold some of the windows are read.
    """

    def __init__(self, table: Table, select: Select) -> None:
        self.table, self.select = table, select
        counts = ((chunk.part, chunk.group, len(select(chunk))) for chunk in table.chunks())
        self.chunks = [(part, group, count) for part, group, count in counts if count]

    def __len__(self) -> int:
        return sum(count for *_, count in self.chunks)

    def __iter__(self) -> Iterator[Float32]:
        with tqdm(total=len(self), unit="window", desc="reduce", disable=None) as bar:
            for part, group, count in self.chunks:
                rows = self._embeddings(part, group, slice(None))
                if not np.isfinite(rows).all():
                    raise EdgeseaError(f"{self.table.path}: embeddings hold NaN or Inf; extract or import them again")
                yield rows
                bar.update(count)

    def draw(self, size: int, rng: np.random.Generator) -> Float32:
        """Draw windows uniformly without replacement, all if there are fewer; (k, n), in the order of the table."""
        chosen: Int64 = np.sort(rng.choice(len(self), min(size, len(self)), replace=False))
        ends = np.cumsum([count for *_, count in self.chunks], dtype=np.int64)
        blocks = np.split(chosen, np.searchsorted(chosen, ends))[:-1]
        drawn = [
            self._embeddings(part, group, rows - (end - count))
            for (part, group, count), end, rows in zip(self.chunks, ends, blocks, strict=True)
            if len(rows)
        ]
        return stack(drawn, self.table.embedding_size)

    def _embeddings(self, part: int, group: int, rows: Int64 | slice) -> Float32:
        """Some of the windows chosen in a chunk."""
        selected = self.select(self.table.chunk(part, group))[rows]
        return self.table.embeddings(part, group)[selected].astype(np.float32)


def in_subset(subset: Subset) -> Select:
    """The windows of a subset."""

    def select(chunk: Chunk) -> Int64:
        first, last = np.searchsorted(subset.part, [chunk.part, chunk.part + 1])  # a subset is sorted
        windows = subset.window[first:last] - chunk.first_window
        return windows[(windows >= 0) & (windows < len(chunk.clip))]

    return select


def outside(split: str, fitted: Select) -> Select:
    """The windows of a split that were not fitted on."""
    return lambda chunk: np.setdiff1d(chunk.select(split), fitted(chunk), assume_unique=True)
