import numpy as np
import pytest
import soundfile
import soxr
from conftest import load_audio

from edgesea.audio.io import AudioFile, as_samples, first_invalid, to_mono
from edgesea.errors import EdgeseaError


def sine(rate: int, hz: float = 1000.0, seconds: float = 2.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.float64])
def test_pcm_is_scaled_to_one(kind):
    full, middle = (2 ** (8 * np.dtype(kind).itemsize - 1), 128 * (kind == np.uint8)) if kind != np.float64 else (1, 0)
    values = np.array([-1.0, 0.0, 0.5])
    samples = (values * full + middle).astype(kind)
    for audio in (samples, samples[:, None], np.stack([samples, samples], 1)):
        assert to_mono(as_samples("x", audio)).tolist() == values.tolist()
    assert first_invalid(np.array([0, np.nan, np.inf], np.float32)) == 1


@pytest.mark.parametrize("audio", ["abc", bytearray(4), [[1.0], [1.0, 2.0]], np.zeros((1, 1, 1)), np.int64([1])])
def test_what_is_not_samples_is_refused(audio):
    with pytest.raises(EdgeseaError, match="the chunk"):
        as_samples("the chunk", audio)


@pytest.mark.parametrize(("ending", "error"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05), ("mp3", 0.05)])
@pytest.mark.parametrize("rate", [16000, 8000, 48000])
def test_formats_are_decoded_and_resampled(tmp_path, ending, error, rate):
    soundfile.write(tmp_path / f"tone.{ending}", sine(16000), 16000)
    audio = load_audio(tmp_path / f"tone.{ending}", rate)
    assert audio.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(audio[len(audio) // 2 - rate // 2 :][:rate])) * 2 / rate
    assert spectrum.argmax() == 1000
    assert spectrum[1000] == pytest.approx(0.5, rel=max(error, 1e-3))


def test_a_file_longer_than_a_chunk_is_resampled_like_the_whole(tmp_path):
    audio = np.random.default_rng(2).uniform(-1, 1, (44100 * 23, 8)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", audio, 44100, subtype="FLOAT")
    with AudioFile(tmp_path / "long.wav") as file:
        assert [len(chunk) for chunk in file.chunks()] == [441000, 441000, 132300]
    whole = soxr.resample(audio.mean(1), 44100, 8000)
    np.testing.assert_allclose(load_audio(tmp_path / "long.wav", 8000), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.wav", b"hello " * 100, "Format not recognised"),
        ("text.mp3", b"hello " * 100, "Format not recognised"),
        ("empty.wav", b"", "Format not recognised"),
        ("gone.wav", None, "no such file"),
        ("", None, "is a folder"),
        ("nan.wav", (np.append(sine(8000), np.nan), 8000), "NaN"),
        ("inf.wav", (np.append(-np.inf, sine(8000)), 8000), "Inf"),
        ("none.wav", (np.zeros(0), 8000), "no samples"),
        ("slow.wav", (np.zeros(1000), 100), "100 Hz"),
        ("fast.wav", (np.zeros(1000), 2_000_000), "2000000 Hz"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, content, words):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content:
        soundfile.write(tmp_path / name, *content, subtype="FLOAT")
    with pytest.raises(EdgeseaError, match=f"{name}: .*{words}"):
        load_audio(tmp_path / name, 8000)
