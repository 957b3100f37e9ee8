"""Clips cut at two rates: the windows are those of the framing at either."""

import numpy as np
import pytest
import soundfile
from conftest import cut_windows, load_audio, write_noise
from stored import assert_stored

from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.table.clips import ClipEntry, clip_pieces, to_pcm


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
    expected = cut_windows(at, load_audio(path, student))
    starts = np.concatenate([piece.starts for piece, _ in pieces])
    assert starts.tolist() == [at.start(index) for index in range(len(expected))]
    for piece, _ in pieces:
        assert len(piece.pcm) <= 64 * at.window
        padded = np.pad(piece.pcm * piece.scale, at.window)
        begins = at.window + piece.starts - piece.offset
        found = np.stack([padded[begin : begin + at.window] for begin in begins])
        assert_stored(found, expected[np.isin(starts, piece.starts)])
    at_teacher = cut_windows(framing.at(teacher or rate), load_audio(path, teacher or rate))
    windows = np.concatenate([windows for _, windows in pieces])
    assert abs(len(at_teacher) - len(windows)) <= 1  # the student's rate decides
    both = min(len(at_teacher), len(windows))
    np.testing.assert_array_equal(windows[:both], at_teacher[:both])


@pytest.mark.parametrize(
    ("audio", "scale"),
    [
        ([0, 0], 2.0**-15),
        ([], 2.0**-15),
        ([-1, 32767 / 32768], 2.0**-15),  # all that a 16-bit file can hold
        ([32768 / 32768, 0.5], 2.0**-14),
        ([20.5, -19.125], 2.0**-10),
        ([20.1, -19], 20.1 / 32767),
        ([-20.1, 19], 20.1 / 32768),
        ([3e38, -3e38], 3e38 / 32767),
        ([1e-4, -3e-5], 1e-4 / 32767),
        ([-(2.0**-111), 0], 2.0**-126),
        ([1e-45, -1e-40], 2.0**-126),  # subnormal numbers are silence
    ],
)
def test_stored_audio_has_a_scale_by_which_it_is_exact_or_else_fills_the_range(audio, scale):
    audio = np.array(audio, np.float32)
    pcm, found = to_pcm(audio)
    assert (pcm.dtype, found) == (np.int16, pytest.approx(scale, rel=1e-6))
    np.testing.assert_allclose(pcm * np.float32(found), audio, rtol=2e-7, atol=0.51 * scale)


@pytest.mark.parametrize("gain", [20.0, 1.0, 1e-2, 10**-3.5, 1e-6])
def test_loud_and_quiet_recordings_are_stored_as_finely_as_others(tmp_path, gain):
    """And samples of 16 bits exactly; the levels are the recording's."""
    audio = np.random.default_rng(0).uniform(-1, 1, 24000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", gain * audio, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.rint(32767 * gain * audio).clip(-32768, 32767).astype(np.int16), 8000)
    for path in (tmp_path / "a.wav", tmp_path / "b.wav"):
        ((piece, windows),) = clip_pieces(
            ClipEntry(path.name, path, None, None, "train", None), Framing(), 8000, None, None
        )
        heard = load_audio(path, 8000)
        exact = path.name == "b.wav"
        np.testing.assert_allclose(piece.pcm * piece.scale, heard, rtol=0, atol=(not exact) * gain / 65000)
        np.testing.assert_array_equal(windows.ravel(), heard)
        assert exact or piece.levels[0] == pytest.approx(max(-120, 20 * np.log10(gain) - 1.4), abs=0.1)


def test_audio_that_overflows_between_two_rates_cannot_be_stored():
    with pytest.raises(EdgeseaError):
        to_pcm(np.array([0, np.inf], np.float32))
