"""Batches of windows and targets from tables: shuffled over their parts, resumable at any batch, in flat memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.audio.mel import LogMelSettings
from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.reduction.base import Float32, Reduction
from edgesea.table.reader import Table

Int16 = NDArray[np.int16]
Arrays = tuple[NDArray[np.generic], ...]  # of some windows, as `WindowSource.load` gives them
Batch = tuple[Tensor, ...]  # the same as tensors
ChunkId = tuple[int, int, int]  # part, row group, windows
BUFFER_BYTES = 1536 << 20  # at most: the spectrograms of 60 000 windows, which are then computed once
LANES = 64  # at most
LANE_CHUNKS = 8  # chunks of a lane at least, of which few are left out of a pass
AT_ONCE = 16  # windows whose spectrograms a thread computes; the arrays of more leave the processor's cache


class WindowSource:
    """The windows of one split, at the rate of the student's front end, with their targets phi(teacher embedding).

    With a `front_end`, the threads that read also compute the spectrograms, so that a window that stays in memory is
    transformed once and not in every epoch. Without, a GPU does that.
    """

    def __init__(
        self, table: Table, phi: Reduction, split: str, settings: LogMelSettings | None = None, device: str = "cpu"
    ) -> None:
        self.table, self.phi, self.split = table, phi, split
        self.rate = settings.sample_rate if settings else table.sample_rate
        self.front_end = OverlappingLogMel(settings) if settings and device == "cpu" else None
        counts = ((part, group, splits.get(split, 0)) for part, group, splits in table.windows_by_split())
        self.chunks = [chunk for chunk in counts if chunk[2]]
        self.windows = sum(count for *_, count in self.chunks)
        samples = table.framing.at(self.rate).window
        spectrogram = 4 * settings.bands * settings.layout(samples)[0] if settings else 0
        self.window_bytes = max(2 * samples, spectrogram) + 4 * phi.output_size  # on every device, as the order
        if not self.windows:
            remedy = "the option validate of `edgesea extract` decides which clips validate"
            raise EdgeseaError(f"{table.path}: no windows in split {split!r} (it has {table.counts}); {remedy}")

    def load(self, part: int, group: int) -> Arrays:
        """What a student gets of a chunk's windows in this split, and the targets (n, d).

        That is log-mel spectrograms (n, frames, bands), or stored audio (n, W) int16 and its scales (n, 1).
        """
        chunk = self.table.chunk(part, group)
        rows = chunk.select(self.split)
        targets = self.phi.transform(self.table.embeddings(part, group)[rows])
        audio = self.table.audio(chunk, rows, self.rate)
        return (*audio, targets) if self.front_end is None else (self._spectrograms(self.front_end, *audio), targets)

    def _spectrograms(self, front_end: OverlappingLogMel, pcm: Int16, scales: Float32) -> Float32:
        result = np.empty((len(pcm), front_end.settings.layout(pcm.shape[1])[0], front_end.settings.bands), np.float32)

        def compute(first: int) -> None:
            rows = slice(first, first + AT_ONCE)
            result[rows] = front_end(pcm[rows] * scales[rows]).transpose(0, 2, 1)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(compute, range(0, len(pcm), AT_ONCE)))
        return result


@dataclass(frozen=True)
class Batches:
    """A sized iterable over `count` batches, read ahead by a thread."""

    count: int
    read: Callable[[], Iterator[Batch]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return chain.from_iterable(prefetch([self.read], workers=1))


class Lane:
    """The windows of some chunks in random order, another one in every pass: a function of `key` and of the pass.

    In every pass the chunks are put in random order and read into a buffer of up to `buffer_windows`, whose windows are
    shuffled. A lane that fits in its buffer is read once.
    """

    def __init__(self, source: WindowSource, chunks: list[ChunkId], key: tuple[int, ...], buffer_windows: int) -> None:
        self.source, self.chunks, self.key, self.buffer_windows = source, chunks, key, buffer_windows
        self.windows = sum(count for *_, count in chunks)
        self._members: list[int] = []  # chunks in the buffer, which is kept for the next pass
        self._buffer: Arrays = ()  # their windows

    def read(self, number: int, begin: int, end: int, taken: NDArray[np.bool_]) -> Iterator[Arrays]:
        """Windows `begin` ... `end` (exclusive) of pass `number`, ``len(taken)`` at once, of which those `taken`."""
        order = np.random.default_rng((*self.key, number)).permutation(len(self.chunks)).tolist()
        if self.windows <= self.buffer_windows:
            order.sort()  # one buffer: read once, shuffled anew in every pass
        position, parts, missing = 0, list[Arrays](), len(taken)
        for index, members in enumerate(self._buffers(order)):
            count = sum(self.chunks[i][2] for i in members)
            skip, take = max(0, begin - position), min(count, end - position)
            position += count
            if skip >= take:
                continue
            rows = np.random.default_rng((*self.key, number, index)).permutation(count)[skip:take]
            self._load(members, count)
            while len(rows):
                some, rows = rows[:missing], rows[missing:]
                chosen = some[taken[len(taken) - missing :][: len(some)]]
                parts.append(tuple(array[chosen] for array in self._buffer))
                missing -= len(some)
                if not missing:
                    yield parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))
                    parts, missing = [], len(taken)

    def _buffers(self, order: list[int]) -> list[list[int]]:
        """Chunks in the given order, cut into buffers."""
        buffers: list[list[int]] = []
        total = 0
        for index in order:
            count = self.chunks[index][2]
            if not buffers or total + count > self.buffer_windows:
                buffers.append([])
                total = 0
            buffers[-1].append(index)
            total += count
        return buffers

    def _load(self, members: list[int], count: int) -> None:
        """Read chunks, of `count` windows in all, into the buffer, unless they are there."""
        if self._members == members:
            return
        self._members, self._buffer = [], ()  # so that the next one is read into free memory
        first = 0
        for part, group, windows in (self.chunks[index] for index in members):
            arrays = self.source.load(part, group)
            self._buffer = self._buffer or tuple(np.empty((count, *one.shape[1:]), one.dtype) for one in arrays)
            for buffer, array in zip(self._buffer, arrays, strict=True):
                buffer[first : first + windows] = array
            first += windows
            del arrays, array  # before the next ones are read
        self._members = members


class Passes:
    """The training windows of a table, `size` of them in every batch, as a function of `key` and the batch's number.

    A table that does not fit in the buffer is divided into lanes, neighbouring chunks of about as many windows each;
    with L lanes, position p of a batch is taken from lane p % L, and each lane has its share of the buffer. How many
    there are does not depend on `world`, the number of processes; one of these takes positions `rank`, `rank + world`
    ... and reads only the lanes that these are in. The windows that fill no batch are left out of a pass. `size` is
    that of all processes; a batch comes in `accumulate` pieces.
    """

    def __init__(
        self, source: WindowSource, size: int, key: tuple[int, ...], place: tuple[int, int, int], buffer_bytes: int
    ) -> None:
        self.source, self.size, (self.rank, self.world, self.accumulate) = source, size, place
        buffer_windows = max(1, buffer_bytes // source.window_bytes)
        count = _lane_count(source, size, buffer_windows)
        first = np.cumsum([0, *(windows for *_, windows in source.chunks)])  # window of each chunk
        of_chunk = (first[:-1] + first[1:]) * count // (2 * first[-1])  # by its middle
        shares = [[source.chunks[i] for i in np.flatnonzero(of_chunk == lane)] for lane in range(count)]
        keys = [(*key, lane) for lane in range(count)] if count > 1 else [key]
        self.lanes = [Lane(source, *lane, buffer_windows // count) for lane in zip(shares, keys, strict=True)]
        self.batches = min(lane.windows for lane in self.lanes) // (size // count)  # in a pass

    def read(self, batch: int, end: int) -> Iterator[Batch]:
        """The batches `batch` ... `end` (exclusive), in their pieces."""
        while batch < end:
            number, begin = divmod(batch, self.batches)
            last = min(self.batches, begin + end - batch)
            yield from self._pass(number, begin, last)
            batch += last - begin

    def _pass(self, number: int, begin: int, end: int) -> Iterator[Batch]:
        """The batches `begin` ... `end` (exclusive) of pass `number`."""
        positions = np.arange(self.size).reshape(-1, len(self.lanes)).T  # of each lane in a batch
        mine = [(lane, taken) for lane, taken in zip(self.lanes, positions % self.world == self.rank, strict=True)]
        each = positions.shape[1]
        streams = [lane.read(number, begin * each, end * each, taken) for lane, taken in mine if taken.any()]
        back = np.argsort(np.concatenate([some[some % self.world == self.rank] for some in positions]))
        for shares in zip(*streams, strict=True):
            arrays = shares[0]
            if len(shares) > 1:
                arrays = tuple(np.concatenate(some)[back] for some in zip(*shares, strict=True))
            for rows in np.split(np.arange(len(back)), self.accumulate):
                yield tuple(torch.from_numpy(array[rows[0] : rows[-1] + 1]) for array in arrays)


class ShuffledWindows:
    """The training batches of one epoch, as a function of (seed, epoch) alone.

    Every batch has so many windows of each table, in `sizes`, those of the first before those of the others; each table
    has its passes. An epoch of `epoch_size` windows (None: as many as the tables have) begins where the last one ended.
    """

    def __init__(
        self,
        sources: Sequence[WindowSource],
        sizes: Sequence[int],
        epoch_size: int | None,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        buffer_bytes: int | None = None,
    ) -> None:
        self.rank, self.world, self.accumulate, self.global_batch = rank, world, accumulate, sum(sizes)
        needs = [source.windows * source.window_bytes for source in sources]
        buffers, left = dict[int, int](), buffer_bytes or BUFFER_BYTES
        for index in sorted(range(len(needs)), key=needs.__getitem__):  # what fits leaves the rest to larger ones
            buffers[index] = min(needs[index], left // (len(needs) - len(buffers)))
            left -= buffers[index]
        keys = [(seed, LANES + number) if number else (seed,) for number in range(len(needs))]
        place, each = (rank, world, accumulate), zip(sources, sizes, keys, strict=True)
        self.tables = [Passes(*one, place, buffers[number]) for number, one in enumerate(each)]
        windows = epoch_size or sum(table.batches * table.size for table in self.tables)
        self.batches = max(1, windows // self.global_batch)

    def epoch(self, epoch: int, first: int = 0) -> Batches:
        """The batches of an epoch, in their pieces, from batch `first` on."""
        return Batches((self.batches - first) * self.accumulate, partial(self._read, epoch, first))

    def _read(self, epoch: int, first: int) -> Iterator[Batch]:
        span = epoch * self.batches + first, (epoch + 1) * self.batches
        for pieces in zip(*(table.read(*span) for table in self.tables), strict=True):
            yield pieces[0] if len(pieces) == 1 else tuple(map(torch.cat, zip(*pieces, strict=True)))


def batch_sizes(
    sources: Sequence[WindowSource],
    batch_size: int,
    shares: Sequence[float] | None,
    groups: Sequence[int],
    pieces: int,
) -> list[int]:
    """How many windows of each table a batch has: multiples of `pieces`.

    `shares` are those of all groups of tables (a table and its mixtures) but the first, which has the rest; None: by
    their windows. `groups` are the numbers of tables in each; in a group, all have a share by their windows.
    """
    windows = np.array([source.windows for source in sources])
    batch = min(batch_size, max(pieces, int(windows.sum()) // pieces * pieces))
    of_group = np.add.reduceat(windows, np.cumsum([0, *groups[:-1]]))
    given = of_group / of_group.sum() if shares is None else np.array([1 - sum(shares), *shares])
    wanted = (windows * np.repeat(given / of_group, groups))[1:].tolist()
    sizes = [pieces * max(1, round(share * batch / pieces)) for share in wanted]
    sizes = [batch - sum(sizes), *sizes]
    while sizes[0] < pieces:  # of few recordings among many mixtures
        sizes[int(np.argmax(sizes))] -= pieces
        sizes[0] += pieces
    for source, size in zip(sources, sizes, strict=True):
        if not pieces <= size <= source.windows:
            problem = f"a batch of {batch} would have {size} of its {source.windows} windows to train on"
            remedy = f"it must have some, in {pieces} equal pieces; change shares, batch_size, devices or accumulate"
            raise EdgeseaError(f"{source.table.path}: {problem}; {remedy}")
    return sizes


def _lane_count(source: WindowSource, batch: int, buffer_windows: int) -> int:
    """A power of two that divides a batch; a lane has at least one chunk in the buffer, and several in all."""
    if source.windows <= max(buffer_windows, 2 * batch):
        return 1
    largest = max(windows for *_, windows in source.chunks)
    most = min(LANES, buffer_windows // largest, source.windows // (2 * largest), len(source.chunks) // LANE_CHUNKS)
    count = 1
    while 2 * count <= most and batch % (2 * count) == 0:
        count *= 2
    return count


def ordered_windows(source: WindowSource, batch_size: int, rank: int = 0, world: int = 1) -> Batches:
    """All windows of a source in the table's order, for validation; each process reads every `world`-th chunk.

    `batch_size` is that of one process. All have as many batches, the last of which may be empty. A small source is
    read once.
    """
    shares = [source.chunks[first::world] for first in range(world)]
    length = max(sum(-(-count // batch_size) for *_, count in share) for share in shares)
    load = source.load
    if source.windows * source.window_bytes <= BUFFER_BYTES // 8:
        load = lru_cache(None)(load)

    def read() -> Iterator[Batch]:
        left = length
        for part, group, count in shares[rank]:
            tensors = [torch.from_numpy(array) for array in load(part, group)]
            for start in range(0, count, batch_size):
                yield tuple(tensor[start : start + batch_size] for tensor in tensors)
                left -= 1
        for _ in range(left):
            yield (torch.empty(0),)

    return Batches(length, read)
