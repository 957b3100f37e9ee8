import numpy as np
import pytest

from edgesea.audio.level import a_weighted_level, measured_level


def sine(hz: float, rate: int, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(2 * rate) / rate)).astype(np.float32)[None]


@pytest.mark.parametrize("rate", [8000, 16000, 32000, 48000])
@pytest.mark.parametrize(
    ("hz", "weight", "tolerance"),
    [(31.5, -39.4, 0.3), (100, -19.1, 0.3), (1000, 0.0, 0.01), (2000, 1.2, 0.3)],
)
def test_a_curve_of_iec_61672(rate, hz, weight, tolerance):
    """Table 3 of IEC 61672-1; a full-scale sine at 1 kHz has 0 dB."""
    assert a_weighted_level(sine(hz, rate), rate)[0] == pytest.approx(weight, abs=tolerance)


def test_silence_has_the_floor():
    assert a_weighted_level(np.zeros((2, 8000), np.float32), 8000).tolist() == [-120.0, -120.0]
    assert a_weighted_level(np.full((1, 8000), 0.5, np.float32), 8000)[0] == -120.0  # A weighting removes a constant


def test_a_window_averages_the_energies_of_the_readings_that_it_touches():
    """A single reading holds for the clip, and the last one after the others."""
    starts = np.array([-4000, 0, 4000, 8000, 80000])
    levels = measured_level([50.0, 60.0, 70.0], 1.0, starts, 8000, 8000)
    assert levels.tolist() == pytest.approx([50.0, 50.0, 10 * np.log10((1e5 + 1e6) / 2), 60.0, 70.0])
    assert measured_level([65.5], 1.0, starts, 8000, 8000).tolist() == [65.5] * 5


@pytest.mark.parametrize("rate", [1.0, 3.0, 8.0, 10.0, 100.0])
def test_windows_on_the_readings_grid_take_whole_readings(rate):
    """Window k takes the readings k ... k + rate - 1 and none beside, whatever the rounding of k / rate."""
    readings = np.random.default_rng(0).uniform(40, 90, 400)
    starts = np.arange(0, 250) * 48000 // round(rate)
    expected = [
        10 * np.log10(np.mean(10 ** (readings[k : k + round(rate)] / 10))) for k in range(250) if k + rate <= 400
    ]
    levels = measured_level(readings.tolist(), rate, starts, 48000, 48000)
    np.testing.assert_allclose(levels[: len(expected)], expected, atol=1e-4)
