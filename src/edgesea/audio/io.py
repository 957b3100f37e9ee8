"""Decoding (anything libsndfile reads, as a stream of mono chunks), and samples in memory."""

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]
Signal: TypeAlias = NDArray[Any]

CHUNK_SECONDS = 10.0
RATES = (500, 1_000_000)  # Hz; a header outside names no recording, and would resample to an absurd size
FULL_SCALE = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}  # of PCM samples
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
    """Raise EdgeseaError unless `path` is a readable file; a pipe might block for ever."""
    if not path.exists():
        reason = "no such file"
    elif path.is_dir():
        reason = "is a folder"
    elif not path.is_file():
        reason = "is a pipe or a device; raw PCM is read by edgesea stream"
    elif not os.access(path, os.R_OK):
        reason = "Permission denied"
    else:
        return
    raise EdgeseaError(f"{path}: cannot be decoded: {reason}")


class AudioFile:
    """One audio file, opened for decoding; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_readable(path)
        try:
            # As bytes, because a name on POSIX need not be UTF-8.
            self._file = soundfile.SoundFile(path if os.name == "nt" else os.fsencode(path))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the ending .raw
            reason = _detail(error)
            if reason.startswith("File does not exist"):  # libsndfile's message if it finds no MP3 frame
                reason = "Format not recognised"
            raise EdgeseaError(f"{path}: cannot be decoded: {reason}") from error
        self.sample_rate: int = self._file.samplerate  # Hz
        self.frames: int = self._file.frames  # samples per channel that the header announces

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[Float32]:
        """Yield the channels' average in chunks of about ten seconds, (samples,) float32.

        EdgeseaError if the file is empty, truncated or damaged, has an implausible rate, or holds NaN or Inf.
        """
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise EdgeseaError(f"{self.path}: implausible sample rate of {self.sample_rate} Hz")
        match = _CUT_SHORT.search(self._file.extra_info)
        announced, found = (int(match[1]), int(match[2])) if match else (0, 0)
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
            mono = to_mono(block)
            if first_invalid(mono) is not None:
                raise EdgeseaError(f"{self.path}: holds NaN or Inf samples")
            decoded += len(block)
            yield mono
        # Only MP3 announces a length that it may not keep; the 5 % allow for files without a length header.
        if decoded < 0.95 * self.frames:
            lengths = f"the header announces {self.frames} samples, {decoded} are there"
            raise EdgeseaError(f"{self.path}: truncated: {lengths}")
        if decoded == 0:
            raise EdgeseaError(f"{self.path}: holds no samples")


def _detail(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")


def as_samples(name: str, audio: Any) -> Signal:
    """Array-like floats or PCM integers (n,) or (n, channels), also tensors, as an array; errors call it `name`."""
    if isinstance(audio, str | bytes | bytearray):
        raise EdgeseaError(f"{name} must be an array of samples, not {type(audio).__name__}; see numpy.frombuffer")
    if np.ma.is_masked(audio):
        raise EdgeseaError(f"{name} masks samples, but no window may have gaps; fill them (numpy.ma.filled)")
    try:
        signal = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio)
    except Exception as error:  # of numpy or the library that made it: ragged lists, torch's bfloat16
        raise EdgeseaError(f"{name} must be an array of samples, not {type(audio).__name__}: {error}") from error
    if signal.dtype.kind != "f" and signal.dtype.name not in FULL_SCALE:
        raise EdgeseaError(f"{name} must be floats in [-1, 1] or {', '.join(FULL_SCALE)}, not {signal.dtype}")
    if signal.ndim not in (1, 2):
        raise EdgeseaError(f"{name} must have shape (n,) or (n, channels), not {signal.shape}")
    return signal


def to_mono(samples: Signal) -> Float32:
    """The mean of the channels of (n,) or (n, channels) as (n,) float32, PCM scaled to [-1, 1]; always a copy.

    Values beyond single precision become Inf.
    """
    scale = FULL_SCALE.get(samples.dtype.name)
    if scale is not None:  # in double precision, for 32 bits; WAV's 8 bits are unsigned around 128
        samples = (samples - np.float64(scale if samples.dtype.kind == "u" else 0)) / scale
    with np.errstate(over="ignore", invalid="ignore"):
        mono: Float32 = samples.astype(np.float32)
        if mono.ndim == 2:
            mono = mono[:, 0] if mono.shape[1] == 1 else mono.mean(1, dtype=np.float32)
    return mono


def first_invalid(mono: Float32) -> int | None:
    """Index of the first sample of (n,) that is NaN or Inf; None if there is none."""
    finite = np.isfinite(mono)
    return None if finite.all() else int(np.argmin(finite))


def checked_hop(name: str, value: float, unit: str = "seconds") -> float:
    """`value` as a float; EdgeseaError unless it is a positive number."""
    if not 0 < (number := _number(value)) < math.inf:
        raise EdgeseaError(f"{name} must be a positive number of {unit}, not {value!r}")
    return number


def checked_rate(name: str, value: float) -> int:
    """`value` as an int; EdgeseaError unless it is a sample rate, a whole number of Hz."""
    number = _number(value)
    if not RATES[0] <= number <= RATES[1] or not number.is_integer():
        raise EdgeseaError(f"{name} must be a whole number from {RATES[0]} to {RATES[1]} Hz, not {value!r}")
    return int(number)


def checked_count(name: str, value: int) -> int:
    """`value` as an int; EdgeseaError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise EdgeseaError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)


def checked_flag(name: str, value: bool) -> bool:
    """`value` as a bool; EdgeseaError unless it is one, or 0 or 1."""
    if not isinstance(value, int | np.bool_) or value not in (0, 1):
        raise EdgeseaError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def _number(value: Any) -> float:
    """A real number, also in an array without dimensions as np.load gives one, as a float; NaN for anything else."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= np.finfo(float).max else math.nan
