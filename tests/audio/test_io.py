import numpy as np
import pytest
import soundfile
import soxr
from conftest import load_audio

from edgesea.audio.io import AudioFile
from edgesea.errors import EdgeseaError


def sine(rate: int, hz: float = 1000.0, seconds: float = 2.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


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
    audio = np.random.default_rng(2).uniform(-1, 1, (44100 * 3, 8)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", audio, 44100, subtype="FLOAT")
    with AudioFile(tmp_path / "long.wav") as file:
        assert [len(chunk) for chunk in file.chunks()] == [44100] * 3
    whole = soxr.resample(audio.mean(1), 44100, 8000)
    np.testing.assert_allclose(load_audio(tmp_path / "long.wav", 8000), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.wav", b"hello " * 100, "Format not recognised"),
        ("text.mp3", b"hello " * 100, "Format not recognised"),
        ("empty.wav", b"", "Format not recognised"),
        ("gone.wav", None, "No such file"),
        ("", None, "Is a directory"),
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
