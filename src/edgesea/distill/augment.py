"""What training windows are changed by: their spectrograms are moved, louder or softer, and masked."""

import math

import torch
from torch import Tensor

from edgesea.audio.mel import FLOOR


def mask_spectrogram(
    spectrogram: Tensor, share: float, generator: torch.Generator, rank: int = 0, world: int = 1
) -> Tensor:
    """Set random bands and frames to zero, the mean of a normalised spectrogram (SpecAugment, Park et al., 2019).

    Each of the (B, 1, bands, frames) gets two masks on either axis, of a width of up to `share` of the axis; those of
    a process are of every `world`-th window, from `rank` on.
    """
    batch, rows = len(spectrogram) * world, slice(rank, None, world)
    for axis in (2, 3, 2, 3):
        size = spectrogram.shape[axis]
        widths = (torch.rand(batch, generator=generator) * (round(share * size) + 1)).long()
        starts = (torch.rand(batch, generator=generator) * (size - widths + 1)).long()
        position = torch.arange(size)
        hidden = ((position >= starts[:, None]) & (position < (starts + widths)[:, None]))[rows]
        shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
        spectrogram = spectrogram.masked_fill(hidden.reshape(shape).to(spectrogram.device), 0.0)
    return spectrogram


def vary_levels(
    levels: Tensor, frames: int, gain: float, generator: torch.Generator, rank: int = 0, world: int = 1
) -> Tensor:
    """Move each of the log-mel spectrograms (B, bands, frames) by up to so many frames, and its levels by `gain` dB.

    What moves in repeats the frame at the edge, which makes no onset that the teacher did not hear. Digital silence
    stays at the floor. The windows of a process are those of `mask_spectrogram`.
    """
    batch, count, rows = len(levels) * world, levels.shape[2], slice(rank, None, world)
    if frames:
        moves = torch.randint(-frames, frames + 1, (batch, 1), generator=generator)[rows]
        places = (torch.arange(count) - moves).clamp(0, count - 1).to(levels.device)
        each = torch.arange(len(levels), device=levels.device)[:, None]
        levels = levels.transpose(1, 2)[each, places].transpose(1, 2)
    if gain:
        change = (2 * torch.rand(batch, 1, 1, generator=generator)[rows] - 1).to(levels.device) * gain
        lowest = 10 * math.log10(FLOOR)
        levels = torch.where(levels > lowest + 1e-3, (levels + change).clamp_min(lowest), levels)
    return levels
