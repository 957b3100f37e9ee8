"""Framing: the one specification, in samples, of how a clip is cut into windows.

With window ``W`` (a whole number of samples), hop ``H`` (any number of samples from 1) and left padding ``pad``
(``W // 2`` when centred, else 0), window ``k`` covers ``W`` samples of the clip from ``floor(k * H) - pad`` on. The end
is zero-padded so that every sample is covered; a clip shorter than ``W`` gives one window.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.resampling import Resampling
from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
MOST_CHUNKS = 256  # that wait unjoined: an array of one sample takes a hundred bytes
# Seconds. A window is held in memory as a whole, together with others. A hop of three decades: a clip may have a window
# that begins after its end, but there, at any rate, the position still fits the 64-bit integers of a table, and the
# timestamp, a float, is finer than a sample.
LONGEST = {"window": 3600.0, "hop": 1e9}
FINEST = 10**6  # denominator of a hop in seconds: of whole samples at any rate up to 1 MHz, and of six decimals
ROUNDING = Fraction(1, 2**50)  # relative; what a float is off after a few operations


def exact_seconds(seconds: float) -> Fraction:
    """The number that a positive, finite float is the rounding of: 1/10 for 0.1, 512/11025 for 1024 / 22050.

    The nearest fraction with a denominator of at most a million, unless the float is farther from it than rounding.
    """
    value = Fraction(float(seconds))
    near = value.limit_denominator(FINEST)
    return near if abs(near - value) <= ROUNDING * value else value


@dataclass(frozen=True)
class Framing:
    """How clips are resampled and cut into windows.

    The hop need not be a whole number of samples: each window begins with the last sample that is not later than its
    time, so that nothing drifts.
    """

    window: float = 1.0  # length of a window in seconds, at most an hour
    hop: float = 1.0  # seconds between the starts of two windows, at most 1e9
    center: bool = False  # precede the clip by half a window of zeros, so that k * hop is the middle of window k
    resampler: Resampling = "soxr"

    def __post_init__(self) -> None:
        for name, longest in LONGEST.items():
            value = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not (is_number and 0 < value <= longest):
                raise EdgeseaError(f"{name} must be a positive number of at most {longest:g} seconds, not {value!r}")

    def at(self, sample_rate: int) -> "SampleFraming":
        """The same framing in samples at `sample_rate` (Hz).

        At two rates, a window begins at the same time to within a sample of either.
        """
        window, hop = round(self.window * sample_rate), exact_seconds(self.hop) * sample_rate
        if window < 1 or hop < 1:
            lengths = f"window {self.window} s or hop {self.hop} s"
            raise EdgeseaError(f"{lengths} is shorter than a sample at {sample_rate} Hz")
        step = hop.numerator if hop.denominator == 1 else hop
        return SampleFraming(window, step, window // 2 if self.center else 0)

    def plan(self) -> dict[str, Any]:
        """What a plan says of it; the resampler only if it is not soxr, which once was the only one."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("resampler", "soxr")}

    def timestamps(self, count: int) -> NDArray[np.float64]:
        """Timestamps ``k * hop`` of the first `count` windows, (count,) in seconds."""
        return np.arange(count, dtype=np.float64) * self.hop


@dataclass(frozen=True)
class SampleFraming:
    """A framing in samples at one rate; see the module's specification."""

    window: int  # samples of a window
    hop: int | Fraction  # samples between two windows; window k starts at floor(k * hop) - pad
    pad: int  # zeros before the clip

    def count(self, length: int) -> int:
        """Number of windows of a clip of `length` samples."""
        return 1 + max(0, -(-(length + self.pad - self.window) // self.hop))

    def complete(self, length: int) -> int:
        """Number of windows that need no padding at the end, of a clip of at least `length` samples."""
        return min(self.count(length), max(0, -(-(length + self.pad - self.window + 1) // self.hop)))

    def start(self, index: int) -> int:
        """First sample of window `index` (negative inside the left padding)."""
        return index * self.hop.numerator // self.hop.denominator - self.pad


@dataclass(frozen=True)
class Piece:
    """A run of consecutive windows of one clip, with the audio they cover."""

    first: int  # index of the first window
    count: int  # number of windows
    audio: Float32  # (samples,) from the start of the first window, without the left padding, to the end of the last


class PieceCutter:
    """Cuts a stream of chunks of any size into pieces of at most `size` windows.

    Feeding all chunks and then calling `finish` yields the windows of the whole clip. Memory is that of
    `size` windows and one chunk, for any hop: where windows do not touch, a piece spans no more samples than `size`
    windows side by side, and what lies between two pieces is dropped as it comes.

    All pieces but the last have the same number of windows, unless the cutter is `eager`: then no window waits for
    others, and the pieces depend on the chunks.
    """

    def __init__(self, framing: SampleFraming, size: int, eager: bool = False) -> None:
        self.framing = framing
        self.size = min(size, 1 + (size - 1) * framing.window // framing.hop)  # as many as fit into the span
        self.eager = eager
        self.length = 0  # samples seen
        self._first = 0  # first window of the next piece
        self._buffer: list[Float32] = []  # from where that begins

    def feed(self, chunk: Float32) -> Iterator[Piece]:
        """Yield the pieces that `chunk` completes; it is stored, not copied, so it must not change later."""
        needed = chunk[max(0, self._begin() - self.length) :]
        if len(needed):
            self._buffer.append(needed)
        self.length += len(chunk)
        if len(self._buffer) > MOST_CHUNKS:
            self._buffer = [self._joined()]
        while count := self._ready():
            yield self._take(count)

    def finish(self, count: int | None = None) -> Iterator[Piece]:
        """Yield the remaining windows, zero-padded at the end; `count`: of how many in total, if of another rate."""
        total = self.framing.count(self.length) if count is None else count
        while self._first < total:
            yield self._take(min(self.size, total - self._first))

    def _begin(self) -> int:
        return max(0, self.framing.start(self._first))

    def _end(self, count: int) -> int:
        return self.framing.start(self._first + count - 1) + self.framing.window

    def _ready(self) -> int:
        """Number of windows of the piece that can be taken now; 0: none can."""
        complete = min(self.size, self.framing.complete(self.length) - self._first)
        return complete if self.eager or complete == self.size else 0

    def _joined(self) -> Float32:
        if len(self._buffer) == 1:  # a copy for each piece of a long chunk would take time that grows with its square
            return self._buffer[0]
        return np.concatenate(self._buffer) if self._buffer else np.zeros(0, np.float32)

    def _take(self, count: int) -> Piece:
        begin, end, buffered = self._begin(), self._end(count), self._joined()
        audio = buffered[: end - begin]
        if missing := end - begin - len(audio):
            audio = np.concatenate([audio, np.zeros(missing, np.float32)])
        piece = Piece(self._first, count, audio)
        self._first += count
        rest = buffered[self._begin() - begin :]
        self._buffer = [rest] if len(rest) else []
        return piece


def piece_starts(piece: Piece, framing: SampleFraming) -> NDArray[np.int64]:
    """First sample of each window of a piece, (count,), in its audio; negative inside the left padding."""
    begin = max(0, framing.start(piece.first))
    return np.array([framing.start(piece.first + k) - begin for k in range(piece.count)], np.int64)


def piece_windows(piece: Piece, framing: SampleFraming) -> Float32:
    """The windows of a piece, (count, window), with the left padding of the first ones restored; may be read-only."""
    starts = piece_starts(piece, framing)
    before = max(0, -int(starts[0]))
    audio = np.pad(piece.audio, (before, 0)) if before else piece.audio
    view = np.lib.stride_tricks.sliding_window_view(audio, framing.window)
    return view[:: framing.hop][: piece.count] if isinstance(framing.hop, int) else view[starts + before]
