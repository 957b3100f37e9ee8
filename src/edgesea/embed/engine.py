"""Embedding whole files: decoded ahead in threads, cut into windows, embedded in batches that reach over files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing, Piece, PieceCutter, SampleFraming, piece_starts, piece_windows
from edgesea.audio.io import AudioFile, resample_stream
from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, LogMelModel
from edgesea.parallel import prefetch

Float32 = NDArray[np.float32]
Cut = Callable[[Piece, SampleFraming], Float32]


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


def cut_spectrograms(front_end: OverlappingLogMel) -> Cut:
    """A function from a piece and its framing to the log-mel spectrograms (windows, bands, frames) of its windows."""

    def cut(piece: Piece, framing: SampleFraming) -> Float32:
        return front_end.at(piece.audio, piece_starts(piece, framing), framing.window)

    return cut


def input_of(model: EmbeddingModel) -> tuple[Cut, Callable[[Float32], Float32]]:
    """What to make of pieces of audio for a model, and what makes embeddings of it.

    Returns
    -------
    cut : callable
        From a piece and its framing to an array with one row a window: `piece_windows`, or for a student on the CPU
        the spectrograms, of which overlapping windows share frames.
    embed : callable
        From any number of such rows to embeddings (rows, D).
    """
    front_end = model.front_end if isinstance(model, LogMelModel) else None
    if isinstance(model, LogMelModel) and front_end is not None:
        return cut_spectrograms(front_end), model.embed_log_mel
    return piece_windows, model.embed


def file_windows(
    path: Path, framing: SampleFraming, sample_rate: int, size: int, cut: Cut = piece_windows
) -> Iterator[Float32]:
    """The windows of a file at `sample_rate` (Hz), in blocks (n <= size, W), in memory that its length does not set.

    With another `cut`, what that makes of them.
    """
    cutter = PieceCutter(framing, size)
    with AudioFile(path) as file:
        for chunk in resample_stream(file.chunks(), file.sample_rate, sample_rate):
            for piece in cutter.feed(chunk):
                yield cut(piece, framing)
    for piece in cutter.finish():
        yield cut(piece, framing)


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
        Windows and hop in seconds. The windows' length must be one that the model accepts.
    batch_size : int
        Windows embedded at once; short files share a batch.
    workers : int
        Threads that decode ahead.
    """
    sample_framing = framing.at(model.sample_rate)
    if model.window is not None and sample_framing.window != round(model.window * model.sample_rate):
        raise EdgeseaError(f"{model.id}: windows must last {model.window} s, not {framing.window} s")
    cut, embed = input_of(model)
    sources = [partial(file_windows, path, sample_framing, model.sample_rate, batch_size, cut) for path in paths]
    packer = _Packer(embed, batch_size)
    unfinished: deque[_File] = deque()
    for path, blocks in zip(paths, prefetch(sources, workers), strict=True):
        unfinished.append(_File(path))
        packer.read(unfinished[-1], blocks)
        while unfinished and unfinished[0].is_finished():
            yield unfinished.popleft().result(model)
    packer.flush()
    yield from (file.result(model) for file in unfinished)


@dataclass
class _File:
    """A file on its way: its embeddings so far, and the number of windows that wait for theirs."""

    path: Path
    embeddings: list[Float32] = field(default_factory=list)
    waiting: int = 0
    error: str = ""

    def fail(self, error: Exception) -> None:
        self.error = str(error).removeprefix(f"{self.path}: ") or type(error).__name__

    def is_finished(self) -> bool:
        return bool(self.error) or not self.waiting

    def result(self, model: EmbeddingModel) -> FileEmbedding:
        if self.error:
            return FileEmbedding(self.path, None, self.error)
        embedding = np.concatenate(self.embeddings)
        if not np.isfinite(embedding).all():
            return FileEmbedding(self.path, None, f"{model.id} gave NaN or Inf")
        return FileEmbedding(self.path, embedding)


class _Packer:
    """Collects the windows of files, in order, into batches of exactly `size` (the last may be smaller)."""

    def __init__(self, embed: Callable[[Float32], Float32], size: int) -> None:
        self._embed, self._size = embed, size
        self._batch: list[tuple[_File, Float32]] = []
        self._count = 0

    def read(self, file: _File, blocks: Iterable[Float32]) -> None:
        """Take in what a file gives, until it ends or cannot be used."""
        try:
            for block in blocks:
                self._add(file, block)
                if file.error:
                    return
        except (EdgeseaError, OSError, MemoryError) as error:
            file.fail(error)

    def _add(self, file: _File, block: Float32) -> None:
        while len(block) and not file.error:
            part = block[: self._size - self._count]
            self._batch.append((file, part))
            file.waiting += len(part)
            self._count += len(part)
            block = block[len(part) :]
            if self._count == self._size:
                self.flush()

    def flush(self) -> None:
        """Embed what has been collected."""
        batch = [(file, part) for file, part in self._batch if not file.error]
        self._batch, self._count = [], 0
        if not batch:
            return
        try:
            self._hand_out(batch)
        except (EdgeseaError, OSError, MemoryError) as error:
            if all(file is batch[0][0] for file, _ in batch):
                batch[0][0].fail(error)
            else:  # one file must not be to blame for another
                self._embed_apart(batch)

    def _embed_apart(self, batch: list[tuple[_File, Float32]]) -> None:
        for file, part in batch:
            try:
                if not file.error:
                    self._hand_out([(file, part)])
            except (EdgeseaError, OSError, MemoryError) as error:
                file.fail(error)

    def _hand_out(self, batch: list[tuple[_File, Float32]]) -> None:
        parts = [part for _, part in batch]
        embedding = self._embed(parts[0] if len(parts) == 1 else np.concatenate(parts))
        for (file, _), rows in zip(batch, np.split(embedding, np.cumsum([len(p) for p in parts])[:-1]), strict=True):
            file.embeddings.append(rows)
            file.waiting -= len(rows)
