"""The sound of windows: a FLAC file of each, and MP3 files of several, which are small, for a page."""

import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from edgesea.parallel import thread_count

Float32 = NDArray[np.float32]
RATES = (8000, 11025, 12000, 16000, 22050, 24000)  # Hz, of MPEG-2 and 2.5, which have the lowest bit rates
BLOCK = 12.0  # seconds of a file: its header is little of it, and a browser decodes it at once
GAP = 0.02  # seconds of silence, so that nothing is heard of the window before
BYTES = 36_000_000  # of all files; noise takes an eighth more, and as text on the page all take a third more
LEAST, MOST = 12.0, 48.0  # kbit/s
LONGEST = BYTES * 8e-3 / LEAST  # seconds of a page


def flac(pcm: NDArray[np.int16], rate: int) -> bytes:
    """A file of a window as it is stored."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def page_rate(rate: int) -> int:
    """The rate in Hz of a page's files, for audio of another rate."""
    return max([one for one in RATES if one <= rate], default=RATES[0])


class Blocks:
    """MP3 files with the windows (W samples) of a page; those that overlap share their samples.

    Each stretch of a clip is brought to the same peak, so that quiet ones are heard as well.
    """

    def __init__(self, rate: int, window: int, seconds: float) -> None:
        self.rate, self.window = rate, window
        self.kbps = min(MOST, max(LEAST, BYTES * 8e-3 / max(seconds, 1.0)))
        self.places: list[tuple[int, int]] = []  # of each window: its file, and its first sample there
        self._files: list[Future[bytes]] = []
        self._spans: list[list[Float32]] = []  # of the file that is being filled
        self._length, self._last = 0, ("", 0)
        self._pool = ThreadPoolExecutor(thread_count())

    def add(self, clip: str, start: int, audio: Float32) -> None:
        """The next window, which starts at a sample of a clip; those of a clip come in their order."""
        if self._length > BLOCK * self.rate:
            self._flush()
        step = start - self._last[1]
        if not self._spans or clip != self._last[0] or not 0 <= step < self.window:
            gap = np.zeros(round(GAP * self.rate) if self._spans else 0, np.float32)
            self._spans += [[gap], []]
            self._length += len(gap)
            step = self.window
        self._spans[-1].append(audio[self.window - step :])
        self._length += step
        self._last = clip, start
        self.places.append((len(self._files), self._length - self.window))

    def _flush(self) -> None:
        spans = [np.concatenate(span) for span in self._spans]
        peaks = [np.abs(span).max(initial=0.0) for span in spans]
        samples = np.concatenate(
            [span * (0.8 / peak if peak else 1.0) for span, peak in zip(spans, peaks, strict=True)]
        )
        self._files.append(self._pool.submit(self._encode, samples))
        if len(self._files) > 8 * thread_count():  # what waits is held in memory
            self._files[-8 * thread_count()].result()
        self._spans, self._length = [], 0

    def _encode(self, samples: Float32) -> bytes:
        buffer, level = io.BytesIO(), 1 - (self.kbps - 8) / 152  # of 8 ... 160 kbit/s
        how: dict[str, Any] = {"bitrate_mode": "AVERAGE", "compression_level": level}  # others shift the samples
        soundfile.write(buffer, samples, self.rate, format="MP3", subtype="MPEG_LAYER_III", **how)
        return buffer.getvalue()

    def files(self) -> Iterator[bytes]:
        """All files, when all windows have been added."""
        if self._spans:
            self._flush()
        self._pool.shutdown()
        return (file.result() for file in self._files)
