"""The one place that cuts audio, batches its windows, embeds them and checks the result."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, tee
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, Piece, PieceCutter, SampleFraming, piece_starts, piece_windows
from edgesea.audio.io import AudioFile, resample_stream
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, LogMelModel
from edgesea.parallel import prefetch

Float32 = NDArray[np.float32]
S = TypeVar("S")
P = TypeVar("P")

PIECE = 64  # windows of a signal that are cut at once, and share their frames
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
    """Read sources in threads, and embed what they give in batches of exactly `batch_size` that reach over sources.

    Parameters
    ----------
    model : EmbeddingModel or None
        None: the rows are embeddings already.
    sources : iterable
        Anything that `read` takes, such as paths.
    read : callable
        Yields the pieces of a source, which may be anything, each with at least one row for the network: windows (n, W)
        or spectrograms, see `cut_rows`. It runs in a thread.
    batch_size : int
        Rows embedded at once; fewer at the end, and where a source fails whose rows were waiting.
    workers, depth : int
        Threads, and pieces of a source that may wait.

    Yields
    ------
    (source, piece, embedding (n, D)) or Failure
        In order. A source fails if `read` or, for its rows, the model raises EdgeseaError, OSError or MemoryError, or
        if an embedding holds NaN or Inf. That comes after the pieces that have been embedded, and is its last.
    """
    batch = _Batch(model, batch_size)
    waiting: deque[_Waiting[S, P]] = deque()

    def finished() -> Iterator[tuple[S, P, Float32] | Failure[S]]:
        while waiting and (waiting[0].state.error or not waiting[0].missing):
            yield from waiting.popleft().result(model)

    listed, ahead = tee(sources)
    streams = prefetch((partial(read, source) for source in ahead), workers, depth)
    # closed at once if the model fails: as long as its threads wait, the process does not end
    with closing(cast("Generator[Iterator[tuple[P, Float32]], None, None]", streams)):
        for source, stream in zip(listed, streams, strict=False):
            state = _State()
            try:
                for piece, rows in stream:
                    waiting.append(_Waiting(state, source, piece, len(rows)))
                    batch.add(waiting[-1], rows)
                    yield from finished()
                    if state.error:
                        break
            except UNUSABLE as error:
                state.fail(error)
                waiting.append(_Waiting(state, source, None, 0))  # it may have no other
            yield from finished()
    batch.flush()
    yield from finished()


@dataclass
class _State:
    """Why a source cannot be used."""

    error: str = ""
    reported: bool = False

    def fail(self, error: BaseException) -> None:
        self.error = str(error) or type(error).__name__


@dataclass
class _Waiting(Generic[S, P]):
    """A piece, its embeddings so far, and the number of rows that wait for theirs."""

    state: _State
    source: S
    piece: P | None
    missing: int
    embeddings: list[Float32] = field(default_factory=list)

    def result(self, model: EmbeddingModel | None) -> Iterator[tuple[S, P, Float32] | Failure[S]]:
        if not self.state.error:
            embedding = np.concatenate(self.embeddings)
            if np.isfinite(embedding).all():
                yield self.source, cast(P, self.piece), embedding
                return
            self.state.error = f"{model.id} gave NaN or Inf" if model else "an embedding holds NaN or Inf"
        if not self.state.reported:
            self.state.reported = True
            yield Failure(self.source, self.state.error)


class _Batch:
    """Collects rows, in order, and embeds them when there are exactly `size`."""

    def __init__(self, model: EmbeddingModel | None, size: int) -> None:
        self._model, self._size = model, size
        self._parts: list[tuple[_Waiting[Any, Any], Float32]] = []
        self._count = 0

    def add(self, item: _Waiting[Any, Any], rows: Float32) -> None:
        if self._model is None:
            item.embeddings, item.missing = [rows], 0
            return
        while len(rows) and not item.state.error:
            part, rows = np.split(rows, [self._size - self._count])
            self._parts.append((item, part))
            self._count += len(part)
            if self._count == self._size:
                self.flush()

    def flush(self) -> None:
        """Embed what has been collected."""
        parts = [part for part in self._parts if not part[0].state.error]
        self._parts, self._count = [], 0
        try:
            self._embed(parts)
        except UNUSABLE:  # one source must not be to blame for another
            for item, rows in parts:
                try:
                    self._embed([] if item.state.error else [(item, rows)])
                except UNUSABLE as error:
                    item.state.fail(error)

    def _embed(self, parts: Sequence[tuple[_Waiting[Any, Any], Float32]]) -> None:
        if not parts or self._model is None:
            return
        rows = [rows for _, rows in parts]
        embedding = embed_rows(self._model, rows[0] if len(rows) == 1 else np.concatenate(rows))
        ends = np.cumsum([len(part) for part in rows])
        for (item, _), part in zip(parts, np.split(embedding, ends[:-1]), strict=True):
            item.embeddings.append(part)
            item.missing -= len(part)


class Signal(Protocol):
    """Audio that is read once, in mono chunks (samples,) at `sample_rate` (Hz), such as `AudioFile`."""

    @property
    def sample_rate(self) -> int: ...

    def chunks(self) -> Iterator[Float32]: ...


class SignalEmbedding(NamedTuple):
    """The embeddings of one signal, or why there are none."""

    embedding: Float32 | None  # (T, D), a row for each window
    error: str = ""
    warnings: Sequence[str] = ()  # that it is shorter than a window, or silent


def embed_signals(
    model: EmbeddingModel,
    signals: Sequence[Callable[[], AbstractContextManager[Signal]]],
    framing: Framing,
    batch_size: int,
    workers: int = 2,
    count: int | None = None,
) -> Iterator[SignalEmbedding]:
    """Embed signals, each opened in a thread, in order; `count` is their number of windows if not the framing's."""
    at_rate = framing.at(model.sample_rate)
    if model.window is not None and at_rate.window != round(model.window * model.sample_rate):
        raise EdgeseaError(f"{model.id}: windows must last {model.window} s, not {framing.window} s")

    def read(index: int) -> Iterator[tuple[_Summary, Float32]]:
        cutter = PieceCutter(at_rate, PIECE)
        with signals[index]() as signal:
            summary = _Summary(signal.sample_rate)
            for chunk in resample_stream(summary.watch(signal.chunks()), signal.sample_rate, model.sample_rate):
                for piece in cutter.feed(chunk):
                    yield summary, cut_rows(model, piece, at_rate)
        for piece in cutter.finish(count):
            yield summary, cut_rows(model, piece, at_rate)

    results = embed_sources(model, range(len(signals)), read, batch_size=batch_size, workers=workers)
    for _, group in groupby(results, key=lambda result: result[0]):
        pieces = list(group)
        last = pieces[-1]
        if isinstance(last, Failure):
            yield SignalEmbedding(None, last.reason)
        else:
            yield SignalEmbedding(np.concatenate([piece[-1] for piece in pieces]), "", last[1].warnings(framing.window))


@dataclass
class _Summary:
    """What is known of a signal when it has been read."""

    sample_rate: int
    samples: int = 0
    silent: bool = True

    def watch(self, chunks: Iterable[Float32]) -> Iterator[Float32]:
        for chunk in chunks:
            self.samples += len(chunk)
            self.silent = self.silent and not chunk.any()
            yield chunk

    def warnings(self, window: float) -> list[str]:
        seconds = self.samples / self.sample_rate
        short = f"lasts {seconds:.3g} s, less than a window of {window:g} s; filled up with zeros"
        found = [short] if self.samples < window * self.sample_rate else []
        return [*found, "silent: all samples are zero"] if self.silent else found


class FileEmbedding(NamedTuple):
    """The embeddings of one file, or why there are none."""

    path: Path
    embedding: Float32 | None  # (T, D), a row for each window
    error: str = ""
    warnings: Sequence[str] = ()


def embed_files(
    model: EmbeddingModel, paths: Sequence[Path], framing: Framing, batch_size: int = 64, workers: int = 2
) -> Iterator[FileEmbedding]:
    """Embed files in order; a file that cannot be used gives its error instead of embeddings.

    Files are decoded in `workers` threads, in memory that their length does not set, and share batches of `batch_size`
    windows. The windows of `framing` must have the length that the model takes.
    """
    results = embed_signals(model, [partial(AudioFile, path) for path in paths], framing, batch_size, workers)
    for path, result in zip(paths, results, strict=True):
        yield FileEmbedding(path, result.embedding, result.error.removeprefix(f"{path}: "), result.warnings)
