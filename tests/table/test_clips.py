"""Clips cut at two rates: the windows are those of the framing at either."""

import numpy as np
import pytest
from conftest import load_audio, write_noise
from stored import as_pcm

from edgesea.audio.framing import Framing
from edgesea.table.clips import clip_pieces
from edgesea.table.manifest import ClipEntry


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
    pieces = list(clip_pieces(entry, framing, student, teacher, None))
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
