"""Clips as a table stores them: decoded once, at the student's and the teacher's rate, a few windows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.audio import framing as cuts
from edgesea.audio.framing import Framing, PieceCutter, piece_windows
from edgesea.audio.io import AudioFile, Resampler
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import ClipEntry

Float32 = NDArray[np.float32]
PIECE_WINDOWS = 64  # windows of one clip that are decoded and held together
PCM_SCALE = 32767.0  # stored value of amplitude 1
END = np.zeros(0, np.float32)  # the chunk behind the last


@dataclass(frozen=True)
class Piece:
    """Consecutive windows of one clip as they are stored, without their embeddings."""

    entry: ClipEntry
    offset: int  # position of `pcm` in the clip, in samples at the student's rate
    pcm: NDArray[np.int16]  # audio at the student's rate that the windows cover
    starts: NDArray[np.int64]  # first sample of each window in the clip, at the student's rate
    levels: Float32  # of each window, in dB
    clipped: int = 0  # samples beyond full scale


class Job(NamedTuple):
    """What is to be imported."""

    size: int  # dimensions of the embeddings
    plan: dict[str, Any]  # what depends on the kind of input: framing, level, input, manifest_sha256
    parts: list[list[Any]]  # sources of each part
    read: Callable[[Any], Iterator[tuple[Any, Float32]]]  # yields the pieces of a source with their embeddings
    clips: int


def clip_pieces(
    entry: ClipEntry, framing: Framing, sample_rate: int, teacher_rate: int | None, level_rate: float | None
) -> Iterator[tuple[Piece, Float32]]:
    """Decode a clip once and cut it at both rates; the student's rate decides how many windows there are.

    Yields pieces of up to 64 windows, and these windows at the teacher's rate (None: the file's own). There are fewer
    where windows do not touch, so that memory depends neither on the length of the clip nor on the hop. With a
    `level_rate`, the clip must have measured levels, so many per second.
    """
    if level_rate and not entry.level:
        raise EdgeseaError("no level in the manifest, where other clips have one; the two scales do not mix")
    with AudioFile(entry.path) as file:
        rates = sample_rate, teacher_rate or file.sample_rate
        student, teacher = (framing.at(rate) for rate in rates)
        cutters = PieceCutter(student, PIECE_WINDOWS), PieceCutter(teacher, PIECE_WINDOWS)
        cutters[1].size = cutters[0].size  # pieces of the same windows, however the two rates round
        resamplers = [Resampler(file.sample_rate, rate) for rate in rates]
        queues: tuple[list[cuts.Piece], list[cuts.Piece]] = ([], [])
        for chunk in chain(file.chunks(), [END]):
            for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
                queue.extend(cutter.feed(resampler.feed(chunk, last=chunk is END)))
            if chunk is END:
                for cutter, queue in zip(cutters, queues, strict=True):
                    queue.extend(cutter.finish(student.count(cutters[0].length)))
            while queues[0] and queues[1]:
                cut, windows = queues[0].pop(0), piece_windows(queues[1].pop(0), teacher)
                starts = np.array([student.start(cut.first + k) for k in range(cut.count)], np.int64)
                if level_rate and entry.level:
                    levels = measured_level(entry.level, level_rate, starts, student.window, sample_rate)
                else:
                    levels = a_weighted_level(windows, rates[1])
                pcm, clipped = to_pcm(cut.audio)
                yield Piece(entry, max(0, int(starts[0])), pcm, starts, levels, clipped), windows


def to_pcm(audio: Float32) -> tuple[NDArray[np.int16], int]:
    """Audio in [-1, 1] as int16, and how many samples lie beyond and were clipped."""
    scaled = np.rint(audio * PCM_SCALE)
    pcm = np.clip(scaled, -32768, 32767)
    return pcm.astype(np.int16), int(np.count_nonzero(pcm != scaled))
