"""Embeddings of audio that is still coming: `Stream`, and the command ``stream`` for raw PCM from a pipe."""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgesea.audio.framing import Piece, PieceCutter
from edgesea.audio.io import Resampler, as_samples, checked_count, checked_rate
from edgesea.embed.engine import DEFAULT_MODEL, Recording, cut_rows, embed_rows, framing_of
from edgesea.errors import EdgeseaError
from edgesea.models import Backend, ModelOrName, load_model

Float32 = NDArray[np.float32]
Embedded = tuple[Float32, NDArray[np.float64]]  # embedding (t, D), timestamps (t,) in seconds

MOST_CHANNELS = 128  # a second axis longer than that is time
HEADERS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b".snd")  # that audio files begin with


class Stream:
    """Embeds one signal as it comes; all parts together are what the whole file gives.

    A window is embedded as soon as its last sample has come through the resampler, which holds back 20 to 180 ms if the
    rate is not the model's. Memory is that of one window, one chunk and `batch_size` windows. As a context manager it
    gives its memory back at the end.

    Parameters
    ----------
    model : EmbeddingModel, path or str
        A loaded student or teacher, or what one is loaded from; see `get_embedding`.
    hop_size : float
        Seconds between windows. They need not be a whole number of samples; nothing drifts.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
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
        self._batch_size = checked_count("batch_size", batch_size)
        self.model = load_model(model)
        self.sample_rate = self.model.sample_rate if sample_rate is None else checked_rate("sample_rate", sample_rate)
        self._framing = framing_of(self.model, hop_size, center)
        self.reset()

    def reset(self) -> None:
        """Forget what was fed, and begin another signal."""
        self._resampler = Resampler(self.sample_rate, self.model.sample_rate)
        self._cutter = PieceCutter(self._framing.at(self.model.sample_rate), self._batch_size, eager=True)
        self._channels = self._samples = self._windows = 0  # so far; 0 channels: not known yet
        self._ended = False

    def feed(self, chunk: ArrayLike) -> Embedded:
        """Take in the next chunk, and embed the windows that it completes.

        Parameters
        ----------
        chunk : array, (n,) or (n, channels)
            Audio at ``sample_rate``, of any length, also 0: floats in [-1, 1], or PCM integers of 8, 16 or 32 bits.
            Channels are averaged. Its memory may be used for the next chunk.

        Returns
        -------
        embedding, timestamps : ndarray, (t, D) float32 and (t,) float64
            Of t windows, also 0; in seconds from the stream's beginning. EdgeseaError: the chunk is refused, and
            another one may follow; the model failed, which ends the stream; or that has ended.
        """
        samples = as_samples("the chunk", chunk)
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        if not 1 <= channels <= MOST_CHANNELS:
            raise EdgeseaError(f"the chunk must have shape (samples,) or (samples, channels), not {samples.shape}")
        if len(samples) and self._channels not in (0, channels):
            raise EdgeseaError(f"this chunk has {channels} channels, those before had {self._channels}")
        # all are checked before one is taken in
        blocks = list(Recording("the stream", samples, self.sample_rate, begin=self._samples).chunks())
        self._channels = channels if blocks else self._channels
        self._samples += len(samples)
        return self._embed(piece for block in blocks for piece in self._cutter.feed(self._resampler.feed(block)))

    def finish(self) -> Embedded:
        """End the stream: the windows that reach beyond its end, padded with zeros; then only `reset` is possible."""
        rest = self._resampler.feed(np.zeros(0, np.float32), last=True)
        result = self._embed(chain(self._cutter.feed(rest), self._cutter.finish()) if self._samples else ())
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

    def _embed(self, pieces: Iterable[Piece]) -> Embedded:
        if self._ended:
            raise EdgeseaError("the stream has ended; reset() begins another")
        self._ended = True  # unless all of it succeeds: windows would be missing
        embeddings = [np.zeros((0, self.model.embedding_size), np.float32)]
        for piece in pieces:
            embeddings.append(embed_rows(self.model, cut_rows(self.model, piece, self._cutter.framing)))
            if not np.isfinite(embeddings[-1]).all():
                raise EdgeseaError(f"{self.model.id} gave NaN or Inf after {piece.first * self._framing.hop:.1f} s")
        embedding, first = np.concatenate(embeddings), self._windows
        self._windows += len(embedding)
        self._ended = False
        return embedding, np.arange(first, self._windows, dtype=np.float64) * self._framing.hop


def stream(
    model: str = DEFAULT_MODEL,
    *,
    sample_rate: int | None = None,
    channels: int = 1,
    encoding: Literal["s16le", "f32le"] = "s16le",
    lines: Literal["json", "csv"] = "json",
    weights: Path | None = None,
    hop: float = 0.1,
    center: bool = True,
    batch_size: int = 64,
    device: str = "auto",
    backend: Backend = "auto",
) -> None:
    """Embed raw PCM from standard input: a line for each window as soon as it is complete, until the input ends.

    For example: arecord -t raw -f S16_LE -r 48000 | edgesea stream MODEL --sample_rate 48000

    Ctrl-C, SIGTERM and SIGHUP end it, too, after the windows of what has been read. Timestamps are rounded to
    microseconds; embeddings are exact as float32.

    Parameters
    ----------
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 (128, 256, 512), or a teacher's id.
    sample_rate : int
        Rate of the samples in Hz; it must be given.
    channels : int
        Number of interleaved channels; they are averaged.
    encoding : {"s16le", "f32le"}
        16-bit integers or 32-bit floating point, both little-endian.
    lines : {"json", "csv"}
        ``{"timestamp": 0.1, "embedding": [...]}``, or ``0.1,...`` below a header.
    weights : Path, optional
        A teacher's weight file.
    hop : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    batch_size : int
        Windows embedded at once, at most.
    device : str
        auto, cpu, cuda, mps.
    backend : {"auto", "torch", "onnx"}
        See edgesea embed.
    """
    if sample_rate is None:
        raise EdgeseaError("raw PCM has no header with its sample rate; give it, e.g. --sample_rate 48000")
    if sys.stdin is None or sys.stdin.isatty():
        raise EdgeseaError("stream reads raw PCM from a pipe: arecord -t raw ... | edgesea stream ...")
    checked_count("channels", channels)
    dtype = np.dtype("<i2" if encoding == "s16le" else "<f4")
    embedder = Stream(load_model(model, weights, device, backend), hop, center, sample_rate, batch_size)
    if lines == "csv":
        print("timestamp", *(f"e{index}" for index in range(embedder.model.embedding_size)), sep=",", flush=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and shells in the background, ignore some
            signal.signal(number, lambda *_: stopped.set())
    data = b""  # what is left of a sample
    begun = False
    while not stopped.is_set():
        if os.name != "nt" and not select.select([sys.stdin], [], [], 0.1)[0]:  # Windows cannot wait for a pipe
            continue
        if not (more := os.read(sys.stdin.fileno(), 1 << 16)):
            break
        if not begun and more.startswith(HEADERS):
            raise EdgeseaError(f"not raw PCM but a file ({more[:4]!r}); use arecord -t raw, or: edgesea embed FILE")
        begun, data = True, data + more
        samples = np.frombuffer(data, dtype, len(data) // (channels * dtype.itemsize) * channels)
        data = data[samples.nbytes :]
        _print(*embedder.feed(samples.reshape(-1, channels)), lines)
    if not (begun or stopped.is_set()):
        raise EdgeseaError("standard input holds no samples")
    _print(*embedder.finish(), lines)


def _print(embedding: Float32, timestamps: NDArray[np.float64], lines: str) -> None:
    for row, time in zip(embedding, timestamps.round(6).tolist(), strict=True):
        values = [str(value) for value in row]  # the shortest text that is this float32
        json = f'{{"timestamp": {time}, "embedding": [{", ".join(values)}]}}'
        print(json if lines == "json" else ",".join([str(time), *values]), flush=True)
