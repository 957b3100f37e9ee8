"""Clips as the table stores them: decoded once, at the student's and the teacher's rate, a few windows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.io import AudioFile, Resampler
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.audio.windows import Framing, PieceCutter, piece_windows
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import ClipEntry

Float32 = NDArray[np.float32]
PIECE_WINDOWS = 64  # windows of one clip that are decoded and held together


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
    student, teacher : int
        Rates in Hz.
    level : float
        Measured levels per second.
    measured : bool
        Whether the manifest has measured levels; then every clip needs them.
    """

    framing: Framing
    student: int
    teacher: int
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
        Up to 64 windows at a time, so that memory does not depend on the length of the clip.

    Raises
    ------
    EdgeseaError
        If the file cannot be used; pieces may have been handed out before.
    """
    student_framing = rates.framing.at(rates.student)
    teacher_framing = rates.framing.at(rates.teacher, hop_rate=rates.student)  # the same places, however long the clip
    cutters = PieceCutter(student_framing, PIECE_WINDOWS), PieceCutter(teacher_framing, PIECE_WINDOWS)
    queues: tuple[list[Any], list[Any]] = ([], [])

    def pair() -> Iterator[Piece]:
        while queues[0] and queues[1]:
            student, teacher = queues[0].pop(0), queues[1].pop(0)
            starts = np.array([student_framing.start(student.first + k) for k in range(student.count)], np.int64)
            windows = piece_windows(teacher, teacher_framing)
            levels = (
                measured_level(entry.level, rates.level, starts, student_framing.window, rates.student)
                if entry.level
                else a_weighted_level(windows, rates.teacher)
            )
            scaled = np.rint(student.audio * 32767.0)
            pcm = np.clip(scaled, -32768, 32767)
            clipped = int(np.count_nonzero(pcm != scaled))
            yield Piece(max(0, int(starts[0])), pcm.astype(np.int16), starts, levels, windows, clipped)

    if rates.measured and not entry.level:
        raise EdgeseaError("no level in the manifest, where other clips have one; the two scales do not mix")
    with AudioFile(entry.path) as file:
        resamplers = Resampler(file.sample_rate, rates.student), Resampler(file.sample_rate, rates.teacher)
        for chunk in file.chunks():
            for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
                queue.extend(cutter.feed(resampler.feed(chunk)))
            yield from pair()
    for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
        queue.extend(cutter.feed(resampler.feed(np.zeros(0, np.float32), last=True)))
    count = student_framing.count(cutters[0].length)
    for cutter, queue in zip(cutters, queues, strict=True):
        queue.extend(cutter.finish(count))
    yield from pair()
