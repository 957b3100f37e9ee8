"""Windows of a table that a reduction is fitted on or judged by."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.reduction.base import Float32
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Chunk, Table, stack

Int64 = NDArray[np.int64]
Select = Callable[[Chunk], Int64]


class Windows:
    """Some windows of a table; iterating gives their embeddings (b, n) float32, a chunk at a time, and can be repeated.

    Only chunks that hold some of the windows are read.

    Parameters
    ----------
    table : Table
        The table.
    select : callable
        Chunk -> the windows (rows of the chunk, ascending).
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
                rows = self.select(self.table.chunk(part, group))
                yield self.table.embeddings(part, group)[rows].astype(np.float32)
                bar.update(count)


def in_split(split: str) -> Select:
    """All windows of a split."""
    return lambda chunk: chunk.select(split)


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


def draw(wanted: Sequence[tuple[Windows, int]], seed: int) -> list[Float32]:
    """Draw from several sets of windows of one table, reading each chunk at most once.

    Parameters
    ----------
    wanted : sequence of (Windows, int)
        The sets, and how many windows to draw of each, uniformly without replacement; all if there are fewer.
    seed : int
        Seed of the draw.

    Returns
    -------
    list of ndarray, (k, n) float32
        In the order of the table.
    """
    rng = np.random.default_rng(seed)
    plan: dict[tuple[int, int], list[tuple[int, Int64]]] = {}  # chunk -> [(set, rows among its windows there)]
    for number, (windows, size) in enumerate(wanted):
        chosen: Int64 = np.sort(rng.choice(len(windows), min(size, len(windows)), replace=False))
        ends = np.cumsum([count for *_, count in windows.chunks], dtype=np.int64)
        blocks = np.split(chosen, np.searchsorted(chosen, ends))[:-1]
        for (part, group, count), end, rows in zip(windows.chunks, ends, blocks, strict=True):
            if len(rows):
                plan.setdefault((part, group), []).append((number, rows - (end - count)))
    drawn: list[list[Float32]] = [[] for _ in wanted]
    for (part, group), parts in sorted(plan.items(), key=lambda item: item[0]):
        table = wanted[parts[0][0]][0].table
        chunk, embeddings = table.chunk(part, group), table.embeddings(part, group)
        for number, rows in parts:
            drawn[number].append(embeddings[wanted[number][0].select(chunk)[rows]].astype(np.float32))
    return [stack(blocks, windows.table.embedding_size) for blocks, (windows, _) in zip(drawn, wanted, strict=True)]
