"""The one place that cuts audio, batches its windows, embeds them and checks the result."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, tee
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, Piece, PieceCutter, SampleFraming, piece_starts, piece_windows
from edgesea.audio.io import CHUNK_SECONDS, AudioFile, Signal, first_invalid, resample_stream, to_mono
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, LogMelModel
from edgesea.parallel import prefetch

Float32 = NDArray[np.float32]
S = TypeVar("S")
P = TypeVar("P")

PIECE = 64  # windows of one recording that are cut together, and share their frames
UNUSABLE = (EdgeseaError, OSError, MemoryError)  # errors that end one source, not the others


def cut_rows(model: EmbeddingModel, piece: Piece, framing: SampleFraming) -> Float32:
    """Rows for the network, one a window: windows, or spectrograms whose frames overlapping windows share."""
    front_end = model.front_end if isinstance(model, LogMelModel) else None
    if front_end is None:  # not a student, or one on a device that is faster at that
        return piece_windows(piece, framing)
    return front_end.at(piece.audio, piece_starts(piece, framing), framing.window)


def embed_rows(model: EmbeddingModel, rows: Float32) -> Float32:
    """Embeddings (n, D) of n rows of `cut_rows`, also of several pieces."""
    return model.embed(rows) if rows.ndim == 2 else cast(LogMelModel, model).embed_log_mel(rows)


class Failure(NamedTuple, Generic[S]):
    """A source that cannot be used, and why."""

    source: S
    reason: str


def embed_sources(
    model: EmbeddingModel | None,
    sources: Iterable[S],
    read: Callable[[S], Iterable[tuple[P, Float32]]],
    *,
    batch_size: int,
    workers: int,
    depth: int = 2,
) -> Iterator[tuple[S, P, Float32] | Failure[S]]:
    """Embed the pieces of all sources, in batches of exactly `batch_size` rows that reach over sources.

    `read` yields the pieces of a source, which may be anything, each with at least one row for the network (a window,
    or a spectrogram of `cut_rows`); without a model, with its embeddings. It runs in `workers` threads, where at most
    `depth` pieces of a source wait.

    Yields (source, piece, embedding) in order. The last of a source is a Failure if `read` or, for its rows, the model
    raises EdgeseaError, OSError or MemoryError, or if an embedding holds NaN or Inf.
    """
    batch = _Batch(model, batch_size)
    waiting: deque[_Waiting[S, P]] = deque()
    listed, ahead = tee(sources)
    streams = prefetch((partial(read, source) for source in ahead), workers, depth)
    # closed at once if the model fails: as long as its threads wait, the process does not end
    with closing(cast("Generator[Iterator[tuple[P, Float32]], None, None]", streams)):
        for source, stream in zip(listed, streams, strict=False):
            errors: list[Exception] = []
            try:
                for piece, rows in stream:
                    waiting.append(_Waiting(source, piece, len(rows), errors))
                    batch.add(waiting[-1], rows)
                    yield from _finished(waiting, model)
                    if errors:
                        break
            except UNUSABLE as error:
                errors.append(error)
                waiting.append(_Waiting(source, None, 0, errors))  # it may have no other
            yield from _finished(waiting, model)
    batch.flush()
    yield from _finished(waiting, model)


@dataclass
class _Waiting(Generic[S, P]):
    """A piece, its embeddings so far, and the number of rows that wait for theirs."""

    source: S
    piece: P | None
    missing: int
    errors: list[Exception]  # why its source failed; one list for all its pieces
    embeddings: list[Float32] = field(default_factory=list)


def _finished(
    waiting: deque[_Waiting[S, P]], model: EmbeddingModel | None
) -> Iterator[tuple[S, P, Float32] | Failure[S]]:
    """Take away what is finished or failed."""
    while waiting and (waiting[0].errors or not waiting[0].missing):
        first = waiting.popleft()
        if not first.errors:
            embedding = np.concatenate(first.embeddings)
            if np.isfinite(embedding).all():
                yield first.source, cast(P, first.piece), embedding
                continue
            reason = f"{model.id} gave NaN or Inf" if model else "the embeddings hold NaN or Inf"
            first.errors.append(EdgeseaError(reason))
        while waiting and waiting[0].errors is first.errors:
            waiting.popleft()
        yield Failure(first.source, str(first.errors[0]) or type(first.errors[0]).__name__)


class _Batch:
    """Collects rows, in order, and embeds them when there are exactly `size`."""

    def __init__(self, model: EmbeddingModel | None, size: int) -> None:
        self._model, self._size = model, size
        self._parts: list[tuple[_Waiting[Any, Any], Float32]] = []

    def add(self, item: _Waiting[Any, Any], rows: Float32) -> None:
        if self._model is None:
            item.embeddings, item.missing = [rows], 0
            return
        while len(rows) and not item.errors:
            room = self._size - sum(len(part) for _, part in self._parts)
            self._parts.append((item, rows[:room]))
            if len(rows) >= room:
                self.flush()
            rows = rows[room:]

    def flush(self) -> None:
        parts, self._parts = [part for part in self._parts if not part[0].errors], []
        try:
            self._embed(parts)
        except UNUSABLE as error:
            if len(parts) == 1:
                parts[0][0].errors.append(error)
                return
            for part in parts:  # find out whose rows they are
                self._parts = [part]
                self.flush()

    def _embed(self, parts: Sequence[tuple[_Waiting[Any, Any], Float32]]) -> None:
        if not parts or self._model is None:
            return
        rows = [rows for _, rows in parts]
        embedding = embed_rows(self._model, rows[0] if len(rows) == 1 else np.concatenate(rows))
        for item, part in parts:
            item.embeddings.append(embedding[: len(part)])
            item.missing -= len(part)
            embedding = embedding[len(part) :]


@dataclass(frozen=True)
class Recording:
    """Audio in memory, which is read as a file is: mono in [-1, 1], ten seconds at a time."""

    name: str
    samples: Signal
    sample_rate: int  # Hz

    def chunks(self) -> Iterator[Float32]:
        size = round(CHUNK_SECONDS * self.sample_rate)
        for first in range(0, len(self.samples), size):
            yield finite_mono(self.name, self.samples[first : first + size], first, self.sample_rate)


def finite_mono(name: str, samples: Signal, first: int, sample_rate: int) -> Float32:
    """The mean of the channels, (n,) in [-1, 1], of samples from `first` on; EdgeseaError if it holds NaN or Inf."""
    mono = to_mono(samples)
    if (invalid := first_invalid(mono)) is not None:
        raise EdgeseaError(f"{name} holds NaN or Inf samples, the first at {(first + invalid) / sample_rate:.3f} s")
    return mono


A = TypeVar("A", Path, Recording)


class AudioEmbedding(NamedTuple, Generic[A]):
    """The embeddings of a file or recording, or why there are none."""

    path: A
    embedding: Float32 | None  # (T, D), a row for each window
    error: str = ""
    warnings: Sequence[str] = ()  # that it is shorter than a window, or silent


def embed_files(
    model: EmbeddingModel,
    paths: Sequence[A],
    framing: Framing,
    batch_size: int = 64,
    workers: int = 2,
    count: int | None = None,
) -> Iterator[AudioEmbedding[A]]:
    """Embed files, or recordings in memory, in order; one that cannot be used gives its error instead of embeddings.

    They are read in `workers` threads, in memory that their length does not set, and share batches of `batch_size`
    windows. `count` is the number of windows of each, if not that of the framing.
    """
    at_rate = framing.at(model.sample_rate)
    if model.window is not None and at_rate.window != round(model.window * model.sample_rate):
        raise EdgeseaError(f"{model.id}: windows must last {model.window} s, not {framing.window} s")

    def read(item: tuple[int, A]) -> Iterator[tuple[list[str], Float32]]:
        cutter, samples, silent = PieceCutter(at_rate, PIECE), 0, True
        warnings: list[str] = []  # complete when all has been read

        def watched(chunks: Iterator[Float32]) -> Iterator[Float32]:
            nonlocal samples, silent
            for chunk in chunks:
                samples, silent = samples + len(chunk), silent and not chunk.any()
                yield chunk

        with nullcontext(item[1]) if isinstance(item[1], Recording) else AudioFile(item[1]) as audio:
            for chunk in resample_stream(watched(audio.chunks()), audio.sample_rate, model.sample_rate):
                for piece in cutter.feed(chunk):
                    yield warnings, cut_rows(model, piece, at_rate)
        if samples < framing.window * audio.sample_rate:
            seconds = f"{samples / audio.sample_rate:.3g} s"
            warnings.append(f"lasts {seconds}, less than a window of {framing.window:g} s; filled up with zeros")
        if silent:
            warnings.append("silent: all samples are zero")
        for piece in cutter.finish(count):
            yield warnings, cut_rows(model, piece, at_rate)

    results = embed_sources(model, enumerate(paths), read, batch_size=batch_size, workers=workers)
    for (_, path), group in groupby(results, key=lambda result: result[0]):
        *_, last = pieces = list(group)
        if isinstance(last, Failure):
            yield AudioEmbedding(path, None, last.reason.removeprefix(f"{path}: "))
        else:
            yield AudioEmbedding(path, np.concatenate([piece[-1] for piece in pieces]), "", last[1])
