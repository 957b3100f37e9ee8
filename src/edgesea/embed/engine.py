"""The one place that cuts audio, batches its windows, embeds them and checks the result: files, arrays, streams."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, tee
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgesea.audio import io
from edgesea.audio.framing import Float32, Framing, Piece, PieceCutter, SampleFraming, piece_starts, piece_windows
from edgesea.audio.logmel_numpy import FrameMemory
from edgesea.audio.resampling import Resampler, Resampling, checked_resampling, resample_stream
from edgesea.errors import EdgeseaError, EdgeseaWarning
from edgesea.models import ModelOrName, load_model
from edgesea.models.base import EmbeddingModel, LogMelModel, window_of
from edgesea.parallel import prefetch

Embedded = tuple[Float32, NDArray[np.float64]]  # embedding (t, D), timestamps (t,) in seconds
S = TypeVar("S")
P = TypeVar("P")
Read = Callable[[S], Iterable[tuple[P, Float32]]]

DEFAULT_MODEL = "edgel3/sea-64"  # the smallest of the published students
BLOCK_SECONDS = 10.0  # of audio in memory that are read at once
MOST_CALLS = 8  # of a model at once
PIECE = 64  # windows of one recording that are cut together, and share their frames
UNUSABLE = (EdgeseaError, OSError, MemoryError)  # errors that end one source, not the others


def cut_rows(model: EmbeddingModel, piece: Piece, framing: SampleFraming, memory: FrameMemory | None = None) -> Float32:
    """Rows for the network: windows, or spectrograms that share frames; with a memory, also with the piece before."""
    if isinstance(model, LogMelModel):
        if memory:
            memory.origin = max(0, framing.start(piece.first))
        return model.front_end.at(piece.audio, piece_starts(piece, framing), framing.window, memory)
    return piece_windows(piece, framing)


def embed_rows(model: EmbeddingModel, rows: Float32) -> Float32:
    """Embeddings (n, D) of n rows of `cut_rows`, also of several pieces."""
    return model.embed(rows) if rows.ndim == 2 else cast(LogMelModel, model).embed_log_mel(rows)


class Failure(NamedTuple, Generic[S]):
    """A source that cannot be used, and why."""

    source: S
    reason: str


@dataclass
class _Work:
    """A piece whose rows are being embedded."""

    source: Any
    piece: Any
    count: int  # rows; 0: there is no piece, but an error of the source
    errors: list[str]  # why the source failed; one list for all its pieces
    embeddings: list[Float32] = field(default_factory=list)  # of the first rows


def embed_sources(
    model: EmbeddingModel | None,
    sources: Iterable[S],
    read: Read[S, P],
    batch_size: int,
    workers: int | None,
    depth: int = 2,
) -> Iterator[tuple[S, P, Float32] | Failure[S]]:
    """Embed the pieces of all sources, in batches of exactly `batch_size` rows that reach over sources.

    `read` yields the pieces of a source, which may be anything, each with at least one row for the network (a window,
    or a spectrogram of `cut_rows`); without a model, with its embeddings. It runs in `workers` threads, where at most
    `depth` pieces of a source wait.

    Yields (source, piece, embedding) in order. The last of a source is a Failure if `read` or, for its rows, the model
    raises EdgeseaError, OSError or MemoryError, or if an embedding holds NaN or Inf.
    """
    size = batch_size if model else 1  # embeddings need not be of one shape
    calls = min(getattr(model, "threads", 1), MOST_CALLS)
    pieces: deque[_Work] = deque()
    batch: list[tuple[_Work, Float32]] = []  # rows that wait
    embedding: deque[tuple[list[_Work], Callable[[], Sequence[Float32 | str]]]] = deque()  # batches, and their results
    pool = ThreadPoolExecutor(calls, thread_name_prefix="edgesea-embed")

    def begin(rows: list[tuple[_Work, Float32]]) -> None:
        works, usable = [work for work, _ in rows if not work.errors], [row for work, row in rows if not work.errors]
        later = pool.submit(_embedded, model, usable).result if model else partial(_embedded, model, usable)
        embedding.append((works, later))

    def finished(most: int) -> Iterator[tuple[Any, Any, Float32] | Failure[Any]]:
        """Wait until at most so many batches are being embedded; yields the pieces that are, and failed sources."""
        while len(embedding) > most:
            works, results = embedding.popleft()
            for work, result in zip(works, results(), strict=True):
                (work.errors if isinstance(result, str) else work.embeddings).append(result)  # type: ignore[arg-type]
        yield from _finished(model, pieces)

    listed, ahead = tee(sources)
    try:
        # closed at once if the model fails: as long as its threads wait, the process does not end
        with closing(prefetch((partial(read, source) for source in ahead), workers, depth)) as streams:
            for source, stream in zip(listed, streams, strict=False):
                errors: list[str] = []
                try:
                    for piece, rows in stream:
                        pieces.append(_Work(source, piece, len(rows), errors))
                        batch += [(pieces[-1], row) for row in rows]
                        while len(batch) >= size:
                            begin(batch[:size])
                            batch = batch[size:]
                            yield from finished(calls)
                        if errors:
                            break
                except UNUSABLE as error:
                    yield from finished(0)
                    errors.append(str(error) or repr(error))
                    pieces.append(_Work(source, None, 0, errors))  # it may have no other
                    yield from finished(0)
        begin(batch)
        yield from finished(0)
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(model: EmbeddingModel | None, pieces: deque[_Work]) -> Iterator[tuple[Any, Any, Float32] | Failure[Any]]:
    """Yield the first pieces that are complete, and the sources that failed."""
    while pieces and (pieces[0].errors or len(pieces[0].embeddings) == pieces[0].count):
        work = pieces.popleft()
        if not work.errors:
            embedding = np.stack(work.embeddings)
            if np.isfinite(embedding).all():
                yield work.source, work.piece, embedding
                continue
            work.errors.append(f"{model.id} gave NaN or Inf" if model else "the embeddings hold NaN or Inf")
        if not (pieces and pieces[0].errors is work.errors):  # the last of its source
            yield Failure(work.source, work.errors[0])


def _embedded(model: EmbeddingModel | None, rows: Sequence[Float32]) -> Sequence[Float32 | str]:
    """The embedding of each row, or why there is none; if all cannot be embedded together, it is tried one by one."""
    if model is None or not rows:
        return rows
    try:
        return list(embed_rows(model, np.stack(rows)))
    except UNUSABLE as error:
        return [str(error) or repr(error)] if len(rows) == 1 else [_embedded(model, [row])[0] for row in rows]


@dataclass(frozen=True)
class Recording:
    """Audio in memory, which is read as a file is: mono in [-1, 1], ten seconds at a time."""

    name: str
    samples: io.Signal
    sample_rate: int  # Hz
    windows: int | None = None  # how many to cut; None: as the framing has it
    begin: int = 0  # samples before it, if it is a part of a stream

    def chunks(self, begin: int = 0, end: float = math.inf) -> Iterator[Float32]:
        size, last = round(BLOCK_SECONDS * self.sample_rate), int(min(len(self.samples), end))
        for first in range(begin, last, size):
            mono = io.to_mono(self.samples[first : min(first + size, last)])
            if (invalid := io.first_invalid(mono)) is not None:
                seconds = (self.begin + first + invalid) / self.sample_rate
                raise EdgeseaError(f"{self.name} holds NaN or Inf samples, the first at {seconds:.3f} s")
            yield mono


A = TypeVar("A", Path, Recording)


class AudioEmbedding(NamedTuple, Generic[A]):
    """The embeddings of a file or recording, or why there are none."""

    path: A
    embedding: Float32 | None  # (T, D), a row for each window
    error: str = ""
    warnings: Sequence[str] = ()  # that it is shorter than a window, silent, or not whole


def framing_of(model: EmbeddingModel, hop: float, center: bool, resampler: Resampling = "soxr") -> Framing:
    """Windows as the model takes them, every `hop` seconds."""
    checked = io.checked_hop("hop", hop), io.checked_flag("center", center), checked_resampling(resampler)
    return Framing(window_of(model), *checked)


def embed_files(
    model: EmbeddingModel,
    paths: Sequence[A],
    framing: Framing,
    batch_size: int = 64,
    workers: int | None = None,
    truncated: io.Truncated = "skip",
    span: tuple[float, float] = (0.0, math.inf),
) -> Iterator[AudioEmbedding[A]]:
    """Embed files, or recordings in memory, in order; one that cannot be used gives its error instead of embeddings.

    They are read in `workers` threads, in memory that their length does not set, and share batches of `batch_size`
    windows. Of each, what lies in `span`, seconds, is embedded.
    """
    at_rate = framing.at(model.sample_rate)

    def read(item: tuple[int, A]) -> Iterator[tuple[list[str], Float32]]:
        found: list[str] = []  # warnings of all pieces, complete with the last
        cutter, silent = PieceCutter(at_rate, PIECE), True
        with nullcontext(item[1]) if isinstance(item[1], Recording) else io.AudioFile(item[1], truncated) as audio:
            begin, end = (np.rint(second * audio.sample_rate) for second in span)
            chunks = audio.chunks(int(begin), end)
            for chunk in resample_stream(chunks, audio.sample_rate, model.sample_rate, framing.resampler):
                silent = silent and not chunk.any()
                for piece in cutter.feed(chunk):
                    yield found, cut_rows(model, piece, at_rate)
        if cutter.length < at_rate.window:
            seconds = f"{cutter.length / model.sample_rate:.3g} s"
            found.append(f"lasts {seconds}, less than a window of {framing.window:g} s; filled up with zeros")
        if silent:
            found.append("silent: all samples are zero")
        found += getattr(audio, "notes", [])
        for piece in cutter.finish(getattr(audio, "windows", None)):
            yield found, cut_rows(model, piece, at_rate)

    results = embed_sources(model, enumerate(paths), read, batch_size=batch_size, workers=workers)
    for (_, path), group in groupby(results, key=lambda result: result[0]):
        *_, last = pieces = list(group)
        if isinstance(last, Failure):
            yield AudioEmbedding(path, None, last.reason.removeprefix(f"{path}: "))
        else:
            yield AudioEmbedding(path, np.concatenate([piece[-1] for piece in pieces]), "", last[1])


def get_embedding(
    audio: io.Signal | Sequence[io.Signal],
    sr: float | Sequence[float],
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
    resampler: Resampling = "soxr",
) -> tuple[Any, Any]:
    """Embed audio: one embedding for each window, usually of 1 s, every `hop_size` seconds.

    Parameters
    ----------
    audio : ndarray, (n,) or (n, channels), or list of them
        Samples as soundfile reads them: floats in [-1, 1], or PCM integers of 8, 16 or 32 bits, which are scaled to
        that range (openl3 and edgel3 do not scale). Channels are averaged.
    sr : int, or list of int
        Sample rate in Hz, of all arrays or of each.
    model : EmbeddingModel, path or str
        A loaded model (`load_student`, `load_teacher`), or what one is loaded from, on the CPU: ``edgel3/sea-64`` (128,
        256, 512), a student's folder or .h5 file, or a teacher's id.
    hop_size : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles: half a window of zeros precedes the audio.
    batch_size : int
        Windows embedded at once; the arrays of a list share batches.
    resampler : {"soxr", "resampy"}
        What brings audio to the model's rate; resampy (edgesea[compat]) gives the numbers of edgel3 and openl3.

    Returns
    -------
    embedding : ndarray, (T, D) float32, or list of them
        One row for each of ``1 + ceil(max(0, n + pad - W) / H)`` windows, with n samples at the model's rate, W of a
        window, H of a hop, and ``pad`` of W // 2 if centred, else 0.
    timestamps : ndarray, (T,) float64, or list of them
        ``k * hop_size`` in seconds.

    EdgeseaError: the audio is empty, has another shape or type, or holds NaN or Inf; or an argument is invalid.
    EdgeseaWarning: audio is silent, or shorter than a window (zeros fill it up).
    """
    single = not isinstance(audio, list | tuple)
    signals = [audio] if single else list(audio)
    rates: list[Any] = list(cast(Any, sr)) if np.ndim(sr) == 1 else [sr] * len(signals)
    if len(rates) != len(signals):
        raise EdgeseaError(f"sr has {len(rates)} rates for {len(signals)} arrays; give one, or one for each")
    recordings = []
    for index, (signal, rate) in enumerate(zip(signals, rates, strict=True)):
        name = "audio" if single else f"audio[{index}]"
        if not hasattr(signal, "__array__"):
            raise EdgeseaError(f"{name} must be an array of samples, or a list of arrays, not {type(signal).__name__}")
        samples = io.as_samples(name, signal)
        if not samples.size or samples.shape[-1] > len(samples):
            raise EdgeseaError(f"{name} is empty or has more channels than samples: {samples.shape}; transpose it")
        recordings.append(Recording(name, samples, io.checked_rate("sr", rate)))
    network, embeddings = load_model(model), []
    framing = framing_of(network, hop_size, center, resampler)
    results = embed_files(network, recordings, framing, io.checked_count("batch_size", batch_size))
    for recording, embedding, error, found in results:
        if embedding is None:
            raise EdgeseaError(error)
        for warning in found:
            warnings.warn(f"{recording.name}: {warning}", EdgeseaWarning, stacklevel=2)
        embeddings.append(embedding)
    timestamps = [framing.timestamps(len(embedding)) for embedding in embeddings]
    return (embeddings[0], timestamps[0]) if single else (embeddings, timestamps)


class Stream:
    """Embeds one signal as it comes; all parts together are what the whole file gives.

    A window is embedded as soon as its last sample has come through the resampler, which holds back 20 to 180 ms if the
    rate is not the model's. Memory is that of one window, one chunk and `batch_size` windows. As a context manager it
    gives its memory back at the end.

    Parameters
    ----------
    model, hop_size, center
        As of `get_embedding`.
    sample_rate : int, optional
        Rate of the chunks in Hz; default: the model's.
    batch_size : int
        Windows embedded at once, where a chunk completes so many.
    """

    def __init__(
        self,
        model: ModelOrName,
        hop_size: float = 0.1,
        center: bool = True,
        sample_rate: float | None = None,
        batch_size: int = 64,
    ) -> None:
        self._batch_size = io.checked_count("batch_size", batch_size)
        self.model = load_model(model)
        rate = self.model.sample_rate if sample_rate is None else sample_rate
        self.sample_rate = io.checked_rate("sample_rate", rate)
        self._framing = framing_of(self.model, hop_size, center)
        self.reset()

    def reset(self) -> None:
        """Forget what was fed, and begin another signal."""
        self._resampler = Resampler(self.sample_rate, self.model.sample_rate)
        self._cutter = PieceCutter(self._framing.at(self.model.sample_rate), self._batch_size, eager=True)
        self._memory = FrameMemory()
        self._channels = self._samples = self._windows = 0  # so far; 0 channels: not known yet
        self._ended = False

    def feed(self, chunk: ArrayLike) -> Embedded:
        """Take in the next chunk, and embed the windows that it completes.

        The chunk (n,) or (n, channels) has any length, also 0: floats in [-1, 1], or PCM integers of 8, 16 or 32 bits;
        channels are averaged. Its memory may be used for the next one. Returns embeddings (t, D) float32 and timestamps
        (t,) float64, in seconds from the stream's beginning, of t windows, also 0.

        EdgeseaError: the chunk is refused, and another one may follow; the model failed, which ends the stream; or that
        has ended.
        """
        samples = io.as_samples("the chunk", chunk)
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        wanted = [self._channels] if self._channels and len(samples) else range(1, 128 + 1)
        if channels not in wanted:
            raise EdgeseaError(f"the chunk {samples.shape} has {channels} channels, not {wanted[0]} to {wanted[-1]}")
        # all are checked before one is taken in
        blocks = list(Recording("the stream", samples, self.sample_rate, begin=self._samples).chunks())
        self._channels = channels if blocks else self._channels
        self._samples += len(samples)
        return self._embed(blocks)

    def finish(self) -> Embedded:
        """End the stream: the windows that reach beyond its end, padded with zeros; then only `reset` is possible."""
        result = self._embed([np.zeros(0, np.float32)], last=self._samples > 0)
        self.close()
        return result

    def close(self) -> None:
        """Drop what is buffered, without embedding it; then only `reset` is possible."""
        self.reset()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _embed(self, blocks: Iterable[Float32], last: bool = False) -> Embedded:
        if self._ended:
            raise EdgeseaError("the stream has ended; reset() begins another")
        self._ended = True  # unless all of it succeeds: windows would be missing
        embeddings = [np.zeros((0, self.model.embedding_size), np.float32)]
        pieces = (piece for block in blocks for piece in self._cutter.feed(self._resampler.feed(block, last)))
        for piece in chain(pieces, self._cutter.finish() if last else ()):
            rows = cut_rows(self.model, piece, self._cutter.framing, self._memory)
            embeddings.append(embed_rows(self.model, rows))
            if not np.isfinite(embeddings[-1]).all():
                raise EdgeseaError(f"{self.model.id} gave NaN or Inf after {piece.first * self._framing.hop:.1f} s")
        embedding, first = np.concatenate(embeddings), self._windows
        self._windows, self._ended = first + len(embedding), False
        return embedding, np.arange(first, self._windows, dtype=np.float64) * self._framing.hop
