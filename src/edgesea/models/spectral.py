"""The ``spectral`` teacher: hand-crafted statistics of a log-mel spectrogram; it has no weights and works offline."""

import torch
from torch import Tensor

from edgesea.audio.logmel import LogMel
from edgesea.audio.mel import LogMelSettings
from edgesea.models.torch_model import TorchModel

BANDS = 64
MODULATIONS = ((1.5, 4.0), (4.0, 8.0), (8.0, 16.0), (16.0, 32.0))  # Hz


class Spectral(TorchModel):
    """Windows of any length at 16 kHz -> 512 statistics, eight for each of 64 mel bands.

    Of the band's level in dB (relative to the window's maximum): mean, standard deviation, 10th and 90th percentile,
    and the strength of its modulation (in dB) at 1.5-4, 4-8, 8-16 and 16-32 Hz.
    """

    id = "spectral"
    sample_rate = 16000
    window: float | None = None
    embedding_size = 8 * BANDS

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel(LogMelSettings(self.sample_rate, n_fft=512, hop_length=160, n_mels=BANDS))

    def forward(self, windows: Tensor) -> Tensor:
        """Statistics (B, 512) of windows (B, W)."""
        levels: Tensor = self.log_mel(windows)
        mean = levels.mean(-1)
        percentiles = torch.quantile(levels, torch.tensor([0.1, 0.9], dtype=levels.dtype, device=levels.device), dim=-1)
        centred = levels - mean[..., None]
        spectrum = torch.fft.rfft(centred * torch.hann_window(levels.shape[-1], device=levels.device)).abs()
        rates = torch.fft.rfftfreq(levels.shape[-1], self.log_mel.settings.hop_length / self.sample_rate)
        strengths = []
        for low, high in MODULATIONS:
            chosen = spectrum[..., (rates >= low) & (rates < high)]
            rms = chosen.square().mean(-1).sqrt() if chosen.shape[-1] else torch.zeros_like(mean)
            strengths.append(20.0 * torch.log10(rms / levels.shape[-1] + 1e-2))
        std = centred.square().mean(-1).sqrt()
        return torch.cat([mean, std, *percentiles, *strengths], -1)
