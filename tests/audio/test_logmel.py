import numpy as np
import pytest
import torch

from edgesea.audio.logmel import KaldiLogMel, LogMel
from edgesea.audio.mel import KALDI, LogMelSettings, kaldi_mel_filters, mel_filters


def test_kaldi_filters_by_hand():
    """1127 ln(1 + f / 700) cut into 129 steps of 27.163 mel up to 15 kHz; bin 1 (31.25 Hz) lies at 1.812 steps."""
    step = 1127 * np.log(1 + 15000 / 700) / 129
    position = 1127 * np.log(1 + 31.25 / 700) / step
    filters = kaldi_mel_filters(KALDI)
    assert filters.shape == (128, 513)
    assert filters[:3, 1].tolist() == pytest.approx([2 - position, position - 1, 0.0])
    assert not filters[:, 0].any()
    assert not filters[:, 480:].any()  # 15 kHz and above


def test_frames_cover_a_window_as_tensorflow_pads_it():
    """ceil(8000 / 160) frames; 49 * 160 + 1024 - 8000 zeros, half of them (rounded down) before the window."""
    assert LogMelSettings(8000, 1024, 160, 64).layout(8000) == (50, 432, 432)
    assert LogMelSettings(8000, 1025, 160, 64).layout(8000) == (50, 432, 433)
    assert LogMelSettings(8000, 1024, 160, 64, padding="end").layout(8000) == (50, 0, 864)
    assert LogMelSettings(8000, 1024, 160, 64, padding="none").layout(8000) == (44, 0, 0)
    assert LogMelSettings(8000, 100, 160, 64).layout(8000) == (50, 0, 0)
    assert LogMelSettings(48000, 2048, 242, 256, padding="end").layout(48000) == (199, 0, 1964)


def definition(audio: np.ndarray, settings: LogMelSettings, pad: tuple[int, int]) -> np.ndarray:
    """The front end step by step, in double precision."""
    padded, n_fft = np.pad(audio.astype(np.float64), pad), settings.n_fft
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = [padded[i : i + n_fft] * hann for i in range(0, len(padded) - n_fft + 1, settings.hop_length)]
    bands = np.abs(np.fft.rfft(frames)) ** (1 if settings.levels == "openl3" else 2)
    if settings.n_mels:
        rate = settings.sample_rate
        bands = bands @ mel_filters(rate, n_fft, settings.n_mels, rate / 2, settings.scale).T
    decibels = 10 * np.log10(np.maximum(np.sqrt(bands) if settings.levels == "sea" else bands, 1e-10)).T
    return decibels if settings.levels == "absolute" else np.maximum(decibels - decibels.max(), -80.0)


def signals(rate: int) -> list[np.ndarray]:
    """Noise, a pure tone (between its bands lies nothing but rounding noise), and a click."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(rate)
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    click = np.eye(1, rate, rate // 3)[0]
    return [signal.astype(np.float32) for signal in (noise, tone, click)]


@pytest.mark.parametrize(
    ("settings", "pad"),
    [
        (LogMelSettings(8000, 1024, 160, 64), (432, 432)),  # the students'
        (LogMelSettings(48000, 2048, 242, 128, None, "slaney", "openl3", "end"), (0, 199 * 242 - 242 + 2048 - 48000)),
        (LogMelSettings(48000, 512, 242, None, None, "slaney", "openl3", "none"), (0, 0)),
    ],
)
def test_l3_front_ends_are_their_definition(settings, pad):
    """Relative to each window's maximum."""
    windows = signals(settings.sample_rate)
    result = LogMel(settings)(torch.from_numpy(np.stack([*windows, 1e-3 * windows[0]])))
    assert result.dtype == torch.float32
    for found, signal in zip(result, [*windows, 1e-3 * windows[0]], strict=True):
        np.testing.assert_allclose(found.numpy(), definition(signal, settings, pad), atol=1e-4)


def test_absolute_levels_are_their_definition():
    """Down to where single precision ends, 110 dB below the loudest band."""
    settings, windows = LogMelSettings(16000, 512, 160, 64, levels="absolute", padding="none"), signals(16000)
    found = LogMel(settings)(torch.from_numpy(np.stack([*windows, 1e-3 * windows[0]]))).numpy()
    assert found.shape == (4, 64, 97)
    for decibels, signal in zip(found, [*windows, 1e-3 * windows[0]], strict=True):
        expected = definition(signal, settings, (0, 0))
        floor = max(expected.max() - 110, -100.0)
        np.testing.assert_allclose(decibels.clip(floor), expected.clip(floor), atol=0.01)
    np.testing.assert_allclose(found[0] - found[3], 60.0, atol=1e-3)


def test_efficientat_front_end_is_its_definition():
    signal = signals(32000)[0]
    emphasised = signal[1:] - np.float32(0.97) * signal[:-1]
    padded = np.pad(emphasised.astype(np.float64), 512, mode="reflect")
    hann = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799), 112)  # symmetric
    frames = [padded[i : i + 1024] * hann for i in range(0, len(padded) - 1023, 320)]
    bands = np.abs(np.fft.rfft(frames)) ** 2 @ kaldi_mel_filters(KALDI).T
    expected = (np.log(bands + 1e-5) + 4.5) / 5
    result = KaldiLogMel()(torch.from_numpy(signal)[None])[0].numpy()
    assert result.shape == (128, 100)
    np.testing.assert_allclose(result, expected.T, atol=1e-4)
