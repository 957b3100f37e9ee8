"""Log-mel front ends as torch modules (FFT based); `logmel_numpy` has the same in numpy."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgesea.audio.mel import DYNAMIC_RANGE, FLOOR, KALDI, LogMelSettings, kaldi_mel_filters


class LogMel(nn.Module):
    """The log-(mel-)spectrogram of OpenL3 and the students, in dB."""

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("hann", torch.from_numpy(settings.hann()), persistent=False)
        self.mel: Tensor | None
        self.hann: Tensor
        filters = settings.filters()
        mel = None if filters is None else torch.from_numpy(filters.T.copy())
        self.register_buffer("mel", mel, persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """Log-mel spectrograms (B, bands, frames) of windows (B, samples); relative ones lie in [-80, 0]."""
        settings = self.settings
        _, before, after = settings.layout(windows.shape[-1])
        windows = functional.pad(windows, (before, after))
        # A band may lie 160 dB below the loudest one before it reaches the floor (the root halves the decibels), which
        # is beyond single precision: a pure tone would leave rounding noise in the bands. Apple's GPUs have no doubles.
        single = settings.levels == "absolute" or windows.device.type == "mps"
        precision = windows.dtype if single else torch.float64
        frames = windows.to(precision).unfold(-1, settings.n_fft, settings.hop_length)
        spectrum = torch.fft.rfft(frames * self.hann.to(precision))
        bands = spectrum.real.square() + spectrum.imag.square()
        if settings.levels == "openl3":
            bands = bands.sqrt()
        if self.mel is not None:
            bands = bands @ self.mel.to(precision)
        if settings.levels == "sea":
            bands = bands.sqrt()
        decibels = 10.0 * torch.log10(bands.clamp_min(FLOOR)).transpose(-1, -2)
        if settings.levels != "absolute":
            decibels = (decibels - decibels.amax((-2, -1), keepdim=True)).clamp_min(-DYNAMIC_RANGE)
        return decibels.to(windows.dtype)


class KaldiLogMel(nn.Module):
    """EfficientAT's front end: pre-emphasis, centred STFT, Kaldi mel bands, scaled natural logarithm.

    `KALDI`, with 800-sample symmetric Hann windows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hann: Tensor
        self.mel: Tensor
        hann = torch.hann_window(800, periodic=False, dtype=torch.float64).float()
        self.register_buffer("hann", hann, persistent=False)
        filters = kaldi_mel_filters(KALDI).astype(np.float32)
        self.register_buffer("mel", torch.from_numpy(filters), persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """Scaled log-mel spectrograms (B, 128, frames) of windows (B, samples) at 32 kHz."""
        emphasised = windows[..., 1:] - 0.97 * windows[..., :-1]
        spectrum = torch.stft(emphasised, KALDI.n_fft, KALDI.hop_length, 800, self.hann, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (torch.log(self.mel @ power + 1e-5) + 4.5) / 5.0
