"""Batches of (window, target) from a table: shuffled over its parts, resumable at any epoch, in flat memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.reduction.base import Float32, Reduction
from edgesea.table.reader import Table

Int16 = NDArray[np.int16]
Window = tuple[Int16, Float32, Float32]  # as stored (W,), the scale of that (1,), and the target (d,)
Batch = tuple[Tensor, Tensor]  # audio (B, W) and targets (B, d), both float32
ChunkId = tuple[int, int, int]  # part, row group, windows
BUFFER_BYTES = 512 << 20
LANES = 64  # at most
LANE_CHUNKS = 8  # chunks of a lane at least, of which few are left out of a pass


class WindowSource:
    """The windows of one split with their targets phi(teacher embedding)."""

    def __init__(self, table: Table, phi: Reduction, split: str) -> None:
        self.table, self.phi, self.split = table, phi, split
        counts = ((part, group, splits.get(split, 0)) for part, group, splits in table.windows_by_split())
        self.chunks = [chunk for chunk in counts if chunk[2]]
        self.windows = sum(count for *_, count in self.chunks)
        self.window_bytes = 2 * table.sample_framing.window + 4 * phi.output_size  # with its target
        if not self.windows:
            remedy = "the option validate of `edgesea extract` decides which clips validate"
            raise EdgeseaError(f"{table.path}: no windows in split {split!r} (it has {table.counts}); {remedy}")

    def load(self, part: int, group: int) -> tuple[Int16, Float32, Float32]:
        """Stored audio (n, W), its scales (n, 1) and targets (n, d) of a chunk's windows in this split."""
        chunk = self.table.chunk(part, group)
        rows = chunk.select(self.split)
        targets = self.phi.transform(self.table.embeddings(part, group)[rows])
        return *self.table.audio(chunk, rows), targets


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
        self._buffer: list[Window] = []  # their windows, rows of the chunks' arrays

    def read(self, number: int, begin: int, end: int) -> Iterator[Window]:
        """The windows `begin` ... `end` (exclusive) of pass `number`."""
        order = np.random.default_rng((*self.key, number)).permutation(len(self.chunks)).tolist()
        if self.windows <= self.buffer_windows:
            order.sort()  # one buffer: read once, shuffled anew in every pass
        position = 0
        for index, members in enumerate(self._buffers(order)):
            count = sum(self.chunks[i][2] for i in members)
            skip, take = max(0, begin - position), min(count, end - position)
            position += count
            if skip >= take:
                continue
            rows = np.random.default_rng((*self.key, number, index)).permutation(count)[skip:take]
            buffer = self._load(members)
            for row in rows:
                yield buffer[row]
            del buffer  # so that the next one is read into free memory

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

    def _load(self, members: list[int]) -> list[Window]:
        if self._members != members:
            self._buffer = []
            chunks = (self.source.load(*self.chunks[index][:2]) for index in members)
            self._members, self._buffer = members, [window for chunk in chunks for window in zip(*chunk, strict=True)]
        return self._buffer


class ShuffledWindows:
    """The training batches of one epoch, as a function of (seed, epoch) alone.

    A table that does not fit in the buffer is divided into lanes, neighbouring chunks of about as many windows each;
    with L lanes, position p of a batch is taken from lane p % L, and each lane has its share of the buffer. How many
    there are does not depend on `world`, the number of processes; one of these takes positions `rank`, `rank + world`
    ... and reads only the lanes that these are in. The windows that fill no batch are left out of a pass. An epoch of
    `epoch_size` windows (None: one pass) begins where the last one ended. `batch_size` is that of all processes; a
    batch comes in `accumulate` pieces.
    """

    def __init__(
        self,
        source: WindowSource,
        batch_size: int,
        epoch_size: int | None,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        buffer_bytes: int | None = None,
    ) -> None:
        self.source, self.rank, self.world, self.accumulate = source, rank, world, accumulate
        pieces = world * accumulate
        if source.windows < pieces:
            raise EdgeseaError(f"{source.table.path}: {source.windows} windows to train on are too few for {pieces}")
        self.global_batch = min(batch_size, source.windows // pieces * pieces)
        buffer_windows = max(1, (buffer_bytes or BUFFER_BYTES) // source.window_bytes)
        count = _lane_count(source, self.global_batch, buffer_windows)
        first = np.cumsum([0, *(windows for *_, windows in source.chunks)])  # window of each chunk
        of_chunk = (first[:-1] + first[1:]) * count // (2 * first[-1])  # by its middle
        shares = [[source.chunks[i] for i in np.flatnonzero(of_chunk == lane)] for lane in range(count)]
        keys = [(seed, lane) for lane in range(count)] if count > 1 else [(seed,)]
        self.lanes = [Lane(source, *lane, buffer_windows // count) for lane in zip(shares, keys, strict=True)]
        self.pass_batches = min(lane.windows for lane in self.lanes) // (self.global_batch // count)
        self.batches = self.pass_batches if epoch_size is None else max(1, epoch_size // self.global_batch)

    def epoch(self, epoch: int, first: int = 0) -> Batches:
        """The batches of an epoch, in their pieces, from batch `first` on."""
        return Batches((self.batches - first) * self.accumulate, partial(self._read, epoch, first))

    def _read(self, epoch: int, first: int) -> Iterator[Batch]:
        batch, end = epoch * self.batches + first, (epoch + 1) * self.batches
        while batch < end:
            number, begin = divmod(batch, self.pass_batches)
            last = min(self.pass_batches, begin + end - batch)
            yield from self._pass(number, begin, last)
            batch += last - begin

    def _pass(self, number: int, begin: int, end: int) -> Iterator[Batch]:
        """The batches `begin` ... `end` (exclusive) of pass `number`."""
        count = len(self.lanes)
        each, size = self.global_batch // count, self.global_batch // self.world
        mine = {position % count for position in range(self.rank, self.global_batch, self.world)}
        streams = {lane: self.lanes[lane].read(number, begin * each, end * each) for lane in mine}
        places = [(p % count, p // self.world, p % self.world == self.rank) for p in range(self.global_batch)]
        places = [place for place in places if place[0] in mine]
        for _ in range(begin, end):
            audio = np.empty((size, self.source.table.sample_framing.window), np.float32)
            targets = np.empty((size, self.source.phi.output_size), np.float32)
            for lane, row, taken in places:
                if taken:
                    _copy(next(streams[lane]), audio[row], targets[row])
                else:
                    next(streams[lane])
            for piece in np.split(np.arange(size), self.accumulate):
                rows = slice(piece[0], piece[-1] + 1)
                yield torch.from_numpy(audio[rows]), torch.from_numpy(targets[rows])


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

    `batch_size` is that of one process. All have as many batches, the last of which may be empty.
    """
    shares = [source.chunks[first::world] for first in range(world)]
    length = max(sum(-(-count // batch_size) for *_, count in share) for share in shares)

    def read() -> Iterator[Batch]:
        left = length
        for part, group, count in shares[rank]:
            pcm, scales, targets = source.load(part, group)
            for start in range(0, count, batch_size):
                rows = slice(start, start + batch_size)
                yield torch.from_numpy(pcm[rows] * scales[rows]), torch.from_numpy(targets[rows])
                left -= 1
        for _ in range(left):
            yield torch.empty(0, source.table.sample_framing.window), torch.empty(0, source.phi.output_size)

    return Batches(length, read)


def _copy(window: Window, audio: Float32, target: Float32) -> None:
    """Copy a window to its row of a batch (no name must stay bound to it, so that its chunk can be freed)."""
    np.multiply(window[0], window[1], out=audio)
    target[:] = window[2]
