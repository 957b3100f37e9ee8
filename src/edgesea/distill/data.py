"""Batches of (window, target) from a table: shuffled over its parts, resumable at any epoch, in flat memory."""

from collections.abc import Callable, Iterator, Sequence
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
BUFFER_BYTES = 512 << 20


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


class ShuffledWindows:
    """The training batches of one epoch, as a function of (seed, epoch) alone.

    In every pass over the table the chunks are put in random order and read into a buffer of up to `BUFFER_BYTES`,
    whose windows are shuffled; the windows that do not fill the last batch of a pass are left out of it. An epoch of
    `epoch_size` windows (None: one pass) begins where the last one ended. A table that fits in the buffer is read once.
    `batch_size` is that of one process; each of `world` processes takes every `world`-th window of a batch of all.
    """

    def __init__(
        self, source: WindowSource, batch_size: int, epoch_size: int | None, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.source, self.seed, self.rank, self.world = source, seed, rank, world
        self.global_batch = min(batch_size * world, source.windows // world * world)
        self.pass_batches = source.windows // self.global_batch
        self.batches = self.pass_batches if epoch_size is None else max(1, epoch_size // self.global_batch)
        self.buffer_windows = max(1, BUFFER_BYTES // source.window_bytes)
        self._members: list[int] = []  # chunks in the buffer, which is kept for the next pass
        self._buffer: list[Window] = []  # their windows, rows of the chunks' arrays

    def epoch(self, epoch: int) -> Batches:
        """The batches of an epoch."""
        return Batches(self.batches, partial(self._read, epoch))

    def _read(self, epoch: int) -> Iterator[Batch]:
        batch = epoch * self.batches
        end = batch + self.batches
        while batch < end:
            number, first = divmod(batch, self.pass_batches)
            last = min(self.pass_batches, first + end - batch)
            yield from self._pass(number, first * self.global_batch, last * self.global_batch)
            batch += last - first

    def _pass(self, number: int, begin: int, end: int) -> Iterator[Batch]:
        """The batches of the windows `begin` ... `end` (exclusive) of pass `number`."""
        order = np.random.default_rng((self.seed, number)).permutation(len(self.source.chunks)).tolist()
        if self.source.windows <= self.buffer_windows:
            order.sort()  # one buffer: read once, shuffled anew in every pass
        position, waiting = 0, []
        for index, members in enumerate(self._buffers(order)):
            count = sum(self.source.chunks[i][2] for i in members)
            skip, take = max(0, begin - position), min(count, end - position)
            position += count
            if skip >= take:
                continue
            rows = np.random.default_rng((self.seed, number, index)).permutation(count)[skip:take]
            buffer = self._load_buffer(members)
            waiting += [buffer[row] for row in rows]
            del buffer  # so that the next one is read into free memory
            ready = len(waiting) // self.global_batch * self.global_batch
            for start in range(0, ready, self.global_batch):
                yield _stack(waiting[start : start + self.global_batch][self.rank :: self.world])
            waiting = [(pcm.copy(), scale.copy(), target.copy()) for pcm, scale, target in waiting[ready:]]

    def _buffers(self, order: list[int]) -> list[list[int]]:
        """Chunks in the given order, cut into buffers."""
        buffers: list[list[int]] = []
        total = 0
        for index in order:
            count = self.source.chunks[index][2]
            if not buffers or total + count > self.buffer_windows:
                buffers.append([])
                total = 0
            buffers[-1].append(index)
            total += count
        return buffers

    def _load_buffer(self, members: list[int]) -> list[Window]:
        if self._members != members:
            self._buffer = []
            chunks = (self.source.load(*self.source.chunks[index][:2]) for index in members)
            self._members, self._buffer = members, [window for chunk in chunks for window in zip(*chunk, strict=True)]
        return self._buffer


def ordered_windows(source: WindowSource, batch_size: int, rank: int = 0, world: int = 1) -> Batches:
    """All windows of a source in the table's order, for validation."""
    step = batch_size * world

    def read() -> Iterator[Batch]:
        for part, group, count in source.chunks:
            pcm, scales, targets = source.load(part, group)
            for start in range(rank, count, step):
                rows = slice(start, start + step, world)
                yield torch.from_numpy(pcm[rows] * scales[rows]), torch.from_numpy(targets[rows])

    return Batches(sum(len(range(rank, count, step)) for *_, count in source.chunks), read)


def _stack(windows: Sequence[Window]) -> Batch:
    pcm, scales, targets = (np.stack(rows) for rows in zip(*windows, strict=True))
    return torch.from_numpy(pcm * scales), torch.from_numpy(targets)
