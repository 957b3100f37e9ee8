"""`get_embedding`: arrays of any kind, at any rate, alone or in lists."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from conftest import cut_windows, peak_memory, write_noise
from quick_model import QUICK, moments

import edgesea
from edgesea import EdgeseaError, get_embedding
from edgesea.audio.framing import Framing
from edgesea.models.foreign import FunctionModel


def noise(samples, seed=0, channels=None):
    shape = samples if channels is None else (samples, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("samples", [8000, 8001, 100_000])
def test_embeddings_are_those_of_the_windows(center, samples):
    audio = noise(samples).astype(np.float32)
    embedding, timestamps = get_embedding(audio, 8000, QUICK, hop_size=0.3, center=center, batch_size=7)
    expected = moments(cut_windows(Framing(1.0, 0.3, center).at(8000), audio))
    assert (embedding.dtype, timestamps.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(timestamps, 0.3 * np.arange(len(expected)))


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(8000, 1, 3.0), (44100, 2, 25.3), (22050, 3, 12.0)])
def test_samples_and_their_file_give_the_same_bits(tmp_path, rate, channels, seconds):
    path = write_noise(tmp_path / "a.wav", seconds, rate, channels=channels)
    with np.load(edgesea.process_file(path, model="spectral")) as file:
        for dtype in ("float64", "float32", "int16", "int32"):
            audio, sr = soundfile.read(path, dtype=dtype)
            embedding, timestamps = get_embedding(audio, sr, "spectral")
            np.testing.assert_array_equal(embedding, file["embedding"])
            np.testing.assert_array_equal(timestamps, file["timestamps"])


def test_a_list_gives_what_each_array_gives_alone_and_shares_batches():
    sizes: list[int] = []
    model = FunctionModel("record", lambda rows: sizes.append(len(rows)) or moments(rows), 8000, embedding_size=3)
    rates = [8000, 44100, 16000, 48000]
    audio = [noise(rate * (index + 1), index, index or None) for index, rate in enumerate(rates)]
    embeddings, timestamps = get_embedding(audio, rates, model, batch_size=5)
    assert [len(embedding) for embedding in embeddings] == [6, 16, 26, 36]
    assert sizes == [5] * 16 + [4]
    for index, (signal, rate) in enumerate(zip(audio, rates, strict=True)):
        alone = get_embedding(signal, rate, QUICK)
        np.testing.assert_allclose(embeddings[index], alone[0], rtol=1e-6)
        np.testing.assert_array_equal(timestamps[index], alone[1])
    assert get_embedding([], 8000, QUICK) == ([], [])


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda audio: audio.astype(">f8"), 0),
        (lambda audio: audio[::-1].copy()[::-1], 0),
        (lambda audio: np.asfortranarray(np.stack([audio, audio], 1)), 0),
        (lambda audio: np.ma.array(audio, mask=np.zeros(8000, bool)), 0),
        (lambda audio: torch.from_numpy(np.stack([audio, audio], 1)).T.contiguous().T.requires_grad_(), 0),
        (lambda audio: audio.astype("<f2"), 1e-4),
        (lambda audio: np.round(audio * 2**15).astype("<i2"), 1e-4),
        (lambda audio: np.round(audio * 2.0**31).astype(">i4"), 1e-7),
        (lambda audio: np.round(audio * 2**7).astype("i1"), 5e-3),
        (lambda audio: np.round(audio * 2**7 + 2**7).astype("u1"), 5e-3),
    ],
)
def test_arrays_of_any_kind_are_understood(make, tolerance):
    audio = noise(8000)
    expected, _ = get_embedding(audio, 8000, QUICK)
    np.testing.assert_allclose(get_embedding(make(audio), 8000, QUICK)[0], expected, rtol=0, atol=tolerance)


def test_numbers_of_any_type_are_understood():
    audio = noise(8000)
    expected, _ = get_embedding(audio, 8000, QUICK)
    for sr, hop, center, batch_size in (
        (8000.0, Fraction(1, 10), np.bool_(True), np.int32(32)),
        (np.array(8000), np.array(0.1), 1, 10**30),  # as np.load gives them
        (np.array([8000]), np.float32(0.1), True, 1),
    ):
        embedding, _ = get_embedding(audio, sr, QUICK, hop, center, batch_size)
        np.testing.assert_allclose(embedding, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"audio": np.zeros((0, 2))}, "audio is empty"),
        ({"audio": np.ones((10, 10, 10))}, "(10, 10, 10)"),
        ({"audio": np.ones((2, 8000))}, "(2, 8000)"),
        ({"audio": np.ones(8000, np.int64)}, "int64"),
        ({"audio": [np.ones(8000), np.ma.masked_all(8000)]}, "audio[1] masks"),
        ({"audio": np.full(8000, 1e300)}, "audio holds NaN or Inf samples, the first at 0.000 s"),
        ({"audio": [[0.1, 0.2], [0.3]]}, "audio[0] must be an array"),
        ({"audio": "a.wav"}, "not str"),
        ({"sr": 0}, "sr must be a whole number"),
        ({"sr": [8000, 8000]}, "2 rates for 1 arrays"),
        ({"hop_size": 0}, "hop must be a positive number of seconds, not 0"),
        ({"hop_size": 1e300}, "hop must be a positive number of at most"),
        ({"hop_size": 1e-6}, "shorter than a sample at 8000 Hz"),
        ({"center": 1.5}, "center must be True or False, not 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"model": "invalid"}, "invalid"),
        ({"model": FunctionModel("broken", lambda windows: windows[:, :2] * np.nan, 8000)}, "broken gave NaN or Inf"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(EdgeseaError) as error:
        get_embedding(**{"audio": np.ones(8000), "sr": 8000, "model": QUICK, **options})
    assert words in str(error.value)


def test_long_audio_is_not_copied():
    """Ten minutes in double precision would take 211 MB, and in single precision 106 MB."""
    audio = np.tile(np.random.default_rng(0).integers(-3000, 3000, 44100 * 60, np.int16), 10)
    (embedding, _), peak = peak_memory(lambda: get_embedding(audio, 44100, QUICK, hop_size=1.0))
    assert len(embedding) == 601
    assert peak < 40e6
