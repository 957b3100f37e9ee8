"""Formats that libsndfile does not read (AAC, WMA, WavPack, audio of videos), by PyAV, which is an extra."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MUSIC = "m4a m4b aac wma asf wv ape tta ac3 eac3 dts amr mpc tak dsf mka"
_VIDEO = "webm mkv mp4 mov avi 3gp wmv mpg mpeg ts mts m2ts flv"
ENDINGS = frozenset(f".{name}" for name in f"{_MUSIC} {_VIDEO}".split())
INDEXED = ("mov", "matroska", "asf", "avi")  # formats whose length is written down, not guessed from the size


class Decoder:
    """A file that PyAV decodes, read like a soundfile.SoundFile; ValueError if it cannot be."""

    format = subtype = "AV"

    def __init__(self, path: Path) -> None:
        import av

        av.logging.set_level(None)
        self._errors = (av.error.FFmpegError, IndexError)
        self._file = path.open("rb")
        try:
            self._container = av.open(self._file)
            stream = self._container.streams.audio[0]
            if not stream.codec_context.sample_rate:
                raise IndexError("no audio")
        except self._errors as error:
            self._file.close()
            raise ValueError(f"not recognised by PyAV either: {error}") from error
        self.samplerate: int = stream.codec_context.sample_rate
        self.channels: int = stream.codec_context.channels
        seconds = (
            float(stream.duration * stream.time_base) if stream.duration else (self._container.duration or 0) / 1e6
        )
        indexed = any(name in self._container.format.name for name in INDEXED)
        self.frames = round(seconds * self.samplerate) if indexed else 0
        self._blocks, self._rest = self._decoded(stream), np.zeros((0, self.channels), np.float32)

    def _decoded(self, stream: Any) -> Iterator[NDArray[np.float32]]:
        from av.audio.resampler import AudioResampler

        floats = AudioResampler("flt", stream.codec_context.layout, self.samplerate)
        for frame in chain(self._container.decode(stream), [None]):
            for block in floats.resample(frame):
                yield np.asarray(block.to_ndarray(), np.float32).reshape(-1, self.channels)

    def read(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fill `out` (samples, channels) as far as there are samples; returns the part that was filled."""
        filled = 0
        try:
            while filled < len(out):
                if not len(self._rest):
                    self._rest = next(self._blocks)
                count = min(len(self._rest), len(out) - filled)
                out[filled : filled + count], self._rest = self._rest[:count], self._rest[count:]
                filled += count
        except StopIteration:
            pass
        except self._errors as error:
            raise ValueError(str(error)) from error
        return out[:filled]

    def seek(self, frames: int) -> int:
        """Pass over the first samples, by decoding them; returns how many there were."""
        block, left = np.empty((self.samplerate, self.channels), np.float32), frames
        while left and (count := len(self.read(block[:left]))):
            left -= count
        return frames - left

    def close(self) -> None:
        self._container.close()
        self._file.close()
