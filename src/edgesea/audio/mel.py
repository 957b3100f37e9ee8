"""Mel filter banks, and where the frames of a spectrogram lie."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Padding = Literal["same", "end", "none"]
MelScale = Literal["htk", "slaney"]


def _hz_to_mel(hz: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    linear = hz / (200.0 / 3.0)
    return np.where(hz < 1000.0, linear, 15.0 + 27.0 * np.log(np.maximum(hz, 1.0) / 1000.0) / np.log(6.4))


def _mel_to_hz(mel: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * (200.0 / 3.0), 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float, scale: MelScale
) -> NDArray[np.float64]:
    """Triangular mel filters with unit area (slaney normalisation).

    Parameters
    ----------
    sample_rate, n_fft, n_mels : int
        Rate in Hz, FFT length in samples, number of bands.
    fmin, fmax : float
        Edges of the first and the last band in Hz.
    scale : {"htk", "slaney"}
        O'Shaughnessy's formula as in HTK, or linear below 1 kHz and logarithmic above as in Slaney's Auditory Toolbox.

    Returns
    -------
    ndarray, (n_mels, n_fft // 2 + 1) float64
    """
    bins = np.linspace(0.0, sample_rate / 2.0, n_fft // 2 + 1)
    limits = _hz_to_mel(np.array([fmin, fmax]), scale)
    edges = _mel_to_hz(np.linspace(limits[0], limits[1], n_mels + 2), scale)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
    return np.asarray(triangles * 2.0 / (high - low))


def kaldi_mel_filters(sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> NDArray[np.float64]:
    """Mel filters as in Kaldi: triangles on the mel axis, unit peak, no weight at the Nyquist bin.

    Parameters and result are those of `mel_filters`.
    """
    mel = 1127.0 * np.log(1.0 + np.linspace(0.0, sample_rate / 2.0, n_fft // 2 + 1) / 700.0)
    limits = 1127.0 * np.log(1.0 + np.array([fmin, fmax]) / 700.0)
    edges = np.linspace(limits[0], limits[1], n_mels + 2)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((mel - low) / (mid - low), (high - mel) / (high - mid)))
    triangles[:, -1] = 0.0
    return np.asarray(triangles)


def frame_layout(samples: int, n_fft: int, hop_length: int, padding: Padding) -> tuple[int, int, int]:
    """How the frames of the L3 family's spectrograms lie in a window.

    Parameters
    ----------
    samples : int
        Length of the window.
    n_fft, hop_length : int
        Length of a frame and distance between two of them, in samples.
    padding : {"same", "end", "none"}
        Zeros on both sides (as in TensorFlow, the odd one after the end), zeros after the end, or none.

    Returns
    -------
    frames, before, after : int
        Number of frames, and the zeros before and after the window.
    """
    if padding == "none":
        return 1 + (samples - n_fft) // hop_length, 0, 0
    frames = -(-samples // hop_length)
    total = max(0, (frames - 1) * hop_length + n_fft - samples)
    before = total // 2 if padding == "same" else 0
    return frames, before, total - before
