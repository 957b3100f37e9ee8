"""Decoding (anything libsndfile reads, as a stream of mono chunks) and resampling (soxr, also as a stream)."""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]

CHUNK_SECONDS = 10.0
RATES = (500, 1_000_000)  # Hz; a header outside names no recording, and would resample to an absurd size
UNKNOWN_SIZES = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # what writes to a pipe: sox, arecord, ffmpeg ...
_CUT_SHORT = re.compile(r"^\s*(?:data|SSND|riff|Riff size|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


@cache
def audio_suffixes() -> frozenset[str]:
    """File name endings (lower case, with the dot) that are taken for audio when a folder is searched."""
    formats = {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    return frozenset(formats | {".aif", ".oga", ".opus", ".mp3", ".wave"})


def is_audio(path: Path) -> bool:
    """Whether a file found in a folder is taken for audio: by its ending, and unless it is hidden."""
    return path.suffix.lower() in audio_suffixes() and not path.name.startswith(".") and path.is_file()


def check_readable(path: Path) -> None:
    """Make sure that there is a file whose bytes can be read.

    Raises
    ------
    EdgeseaError
        If there is none; if it is a folder, a pipe (which might keep one waiting) or a device; or it may not be read.
    """
    reason = ""
    if not path.exists():
        reason = "no such file"
    elif not path.is_file():
        reason = "is a folder" if path.is_dir() else "is a pipe or a device; raw PCM is read with embed --stdin"
    elif not os.access(path, os.R_OK):
        reason = "Permission denied"
    if reason:
        raise EdgeseaError(f"{path}: cannot be decoded: {reason}")


class AudioFile:
    """One audio file, opened for decoding; use it as a context manager.

    Attributes
    ----------
    sample_rate : int
        Rate in Hz.
    frames : int
        Number of samples per channel that the header announces.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_readable(path)
        try:
            # As bytes, because a name on POSIX need not be UTF-8.
            self._file = soundfile.SoundFile(path if os.name == "nt" else os.fsencode(path))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the ending .raw
            reason = _detail(error)
            if reason.startswith("File does not exist"):  # what libsndfile says when it finds no MP3 frame
                reason = "Format not recognised"
            raise EdgeseaError(f"{path}: cannot be decoded: {reason}") from error
        self.sample_rate: int = self._file.samplerate
        self.frames: int = self._file.frames

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[Float32]:
        """Yield the channels' average in chunks of about ten seconds, (samples,) float32.

        Raises
        ------
        EdgeseaError
            If the file is empty, cut short or damaged, has an implausible rate, or holds NaN or Inf.
        """
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise EdgeseaError(f"{self.path}: implausible sample rate of {self.sample_rate} Hz")
        if match := _CUT_SHORT.search(self._file.extra_info):
            announced, found = int(match[1]), int(match[2])
            if announced > found and announced not in UNKNOWN_SIZES:
                raise EdgeseaError(f"{self.path}: truncated: the header announces {announced} bytes, {found} are there")
        size = round(CHUNK_SECONDS * self.sample_rate)
        decoded = 0
        while True:
            try:
                block = self._file.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                where = decoded / self.sample_rate
                raise EdgeseaError(f"{self.path}: damaged after {where:.1f} s: {_detail(error)}") from error
            if not len(block):
                break
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32)
            if not np.isfinite(mono).all():
                raise EdgeseaError(f"{self.path}: holds NaN or Inf samples")
            decoded += len(block)
            yield mono
        # Only MP3 announces a length that it may not keep; the 5 % allow for files without a length header.
        if decoded < 0.95 * self.frames:
            raise EdgeseaError(
                f"{self.path}: truncated: the header announces {self.frames} samples, {decoded} are there"
            )
        if decoded == 0:
            raise EdgeseaError(f"{self.path}: holds no samples")


def _detail(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")


class Resampler:
    """Streaming resampler from one rate to another; the chunks' sizes do not change the result.

    Parameters
    ----------
    source, target : int
        Rates in Hz.
    """

    def __init__(self, source: int, target: int) -> None:
        self._stream = None if source == target else soxr.ResampleStream(source, target, 1, dtype="float32")

    def feed(self, chunk: Float32, last: bool = False) -> Float32:
        """Resample the next chunk (samples,); `last` also returns what the filter holds back."""
        if self._stream is None:
            return chunk
        result: Float32 = self._stream.resample_chunk(np.ascontiguousarray(chunk), last)
        return result


def resample_stream(chunks: Iterable[Float32], source: int, target: int) -> Iterator[Float32]:
    """Resample a stream of chunks from `source` to `target` Hz."""
    resampler = Resampler(source, target)
    for chunk in chunks:
        yield resampler.feed(chunk)
    yield resampler.feed(np.zeros(0, np.float32), last=True)


def load_audio(path: Path | str, sample_rate: int) -> Float32:
    """Decode a whole file, average its channels and resample it.

    Parameters
    ----------
    path : path
        Anything that libsndfile reads.
    sample_rate : int
        Rate in Hz of the result.

    Returns
    -------
    ndarray, (samples,) float32

    Raises
    ------
    EdgeseaError
        If the file cannot be used; the message says why.
    """
    with AudioFile(Path(path)) as file:
        return np.concatenate(list(resample_stream(file.chunks(), file.sample_rate, sample_rate)))
