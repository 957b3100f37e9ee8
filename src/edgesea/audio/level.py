"""Sound levels of windows: A-weighted from the samples, or averaged from measured readings."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

FLOOR = -120.0  # dB re full scale of digital silence
AT_ONCE = 16  # windows; the spectra of more leave the processor's cache


@lru_cache(maxsize=8)
def _a_weights(samples: int, sample_rate: int) -> Float32:
    """Power weights of real and imaginary part of the rFFT bins: the A curve of IEC 61672-1 (analytic form)."""
    squared = np.asarray(np.fft.rfftfreq(samples, 1.0 / sample_rate), np.float64) ** 2

    def response(f2: NDArray[np.float64] | float) -> NDArray[np.float64]:
        tails = np.sqrt((f2 + 107.7**2) * (f2 + 737.9**2))
        return np.asarray(12194.0**2 * np.square(f2) / ((f2 + 20.6**2) * tails * (f2 + 12194.0**2)))

    weights = np.square(response(squared) / response(1000.0**2))
    weights[1 : (samples + 1) // 2] *= 2.0  # both halves of the spectrum
    return np.repeat(weights, 2).astype(np.float32)


def a_weighted_level(windows: Float32, sample_rate: int) -> Float32:
    """A-weighted level (N,) of windows (N, W) in [-1, 1], in dB re full scale.

    A 1 kHz sine of amplitude 1 has 0 dB (AES17); digital silence is given -120 dB.
    """
    from scipy.fft import rfft  # twice as fast as numpy's

    count, samples = windows.shape
    weights, power = _a_weights(samples, sample_rate), np.empty(count)
    for first in range(0, count, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        spectra = rfft(windows[part], axis=1).view(np.float32)
        power[part] = np.einsum("ij,j->i", np.square(spectra, out=spectra), weights)
    return np.asarray(10.0 * np.log10(np.maximum(2.0 * power / samples**2, 10 ** (FLOOR / 10))), np.float32)


def measured_level(
    readings: Sequence[float], rate: float, starts: NDArray[np.int64], window: int, sample_rate: int
) -> Float32:
    """Energy average (N,) in dB SPL of the readings that fall into each window.

    `readings` are levels in dB SPL, `rate` per second from the start of the clip; a single one holds for the whole
    clip, and the last one after them. Windows have `window` samples from `starts` (N,) on.
    """
    energy = 10.0 ** (np.asarray(readings, np.float64) / 10.0)
    if len(energy) == 1:
        return np.full(len(starts), readings[0], np.float32)
    # Divided once, at the end: seconds would be rounded, and a window could take a neighbouring reading.
    first = np.clip(np.floor(starts * rate / sample_rate), 0, len(energy) - 1).astype(int)
    last = np.clip(np.ceil((starts + window) * rate / sample_rate), first + 1, len(energy)).astype(int)
    total = np.concatenate([[0.0], np.cumsum(energy)])
    return np.asarray(10.0 * np.log10((total[last] - total[first]) / (last - first)), np.float32)
