"""Embeddings of audio that is still coming, in chunks of any size."""

from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgesea.audio.framing import Framing, Piece, PieceCutter
from edgesea.audio.io import (
    CHUNK_SECONDS,
    Resampler,
    as_samples,
    checked_count,
    checked_flag,
    checked_hop,
    checked_rate,
    first_invalid,
    to_mono,
)
from edgesea.embed.engine import cut_rows, embed_rows
from edgesea.errors import EdgeseaError
from edgesea.models import ModelOrName, load_model
from edgesea.models.base import window_of

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Embedded = tuple[Float32, Float64]  # embedding (t, D), timestamps (t,) in seconds

MOST_CHANNELS = 128  # a second axis longer than that is time
FEW_CHANNELS = 8  # a longer one that is longer than the first is, too, in the first chunk


class Stream:
    """Embeds one signal as it comes; all parts together are what the whole file gives.

    ``feed`` returns a window as soon as its last sample has come through the resampler. With windows of 1 s, the one
    of timestamp t is returned with the chunk that brings t + 0.5 s if centred, else t + 1 s. Another rate than the
    model's delays that by what soxr works on at once: 20 to 180 ms between the usual rates (8 kHz from 16 kHz 116, from
    44.1 kHz 80, from 48 kHz 158; 48 kHz from 44.1 kHz 21). Memory is that of one window, one chunk and
    `batch_size` windows, however long the stream or the hop. As a context manager it gives its memory back at the end.

    Parameters
    ----------
    model : EmbeddingModel, path or str
        A loaded student or teacher, or what one is loaded from; see `get_embedding`.
    hop_size : float
        Seconds between windows. They need not be a whole number of samples; nothing drifts.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    sample_rate : int, optional
        Rate of the chunks in Hz; default: the model's.
    batch_size : int
        Windows embedded at once, where a chunk completes so many.

    Raises
    ------
    EdgeseaError
        If the model cannot be loaded, or a value is out of range.
    """

    def __init__(
        self,
        model: ModelOrName,
        hop_size: float = 0.1,
        center: bool = True,
        sample_rate: float | None = None,
        batch_size: int = 64,
    ) -> None:
        hop, centered = checked_hop("hop_size", hop_size), checked_flag("center", center)
        self._batch_size = checked_count("batch_size", batch_size)
        self.model = load_model(model)
        self.sample_rate = self.model.sample_rate if sample_rate is None else checked_rate("sample_rate", sample_rate)
        self._framing = Framing(window_of(self.model), hop, centered)
        self._samples_framing = self._framing.at(self.model.sample_rate)
        self.reset()

    def reset(self) -> None:
        """Forget what was fed, and begin another signal."""
        self._resampler = Resampler(self.sample_rate, self.model.sample_rate)
        self._cutter = PieceCutter(self._samples_framing, self._batch_size, eager=True)
        self._channels = 0  # not known yet
        self._fed = 0  # samples
        self._ended = False

    def feed(self, chunk: ArrayLike) -> Embedded:
        """Take in the next chunk.

        Parameters
        ----------
        chunk : array, (n,) or (n, channels)
            Audio at ``sample_rate``, of any length, also 0: floats in [-1, 1], or PCM integers of 8, 16 or 32 bits,
            which are scaled to that range. Channels are averaged. Its memory may be used for the next chunk. A masked
            array must not mask anything.

        Returns
        -------
        embedding : ndarray, (t, D) float32
            Of the t windows that are complete now; t may be 0.
        timestamps : ndarray, (t,) float64
            In seconds from the stream's beginning.

        Raises
        ------
        EdgeseaError
            If the stream has ended; if the chunk is no audio, has another number of channels than those before, or
            holds NaN or Inf (it is then refused, and the stream can go on with another one); or if the model fails,
            which ends the stream.
        """
        mono = self._mono(chunk)
        self._fed += len(mono)
        step = max(1, int(CHUNK_SECONDS * self.sample_rate))  # so that a chunk of hours is resampled little by little
        blocks = (self._resampler.feed(mono[first : first + step]) for first in range(0, len(mono), step))
        return self._embedded(piece for block in blocks for piece in self._cutter.feed(block))

    def finish(self) -> Embedded:
        """End the stream: the windows that reach beyond its end, padded with zeros as those of a file.

        Returns
        -------
        embedding, timestamps : ndarray
            As those of `feed`; none if no sample was fed. Afterwards only `reset` is possible.

        Raises
        ------
        EdgeseaError
            If the stream has ended already, or the model fails.
        """
        self._check_open()
        result = self._embedded(self._last_pieces())
        self.close()
        return result

    def close(self) -> None:
        """Drop what is buffered, without embedding it; afterwards only `reset` is possible."""
        self.reset()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_pieces(self) -> Iterator[Piece]:
        if self._fed:
            yield from self._cutter.feed(self._resampler.feed(np.zeros(0, np.float32), last=True))
            yield from self._cutter.finish()

    def _check_open(self) -> None:
        if self._ended:
            raise EdgeseaError("the stream has ended; reset() begins another")

    def _embedded(self, pieces: Iterable[Piece]) -> Embedded:
        self._ended = True  # unless all of it succeeds: windows would be missing
        embeddings = [np.zeros((0, self.model.embedding_size), np.float32)]
        indices = [np.zeros(0, np.int64)]
        for piece in pieces:
            embedding = embed_rows(self.model, cut_rows(self.model, piece, self._samples_framing))
            if not np.isfinite(embedding).all():
                raise EdgeseaError(f"{self.model.id} gave NaN or Inf after {piece.first * self._framing.hop:.1f} s")
            embeddings.append(embedding)
            indices.append(np.arange(piece.first, piece.first + piece.count))
        self._ended = False
        return np.concatenate(embeddings), np.concatenate(indices).astype(np.float64) * self._framing.hop

    def _mono(self, chunk: ArrayLike) -> Float32:
        """The average of a chunk's channels, (n,), in memory of its own; nothing is changed if the chunk is refused."""
        self._check_open()
        samples = as_samples("the chunk", chunk)
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        transposed = channels != self._channels and 0 < len(samples) < channels and channels > FEW_CHANNELS
        if not 1 <= channels <= MOST_CHANNELS or transposed:
            raise EdgeseaError(f"the chunk must have shape (samples,) or (samples, channels), not {samples.shape}")
        if not samples.size:
            return np.zeros(0, np.float32)
        if self._channels not in (0, channels):
            raise EdgeseaError(f"this chunk has {channels} channels, those before had {self._channels}")
        mono = to_mono(samples)
        if (invalid := first_invalid(mono)) is not None:
            where = (self._fed + invalid) / self.sample_rate
            raise EdgeseaError(f"the chunk holds NaN or Inf samples, the first at {where:.3f} s of the stream")
        self._channels = channels
        return mono


def embed_chunks(
    chunks: Iterable[ArrayLike],
    model: ModelOrName,
    hop_size: float = 0.1,
    center: bool = True,
    sample_rate: float | None = None,
    batch_size: int = 64,
) -> Iterator[Embedded]:
    """Embed what an iterator of chunks gives, until it ends.

    Yields
    ------
    embedding, timestamps : ndarray, (t, D) float32 and (t,) float64
        As soon as there are any; parameters and errors are those of `Stream`.
    """
    if not isinstance(chunks, Iterable):
        raise EdgeseaError(f"chunks must be an iterable of arrays, not {type(chunks).__name__}")
    with Stream(model, hop_size, center, sample_rate, batch_size) as stream:
        for chunk in chunks:
            embedding, timestamps = stream.feed(chunk)
            if len(embedding):
                yield embedding, timestamps
        embedding, timestamps = stream.finish()
        if len(embedding):
            yield embedding, timestamps
