"""The tools of the sound generators against direct computations."""

import numpy as np
import pytest

from edgesea.demo import dsp

RATE = 8000


def test_fast_length_is_the_next_good_size() -> None:
    good = {factor << power for factor in (1, 3, 5) for power in range(20)}
    for length in (1, 2, 3, 7, 100, 1025, 79999, 160000):
        assert dsp.fast_length(length) == min(size for size in good if size >= length)


def test_tone_is_the_sum_of_its_partials() -> None:
    found = dsp.tone(200.0, np.array([1.0, 0.0, 0.5]), RATE, RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(found)) / (RATE / 2)
    peak = np.sqrt(2.0 / (1.0 + 0.25))  # RMS 1
    np.testing.assert_allclose(spectrum[[200, 600]], [peak, 0.5 * peak], rtol=1e-3)
    spectrum[[200, 600]] = 0.0
    assert spectrum.max() < 1e-4


def test_tone_does_not_alias() -> None:
    pitch = np.linspace(500.0, 900.0, RATE)
    found = dsp.tone(pitch, np.ones(30), RATE, RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(found * np.hanning(RATE)))
    assert spectrum[int(0.46 * RATE) :].max() < 1e-3 * spectrum.max()


def test_noise_has_its_colour_and_rms_1() -> None:
    found = dsp.noise(5 * RATE, dsp.band(500.0, 1000.0, order=6), RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(found)) ** 2
    freqs = np.fft.rfftfreq(len(found), 1 / RATE)
    assert dsp.rms(found) == pytest.approx(1.0)
    assert power[(freqs > 400) & (freqs < 1200)].sum() > 0.95 * power.sum()


def test_band_and_tilt_have_their_slopes() -> None:
    freqs = np.array([0.0, 1000.0, 2000.0])
    edges = dsp.band(1000.0, 1e6, order=1)(freqs)
    np.testing.assert_allclose(edges[:2], [0.0, np.sqrt(0.5)], rtol=1e-4)
    np.testing.assert_allclose(20 * np.log10(dsp.tilt(-6.0, 1000.0)(freqs)), [0.0, 0.0, -6.0], atol=1e-9)


def test_convolved_is_the_start_of_the_convolution() -> None:
    rng = np.random.default_rng(0)
    signal, kernel = rng.standard_normal(1001), rng.standard_normal(57)
    np.testing.assert_allclose(dsp.convolved(signal, kernel), np.convolve(signal, kernel)[:1001], atol=1e-9)


def test_decay_falls_by_60_db() -> None:
    assert dsp.decay(RATE + 1, 1.0, RATE)[-1] == pytest.approx(1e-3)


def test_wander_is_smooth_and_passes_its_knots() -> None:
    found = dsp.wander(10 * RATE, 2.0, RATE, np.random.default_rng(3))
    knots = np.random.default_rng(3).standard_normal(22)
    np.testing.assert_allclose(found[:: RATE // 2], knots[:20], atol=1e-9)
    assert np.abs(np.diff(found)).max() < 0.005


def test_add_drops_what_overhangs() -> None:
    target = np.zeros(5)
    dsp.add(target, np.ones(4), 3)
    dsp.add(target, np.ones(4), 9)
    np.testing.assert_array_equal(target, [0, 0, 0, 1, 1])
