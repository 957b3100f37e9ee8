import numpy as np
import pytest

import edgesea
from edgesea.models.spectral import BANDS

RATE = 16000
TIME = np.arange(RATE) / RATE


@pytest.fixture(scope="module")
def teacher():
    return edgesea.load_teacher("spectral")


def statistics(teacher, window: np.ndarray) -> np.ndarray:
    """(8, bands): mean, standard deviation, two percentiles, four modulations."""
    return teacher.embed(window.astype(np.float32)[None])[0].reshape(8, BANDS)


@pytest.mark.parametrize("samples", [1, 400, 16000, 48000])
def test_windows_of_any_length_give_finite_embeddings(teacher, samples):
    for windows in (np.random.default_rng(0).uniform(-1, 1, (2, samples)), np.zeros((2, samples))):
        embedding = teacher.embed(windows.astype(np.float32))
        assert embedding.shape == (2, teacher.embedding_size) == (2, 512)
        assert np.isfinite(embedding).all()


def test_a_tone_is_loud_in_its_band_and_steady(teacher):
    mean, deviation, low, high, *_ = statistics(teacher, np.sin(2 * np.pi * 2000 * TIME))
    # Of 64 bands that are equally wide on the HTK scale up to 8 kHz, the one around 2 kHz
    step = 2595 * np.log10(1 + 8000 / 700) / (BANDS + 1)
    assert abs(mean.argmax() - (2595 * np.log10(1 + 2000 / 700) / step - 1)) <= 1
    band = mean.argmax()
    assert deviation[band] < 3.0
    assert (low <= high).all()
    assert high[band] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("hz", "strongest"), [(2.5, 0), (6, 1), (12, 2), (24, 3)])
def test_modulation_shows_at_its_rate(teacher, hz, strongest):
    noise = np.random.default_rng(0).standard_normal(4 * RATE)
    time = np.arange(len(noise)) / RATE
    modulations = statistics(teacher, 0.1 * noise * (1 + 0.9 * np.sin(2 * np.pi * hz * time)))[4:]
    assert (modulations.mean(1).argmax()) == strongest


def test_embeddings_do_not_depend_on_the_level_or_the_batch(teacher):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (3, RATE)).astype(np.float32)
    together = teacher.embed(noise)
    np.testing.assert_allclose(teacher.embed(noise[1:2]), together[1:2], atol=1e-4)
    np.testing.assert_allclose(teacher.embed(noise * np.float32(0.01)), together, atol=1e-3)
