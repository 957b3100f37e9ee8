"""Clips as the table stores them: decoded once, at the student's and the teacher's rate, a few windows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, PieceCutter, SampleFraming, piece_windows
from edgesea.audio.framing import Piece as Cut
from edgesea.audio.io import RATES, AudioFile, Resampler
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import ClipEntry

Float32 = NDArray[np.float32]
PIECE_WINDOWS = 64  # windows of one clip that are decoded and held together
PCM_SCALE = 32767.0  # stored value of amplitude 1


def check_rate(name: str, rate: int) -> None:
    """Make sure that an option is a rate (Hz) that audio may have.

    Raises
    ------
    EdgeseaError
        If it lies outside of `edgesea.audio.io.RATES`.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise EdgeseaError(f"{name} must lie between {RATES[0]} and {RATES[1]} Hz, not {rate}")


@dataclass(frozen=True)
class Piece:
    """Consecutive windows of one clip, ready for the teacher and for storage.

    Attributes
    ----------
    offset : int
        Position of `pcm` in the clip, in samples at the student's rate.
    pcm : ndarray, (samples,) int16
        Audio at the student's rate that the windows cover.
    starts : ndarray, (n,) int64
        First sample of each window in the clip, at the student's rate.
    levels : ndarray, (n,) float32
        Levels in dB.
    windows : ndarray, (n, W) float32
        The windows at the teacher's rate.
    clipped : int
        Samples beyond full scale.
    """

    offset: int
    pcm: NDArray[np.int16]
    starts: NDArray[np.int64]
    levels: Float32
    windows: Float32
    clipped: int


@dataclass(frozen=True)
class Rates:
    """How clips are cut, and at which rates.

    Attributes
    ----------
    framing : Framing
        Window and hop in seconds.
    student : int
        Rate in Hz of the audio that is stored.
    teacher : int or None
        Rate in Hz of the windows for the teacher; None: each file's own.
    level : float
        Measured levels per second.
    measured : bool
        Whether the manifest has measured levels; then every clip needs them.
    """

    framing: Framing
    student: int
    teacher: int | None
    level: float
    measured: bool


def clip_pieces(entry: ClipEntry, rates: Rates) -> Iterator[Piece]:
    """Decode a clip once and cut it at both rates; the student's rate decides how many windows there are.

    Parameters
    ----------
    entry : ClipEntry
        The clip.
    rates : Rates
        How to cut it.

    Yields
    ------
    Piece
        Up to 64 windows at a time, so that memory does not depend on the length of the clip; fewer where they do not
        touch, so that neither does it depend on the hop.

    Raises
    ------
    EdgeseaError
        If the file cannot be used; pieces may have been handed out before.
    """
    if rates.measured and not entry.level:
        raise EdgeseaError("no level in the manifest, where other clips have one; the two scales do not mix")
    with AudioFile(entry.path) as file:
        both = rates.student, rates.teacher or file.sample_rate
        framings = [rates.framing.at(rate) for rate in both]
        cutters = [PieceCutter(framing, PIECE_WINDOWS) for framing in framings]
        cutters[1].size = cutters[0].size  # pieces of the same windows, however the two rates round
        resamplers = [Resampler(file.sample_rate, rate) for rate in both]
        queues: tuple[list[Cut], list[Cut]] = ([], [])

        def pair() -> Iterator[Piece]:
            while queues[0] and queues[1]:
                student, teacher = (queue.pop(0) for queue in queues)
                yield _piece(entry, rates, student, framings[0], piece_windows(teacher, framings[1]), both[1])

        for chunk in file.chunks():
            for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
                queue.extend(cutter.feed(resampler.feed(chunk)))
            yield from pair()
    for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
        queue.extend(cutter.feed(resampler.feed(np.zeros(0, np.float32), last=True)))
    count = framings[0].count(cutters[0].length)
    for cutter, queue in zip(cutters, queues, strict=True):
        queue.extend(cutter.finish(count))
    yield from pair()


def _piece(
    entry: ClipEntry, rates: Rates, student: Cut, framing: SampleFraming, windows: Float32, sample_rate: int
) -> Piece:
    """A cut of the student's audio, and the same windows at another rate."""
    starts = np.array([framing.start(student.first + k) for k in range(student.count)], np.int64)
    levels = (
        measured_level(entry.level, rates.level, starts, framing.window, rates.student)
        if entry.level
        else a_weighted_level(windows, sample_rate)
    )
    pcm, clipped = to_pcm(student.audio)
    return Piece(max(0, int(starts[0])), pcm, starts, levels, windows, clipped)


def to_pcm(audio: Float32) -> tuple[NDArray[np.int16], int]:
    """Audio in [-1, 1] as int16, and how many samples lie beyond and were clipped."""
    scaled = np.rint(audio * PCM_SCALE)
    pcm = np.clip(scaled, -32768, 32767)
    return pcm.astype(np.int16), int(np.count_nonzero(pcm != scaled))
