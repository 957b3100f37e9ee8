"""What every kind of source is turned into: pieces of clips that have their embeddings already."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.table.building import check_range
from edgesea.table.manifest import ClipEntry
from edgesea.table.writer import PartWriter

Float32 = NDArray[np.float32]


def clip_name(path: Path, root: Path) -> str:
    """The name of a clip: its path below a folder, with what is no UTF-8 spelt out, as in a manifest."""
    return path.relative_to(root).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class EmbeddedPiece:
    """Consecutive windows of one clip with their embeddings.

    Attributes
    ----------
    offset : int
        Position of `pcm` in the clip, in samples at the stored rate.
    pcm : ndarray, (samples,) int16
        Audio that the windows cover.
    starts : ndarray, (n,) int64
        First sample of each window in the clip.
    levels : ndarray, (n,) float32
        Levels in dB.
    embeddings : ndarray, (n, D) float32
        The teacher's, all finite.
    clipped : int
        Samples beyond full scale.
    """

    offset: int
    pcm: NDArray[np.int16]
    starts: NDArray[np.int64]
    levels: Float32
    embeddings: Float32
    clipped: int


class PieceCollector:
    """Hands pieces to the writer of a part as they are (`edgesea.table.building.Collector`).

    Parameters
    ----------
    writer : PartWriter
        Of the part.
    dtype : {"float16", "float32"}
        The table's.
    teacher : str
        Its id, for messages.
    """

    def __init__(self, writer: PartWriter, dtype: str, teacher: str) -> None:
        self._writer, self._dtype, self._teacher = writer, dtype, teacher

    def add(self, entry: ClipEntry, piece: EmbeddedPiece) -> None:
        check_range(piece.embeddings, self._dtype, self._teacher, entry.clip)
        self._writer.add(entry, piece.offset, piece.pcm, piece.starts, piece.levels, piece.embeddings)

    def flush(self) -> None:
        """Nothing is held back."""
