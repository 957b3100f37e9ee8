"""Embeddings of audio in memory, called and warned about as users of openl3 and edgel3 know it."""

import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, PieceCutter
from edgesea.audio.io import (
    CHUNK_SECONDS,
    Signal,
    as_samples,
    checked_count,
    checked_flag,
    checked_hop,
    checked_rate,
    resample_stream,
    to_mono,
)
from edgesea.embed.engine import input_of
from edgesea.errors import EdgeseaError, EdgeseaWarning
from edgesea.models import ModelOrName, load_model
from edgesea.models.base import EmbeddingModel, window_of
from edgesea.parallel import prefetch

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

DEFAULT_MODEL = "edgel3/sea-64"  # the smallest of the published students
PIECE = 64  # windows whose frames are computed together
WORKERS = 2  # threads that compute spectrograms ahead of the network


@overload
def get_embedding(
    audio: Signal,
    sr: float | Sequence[float],
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
) -> tuple[Float32, Float64]: ...


@overload
def get_embedding(
    audio: Sequence[Signal],
    sr: float | Sequence[float],
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
) -> tuple[list[Float32], list[Float64]]: ...


def get_embedding(
    audio: Signal | Sequence[Signal],
    sr: float | Sequence[float],
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
) -> tuple[Float32, Float64] | tuple[list[Float32], list[Float64]]:
    """Embed audio: one embedding for each window, usually of 1 s, every `hop_size` seconds.

    Parameters
    ----------
    audio : ndarray, (n,) or (n, channels), or list of them
        Samples as soundfile reads them: floats in [-1, 1], or PCM integers of 8, 16 or 32 bits, which are scaled to
        that range. (openl3 and edgel3 do not scale; their spectrograms are relative to the loudest value, and so are
        those of SEA students. Other models hear the level.) Channels are averaged.
    sr : int, or list of int
        Sample rate in Hz: of all arrays, or of each. Audio is resampled to the model's rate.
    model : EmbeddingModel, path or str
        A loaded model (`load_student`, `load_teacher`), or what one is loaded from, on the CPU and at every call: the
        id of a published student (``edgel3/sea-64``, 128, 256, 512) or of a teacher, a student's folder, or an .h5
        file. The default has 64 dimensions.
    hop_size : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles: half a window of zeros precedes the audio.
    batch_size : int
        Windows embedded at once; the arrays of a list share batches.

    Returns
    -------
    embedding : ndarray, (T, D) float32, or list of them
        One row a window. There are ``1 + ceil(max(0, n + pad - W) / H)`` windows, with n samples at the model's rate,
        W of a window, H of a hop, and ``pad`` of W // 2 if centred, else 0.
    timestamps : ndarray, (T,) float64, or list of them
        ``k * hop_size`` in seconds.

    Raises
    ------
    EdgeseaError
        If the audio is empty, has more than two dimensions or more channels than samples, holds NaN or Inf, or is not
        numeric; if a rate, `hop_size`, `center` or `batch_size` is invalid, or there are not as many rates as arrays;
        if the model cannot be loaded.

    Warns
    -----
    EdgeseaWarning
        If audio is shorter than a window (zeros fill it up), or silent.

    Examples
    --------
    >>> audio, sr = soundfile.read("street.wav")
    >>> embedding, timestamps = edgesea.get_embedding(audio, sr)
    """
    single = not isinstance(audio, list | tuple)
    names = ["audio"] if single else [f"audio[{index}]" for index in range(len(audio))]
    signals = [_signal(name, item) for name, item in zip(names, [audio] if single else audio, strict=True)]
    rates = _rates(sr, len(signals))
    framing_of = partial(Framing, hop=checked_hop("hop_size", hop_size), center=checked_flag("center", center))
    batch_size = checked_count("batch_size", batch_size)
    network = load_model(model)
    framing = framing_of(window_of(network))
    for name, signal, rate in zip(names, signals, rates, strict=True):
        for remark in remarks(_chunks(name, signal, rate), rate, framing.window):
            warnings.warn(f"{name}: {remark}", EdgeseaWarning, stacklevel=2)
    sources = [partial(_chunks, *item) for item in zip(names, signals, rates, strict=True)]
    embeddings = _embed(network, sources, rates, framing, batch_size)
    timestamps = [framing.timestamps(len(embedding)) for embedding in embeddings]
    return (embeddings[0], timestamps[0]) if single else (embeddings, timestamps)


def remarks(chunks: Iterable[Float32], sample_rate: int, window: float) -> list[str]:
    """What should be known about a signal: that it is shorter than a `window` (seconds), or silent.

    Parameters
    ----------
    chunks : iterable of ndarray, (samples,)
        The signal.
    sample_rate : int
        Its rate in Hz.
    window : float
        Seconds that the model embeds at once.
    """
    samples, silent = 0, True
    for chunk in chunks:
        samples += len(chunk)
        silent = silent and not chunk.any()
    found = []
    if samples < window * sample_rate:
        found.append(f"lasts {samples / sample_rate:.3g} s, less than a window of {window:g} s; filled up with zeros")
    if silent:
        found.append("silent: all samples are zero")
    return found


def _signal(name: str, audio: Any) -> Signal:
    """One item of `audio` as an array of accepted shape and type."""
    if not hasattr(audio, "__array__"):
        raise EdgeseaError(f"{name} must be an array of samples, or a list of arrays, not {type(audio).__name__}")
    signal = as_samples(name, audio)
    if not signal.size:
        raise EdgeseaError(f"{name} is empty")
    if signal.ndim == 2 and signal.shape[1] > signal.shape[0]:
        raise EdgeseaError(f"{name} has shape {signal.shape}: more channels than samples; give its transpose")
    return signal


def _rates(sr: float | Sequence[float], count: int) -> list[int]:
    """One rate for each of `count` arrays."""
    several = isinstance(sr, list | tuple) or (isinstance(sr, np.ndarray) and sr.ndim == 1)
    rates: list[Any] = list(sr) if several else [sr] * count  # type: ignore[arg-type]
    if len(rates) != count:
        raise EdgeseaError(f"sr has {len(rates)} rates for {count} arrays; give one, or one for each")
    return [checked_rate("sr", rate) for rate in rates]


def _chunks(name: str, signal: Signal, rate: int) -> Iterator[Float32]:
    """The mono signal in [-1, 1] in chunks of ten seconds, (samples,) float32, so that long ones are not copied."""
    size = round(CHUNK_SECONDS * rate)
    for first in range(0, len(signal), size):
        chunk = to_mono(signal[first : first + size])
        if not np.isfinite(chunk).all():
            raise EdgeseaError(f"{name} holds NaN or Inf samples")
        yield chunk


def _embed(
    model: EmbeddingModel,
    sources: Sequence[partial[Iterator[Float32]]],
    rates: Sequence[int],
    framing: Framing,
    batch_size: int,
) -> list[Float32]:
    """Embeddings (T, D) of each of the signals that `sources` give in chunks, at their `rates` in Hz."""
    cut, embed = input_of(model)
    sample_framing = framing.at(model.sample_rate)

    def windows(source: partial[Iterator[Float32]], rate: int) -> Iterator[Float32]:
        cutter = PieceCutter(sample_framing, PIECE)
        for chunk in resample_stream(source(), rate, model.sample_rate):
            yield from (cut(piece, sample_framing) for piece in cutter.feed(chunk))
        yield from (cut(piece, sample_framing) for piece in cutter.finish())

    counts: list[int] = []

    def blocks() -> Generator[Float32, None, None]:
        tasks = [partial(windows, source, rate) for source, rate in zip(sources, rates, strict=True)]
        for signal in prefetch(tasks, WORKERS):
            counts.append(0)
            for block in signal:
                counts[-1] += len(block)
                yield block

    # closed at once if the model fails: as long as its threads wait, the process does not end
    with closing(blocks()) as source:
        parts = [embed(batch) for batch in _batches(source, batch_size)]
    if not parts:
        return []
    embedding = np.concatenate(parts)
    if not np.isfinite(embedding).all():
        raise EdgeseaError(f"{model.id} gave NaN or Inf")
    return np.split(embedding, np.cumsum(counts)[:-1])


def _batches(blocks: Iterable[Float32], size: int) -> Iterator[Float32]:
    """The rows of all blocks in batches of exactly `size`; the last may be smaller."""
    waiting: list[Float32] = []
    count = 0
    for block in blocks:
        while len(block):
            part, block = block[: size - count], block[size - count :]
            waiting.append(part)
            count += len(part)
            if count == size:
                yield np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)
