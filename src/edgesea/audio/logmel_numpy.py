"""Log-mel spectrograms in numpy, for windows that overlap: frames that they share are computed once."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgesea.audio.mel import DYNAMIC_RANGE, FLOOR, KALDI, LogMelSettings, kaldi_mel_filters

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
BYTES_AT_ONCE = 1 << 20  # of frames; larger arrays would go back to the system, and come again, at every step


@dataclass
class FrameMemory:
    """The frames of a signal that were computed last, for who comes back with more of it."""

    origin: int = 0  # place in the signal of the audio that comes next
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # of frames, ascending
    bands: Any = None  # (frames, 1, bands)


class FrontEnd(ABC):
    """Log-(mel-)spectrograms of windows of one signal; `logmel` computes the same with torch.

    A frame that lies inside several windows is computed once, wherever they begin. The frames that reach beyond a
    window (6 of 50 of a SEA student), and what `_finished` does, are its own.
    """

    settings: LogMelSettings
    hop_length: int  # samples between frames
    bands: int
    hann: Floats  # the analysis window, in the precision in which frames are computed

    def __call__(self, windows: Float32) -> Float32:
        """Spectrograms (B, bands, frames) of separate windows (B, samples); see `at`."""
        count, samples = windows.shape
        return self.at(np.ascontiguousarray(windows).reshape(-1), samples * np.arange(count), samples)

    def at(
        self, audio: Float32, starts: NDArray[np.integer], window: int, memory: FrameMemory | None = None
    ) -> Float32:
        """What `levels` gives, in single precision."""
        return self.levels(audio, starts, window, memory).astype(np.float32, "C")

    def levels(
        self, audio: Float32, starts: NDArray[np.integer], window: int, memory: FrameMemory | None = None
    ) -> Floats:
        """Spectrograms (N, bands, frames) of windows of a signal (samples,).

        `starts` (N,) are the first samples of the windows, in any order; before and after the signal there are zeros.
        With a `memory`, frames that the call before had are not computed again.
        """
        if not len(starts):
            return self.levels(np.zeros(window, np.float32), np.zeros(1, np.int64), window)[:0]
        zeros = max(0, -int(starts.min())), max(0, int(starts.max()) + window - len(audio))  # around the signal
        audio, first = np.pad(audio, zeros) if any(zeros) else audio, np.asarray(starts, np.int64) + zeros[0]
        padded, audio = len(audio), self._filtered(audio)
        window -= padded - len(audio)
        taps, (count, before) = len(self.hann), self._layout(window)
        offsets = self.hop_length * np.arange(count) - before
        inside = (offsets >= 0) & (offsets + taps <= window)
        result = np.empty((len(first), count, self.bands), self.hann.dtype)
        if inside.any():
            places = first[:, None] + offsets[inside]
            step = np.gcd.reduce([self.hop_length, *(first - first[0])])  # of a grid that all places lie on
            rows = (places - (begin := places.min())) // step
            wanted = np.zeros(rows.max() + 1, bool)
            wanted[rows] = True
            frames = sliding_window_view(audio, taps)
            computed = self._recalled(frames, begin + step * np.flatnonzero(wanted), zeros[0], memory)
            result[:, inside] = computed[(np.cumsum(wanted) - 1)[rows], 0]
        if not inside.all():
            samples, weights = self._border(offsets[~inside, None] + np.arange(taps), window)
            result[:, ~inside] = self._computed(audio, first[:, None, None] + samples, weights)
        return self._finished(result).transpose(0, 2, 1)

    def _recalled(self, frames: Float32, places: NDArray[np.int64], zeros: int, memory: FrameMemory | None) -> Floats:
        """Bands (n, 1, bands) of `frames` at `places`, some from the memory, which then holds these and no others."""
        if memory is None:
            return self._computed(frames, places[:, None])
        in_signal, result = places - zeros + memory.origin, np.empty((len(places), 1, self.bands), self.hann.dtype)
        known = np.isin(in_signal, memory.places, assume_unique=True)
        if known.any():
            result[known] = memory.bands[np.searchsorted(memory.places, in_signal[known])]
        result[~known] = self._computed(frames, places[~known, None])
        memory.places, memory.bands = in_signal, result
        return result

    def _computed(self, audio: Float32, places: NDArray[np.int64], weights: Float32 | float = 1.0) -> Floats:
        """Bands (n, k, bands) of the frames (n, k, taps) that `audio` has at `places`."""
        result = np.empty((*places.shape[:2], self.bands), self.hann.dtype)
        hann, at_once = self.hann * weights, max(1, BYTES_AT_ONCE // self.hann.nbytes // places.shape[1])
        for first in range(0, len(places), at_once):
            part = slice(first, first + at_once)
            frames = (audio[places[part]] * hann).reshape(-1, len(self.hann))
            result[part] = self._bands_of(frames).reshape(-1, *result.shape[1:])
        return result

    def _filtered(self, audio: Float32) -> Float32:
        """The signal that frames are cut from; windows begin where they do in `audio`, and end as much earlier."""
        return audio

    @abstractmethod
    def _layout(self, window: int) -> tuple[int, int]:
        """Number of frames of a window of so many samples, and samples by which the first begins before it."""

    def _border(self, samples: NDArray[np.int64], window: int) -> tuple[NDArray[np.int64], Float32]:
        """For samples outside of a window, those that take their place, and the factors of all."""
        return samples.clip(0, window - 1), ((samples >= 0) & (samples < window)).astype(np.float32)

    @abstractmethod
    def _bands_of(self, frames: Floats) -> Floats:
        """Logarithmic bands (n, bands) of weighted frames (n, taps)."""

    def _finished(self, levels: Floats) -> Floats:
        """What the levels (N, frames, bands) of whole windows become."""
        return levels


class OverlappingLogMel(FrontEnd):
    """The front end of OpenL3 and the students, `logmel.LogMel`, which says why some levels need double precision."""

    def __init__(self, settings: LogMelSettings) -> None:
        self.settings, self.hop_length, self.bands = settings, settings.hop_length, settings.bands
        precision = np.float32 if settings.levels == "absolute" else np.float64
        self.hann, filters = settings.hann().astype(precision), settings.filters()
        self._mel = None if filters is None else _Filters(filters.astype(precision))

    def _layout(self, window: int) -> tuple[int, int]:
        return self.settings.layout(window)[:2]

    def _bands_of(self, frames: Floats) -> Floats:
        bands = _power(np.fft.rfft(frames))
        if self.settings.levels == "openl3":
            bands = np.sqrt(bands, out=bands)
        if self._mel is not None:
            bands = self._mel(bands)
        if self.settings.levels == "sea":
            bands = np.sqrt(bands, out=bands)
        return np.asarray(10.0 * np.log10(np.maximum(bands, FLOOR)))

    def _finished(self, levels: Floats) -> Floats:
        if self.settings.levels == "absolute":
            return levels
        levels -= levels.max((1, 2), keepdims=True)
        return np.maximum(levels, -DYNAMIC_RANGE, out=levels)


class OverlappingKaldi(FrontEnd):
    """EfficientAT's front end, `logmel.KaldiLogMel`; its floor needs no double precision."""

    settings, hop_length, bands = KALDI, KALDI.hop_length, KALDI.bands

    def __init__(self) -> None:
        self.hann = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(800) / 799)).astype(np.float32)
        self._mel = _Filters(kaldi_mel_filters(KALDI).astype(np.float32))

    def _filtered(self, audio: Float32) -> Float32:
        return audio[1:] - np.float32(0.97) * audio[:-1]

    def _layout(self, window: int) -> tuple[int, int]:
        return 1 + window // self.hop_length, len(self.hann) // 2

    def _border(self, samples: NDArray[np.int64], window: int) -> tuple[NDArray[np.int64], Float32]:
        return window - 1 - np.abs(window - 1 - np.abs(samples)), np.ones(1, np.float32)  # reflected

    def _bands_of(self, frames: Floats) -> Floats:
        from scipy.fft import rfft  # faster than numpy's in single precision

        return np.asarray((np.log(self._mel(_power(rfft(frames, KALDI.n_fft))) + np.float32(1e-5)) + 4.5) / 5.0)


def _power(spectra: NDArray[np.complexfloating[Any, Any]]) -> Floats:
    return np.asarray(np.square(spectra.real) + np.square(spectra.imag))


class _Filters:
    """Filters (bands, bins), of whose weights most are zero.

    Not by BLAS, which on some processors adds up in another order for other numbers of rows; nor does this start
    threads, which would take the processor from those of the network.
    """

    def __init__(self, filters: Floats) -> None:
        used = [np.flatnonzero(weights) for weights in filters]
        counts = np.array([len(bins) for bins in used])
        self._bins, self._weights = np.concatenate(used), filters[filters != 0]
        self._has, self._firsts = counts > 0, (np.cumsum(counts) - counts)[counts > 0]  # narrow bands may have no bin

    def __call__(self, spectra: Floats) -> Floats:
        """The bands (n, bands) of spectra (n, bins), each the same to the last bit whatever n is."""
        result = np.zeros((len(spectra), len(self._has)), spectra.dtype)
        terms = spectra.take(self._bins, 1)
        terms *= self._weights
        result[:, self._has] = np.add.reduceat(terms, self._firsts, 1)
        return result
