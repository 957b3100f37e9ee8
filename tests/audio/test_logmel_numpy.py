"""Shared frames give what every window gives by itself, and what the front end in torch gives."""

import numpy as np
import pytest
import torch

from edgesea.audio.logmel import KaldiLogMel, LogMel
from edgesea.audio.logmel_numpy import OverlappingKaldi, OverlappingLogMel
from edgesea.audio.mel import LogMelSettings

RATE = 8000
SEA = LogMelSettings(RATE, 1024, 160, 64)


def sound(seconds: float = 6.0) -> np.ndarray:
    """Noise, silence, a pure tone (between its bands lies nothing but rounding noise) and a click."""
    rng = np.random.default_rng(0)
    audio = 0.1 * rng.standard_normal(round(seconds * RATE))
    third = len(audio) // 3
    audio[third : third + RATE] = 0.0
    audio[2 * third :] = np.sin(2 * np.pi * 440.0 * np.arange(len(audio) - 2 * third) / RATE)
    audio[third + 100] = 1.0
    return audio.astype(np.float32)


def cut(audio: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    """Each window by itself, with zeros where the signal has ended or has not begun."""
    margin = window + int(np.abs(starts).max())
    padded = np.pad(audio, margin)
    return np.stack([padded[start + margin : start + margin + window] for start in starts])


def in_torch(settings: LogMelSettings, windows: np.ndarray) -> np.ndarray:
    """The definition (see test_logmel), in double precision to the end."""
    return LogMel(settings)(torch.from_numpy(windows).double()).numpy()


@pytest.mark.parametrize("first", [0, -4000, -4123])
@pytest.mark.parametrize("hop", [160, 800, 80, 8000, 1234, 1, 24000])
def test_shared_frames_are_those_of_each_window(hop, first):
    audio = sound()
    starts = first + hop * np.arange(min(12, 2 + 48000 // hop))  # beyond the end
    front_end = OverlappingLogMel(SEA)
    windows = cut(audio, starts, RATE)
    shared = front_end.levels(audio, starts, RATE)
    alone = np.concatenate([front_end.levels(window, np.array([0]), RATE) for window in windows])
    np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-12)
    # The bands far from a pure tone lie 150 dB below it, where double precision ends: two FFTs differ by 3e-9 dB there
    np.testing.assert_allclose(shared, in_torch(SEA, windows), rtol=0, atol=1e-8)
    assert shared.shape == (len(starts), 64, 50)


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        (LogMelSettings(48000, 2048, 242, 128, scale="slaney", levels="openl3", padding="end"), 48000),
        (LogMelSettings(48000, 512, 242, None, levels="openl3", padding="none"), 48000),
        (LogMelSettings(16000, 512, 200, 40, 7000.0), 15360),
        (LogMelSettings(RATE, 100, 160, 16), RATE),  # gaps between frames
        (LogMelSettings(RATE, 1024, 160, 16), 800),  # no frame fits into a window
        (LogMelSettings(RATE, 255, 100, 16), 1001),  # odd sizes
        (LogMelSettings(RATE, 255, 100, 16, levels="absolute", padding="none"), 1001),
    ],
)
def test_other_front_ends_are_those_in_torch(settings, window):
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, 2 * window).astype(np.float32)
    starts = settings.hop_length * np.array([5, 0, 3, -2, 20])  # in no order
    front_end = OverlappingLogMel(settings)
    expected = in_torch(settings, cut(audio, starts, window))
    tolerance = 1e-4 if settings.levels == "absolute" else 1e-9  # which is in single precision
    np.testing.assert_allclose(front_end.levels(audio, starts, window), expected, rtol=0, atol=tolerance)
    assert (settings.bands, settings.layout(window)[0]) == expected.shape[1:]


@pytest.mark.parametrize("hop", [16000, 8000, 12345, 32000, 48000])
def test_efficientat_front_end_is_that_in_torch(hop):
    audio = 0.1 * np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    starts = hop * np.arange(-1, 3)
    expected = KaldiLogMel()(torch.from_numpy(cut(audio, starts, 32000))).numpy()
    np.testing.assert_allclose(OverlappingKaldi().at(audio, starts, 32000), expected, rtol=0, atol=1e-4)


def test_frames_are_computed_once(monkeypatch):
    """Of 64 windows with a hop of five frames, 44 + 63 * 5 frames inside and 6 at the edges of each."""
    transformed = []
    rfft = np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda frames: transformed.append(len(frames)) or rfft(frames))
    OverlappingLogMel(SEA).at(sound(10.0), 800 * np.arange(64), RATE)
    assert sum(transformed) == 44 + 63 * 5 + 64 * 6
