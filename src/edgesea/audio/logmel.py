"""Log-mel front ends as torch modules (FFT based); `overlapping` has the same in numpy."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgesea.audio.mel import MelScale, Padding, frame_layout, kaldi_mel_filters, mel_filters


class LogMel(nn.Module):
    """The L3 family's log-(mel-)spectrogram in dB, relative to the maximum of each window.

    Frames of the windowed signal -> spectrum -> mel bands -> ``10 log10(max(., 1e-10))`` -> minus the window's maximum
    -> floor at -80 dB.

    Parameters
    ----------
    sample_rate, n_fft, hop_length : int
        Rate in Hz; FFT length and hop in samples. The analysis window is a periodic Hann window of `n_fft` samples.
    n_mels : int or None
        Number of mel bands between 0 Hz and `fmax`; None keeps the FFT bins.
    fmax : float or None
        Upper edge of the last band in Hz; None: half the sample rate.
    scale : {"htk", "slaney"}
        Mel scale.
    root_of_power : bool
        True: mel bands of the power spectrum, then the square root (SEA students). False: mel bands of the magnitude
        spectrum (OpenL3).
    padding : {"same", "end", "none"}
        Zeros on both sides, zeros after the end (both give ``ceil(samples / hop_length)`` frames), or none.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int | None,
        fmax: float | None = None,
        scale: MelScale = "htk",
        root_of_power: bool = True,
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.root_of_power = n_fft, hop_length, root_of_power
        self.padding: Padding = padding
        self.n_bands = n_fft // 2 + 1 if n_mels is None else n_mels
        self.register_buffer("hann", torch.hann_window(n_fft, dtype=torch.float64), persistent=False)
        self.mel: Tensor | None
        self.hann: Tensor
        if n_mels is None:
            self.mel = None
        else:
            filters = mel_filters(sample_rate, n_fft, n_mels, 0.0, fmax or sample_rate / 2.0, scale)
            self.register_buffer("mel", torch.from_numpy(filters.T.copy()), persistent=False)

    def frames(self, samples: int) -> int:
        """Number of frames of a window of `samples` samples."""
        return frame_layout(samples, self.n_fft, self.hop_length, self.padding)[0]

    def forward(self, windows: Tensor) -> Tensor:
        """Log-mel spectrograms (B, bands, frames) in dB, in [-80, 0], of windows (B, samples)."""
        _, before, after = frame_layout(windows.shape[-1], self.n_fft, self.hop_length, self.padding)
        windows = functional.pad(windows, (before, after))
        # A band may lie 160 dB below the loudest one before it reaches the floor (the root halves the decibels), which
        # is beyond single precision: a pure tone would leave rounding noise in the bands. Apple's GPUs have no doubles.
        precision = windows.dtype if windows.device.type == "mps" else torch.float64
        frames = windows.to(precision).unfold(-1, self.n_fft, self.hop_length)
        spectrum = torch.fft.rfft(frames * self.hann.to(precision))
        bands = spectrum.real.square() + spectrum.imag.square()
        if not self.root_of_power:
            bands = bands.sqrt()
        if self.mel is not None:
            bands = bands @ self.mel.to(precision)
        if self.root_of_power:
            bands = bands.sqrt()
        decibels = 10.0 * torch.log10(bands.clamp_min(1e-10)).transpose(-1, -2)
        return (decibels - decibels.amax((-2, -1), keepdim=True)).clamp_min(-80.0).to(windows.dtype)


class KaldiLogMel(nn.Module):
    """EfficientAT's front end: pre-emphasis, centred STFT, Kaldi mel bands, scaled natural logarithm.

    128 bands from 0 Hz to 15 kHz at 32 kHz; 1024-point FFT of 800-sample symmetric Hann windows, hop 320.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hann: Tensor
        self.mel: Tensor
        hann = torch.hann_window(800, periodic=False, dtype=torch.float64).float()
        self.register_buffer("hann", hann, persistent=False)
        filters = kaldi_mel_filters(32000, 1024, 128, 0.0, 15000.0).astype(np.float32)
        self.register_buffer("mel", torch.from_numpy(filters), persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """Scaled log-mel spectrograms (B, 128, frames) of windows (B, samples) at 32 kHz."""
        emphasised = windows[..., 1:] - 0.97 * windows[..., :-1]
        spectrum = torch.stft(emphasised, 1024, 320, 800, self.hann, center=True, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (torch.log(self.mel @ power + 1e-5) + 4.5) / 5.0
