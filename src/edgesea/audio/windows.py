"""Framing: the one specification, in integer samples, of how a clip is cut into windows.

With window ``W``, hop ``H`` and left padding ``pad`` (``W // 2`` when centred, else 0), window ``k`` covers the samples
``k * H - pad ... k * H - pad + W`` of the clip. The end is zero-padded so that every sample is covered; a clip shorter
than ``W`` gives one window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
MOST_CHUNKS = 256  # that wait unjoined: an array of one sample takes a hundred bytes


@dataclass(frozen=True)
class Framing:
    """How clips are cut into windows.

    Parameters
    ----------
    window : float
        Length of a window in seconds.
    hop : float
        Distance between the starts of two windows in seconds.
    center : bool
        Precede the clip by half a window of zeros, so that ``k * hop`` is the middle of window ``k``.
    """

    window: float = 1.0
    hop: float = 1.0
    center: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "hop"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise EdgeseaError(f"{name} must be a positive number of seconds, not {value!r}")

    def at(self, sample_rate: int, hop_rate: int | None = None) -> "SampleFraming":
        """The same framing in samples at `sample_rate` (Hz).

        Parameters
        ----------
        sample_rate : int
            Rate in Hz.
        hop_rate : int, optional
            Rate in Hz whose whole samples set the hop; default: `sample_rate`. Where two rates of a clip would round
            the hop differently, the windows of the one that follows the other do not drift away from the other's.

        Raises
        ------
        EdgeseaError
            If the window or the hop is shorter than one sample.
        """
        window, hop = round(self.window * sample_rate), round(self.hop * (hop_rate or sample_rate))
        if window < 1 or hop < 1:
            raise EdgeseaError(
                f"window {self.window} s or hop {self.hop} s is shorter than a sample at {sample_rate} Hz"
            )
        scaled = Fraction(hop * sample_rate, hop_rate or sample_rate)
        step = scaled.numerator if scaled.denominator == 1 else scaled
        return SampleFraming(window, step, window // 2 if self.center else 0)

    def timestamps(self, count: int) -> NDArray[np.float64]:
        """Timestamps ``k * hop`` of the first `count` windows, (count,) in seconds."""
        return np.arange(count, dtype=np.float64) * self.hop


@dataclass(frozen=True)
class SampleFraming:
    """A framing in integer samples at one rate; see the module's specification.

    A fractional hop is that of another rate (`Framing.at`): window ``k`` then starts at ``floor(k * hop) - pad``.
    """

    window: int
    hop: int | Fraction
    pad: int

    def count(self, length: int) -> int:
        """Number of windows of a clip of `length` samples."""
        return 1 + max(0, -(-(length + self.pad - self.window) // self.hop))

    def complete(self, length: int) -> int:
        """Number of windows that need no padding at the end, of a clip of `length` samples or of one that goes on."""
        return min(self.count(length), max(0, -(-(length + self.pad - self.window + 1) // self.hop)))

    def start(self, index: int) -> int:
        """First sample of window `index` (negative inside the left padding)."""
        return int(index * self.hop) - self.pad

    def cut(self, audio: Float32) -> Float32:
        """All windows of a clip.

        Parameters
        ----------
        audio : ndarray, (samples,)
            The whole clip.

        Returns
        -------
        ndarray, (count, window)
            A read-only view of a padded copy, of the same dtype.
        """
        count = self.count(len(audio))
        length = self.start(count - 1) + self.pad + self.window
        padded = np.zeros(max(length, self.pad + len(audio)), audio.dtype)
        padded[self.pad : self.pad + len(audio)] = audio
        return self.take(padded[:length], 0, count)

    def take(self, audio: Float32, first: int, count: int) -> Float32:
        """Windows `first` ... `first + count - 1` of `audio`, which begins where the first of them does."""
        view = np.lib.stride_tricks.sliding_window_view(audio, self.window)
        if isinstance(self.hop, int):
            return view[:: self.hop][:count]
        return view[[self.start(first + k) - self.start(first) for k in range(count)]]


@dataclass(frozen=True)
class Piece:
    """A run of consecutive windows of one clip, with the audio they cover.

    Attributes
    ----------
    first : int
        Index of the first window.
    count : int
        Number of windows.
    audio : ndarray, (samples,)
        The samples from the start of the first window (without the left padding) to the end of the last.
    """

    first: int
    count: int
    audio: Float32


class PieceCutter:
    """Cuts a stream of chunks of any size into pieces of at most `size` windows, in constant memory.

    Feeding all chunks and then calling `finish` yields the windows that `SampleFraming.cut` gives for the whole clip.

    Parameters
    ----------
    framing : SampleFraming
        Where the windows lie.
    size : int
        Windows of a piece.
    eager : bool
        False: all pieces but the last have `size` windows. True: a window does not wait for others to come, and the
        pieces depend on the chunks.
    """

    def __init__(self, framing: SampleFraming, size: int, eager: bool = False) -> None:
        self.framing = framing
        self.size = size
        self.eager = eager
        self.length = 0  # samples seen
        self._first = 0  # first window of the next piece
        self._offset = 0  # position in the clip of the first buffered sample
        self._buffer: list[Float32] = []

    def feed(self, chunk: Float32) -> Iterator[Piece]:
        """Yield the pieces that `chunk` completes; it is kept, not copied, so it must not change later."""
        if len(chunk):
            self._buffer.append(chunk)
            self.length += len(chunk)
        if len(self._buffer) > MOST_CHUNKS:
            self._buffer = [self._joined()]
        while count := self._ready():
            yield self._take(count, self.framing.start(self._first + count - 1) + self.framing.window)

    def finish(self, count: int | None = None) -> Iterator[Piece]:
        """Yield the remaining windows, zero-padded at the end.

        Parameters
        ----------
        count : int, optional
            Total number of windows wanted (that of another rate of the same clip); default: the framing's own.
        """
        total = self.framing.count(self.length) if count is None else count
        while self._first < total:
            size = min(self.size, total - self._first)
            yield self._take(size, self.framing.start(self._first + size - 1) + self.framing.window)

    def _ready(self) -> int:
        """Number of windows of the piece that can be taken now; 0: none can."""
        if self.eager:
            return min(self.size, self.framing.complete(self.length) - self._first)
        # Strictly more than the piece needs: the last piece is cut by finish(), which knows where the clip ends.
        end = self.framing.start(self._first + self.size - 1) + self.framing.window
        return self.size if self.length > end else 0

    def _joined(self) -> Float32:
        if len(self._buffer) == 1:  # a copy for each piece of a long chunk would take time that grows with its square
            return self._buffer[0]
        return np.concatenate(self._buffer) if self._buffer else np.zeros(0, np.float32)

    def _take(self, count: int, end: int) -> Piece:
        begin = max(0, self.framing.start(self._first))
        buffered = self._joined()
        audio = buffered[begin - self._offset : end - self._offset]
        audio = np.pad(audio, (0, end - begin - len(audio)))
        piece = Piece(self._first, count, audio)
        self._first += count
        keep = max(0, self.framing.start(self._first))
        self._buffer = [buffered[keep - self._offset :]]
        self._offset = min(keep, self.length)
        return piece


def piece_windows(piece: Piece, framing: SampleFraming) -> Float32:
    """The windows of a piece, (count, window), with the left padding of the first ones restored."""
    begin = framing.start(piece.first)
    audio = np.pad(piece.audio, (-begin, 0)) if begin < 0 else piece.audio
    return framing.take(audio, piece.first, piece.count)


def piece_starts(piece: Piece, framing: SampleFraming) -> NDArray[np.int64]:
    """First sample of each window of a piece, (count,), in its audio; negative inside the left padding."""
    begin = max(0, framing.start(piece.first))
    return np.array([framing.start(piece.first + k) - begin for k in range(piece.count)], np.int64)
