"""Batches of (window, target) from a table: shuffled over its parts, resumable at any epoch, in flat memory."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.reduction.base import Float32, Reduction
from edgesea.table.reader import Table

Int16 = NDArray[np.int16]
BUFFER_BYTES = 512 << 20


class WindowSource:
    """The windows of one split with their targets phi(teacher embedding)."""

    def __init__(self, table: Table, phi: Reduction, split: str) -> None:
        self.table, self.phi, self.split = table, phi, split
        self.chunks = [(c.part, c.group, len(c.select(split))) for c in table.chunks()]
        self.chunks = [chunk for chunk in self.chunks if chunk[2]]
        self.windows = sum(count for *_, count in self.chunks)
        if not self.windows:
            remedy = "the option validate of `edgesea extract` decides which clips validate"
            raise EdgeseaError(f"{table.path}: no windows in split {split!r} (it has {table.counts}); {remedy}")

    @property
    def window_bytes(self) -> int:
        """Memory that one window takes with its target."""
        return 2 * self.table.sample_framing.window + 4 * self.phi.output_size

    def load(self, part: int, group: int) -> tuple[Int16, Float32]:
        """Audio (n, W) int16 and targets (n, d) float32 of a chunk's windows in this split."""
        chunk = self.table.chunk(part, group)
        rows = chunk.select(self.split)
        targets = self.phi.transform(self.table.embeddings(part, group)[rows])
        return self.table.audio(chunk, rows), targets


class ShuffledWindows:
    """The training batches of one epoch, as a function of (seed, epoch) alone.

    In every pass over the table the chunks are put in random order and read into a buffer of up to `buffer_bytes`,
    whose windows are shuffled; the windows that do not fill the last batch of a pass are left out of it. An epoch of
    `epoch_size` windows (None: one pass) begins where the last one ended. A table that fits in the buffer is read once.
    `batch_size` is that of one process; each of `world` processes takes every `world`-th window of a batch of all.
    """

    def __init__(
        self,
        source: WindowSource,
        batch_size: int,
        epoch_size: int | None,
        seed: int,
        rank: int = 0,
        world: int = 1,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self.source, self.seed, self.rank, self.world = source, seed, rank, world
        self.global_batch = min(batch_size * world, source.windows // world * world)
        self.pass_batches = source.windows // self.global_batch
        self.batches = self.pass_batches if epoch_size is None else max(1, epoch_size // self.global_batch)
        self.buffer_windows = max(1, buffer_bytes // source.window_bytes)
        self._members: tuple[int, ...] = ()  # chunks in the buffer, which is kept for the next pass
        self._buffer: tuple[Int16, Float32] | None = None

    def epoch(self, epoch: int) -> "Epoch":
        """The batches of an epoch."""
        return Epoch(self, epoch)

    def iterate(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield audio (B, W) int16 and targets (B, d) float32 of an epoch's batches."""
        batch = epoch * self.batches
        end = batch + self.batches
        while batch < end:
            number, first = divmod(batch, self.pass_batches)
            last = min(self.pass_batches, first + end - batch)
            yield from self._pass(number, first, last)
            batch += last - first

    def _pass(self, number: int, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `first` ... `last` (exclusive) of pass `number`."""
        chunks = self.source.chunks
        order = np.random.default_rng((self.seed, number)).permutation(len(chunks)).tolist()
        if self.source.windows <= self.buffer_windows:
            order.sort()  # one buffer: read once, shuffled anew in every pass
        begin, stop = first * self.global_batch, last * self.global_batch
        position, held_audio, held_targets = 0, [], []
        for index, members in enumerate(self._buffers(order)):
            count = sum(chunks[i][2] for i in members)
            skip, take = max(0, begin - position), min(count, stop - position)
            position += count
            if skip >= take:
                continue
            audio, targets = self._load_buffer(members)
            rows = np.random.default_rng((self.seed, number, index)).permutation(count)[skip:take]
            held_audio.append((audio, rows))
            held_targets.append((targets, rows))
            del audio, targets  # so that the next buffer is read into free memory
            ready = sum(len(r) for _, r in held_audio) // self.global_batch * self.global_batch
            yield from self._cut(held_audio, held_targets, ready)

    def _cut(self, audio: list[Any], targets: list[Any], ready: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield full batches of what is held, and keep the rest (copied, so that its buffer can be freed)."""
        rows = [(block, row) for block, (_, chosen) in enumerate(audio) for row in chosen]
        for start in range(0, ready, self.global_batch):
            mine = rows[start : start + self.global_batch][self.rank :: self.world]
            x = np.stack([audio[block][0][row] for block, row in mine])
            y = np.stack([targets[block][0][row] for block, row in mine])
            yield torch.from_numpy(x), torch.from_numpy(y)
        rest = rows[ready:]
        for held in (audio, targets):
            kept = [held[block][0][row] for block, row in rest]
            held[:] = [(np.stack(kept), np.arange(len(kept)))] if kept else []

    def _buffers(self, order: list[int]) -> Iterator[tuple[int, ...]]:
        """Chunks in the given order, cut into buffers."""
        members: list[int] = []
        total = 0
        for index in order:
            count = self.source.chunks[index][2]
            if members and total + count > self.buffer_windows:
                yield tuple(members)
                members, total = [], 0
            members.append(index)
            total += count
        if members:
            yield tuple(members)

    def _load_buffer(self, members: tuple[int, ...]) -> tuple[Int16, Float32]:
        if self._buffer is not None and self._members == members:
            return self._buffer
        self._buffer = None
        count = sum(self.source.chunks[i][2] for i in members)
        audio = np.empty((count, self.source.table.sample_framing.window), np.int16)
        targets = np.empty((count, self.source.phi.output_size), np.float32)
        first = 0
        for index in members:
            part, group, size = self.source.chunks[index]
            audio[first : first + size], targets[first : first + size] = self.source.load(part, group)
            first += size
        self._members, self._buffer = members, (audio, targets)
        return audio, targets


class Epoch:
    """A sized iterable over the batches of one epoch, read ahead by a thread."""

    def __init__(self, windows: ShuffledWindows, epoch: int) -> None:
        self._windows, self._epoch = windows, epoch

    def __len__(self) -> int:
        return self._windows.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return chain.from_iterable(prefetch([lambda: self._windows.iterate(self._epoch)], workers=1))


class OrderedWindows:
    """All windows of a source in the table's order, for validation; a sized iterable over batches."""

    def __init__(self, source: WindowSource, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.source, self.batch_size, self.rank, self.world = source, batch_size, rank, world

    def _rows(self, count: int) -> NDArray[np.int64]:
        return np.arange(self.rank, count, self.world)

    def __len__(self) -> int:
        return sum(-(-len(self._rows(count)) // self.batch_size) for *_, count in self.source.chunks)

    def _iterate(self) -> Iterator[tuple[Tensor, Tensor]]:
        for part, group, count in self.source.chunks:
            audio, targets = self.source.load(part, group)
            rows = self._rows(count)
            for first in range(0, len(rows), self.batch_size):
                batch = rows[first : first + self.batch_size]
                yield torch.from_numpy(audio[batch]), torch.from_numpy(targets[batch])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return chain.from_iterable(prefetch([self._iterate], workers=1))
