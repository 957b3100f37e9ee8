"""Clips cut at two rates: the windows are those of the framing at either, at the same times, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
import soundfile
from conftest import write_noise
from stored import as_pcm

from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.extract import extract
from edgesea.table.clips import Rates, clip_pieces
from edgesea.table.manifest import ClipEntry
from edgesea.table.reader import Table

SECONDS = 120.0


def mean_twice(windows: np.ndarray) -> np.ndarray:
    """A teacher that tells where its windows lie, if the sound is a ramp."""
    return np.repeat(windows.mean(1, keepdims=True), 2, axis=1)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    ("window", "hop"),
    [(1.0, 1 / 30), (0.96, 0.3333), (0.0333, 0.0333), (0.0333, 0.0334), (0.1, 0.2001), (0.0333, 1.7), (1.0, 8.0)],
)
@pytest.mark.parametrize(
    ("rate", "student", "teacher"), [(44100, 8000, 48000), (22050, 16000, None), (8000, 8000, 500)]
)
def test_windows_at_both_rates_are_those_of_the_framing(tmp_path, rate, student, teacher, window, hop, center):
    path = write_noise(tmp_path / "a.wav", 7.3, rate)
    framing = Framing(window, hop, center)
    entry = ClipEntry(path.name, path, None, None, "train", None)
    pieces = list(clip_pieces(entry, Rates(framing, student, teacher, 1.0, False)))
    at = framing.at(student)
    expected = at.cut(as_pcm(load_audio(path, student)))
    starts = np.concatenate([piece.starts for piece, _ in pieces])
    assert starts.tolist() == [at.start(index) for index in range(len(expected))]
    for piece, _ in pieces:
        assert len(piece.pcm) <= 64 * at.window
        padded = np.pad(piece.pcm, at.window)
        for start, window_ in zip(piece.starts, expected[np.isin(starts, piece.starts)], strict=True):
            begin = at.window + start - piece.offset
            np.testing.assert_array_equal(padded[begin : begin + at.window], window_)
    at_teacher = framing.at(teacher or rate).cut(load_audio(path, teacher or rate))
    windows = np.concatenate([windows for _, windows in pieces])
    assert abs(len(at_teacher) - len(windows)) <= 1  # the student's rate decides
    both = min(len(at_teacher), len(windows))
    np.testing.assert_array_equal(windows[:both], at_teacher[:both])


@pytest.mark.parametrize("center", [True, False])
def test_teacher_and_student_hear_the_same_at_any_time(tmp_path, center):
    """The sound tells the time. At 8 kHz 1/30 s are 266.67 samples: rounded, 0.15 s would be lost in two minutes."""
    ramp = np.linspace(-0.9, 0.9, round(SECONDS * 48000))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "ramp.wav", ramp.astype(np.float32), 48000, subtype="FLOAT")
    options = {"window": 0.25, "hop": 1 / 30, "center": center, "dtype": "float32", "validate": 0.0}
    extract(tmp_path / "audio", tmp_path / "table", teacher="callable:test_clips:mean_twice@48000", **options)
    table = Table(tmp_path / "table")
    (chunk,) = table.chunks()
    audio, targets = table.audio(chunk, chunk.select(None)), table.embeddings(0, 0)
    # Where the ramp begins and ends it leaps, and resampled it rings.
    inside = (chunk.start > 800) & (chunk.start + 2800 < SECONDS * 8000)
    assert inside.sum() > 3580
    times = np.arange(len(chunk.start)) / 30 + (0.0 if center else 0.125)  # of the middles

    def heard(means: np.ndarray) -> np.ndarray:
        return (means / 0.9 + 1) * SECONDS / 2

    np.testing.assert_allclose(heard(audio.mean(1) / 32767)[inside], times[inside], atol=1.5 / 8000)
    np.testing.assert_allclose(heard(targets[:, 0])[inside], times[inside], atol=1.5 / 48000)
    np.testing.assert_allclose((chunk.start + 1000) / 8000, times, atol=1 / 8000)


@pytest.mark.parametrize(
    ("window", "hop", "most"), [(1.0, 1.0, 60e6), (0.1, 1.5, 8e6), (0.1, 60.0, 8e6), (0.1, 1e9, 8e6)]
)
def test_memory_depends_neither_on_length_nor_on_hop(tmp_path, window, hop, most):
    """Half an hour takes 115 MB at the teacher's rate; a hop of an hour would take as much for every window."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 8000 * 60, np.int16)
    soundfile.write(tmp_path / "long.wav", np.tile(noise, 30), 8000)
    entry = ClipEntry("long.wav", tmp_path / "long.wav", None, None, "train", None)
    framing = Framing(window, hop)
    tracemalloc.start()
    try:
        count = sum(len(piece.starts) for piece, _ in clip_pieces(entry, Rates(framing, 8000, 16000, 1.0, False)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == framing.at(8000).count(1800 * 8000)
    assert peak < most
