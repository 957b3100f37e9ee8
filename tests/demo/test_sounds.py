"""The sounds: valid for every tag and rate, and as the tags say."""

import numpy as np
import pytest

from edgesea.demo.sounds import background, make_sound
from edgesea.demo.taxonomy import FINE

CODES = [code for code in FINE if not code.endswith("X")]


def centroid(sound: np.ndarray, rate: int) -> float:
    """Mean frequency in Hz, weighted by power."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float(np.average(np.fft.rfftfreq(len(sound), 1 / rate), weights=power))


@pytest.mark.parametrize("rate", [8000, 22050])
@pytest.mark.parametrize("code", CODES)
def test_sound_is_finite_trimmed_and_repeatable(code: str, rate: int) -> None:
    sound = make_sound(code, 2 * rate, rate, np.random.default_rng(5))
    assert 0 < len(sound) <= 2 * rate
    assert np.isfinite(sound).all()
    peak = np.abs(sound).max()
    assert min(abs(sound[0]), abs(sound[-1])) > 1e-3 * peak > 0
    np.testing.assert_array_equal(sound, make_sound(code, 2 * rate, rate, np.random.default_rng(5)))
    assert not np.array_equal(sound[:99], make_sound(code, 2 * rate, rate, np.random.default_rng(6))[:99])


@pytest.mark.parametrize(("low", "high"), [("1-3", "1-1"), ("2-4", "2-1"), ("1-2", "4-2"), ("6-2", "6-3")])
def test_variants_differ_in_their_spectra(low: str, high: str) -> None:
    def typical(code: str) -> float:
        return float(np.median([centroid(make_sound(code, 16000, 8000, rng), 8000) for rng in generators]))

    generators = [np.random.default_rng(seed) for seed in range(7)]
    assert typical(low) < typical(high)


def test_hammers_keep_their_rates() -> None:
    """The strongest modulation of a hoe-ram lies at 4.5 to 9 Hz (or at its double)."""
    sound = make_sound("2-3", 48000, 8000, np.random.default_rng(1))
    envelope = np.add.reduceat(sound**2, np.arange(0, len(sound), 80))  # 100 Hz
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    freqs = np.fft.rfftfreq(len(envelope), 0.01)
    spectrum[freqs < 3.0] = 0.0  # pauses
    assert 4.0 < freqs[spectrum.argmax()] < 18.5


def test_background_has_rms_1_and_its_hum() -> None:
    found = background(16000, lambda freqs: np.ones_like(freqs), 0.5, 8000, np.random.default_rng(0))
    assert np.sqrt(np.mean(found**2)) == pytest.approx(1.0)
    spectrum = np.abs(np.fft.rfft(found))
    assert spectrum.argmax() == 240  # 120 Hz
