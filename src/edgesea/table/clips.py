"""The clips of a table, cut into parts, and decoded a few windows at a time."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, PieceCutter, piece_starts, piece_windows
from edgesea.audio.io import AudioFile, Truncated, checked_count, checked_hop, checked_rate, checked_share
from edgesea.audio.level import a_weighted_level, measured_level
from edgesea.audio.resampling import Resampler
from edgesea.embed.engine import cut_rows
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel

log = logging.getLogger(__name__)
Float32 = NDArray[np.float32]
PIECE_WINDOWS = 64  # windows of one clip that are decoded and held together
BLOCK = 1 << 12  # clips that are Python's objects at a time
# Half the size of Python's text, which numpy 1 has to do with
TEXT = np.dtypes.StringDType(na_object=None) if hasattr(np.dtypes, "StringDType") else np.dtype(object)
END = np.zeros(0, np.float32)  # the chunk behind the last
PART_BYTES = 1 << 30  # source bytes after which a part is closed early, so that long recordings do not pile up in one


class ClipEntry(NamedTuple):
    """One clip of a manifest."""

    clip: str  # name: the path below the root, with forward slashes
    file: Path | str
    sensor: str | None = None
    time: str | None = None  # start, ISO 8601
    split: str = ""
    level: tuple[float, ...] | None = None  # measured, in dB SPL, evenly spaced from the start of the clip
    label: str | None = None  # colours the map of windows in a report; nothing is learned from it
    embeddings: Path | str = ""  # of an import: the file that holds them, or why there is none
    size: int = -1  # bytes of the file; -1 where there is none

    @property
    def path(self) -> Path:
        return Path(self.file)


FIELDS = ClipEntry._fields
# Most columns are objects, of which few are different.
DTYPES: dict[str, Any] = dict.fromkeys(FIELDS, object) | {"clip": TEXT, "time": TEXT, "size": np.int64}


class Manifest(Sequence[ClipEntry]):
    """Clips, in columns by the fields of `ClipEntry`, for there may be millions; a slice is a manifest, too.

    The column `file` is empty where that is the clip's name below `root`.
    """

    def __init__(self, root: Path, columns: dict[str, NDArray[Any]]) -> None:
        self.root, self.columns = root, columns

    def rows(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Some fields of all clips."""
        for first in range(0, len(self), BLOCK):
            yield from zip(*(self.columns[name][first : first + BLOCK].tolist() for name in names), strict=True)

    def files(self) -> Iterator[Path | str]:
        return (file or f"{self.root}/{clip}" for clip, file in self.rows("clip", "file"))

    def __len__(self) -> int:
        return len(self.columns["clip"])

    def __iter__(self) -> Iterator[ClipEntry]:
        for clip, file, *known in self.rows(*FIELDS):
            yield ClipEntry(clip, file or f"{self.root}/{clip}", *known)

    def __getitem__(self, where: Any) -> Any:
        if isinstance(where, int):
            return next(iter(self[where : where + 1 or None]))
        return Manifest(self.root, {name: column[where] for name, column in self.columns.items()})


def check_options(sample_rate: int, level_rate: float, max_skipped: float, **counts: int) -> None:
    """EdgeseaError for a number that neither `extract` nor `import_table` can use."""
    for name, count in counts.items():
        checked_count(name, count)
    checked_rate("sample_rate", sample_rate)
    checked_hop("level_rate", level_rate, "readings per second")
    checked_share("max_skipped", max_skipped)


def cut_parts(entries: Manifest, clips: int) -> list[Manifest]:
    """Cut the manifest into parts; only names and file sizes matter, so every run cuts alike."""
    totals, cuts = np.cumsum(np.maximum(entries.columns["size"], 0)), [0]
    while cuts[-1] < len(entries):
        before = totals[cuts[-1] - 1] if cuts[-1] else 0
        full = int(np.searchsorted(totals, before + PART_BYTES, "right"))
        cuts.append(min(max(full, cuts[-1] + 1), cuts[-1] + clips, len(entries)))
    return [entries[first:last] for first, last in pairwise(cuts)]


# --- decoding


@dataclass(frozen=True)
class Piece:
    """Consecutive windows of one clip as they are stored, without their embeddings."""

    entry: ClipEntry
    offset: int  # position of `pcm` in the clip, in samples at the student's rate
    pcm: NDArray[np.int16]  # audio at the student's rate that the windows cover, divided by `scale`
    starts: NDArray[np.int64]  # first sample of each window in the clip, at the student's rate
    levels: Float32  # of each window, in dB
    scale: float = 2.0**-15


def clip_pieces(
    entry: ClipEntry,
    framing: Framing,
    sample_rate: int,
    teacher_rate: int | None,
    level_rate: float | None,
    truncated: Truncated = "skip",
    model: EmbeddingModel | None = None,
) -> Iterator[tuple[Piece, Float32]]:
    """Decode a clip once and cut it at both rates; the student's rate decides how many windows there are.

    Yields pieces of up to 64 windows, and these windows at the teacher's rate (None: the file's own), or the rows that
    `model` takes of them. There are fewer where windows do not touch, so that memory depends neither on the length of
    the clip nor on the hop. With a `level_rate`, the clip must have measured levels, so many per second.
    """
    if level_rate and not entry.level:
        raise EdgeseaError("no level in the manifest, where other clips have one; the two scales do not mix")
    with AudioFile(entry.path, truncated) as file:
        rates = sample_rate, teacher_rate or file.sample_rate
        student, teacher = (framing.at(rate) for rate in rates)
        cutters = PieceCutter(student, PIECE_WINDOWS), PieceCutter(teacher, PIECE_WINDOWS)
        cutters[1].size = cutters[0].size  # pieces of the same windows, however the two rates round
        resamplers = [Resampler(file.sample_rate, rate, framing.resampler) for rate in rates]
        queues: tuple[list[Any], list[Any]] = [], []  # pieces that wait for those of the other rate
        for chunk in chain(file.chunks(), [END]):
            for cutter, resampler, queue in zip(cutters, resamplers, queues, strict=True):
                queue.extend(cutter.feed(resampler.feed(chunk, last=chunk is END)))
                if chunk is END:
                    queue.extend(cutter.finish(student.count(cutters[0].length)))
            while all(queues):
                cut, of_teacher = queues[0].pop(0), queues[1].pop(0)
                windows = piece_windows(of_teacher, teacher)
                offset = max(0, student.start(cut.first))
                starts = piece_starts(cut, student) + offset
                if level_rate and entry.level:
                    levels = measured_level(entry.level, level_rate, starts, student.window, sample_rate)
                else:
                    levels = a_weighted_level(windows, rates[1])
                pcm, scale = to_pcm(cut.audio)
                rows = cut_rows(model, of_teacher, teacher) if model else windows
                yield Piece(entry, offset, pcm, starts, levels, scale), rows
        for note in file.notes:
            log.warning("%s: %s", entry.clip, note)


def to_pcm(audio: Float32) -> tuple[NDArray[np.int16], float]:
    """Audio as int16, and the scale, a normal float32, by which that is to be multiplied.

    It is a power of two where that loses nothing, as with files of 16 bits, and else lets the peak fill the range.
    """
    least = max(float(audio.max(initial=0)) / 32767, float(audio.min(initial=0)) / -32768)
    if not math.isfinite(least):
        raise EdgeseaError("its samples exceed single precision at the student's rate")
    mantissa, exponent = math.frexp(least or 2.0**-15)  # silence has the scale of a file of 16 bits
    power = 2.0 ** max(exponent - (mantissa == 0.5), -126)
    pcm = audio / np.float32(power)
    if (pcm == np.rint(pcm)).all():
        return pcm.astype(np.int16), power
    scale = max(float(np.float32(least)), 2.0**-126)
    return np.rint(audio / np.float32(scale)).astype(np.int16), scale
