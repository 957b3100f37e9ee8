"""Some windows of a table, as batches of embeddings that are gone through where `cluster.using` says."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.cluster import is_here, results
from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Batches, Float32, Reduction, load_reduction
from edgesea.sampling.subset import Subset, table_key
from edgesea.table.reader import Chunk, Table

T = TypeVar("T")
Int64 = NDArray[np.int64]
# Of each chunk (part, row group) that holds some of the windows: a bit for each of its windows, 1 if it is one of them
Bits = Mapping[tuple[int, int], NDArray[np.uint8]]

CHUNKS = 16  # that one call goes through: 512 MB at most; the moments of 6144 dimensions have 302 MB


def load_reduction_of(folder: Path | str, table: Table) -> Reduction:
    """A reduction; EdgeseaError unless it takes embeddings of a table's size."""
    phi = load_reduction(folder)
    if phi.input_size != table.embedding_size:
        other = f"reduces {phi.input_size} dimensions, but {table.path} has {table.embedding_size}"
        raise EdgeseaError(f"{folder}: {other}; give a reduction and the table that it was fitted on")
    return phi


class Windows(Batches):
    """Some windows of a table; iterating gives their embeddings (b, n) float32, a chunk at a time, and can be repeated.

    Only chunks that hold some of the windows are read.
    """

    def __init__(self, table: Table, bits: Bits) -> None:
        self.table, self.bits = table, bits
        self.counts = [len(_rows(some)) for some in bits.values()]

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[Float32]:
        for place, some in self.bits.items():
            rows = self.table.embeddings(*place)[_rows(some)].astype(np.float32)
            if not np.isfinite(rows).all():
                raise EdgeseaError(f"{self.table.path}: embeddings hold NaN or Inf; extract or import them again")
            yield rows

    def map(self, function: Callable[[Iterable[Float32]], T]) -> Iterator[T]:
        """The results of an importable function for every `CHUNKS` chunks, in order; see `cluster.results`."""
        items = list(self.bits.items())
        runs = [Windows(self.table, dict(items[first : first + CHUNKS])) for first in range(0, len(items), CHUNKS)]
        with tqdm(total=len(self), unit="window", desc="reduce", disable=None) as bar:
            call = partial(_apply, function, bar if is_here() else None)
            for run, result in zip(runs, results(call, [(run,) for run in runs]), strict=True):
                bar.update(0 if is_here() else len(run))
                yield result

    def places(self, chosen: Int64) -> Iterator[tuple[tuple[int, int], Int64]]:
        """Where some of these windows are, whose numbers are ascending: chunks, and their rows there."""
        firsts = np.cumsum([0, *self.counts])
        parts = np.split(chosen, np.searchsorted(chosen, firsts[1:-1]))
        for (place, some), first, part in zip(self.bits.items(), firsts, parts, strict=False):
            if len(part):
                yield place, _rows(some)[part - first]

    def take(self, chosen: Int64) -> Float32:
        """The embeddings of some of these windows, whose numbers are ascending."""
        bits = {place: _bits(rows) for place, rows in self.places(chosen)}
        return np.concatenate(list(Windows(self.table, bits).map(_joined)))

    def draw(self, size: int, rng: np.random.Generator) -> Float32:
        """Draw windows uniformly without replacement, all if there are fewer; (k, n), in the order of the table."""
        return self.take(np.sort(rng.choice(len(self), min(size, len(self)), replace=False)))


def open_subset(path: Path, table: Table) -> Subset:
    """A subset of a table; EdgeseaError if it is one of another table."""
    chosen = Subset.load(path)
    if chosen.info["table"] != table_key(table.info):
        raise EdgeseaError(f"{path}: was chosen from another table than {table.path}; choose again: edgesea sample")
    return chosen


def find_windows(table: Table, subset: Subset | None = None) -> dict[str, Windows]:
    """The windows `fitted` on (of a subset, or all of the split train), and the others of `validate` and `train`."""
    found: dict[str, dict[Any, Any]] = {"fitted": {}, "validate": {}, "train": {}}
    runs = ((parts, subset and subset.within(parts)) for parts in table.runs())
    for place, bits in chain.from_iterable(results(partial(_find, table), runs)):
        for name, some in bits.items():
            found[name][place] = some
    return {name: Windows(table, bits) for name, bits in found.items()}


def _find(table: Table, parts: range, subset: Subset | None) -> list[tuple[tuple[int, int], dict[str, Any]]]:
    """The same in some parts, of which the subset is, too: for each chunk, of those that it has."""
    found = []
    for chunk in table.chunks(parts, ["clip", "split"]):
        split = chunk.splits[chunk.clip]
        fitted = split == "train" if subset is None else np.isin(np.arange(len(split)), in_subset(subset, chunk))
        masks = {"fitted": fitted, **{name: (split == name) & ~fitted for name in ("validate", "train")}}
        place = chunk.part, chunk.group
        found.append((place, {name: np.packbits(mask) for name, mask in masks.items() if mask.any()}))
    return found


def in_subset(subset: Subset, chunk: Chunk) -> Int64:
    """The windows of a chunk that are in a subset."""
    first, last = np.searchsorted(subset.part, [chunk.part, chunk.part + 1])  # a subset is sorted
    windows = subset.window[first:last] - chunk.first_window
    return windows[(windows >= 0) & (windows < len(chunk.clip))]


def _rows(bits: NDArray[np.uint8]) -> Int64:
    return np.flatnonzero(np.unpackbits(bits))


def _bits(rows: Int64) -> NDArray[np.uint8]:
    return np.packbits(np.isin(np.arange(rows[-1] + 1), rows))


def _apply(function: Callable[[Iterable[Float32]], T], bar: "tqdm[Any] | None", windows: Windows) -> T:
    def counted() -> Iterator[Float32]:
        for rows in windows:
            yield rows
            if bar is not None:
                bar.update(len(rows))

    return function(counted())


def _joined(batches: Iterable[Float32]) -> Float32:
    return np.concatenate(list(batches))
