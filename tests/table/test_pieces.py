"""Clips cut at two rates: the windows are those of the framing at either, at the same times, in bounded memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import write_noise

from edgesea.audio.framing import Framing
from edgesea.audio.io import load_audio
from edgesea.distill.data import WindowSource
from edgesea.extract import extract
from edgesea.reduction.pca import Identity
from edgesea.table.manifest import ClipEntry
from edgesea.table.pieces import PCM_SCALE, Piece, Rates, clip_pieces
from edgesea.table.reader import Table

SECONDS = 120.0


def mean_twice(windows: np.ndarray) -> np.ndarray:
    """A teacher that tells where its windows lie, if the sound is a ramp."""
    return np.repeat(windows.mean(1, keepdims=True), 2, axis=1)


def pieces_of(path: Path, framing: Framing, student: int, teacher: int | None) -> list[Piece]:
    entry = ClipEntry(path.name, path, None, None, "train", None)
    return list(clip_pieces(entry, Rates(framing, student, teacher, 1.0, False)))


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
    pieces = pieces_of(path, framing, student, teacher)
    at = framing.at(student)
    audio = load_audio(path, student)
    expected = at.cut(np.rint(audio * PCM_SCALE).astype(np.int16))
    starts = np.concatenate([piece.starts for piece in pieces])
    assert starts.tolist() == [at.start(index) for index in range(len(expected))]
    for piece in pieces:
        assert len(piece.pcm) <= 64 * at.window
        padded = np.pad(piece.pcm, at.window)
        for start, window_ in zip(piece.starts, expected[np.isin(starts, piece.starts)], strict=True):
            begin = at.window + start - piece.offset
            np.testing.assert_array_equal(padded[begin : begin + at.window], window_)
    there = framing.at(teacher or rate)
    at_teacher = there.cut(load_audio(path, teacher or rate))
    windows = np.concatenate([piece.windows for piece in pieces])
    assert abs(len(at_teacher) - len(windows)) <= 1  # the student's rate decides
    both = min(len(at_teacher), len(windows))
    np.testing.assert_array_equal(windows[:both], at_teacher[:both])


@pytest.mark.parametrize("center", [True, False])
def test_teacher_and_student_hear_the_same_at_any_time(tmp_path, center):
    """The sound tells the time. At 8 kHz 1/30 s are 266.67 samples: rounded, 0.15 s would be lost in two minutes."""
    ramp = np.linspace(-0.9, 0.9, round(SECONDS * 48000))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "ramp.wav", ramp.astype(np.float32), 48000, subtype="FLOAT")
    extract(
        tmp_path / "audio",
        tmp_path / "table",
        teacher="callable:test_pieces:mean_twice@48000",
        window=0.25,
        hop=1 / 30,
        center=center,
        dtype="float32",
        validate=0.0,
    )
    table, phi = Table(tmp_path / "table"), Identity()
    phi.fit(table.iter_embeddings())
    source = WindowSource(table, phi, "train")
    starts = np.concatenate([chunk.start for chunk in table.chunks()])
    loaded = [source.load(part, group) for part, group, _ in source.chunks]
    audio, targets = (np.concatenate(parts) for parts in zip(*loaded, strict=True))
    # Where the ramp begins and ends it leaps, and resampled it rings.
    inside = (starts > 800) & (starts + 2800 < SECONDS * 8000)
    assert inside.sum() > 3580
    times = np.arange(len(starts)) / 30 + (0.0 if center else 0.125)  # of the middles

    def heard(means: np.ndarray) -> np.ndarray:
        return (means / 0.9 + 1) * SECONDS / 2

    np.testing.assert_allclose(heard(audio.mean(1) / PCM_SCALE)[inside], times[inside], atol=1.5 / 8000)
    np.testing.assert_allclose(heard(targets[:, 0])[inside], times[inside], atol=1.5 / 48000)
    np.testing.assert_allclose((starts + 1000) / 8000, times, atol=1 / 8000)


@pytest.mark.parametrize("hop", [1.5, 60.0, 1e9])
def test_memory_does_not_depend_on_the_hop(tmp_path, hop):
    """Half an hour takes 58 MB at the student's rate; a hop of an hour would take as much for every window."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 8000 * 60, np.int16)
    soundfile.write(tmp_path / "long.wav", np.tile(noise, 30), 8000)
    entry = ClipEntry("long.wav", tmp_path / "long.wav", None, None, "train", None)
    rates = Rates(Framing(0.1, hop), 8000, 16000, 1.0, False)
    tracemalloc.start()
    try:
        counts = [len(piece.starts) for piece in clip_pieces(entry, rates)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(counts) == Framing(0.1, hop).at(8000).count(1800 * 8000)
    assert peak < 8e6


def test_a_hop_of_decades_gives_a_table(tmp_path):
    write_noise(tmp_path / "audio" / "a.wav", 3.0)
    result = extract(tmp_path / "audio", tmp_path / "table", hop=1e9, validate=0.0)
    (chunk,) = Table(tmp_path / "table").chunks()
    assert (result["windows"], chunk.start.tolist()) == (2, [0, 8 * 10**12])
    assert not Table(tmp_path / "table").audio(chunk, np.array([1])).any()  # it lies beyond the end
