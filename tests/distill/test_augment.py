import pytest
import torch

from edgesea.distill.augment import mask_spectrogram, vary_levels


def seeded():
    return torch.Generator().manual_seed(0)


def test_masks_hide_at_most_their_share_and_differ_between_windows():
    hidden = mask_spectrogram(torch.ones(200, 1, 64, 50), 0.125, seeded()) == 0
    bands, frames = hidden.all(3)[:, 0].sum(1), hidden.all(2)[:, 0].sum(1)
    assert 8 < int(bands.max()) <= 16  # two masks of up to 8 bands
    assert 6 < int(frames.max()) <= 12
    assert len({tuple(row.tolist()) for row in hidden.flatten(1)}) > 190


def test_spectrograms_are_moved_by_whole_frames_and_repeat_their_edge():
    levels = torch.arange(10.0).expand(50, 4, 10)
    moved = vary_levels(levels, 3, 0.0, seeded())
    offsets = (levels - moved)[:, 0, 4:6]
    assert sorted(set(offsets.flatten().tolist())) == [-3, -2, -1, 0, 1, 2, 3]
    assert torch.equal(moved, (levels - offsets[:, :1, None]).clamp(0, 9))


def test_levels_change_by_up_to_the_gain_but_silence_stays():
    levels = torch.rand(200, 8, 10) * 60 - 80
    levels[:, 0], levels[:, 1] = -100, -97
    change = vary_levels(levels, 0, 6.0, seeded()) - levels
    assert not change[:, 0].any()
    assert change[:, 1].min() == pytest.approx(-3, abs=1e-4)
    assert torch.allclose(change[:, 2:], change[:, 2:3, :1].expand(200, 6, 10), atol=1e-4)
    assert -6 <= change.min() < -5.5
    assert 5.5 < change.max() <= 6


def test_two_processes_vary_windows_as_one():
    levels = torch.randn(12, 8, 10)
    whole = mask_spectrogram(vary_levels(levels, 3, 6.0, generator := seeded())[:, None], 0.5, generator)
    for rank in range(2):
        place, generator = (rank, 2), seeded()
        mine = mask_spectrogram(
            vary_levels(levels[rank::2], 3, 6.0, generator, *place)[:, None], 0.5, generator, *place
        )
        assert torch.equal(mine, whole[rank::2])
