"""What a log-mel spectrogram is: its settings, mel filter banks, and where its frames lie."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Padding = Literal["same", "end", "none"]
MelScale = Literal["htk", "slaney"]
Levels = Literal["sea", "openl3", "absolute"]
FLOOR = 1e-10  # smallest value of a band before the logarithm
DYNAMIC_RANGE = 80.0  # dB below a window's maximum


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, fmax: float, scale: MelScale) -> NDArray[np.float64]:
    """Triangular mel filters (n_mels, n_fft // 2 + 1) with unit area (slaney normalisation) from 0 to `fmax` Hz.

    Scale: O'Shaughnessy's formula as in HTK, or linear below 1 kHz and logarithmic above (Slaney's Auditory Toolbox).
    """
    bins = np.linspace(0.0, sample_rate / 2.0, n_fft // 2 + 1)
    if scale == "htk":
        mel = np.linspace(0.0, 2595.0 * np.log10(1.0 + fmax / 700.0), n_mels + 2)
        edges = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    else:
        top = fmax / (200.0 / 3.0) if fmax < 1000.0 else 15.0 + 27.0 * np.log(fmax / 1000.0) / np.log(6.4)
        mel = np.linspace(0.0, top, n_mels + 2)
        edges = np.where(mel < 15.0, mel * (200.0 / 3.0), 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))
    return np.asarray(_triangles(bins, edges) * 2.0 / (edges[2:, None] - edges[:-2, None]))


def kaldi_mel_filters(settings: "LogMelSettings") -> NDArray[np.float64]:
    """Mel filters from 0 Hz as in Kaldi: triangles on the mel axis, unit peak, no weight at the Nyquist bin."""
    rate = settings.sample_rate
    mel = 1127.0 * np.log(1.0 + np.linspace(0.0, rate / 2.0, settings.n_fft // 2 + 1) / 700.0)
    edges = np.linspace(0.0, 1127.0 * np.log(1.0 + (settings.fmax or rate / 2.0) / 700.0), settings.bands + 2)
    triangles = _triangles(mel, edges)
    triangles[:, -1] = 0.0
    return triangles


def _triangles(bins: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Triangles (bands, bins) that rise and fall between neighbouring edges (bands + 2,), with unit peak."""
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.asarray(np.maximum(0.0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid))))


@dataclass(frozen=True)
class LogMelSettings:
    """Everything that fixes a log-(mel-)spectrogram; `logmel` and `logmel_numpy` compute it.

    Frames of the windowed signal -> spectrum -> mel bands -> ``10 log10(max(., FLOOR))``; in the L3 family minus the
    window's maximum, and not below `-DYNAMIC_RANGE`. The analysis window is a periodic Hann window of `n_fft` samples.
    """

    sample_rate: int  # Hz
    n_fft: int  # samples
    hop_length: int  # samples
    n_mels: int | None  # mel bands between 0 Hz and fmax; None: the FFT bins
    fmax: float | None = None  # Hz; None: half the sample rate
    scale: MelScale = "htk"
    # sea: the root of mel bands of the power, openl3: mel bands of magnitudes, both in dB below the window's maximum;
    # absolute: mel bands of the power, in dB re a constant, so that a frame's levels do not depend on later ones
    levels: Levels = "sea"
    padding: Padding = "same"  # zeros on both sides as in TensorFlow (the odd one at the end), at the end, or none

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop_length", "n_mels"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and (name, value) != ("n_mels", None):
                raise EdgeseaError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.fmax is not None and not 0 < self.fmax <= self.sample_rate / 2:
            raise EdgeseaError(f"fmax must lie in (0, {self.sample_rate / 2}] Hz, not {self.fmax}")

    @property
    def bands(self) -> int:
        return self.n_fft // 2 + 1 if self.n_mels is None else self.n_mels

    def layout(self, samples: int) -> tuple[int, int, int]:
        """Number of frames, and of zeros before and after a window of `samples` samples."""
        if self.padding == "none":
            return 1 + (samples - self.n_fft) // self.hop_length, 0, 0
        frames = -(-samples // self.hop_length)
        total = max(0, (frames - 1) * self.hop_length + self.n_fft - samples)
        before = total // 2 if self.padding == "same" else 0
        return frames, before, total - before

    def hann(self) -> NDArray[np.float64]:
        return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(self.n_fft) / self.n_fft))

    def filters(self) -> NDArray[np.float64] | None:
        """The mel filter bank, (n_mels, n_fft // 2 + 1); None: the FFT bins."""
        if self.n_mels is None:
            return None
        fmax = self.fmax or self.sample_rate / 2.0
        return mel_filters(self.sample_rate, self.n_fft, self.n_mels, fmax, self.scale)


# EfficientAT's, whose frames have a window of their own, Kaldi's filters and another logarithm
KALDI = LogMelSettings(32000, 1024, 320, 128, 15000.0, levels="absolute")
