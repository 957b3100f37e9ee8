"""The few signal-processing tools that the sound generators share.

Everything works on whole events at once: a harmonic tone is a look-up in a one-period table and a filter is one
multiplication in the frequency domain, so a clip of ten seconds costs milliseconds.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]
Gain = Callable[[Signal], Signal]  # frequencies in Hz (bins,) -> linear gains (bins,)

TABLE_SIZE = 4096  # points of a one-period table: interpolation noise lies below -80 dB
NYQUIST_MARGIN = 0.45  # harmonics end here (times the sample rate), so that the next one cannot alias


def fast_length(length: int) -> int:
    """The smallest 2^k, 3 * 2^k or 5 * 2^k that is >= `length`: an FFT of prime length is several times slower."""
    return min(factor << (-(-length // factor) - 1).bit_length() for factor in (1, 3, 5))


def bins(size: int, sample_rate: int) -> Signal:
    """Frequencies in Hz of the ``size // 2 + 1`` bins of a real FFT."""
    return np.fft.rfftfreq(size, 1.0 / sample_rate).astype(np.float64)


def band(low: float, high: float, order: int = 2) -> Gain:
    """Gain of a band pass with edges `low` and `high` in Hz and slopes of 6 dB per octave and order."""

    def gain(freqs: Signal) -> Signal:
        rise = (freqs / low) ** (2 * order)
        return np.asarray(np.sqrt(rise / (1.0 + rise) / (1.0 + (freqs / high) ** (2 * order))))

    return gain


def tilt(slope: float, corner: float = 100.0) -> Gain:
    """Gain that is flat below `corner` Hz and changes by `slope` dB per octave above it."""
    return lambda freqs: np.asarray((np.maximum(freqs, corner) / corner) ** (slope / (20.0 * np.log10(2.0))))


def filtered(signal: Signal, gain: Gain, sample_rate: int) -> Signal:
    """`signal` (samples,) through a zero-phase filter, same length."""
    size = fast_length(len(signal))
    spectrum = np.fft.rfft(signal, size) * gain(bins(size, sample_rate))
    return np.asarray(np.fft.irfft(spectrum, size)[: len(signal)])


def noise(length: int, gain: Gain, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Gaussian noise of the given colour and RMS 1, (length,)."""
    size = fast_length(length)
    spectrum = rng.standard_normal(size // 2 + 1) + 1j * rng.standard_normal(size // 2 + 1)
    spectrum = spectrum * gain(bins(size, sample_rate))
    spectrum[0] = 0.0
    return normalised(np.fft.irfft(spectrum, size)[:length])


def normalised(signal: Signal) -> Signal:
    """`signal` scaled to RMS 1 (silence stays silence)."""
    return np.asarray(signal / max(rms(signal), 1e-12))


def rms(signal: Signal) -> float:
    """Root mean square of `signal`, 0 for an empty one."""
    return float(np.sqrt(np.mean(np.square(signal)))) if len(signal) else 0.0


def convolved(signal: Signal, kernel: Signal) -> Signal:
    """The first ``len(signal)`` samples of the convolution with `kernel`."""
    size = fast_length(len(signal) + len(kernel) - 1)
    return np.asarray(np.fft.irfft(np.fft.rfft(signal, size) * np.fft.rfft(kernel, size), size)[: len(signal)])


def wander(length: int, rate: float, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A smooth random curve, (length,): normal values `rate` times a second, smoothly interpolated."""
    knots = int(np.ceil(length / sample_rate * rate)) + 2
    values = rng.standard_normal(knots)
    position = np.arange(length) * (rate / sample_rate)
    index = position.astype(np.intp)
    blend = position - index
    blend = blend * blend * (3.0 - 2.0 * blend)
    return np.asarray(values[index] + blend * (values[index + 1] - values[index]))


def tone(pitch: Signal | float, partials: Signal, length: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A harmonic tone with drifting pitch and RMS 1.

    Parameters
    ----------
    pitch : ndarray (length,) or float
        Fundamental frequency in Hz.
    partials : ndarray, (count,)
        Amplitudes of the fundamental and its harmonics; their phases are random.
    length, sample_rate : int
        Length in samples, rate in Hz.
    rng : Generator
        Source of the phases.

    Returns
    -------
    ndarray, (length,)
    """
    highest = NYQUIST_MARGIN * sample_rate / max(float(np.max(pitch)), 1e-3)
    kept = partials[: max(1, min(int(highest), TABLE_SIZE // 2 - 1))]
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, np.complex128)
    spectrum[1 : len(kept) + 1] = kept * np.exp(2j * np.pi * rng.random(len(kept)))
    table = normalised(np.fft.irfft(spectrum))
    if np.ndim(pitch) == 0:
        phase = np.arange(length) * (float(np.max(pitch)) / sample_rate)
    else:
        phase = np.cumsum(pitch) / sample_rate
    position = (phase - np.floor(phase)) * TABLE_SIZE
    index = position.astype(np.intp)
    table = np.append(table, table[:2])  # position may round up to TABLE_SIZE, and its right neighbour is read too
    left = table[index]
    return np.asarray(left + (position - index) * (table[index + 1] - left))


def log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """A positive number whose logarithm is uniform: equal intervals of pitch or tempo are equally likely."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def decay(length: int, seconds: float, sample_rate: int) -> Signal:
    """Exponential decay by 60 dB in `seconds`, (length,), starting at 1."""
    return np.asarray(np.exp(np.arange(length) * (-np.log(1e3) / (seconds * sample_rate))))


def fades(length: int, attack: float, release: float, sample_rate: int) -> Signal:
    """Envelope (length,) with raised-cosine attack and release in seconds (each at most half of the length)."""
    envelope = np.ones(length)
    for edge, seconds in ((0, attack), (1, release)):
        count = min(int(seconds * sample_rate), length // 2)
        ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(count) / max(count, 1))
        if edge == 0:
            envelope[:count] *= ramp
        else:
            envelope[length - count :] *= ramp[::-1]
    return envelope


def modes(length: int, freqs: Signal, seconds: Signal, sample_rate: int, rng: np.random.Generator) -> Signal:
    """A struck object, (length,): the sum of damped sines at `freqs` (Hz) that fall by 60 dB in `seconds` each."""
    total = np.zeros(length)
    time = np.arange(length) / sample_rate
    for freq, fall in zip(np.minimum(freqs, NYQUIST_MARGIN * sample_rate), seconds, strict=True):
        count = min(length, int(fall * sample_rate) + 1)
        wave = np.sin(2.0 * np.pi * freq * time[:count]) * decay(count, fall, sample_rate)
        total[:count] += rng.uniform(0.4, 1.0) * wave
    return total


def add(target: Signal, sound: Signal, start: int) -> None:
    """Add `sound` to `target` in place from sample `start` on; what overhangs the end is dropped."""
    if 0 <= start < len(target):
        count = min(len(sound), len(target) - start)
        target[start : start + count] += sound[:count]
