"""The L3 family's log-mel spectrograms in numpy, for windows that overlap: frames that they share are computed once."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgesea.audio.mel import DYNAMIC_RANGE, FLOOR, LogMelSettings

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
FRAMES_AT_ONCE = 64  # 1 MB at most; larger arrays would go back to the system, and come again, at every step


class OverlappingLogMel:
    """Log-(mel-)spectrograms of windows of one signal; `logmel.LogMel` computes the same with torch.

    A frame that lies inside several windows is computed once, wherever they begin. The frames that reach into a
    window's zero padding (6 of 50 of a SEA student), the maximum and the floor belong to each window.
    """

    def __init__(self, settings: LogMelSettings) -> None:
        self.settings = settings
        self._hann = settings.hann()
        filters = settings.filters()
        self._mel = None if filters is None else _Filters(filters)

    def __call__(self, windows: Float32) -> Float32:
        """Spectrograms (B, bands, frames) of separate windows (B, samples); see `at`."""
        count, samples = windows.shape
        return self.at(np.ascontiguousarray(windows).reshape(-1), samples * np.arange(count), samples)

    def at(self, audio: Float32, starts: NDArray[np.integer], window: int) -> Float32:
        """What `levels` gives, in single precision."""
        return self.levels(audio, starts, window).astype(np.float32)

    def levels(self, audio: Float32, starts: NDArray[np.integer], window: int) -> Float64:
        """Spectrograms (N, bands, frames) in dB below the maximum of each window, in [-80, 0], of a signal (samples,).

        `starts` (N,) are the first samples of the windows, in any order; before and after the signal there are zeros.
        """
        n_fft, hop_length = self.settings.n_fft, self.settings.hop_length
        count, before, after = self.settings.layout(window)
        result = np.empty((len(starts), count, self.settings.bands))
        if not len(starts):
            return result.transpose(0, 2, 1)
        zeros = max(0, -int(starts.min())), max(0, int(starts.max()) + window - len(audio))  # around the signal
        audio, first = np.pad(audio, zeros) if any(zeros) else audio, np.asarray(starts, np.int64) + zeros[0]
        offsets = hop_length * np.arange(count) - before
        inside = (offsets >= 0) & (offsets + n_fft <= window)
        if inside.any():
            places = first[:, None] + offsets[inside]
            wanted = np.zeros(len(audio), bool)
            wanted[places] = True
            rows = np.cumsum(wanted) - 1  # of a wanted place among them; sorting the places would take longer
            result[:, inside] = self._decibels(audio, np.flatnonzero(wanted))[rows[places]]
        if not inside.all():
            padded = np.zeros((len(first), before + window + after), np.float32)
            padded[:, before : before + window] = sliding_window_view(audio, window)[first]
            rows = padded.shape[1] * np.arange(len(first))
            places = rows[:, None] + hop_length * np.flatnonzero(~inside)
            result[:, ~inside] = self._decibels(padded.reshape(-1), places.reshape(-1)).reshape(*places.shape, -1)
        result -= result.max((1, 2), keepdims=True)
        return np.maximum(result, -DYNAMIC_RANGE, out=result).transpose(0, 2, 1)

    def _decibels(self, audio: Float32, places: NDArray[np.int64]) -> Float64:
        """Bands (places, bands) in dB of the frames that begin at `places`; in doubles, as `logmel.LogMel` explains."""
        frames = sliding_window_view(audio, self.settings.n_fft)
        result = np.empty((len(places), self.settings.bands))
        for first in range(0, len(places), FRAMES_AT_ONCE):
            part = slice(first, first + FRAMES_AT_ONCE)
            spectrum = np.fft.rfft(frames[places[part]] * self._hann)
            bands = np.square(spectrum.real) + np.square(spectrum.imag)
            if not self.settings.root_of_power:
                bands = np.sqrt(bands)
            if self._mel is not None:
                bands = self._mel(bands)
            if self.settings.root_of_power:
                bands = np.sqrt(bands)
            result[part] = 10.0 * np.log10(np.maximum(bands, FLOOR))
        return result


class _Filters:
    """Filters (bands, bins) of neighbouring bins, without a matrix product.

    Most weights of a mel filter bank are zero. And numpy's products start threads that wait in loops for work: those of
    the network would get half the processor.
    """

    def __init__(self, filters: Float64) -> None:
        bands, self._bins = np.nonzero(filters)
        self._weights = filters[bands, self._bins]
        self._filled, self._begins = np.unique(bands, return_index=True)  # narrow bands may have no bin
        self._bands = len(filters)

    def __call__(self, spectra: Float64) -> Float64:
        """The bands (frames, bands) of spectra (frames, bins)."""
        result = np.zeros((len(spectra), self._bands))
        result[:, self._filled] = np.add.reduceat(spectra[:, self._bins] * self._weights, self._begins, axis=1)
        return result
