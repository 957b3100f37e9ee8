"""Embeddings of audio in memory, called and warned about as users of openl3 and edgel3 know it."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing
from edgesea.audio.io import (
    CHUNK_SECONDS,
    Signal,
    as_samples,
    checked_count,
    checked_flag,
    checked_hop,
    checked_rate,
    to_mono,
)
from edgesea.embed.engine import embed_signals
from edgesea.errors import EdgeseaError, EdgeseaWarning
from edgesea.models import ModelOrName, load_model
from edgesea.models.base import window_of

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

DEFAULT_MODEL = "edgel3/sea-64"  # the smallest of the published students


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
    opened = [partial(_Samples, *item) for item in zip(names, signals, rates, strict=True)]
    embeddings = []
    for name, result in zip(names, embed_signals(network, opened, framing, batch_size), strict=True):
        if result.embedding is None:
            raise EdgeseaError(result.error)
        for warning in result.warnings:
            warnings.warn(f"{name}: {warning}", EdgeseaWarning, stacklevel=2)
        embeddings.append(result.embedding)
    timestamps = [framing.timestamps(len(embedding)) for embedding in embeddings]
    return (embeddings[0], timestamps[0]) if single else (embeddings, timestamps)


@dataclass(frozen=True)
class _Samples:
    """An array as a signal: mono in [-1, 1], in chunks of ten seconds, so that a long one is not copied."""

    name: str
    samples: Signal
    sample_rate: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def chunks(self) -> Iterator[Float32]:
        size = round(CHUNK_SECONDS * self.sample_rate)
        for first in range(0, len(self.samples), size):
            chunk = to_mono(self.samples[first : first + size])
            if not np.isfinite(chunk).all():
                raise EdgeseaError(f"{self.name} holds NaN or Inf samples")
            yield chunk


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
