import numpy as np
import pytest
import soxr

from edgesea.audio.resampling import Resampler
from edgesea.errors import EdgeseaError


def resampled(audio: np.ndarray, source: int, target: int, size: int, resampling: str = "soxr") -> np.ndarray:
    """A signal that comes in chunks of `size` samples."""
    resampler = Resampler(source, target, resampling)
    parts = [resampler.feed(audio[first : first + size]) for first in range(0, len(audio), size)]
    return np.concatenate([*parts, resampler.feed(np.zeros(0, np.float32), last=True)])


@pytest.mark.parametrize("target", [8000, 48000])
@pytest.mark.parametrize("source", [8000, 16000, 22050, 44100, 48000])
def test_not_a_bit_depends_on_the_chunks(source, target):
    """Streams rest on this: quiet bands of a spectrogram would show the smallest difference."""
    audio = np.random.default_rng(1).uniform(-1, 1, source + 17).astype(np.float32)
    whole = soxr.resample(audio, source, target)
    for size in (1, 7, 160, 4800, 48000):
        np.testing.assert_array_equal(resampled(audio, source, target, size), whole)


def as_edgel3(audio: np.ndarray, source: int, target: int) -> np.ndarray:
    """`resample(audio, source, target, filter="kaiser_best")` of resampy 0.2, which edgel3 and openl3 require."""
    right = np.linspace(0, 64, 64 * 512 + 1)
    table = 0.9475937167399596 * np.sinc(0.9475937167399596 * right)
    table *= np.kaiser(2 * len(right) - 1, 14.769656459379492)[len(right) - 1 :] * min(1, target / source)
    slopes = np.append(np.diff(table), 0)
    scale, step = min(1, target / source), int(min(1, target / source) * 512)
    times = np.cumsum(np.append(0, np.full(int(len(audio) * (target / source)) - 1, source / target)))
    result = np.zeros(len(times))
    for out, time in enumerate(times):
        before = int(time)
        for distance, samples in ((time - before, audio[before::-1]), (1 - (time - before), audio[before + 1 :])):
            place = scale * distance * 512
            rows = int(place) + step * np.arange(min(len(samples), (len(table) - int(place)) // step))
            result[out] += (table[rows] + (place - int(place)) * slopes[rows]) @ samples[: len(rows)]
    return result.astype(np.float32)


@pytest.mark.parametrize("size", [100, 4800, 48000])
@pytest.mark.parametrize(
    ("source", "target"), [(44100, 8000), (48000, 8000), (11025, 8000), (16000, 8000), (44100, 48000), (8001, 8000)]
)
def test_resampy_gives_the_samples_of_edgel3_and_openl3(source, target, size):
    pytest.importorskip("resampy")
    audio = np.random.default_rng(2).uniform(-1, 1, round(0.3 * source) + 1).astype(np.float32)
    expected = as_edgel3(audio.astype(np.float64), source, target)
    np.testing.assert_allclose(resampled(audio, source, target, size, "resampy"), expected, rtol=0, atol=2e-7)
    assert np.abs(resampled(audio, source, target, size)[: len(expected)] - expected).max() > 0.01  # soxr does not


def test_resampy_resamples_what_is_short_and_refuses_what_it_cannot():
    pytest.importorskip("resampy")
    assert [len(resampled(np.ones(size, np.float32), 48000, 8000, 1, "resampy")) for size in (1, 5, 6, 17)] == [
        0,
        0,
        1,
        2,
    ]
    assert resampled(np.ones(3, np.float32), 8000, 8000, 1, "resampy").tolist() == [1, 1, 1]
    with pytest.raises(EdgeseaError, match="1000000"):
        Resampler(1000000, 500, "resampy")
