"""Embedding whole files: decoded ahead in threads, cut into windows, embedded in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.io import AudioFile, resample_stream
from edgesea.audio.windows import Framing, PieceCutter, SampleFraming, batches, piece_windows
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel
from edgesea.prefetch import prefetch

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class FileEmbedding:
    """The embeddings of one file, or why there are none.

    Attributes
    ----------
    path : Path
        The file.
    embedding : ndarray, (T, D) float32, or None
        One row a window; None if the file could not be used.
    error : str
        Why not.
    """

    path: Path
    embedding: Float32 | None
    error: str = ""


def load_model(name: str, weights: Path | None = None, device: str = "cpu") -> EmbeddingModel:
    """A teacher by its id, or else a student by its folder, its .h5 file, or its published name (``edgel3/...``)."""
    from edgesea.models import is_teacher, load_student, load_teacher

    if is_teacher(name) or not (name.startswith("edgel3/") or name.endswith((".h5", ".h5.gz")) or Path(name).exists()):
        return load_teacher(name, weights, device)
    return load_student(name, device)


def file_windows(path: Path, framing: SampleFraming, sample_rate: int, size: int) -> Iterator[Float32]:
    """The windows of a file at `sample_rate` (Hz), in blocks (n <= size, W), in memory that its length does not set."""
    cutter = PieceCutter(framing, size)
    with AudioFile(path) as file:
        for chunk in resample_stream(file.chunks(), file.sample_rate, sample_rate):
            for piece in cutter.feed(chunk):
                yield piece_windows(piece, framing)
    for piece in cutter.finish():
        yield piece_windows(piece, framing)


def embed_files(
    model: EmbeddingModel, paths: Sequence[Path], framing: Framing, batch_size: int = 64, workers: int = 2
) -> Iterator[FileEmbedding]:
    """Embed files in order; a file that cannot be used gives its error instead of embeddings.

    Parameters
    ----------
    model : EmbeddingModel
        Teacher or student.
    paths : sequence of Path
        Audio files.
    framing : Framing
        Windows and hop in seconds.
    batch_size : int
        Windows embedded at once.
    workers : int
        Threads that decode ahead.
    """
    sample_framing = framing.at(model.sample_rate)
    sources = [partial(file_windows, path, sample_framing, model.sample_rate, batch_size) for path in paths]
    for path, blocks in zip(paths, prefetch(sources, workers), strict=True):
        try:
            embedding = np.concatenate([model.embed(batch) for batch in batches(blocks, batch_size)])
            if not np.isfinite(embedding).all():
                raise EdgeseaError(f"{model.id} gave NaN or Inf")
            yield FileEmbedding(path, embedding)
        except (EdgeseaError, OSError, MemoryError) as error:
            yield FileEmbedding(path, None, str(error).removeprefix(f"{path}: "))
