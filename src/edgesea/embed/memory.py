"""Embeddings of audio in memory, called and warned about as users of openl3 and edgel3 know it."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgesea.audio.framing import Framing
from edgesea.audio.io import Signal, as_samples, checked_count, checked_flag, checked_hop, checked_rate
from edgesea.embed.engine import Recording, embed_files
from edgesea.errors import EdgeseaError, EdgeseaWarning
from edgesea.models import ModelOrName, load_model
from edgesea.models.base import EmbeddingModel, window_of

DEFAULT_MODEL = "edgel3/sea-64"  # the smallest of the published students


def get_embedding(
    audio: Signal | Sequence[Signal],
    sr: float | Sequence[float],
    model: ModelOrName = DEFAULT_MODEL,
    hop_size: float = 0.1,
    center: bool = True,
    batch_size: int = 32,
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
    recordings = [
        _recording("audio" if single else f"audio[{index}]", signal, rate)
        for index, (signal, rate) in enumerate(zip(signals, _rates(sr, len(signals)), strict=True))
    ]
    batch_size = checked_count("batch_size", batch_size)
    network = load_model(model)
    framing = framing_of(network, hop_size, center)
    embeddings = []
    for recording, embedding, error, found in embed_files(network, recordings, framing, batch_size):
        if embedding is None:
            raise EdgeseaError(error)
        for warning in found:
            warnings.warn(f"{recording.name}: {warning}", EdgeseaWarning, stacklevel=2)
        embeddings.append(embedding)
    timestamps = [framing.timestamps(len(embedding)) for embedding in embeddings]
    return (embeddings[0], timestamps[0]) if single else (embeddings, timestamps)


def framing_of(model: EmbeddingModel, hop: float, center: bool) -> Framing:
    """Windows as the model takes them, every `hop` seconds."""
    return Framing(window_of(model), checked_hop("hop", hop), checked_flag("center", center))


def _recording(name: str, audio: Any, rate: Any) -> Recording:
    """An item of `audio` with its rate, checked."""
    if not hasattr(audio, "__array__"):
        raise EdgeseaError(f"{name} must be an array of samples, or a list of arrays, not {type(audio).__name__}")
    samples = as_samples(name, audio)
    if not samples.size:
        raise EdgeseaError(f"{name} is empty")
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise EdgeseaError(f"{name} has shape {samples.shape}: more channels than samples; give its transpose")
    return Recording(name, samples, checked_rate("sr", rate))


def _rates(sr: Any, count: int) -> list[Any]:
    """One rate for each of `count` arrays."""
    rates = list(sr) if isinstance(sr, list | tuple) or np.ndim(sr) == 1 else [sr] * count
    if len(rates) != count:
        raise EdgeseaError(f"sr has {len(rates)} rates for {count} arrays; give one, or one for each")
    return rates
