"""The sounds: valid for every tag, and as the tags say."""

import numpy as np
import pytest

from edgesea.demo.city import FINE
from edgesea.demo.sounds import RATE, make_sound, tone

CODES = [code for code in FINE if not code.endswith("X")]


def test_tone_is_the_sum_of_its_partials_and_does_not_alias():
    found = tone(200.0, [1.0, 0.0, 0.5], RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(found)) / (RATE / 2)
    peak = np.sqrt(2.0 / (1.0 + 0.25))  # RMS 1
    np.testing.assert_allclose(spectrum[[200, 600]], [peak, 0.5 * peak], rtol=1e-2)
    spectrum[[200, 600]] = 0.0
    assert spectrum.max() < 1e-2


@pytest.mark.parametrize("code", CODES)
def test_sound_is_finite_trimmed_and_repeatable(code):
    sound = make_sound(code, 2 * RATE, np.random.default_rng(5))
    assert 0 < len(sound) <= 2 * RATE
    assert np.isfinite(sound).all()
    assert min(abs(sound[0]), abs(sound[-1])) > 1e-3 * np.abs(sound).max() > 0
    np.testing.assert_array_equal(sound, make_sound(code, 2 * RATE, np.random.default_rng(5)))
    assert not np.array_equal(sound[:99], make_sound(code, 2 * RATE, np.random.default_rng(6))[:99])


@pytest.mark.parametrize(("low", "high"), [("1-3", "1-1"), ("2-4", "2-1"), ("1-2", "4-2"), ("6-2", "6-3")])
def test_variants_differ_in_their_spectra(low, high):
    def typical(code):
        """Median of the mean frequencies of a few sounds, weighted by power."""
        sounds = [make_sound(code, 2 * RATE, np.random.default_rng(seed)) for seed in range(7)]
        power = [np.abs(np.fft.rfft(sound, 2 * RATE)) ** 2 for sound in sounds]
        return float(np.median([np.average(np.arange(RATE + 1), weights=own) for own in power]))

    assert typical(low) < typical(high)
