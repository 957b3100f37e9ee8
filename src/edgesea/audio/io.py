"""Decoding (anything libsndfile reads, as a stream of mono chunks), and samples in memory."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from edgesea.artifact import walk
from edgesea.audio import codecs, container
from edgesea.audio.resampling import resample_stream
from edgesea.errors import EdgeseaError, explained, say

Float32 = NDArray[np.float32]
Signal: TypeAlias = NDArray[Any]

CHUNK_SECONDS = 1.0  # arrays of more would go back to the system, and come again, at every step
RATES = (500, 1_000_000)  # Hz; a header outside names no recording, and would resample to an absurd size
FULL_SCALE = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}  # of PCM samples
GRANTED_SHARE, GRANTED_SECONDS = 0.01, 0.05  # by so much may a header exceed what is there
READ_AHEAD = 1 << 14  # bytes that libsndfile may leave unread at the end of a FLAC file
Truncated = Literal["skip", "use"]
CHUNKED = {**dict.fromkeys(("WAV", "WAVEX", "W64", "RF64"), "LITTLE"), **dict.fromkeys(("AIFF", "AU", "CAF"), "BIG")}
RAW = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # codecs without blocks


@cache
def audio_suffixes() -> frozenset[str]:
    """File name endings (lower case, with the dot) that are taken for audio when a folder is searched."""
    formats = {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"}
    more = {".aif", ".aifc", ".snd", ".oga", ".opus", ".mp3", ".wave", ".bwf", ".sph"}
    return frozenset(formats | more | (codecs.ENDINGS if find_spec("av") else frozenset()))


def find_audio(folder: Path, recursive: bool = True) -> list[Path]:
    """The audio files of a folder, by their endings; what else is there is counted in a warning."""
    found, others = [], Counter[str]()
    for path in walk(folder) if recursive else filter(Path.is_file, folder.iterdir()):
        if path.suffix.lower() in audio_suffixes() and not path.name.startswith("."):
            found.append(path)
        elif not path.name.startswith(("._", ".DS_Store")):  # which macOS leaves beside every file
            others["hidden" if path.name.startswith(".") else path.suffix.lower() or "without an ending"] += 1
    if others:
        hint = " (install edgesea[codecs])"
        kinds = [f"{count} {ending}{hint * (ending in codecs.ENDINGS)}" for ending, count in others.most_common()]
        say(f"{folder}: {others.total()} file(s) left out: {', '.join(kinds)}", logging.WARNING)
    if not found:
        raise EdgeseaError(f"{folder}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
    return sorted(found)


class _Decoder(soundfile.SoundFile):  # type: ignore[misc]
    """libsndfile without a seek after each read: a stream of unknown length, or a damaged one, cannot be sought in."""

    def seekable(self) -> bool:
        return False


class AudioFile:
    """One audio file, opened for decoding; use it as a context manager.

    `truncated` says whether what is left of a file that is cut short or damaged is used or refused.
    """

    def __init__(self, path: Path, truncated: Truncated = "skip") -> None:
        self.path, self.truncated = path, truncated
        self.notes: list[str] = []  # what is unusual about the file; complete when all chunks are read
        if path.exists() and not path.is_file() and not path.is_dir():  # it might block for ever
            raise EdgeseaError(f"{path}: a pipe or a device; raw PCM is read by edgesea stream")
        try:
            self._streams, unread = container.streams(path)
        except OSError as error:
            raise EdgeseaError(f"{path}: cannot be decoded: {error.strerror}") from error
        self.notes += [f"{unread} bytes behind the audio were not read"] if unread else []
        self._decoder = self._open(self._streams[0])
        self.sample_rate: int = self._decoder.samplerate  # Hz
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            self._decoder.close()
            raise EdgeseaError(f"{path}: implausible sample rate of {self.sample_rate} Hz")
        self.frames: int = self._decoder.frames if len(self._streams) == 1 else 0  # as announced; 0: it is not

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def _open(self, stream: container.Stream) -> _Decoder | codecs.Decoder:
        try:
            if stream.plain:  # not by its name: libsndfile would take ._x.mp3, left by macOS, for a part of it
                self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                return _Decoder(self._descriptor)
            decoder = _Decoder(container.Excerpt(self.path, stream))
            if decoder.format not in CHUNKED or decoder.subtype not in RAW:
                return decoder
            samples = container.Excerpt(self.path, stream._replace(header=b""))
            endian = CHUNKED[decoder.format] if decoder.endian == "FILE" else decoder.endian
            kind = {name: getattr(decoder, name) for name in ("samplerate", "channels", "subtype")}
            return _Decoder(samples, format="RAW", endian=endian, **kind)  # a header would limit its size
        except soundfile.LibsndfileError as error:
            reason = _detail(error)
            if reason.startswith("File does not exist"):  # libsndfile's message if it finds no MP3 frame
                reason = "Format not recognised"
            if reason == "Format not recognised":
                known = self.path.suffix.lower() in codecs.ENDINGS
                try:
                    return codecs.Decoder(self.path)
                except ModuleNotFoundError:
                    reason = "its format needs edgesea[codecs]" if known else reason
                except ValueError as problem:
                    reason = str(problem) if known else reason
            raise EdgeseaError(f"{self.path}: cannot be decoded: {reason}") from error

    def chunks(self, begin: int = 0, end: float = math.inf) -> Iterator[Float32]:
        """Yield the channels' average, from sample `begin` up to `end`, in chunks of about a second, (n,) float32.

        EdgeseaError if the file is empty or ends before `begin`, is truncated or damaged, or holds NaN or Inf.
        """
        total = self._seek(begin - self.sample_rate) if begin > self.sample_rate else 0  # MP3 needs the frames before
        for place, stream in enumerate(self._streams):
            if place:
                self._decoder.close()
                self._decoder = self._open(stream)
            decoded = self._decode(stream, 0 if place else total)
            for mono in resample_stream(decoded, self._decoder.samplerate, self.sample_rate):
                if total >= end:
                    return
                if first_invalid(mono) is not None:
                    raise EdgeseaError(f"{self.path}: holds NaN or Inf samples")
                some = mono[max(0, begin - total) : int(min(len(mono), end - total))]
                total += len(mono)
                if len(some):
                    yield some
        if total <= begin:
            lasts = f"lasts {total / self.sample_rate:.3f} s, and {begin / self.sample_rate:.3f} s is behind its end"
            raise EdgeseaError(f"{self.path}: {lasts if total else 'holds no samples'}")

    def _seek(self, begin: int) -> int:
        """Go to a sample of the first stream, or to its first if the decoder cannot; returns where it is."""
        try:
            return self._decoder.seek(begin)
        except (soundfile.LibsndfileError, ValueError):
            self._decoder.close()
            self._decoder = self._open(self._streams[0])
            return 0

    def _decode(self, stream: container.Stream, decoded: int) -> Iterator[Float32]:
        """Decode one stream, of which some is passed over, to its end, and compare it with what was announced."""
        rate, problem = self._decoder.samplerate, ""
        size = round(CHUNK_SECONDS * rate)
        while True:
            sized = stream.plain and self._decoder.format == "FLAC"  # it is read to its end, to see what is left there
            most = min(size, self._decoder.frames - decoded) if sized else size
            plain = self._decoder.format in CHUNKED
            short = plain and self._decoder.subtype == "PCM_16"  # numpy makes floats of them faster than libsndfile
            block: Signal = np.empty((most, self._decoder.channels), np.int16 if short else np.float32)
            if not plain:
                block.fill(np.nan)  # shows how far it came where it fails
            try:
                count = len(self._decoder.read(out=block))
            except (soundfile.LibsndfileError, ValueError) as error:
                problem = f"damaged ({_detail(error)})"
                count = int(np.isnan(block[:, 0]).argmax())
            decoded += count
            samples = block[:count] * np.float32(2.0**-15) if short else block[:count]
            if count:
                yield samples[:, 0] if samples.shape[1] == 1 else to_mono(samples)
            if count == size:
                continue
            if problem or not sized:
                break
            read = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if joined := container.joined_flac(self.path, max(stream.start, read - 2 * READ_AHEAD)):
                self._streams += joined
                break
            if stream.end - read < READ_AHEAD:
                break
            self._decoder.close()  # the length in its header is too small
            stream = stream._replace(plain=False)
            self._decoder = self._open(stream)
            self._decoder.read(out=np.empty((decoded, self._decoder.channels), np.float32))
        seconds, announced = decoded / rate, stream.announced
        if announced == math.inf or isinstance(self._decoder, codecs.Decoder):
            announced = self._decoder.frames / rate
        elif not stream.timed:
            announced *= seconds / max(1, stream.end - stream.start)
        if problem and decoded == round(announced * rate):
            problem = ""  # what could not be decoded lies behind the end, as the tags of music players do
        elif stream.cut or announced - seconds > max(GRANTED_SECONDS, GRANTED_SHARE * announced):
            problem = problem or "truncated"
        if problem:
            of = f" of {announced:.1f} s" if announced else ", the end of the stream is missing"
            problem = f"{problem} at {seconds:.1f} s{of}"
            if self.truncated == "skip":
                raise EdgeseaError(f"{self.path}: {problem}")
            self.notes.append(f"{problem}; used as far as it goes")


def _detail(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")


def as_samples(name: str, audio: Any) -> Signal:
    """Array-like floats or PCM integers (n,) or (n, channels), also tensors, as an array; errors call it `name`."""
    if isinstance(audio, str | bytes | bytearray):
        raise EdgeseaError(f"{name} must be an array of samples, not {type(audio).__name__}; see numpy.frombuffer")
    if np.ma.is_masked(audio):
        raise EdgeseaError(f"{name} masks samples, but no window may have gaps; fill them (numpy.ma.filled)")
    with explained(f"{name} must be an array of samples, not {type(audio).__name__}"):  # ragged, torch's bfloat16
        signal = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio)
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
    if not 0 < (number := _number(value)) < math.inf:
        raise EdgeseaError(f"{name} must be a positive number of {unit}, not {value!r}")
    return number


def checked_rate(name: str, value: float) -> int:
    number = _number(value)
    if not RATES[0] <= number <= RATES[1] or not number.is_integer():
        raise EdgeseaError(f"{name} must be a whole number from {RATES[0]} to {RATES[1]} Hz, not {value!r}")
    return int(number)


def checked_count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise EdgeseaError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)


def checked_share(name: str, value: float) -> float:
    if not 0 <= (number := _number(value)) <= 1:
        raise EdgeseaError(f"{name} must be a share from 0 to 1, not {value!r}")
    return number


def checked_flag(name: str, value: bool) -> bool:
    if not isinstance(value, int | np.bool_) or value not in (0, 1):
        raise EdgeseaError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def _number(value: Any) -> float:
    """A real number, also in an array without dimensions as np.load gives one, as a float; NaN for anything else."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= np.finfo(float).max else math.nan
