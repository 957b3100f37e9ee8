"""Where the audio of a file lies: what its headers announce, held against the bytes that are there.

Recorders that crash or write to a pipe leave sizes that are zero, too small or unknown; sizes of 32 bits wrap at 4 GiB;
files are cut and joined. Only the outline of a file is read here; decoding is libsndfile's.
"""

import math
import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from io import RawIOBase
from itertools import pairwise
from os import SEEK_CUR, SEEK_END, SEEK_SET
from pathlib import Path
from typing import Any, NamedTuple

UNKNOWN = (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # sizes of what was written to a pipe or never finished
TOLERANCE = 512  # bytes by which the last chunk may exceed the file
LONGEST_CHUNK = 1 << 16  # bytes of a chunk that a header needs
PADDING = 1 << 16  # bytes of zeros behind the samples that are not taken for samples
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")  # of music players, behind the audio of any format


class Stream(NamedTuple):
    """Audio that a decoder reads in one go: the whole file, or a stretch of it."""

    start: int  # first byte behind the header
    end: int
    header: bytes = b""  # a correct one, where that of the file is not
    announced: float = 0  # bytes, or seconds if `timed`; 0: unknown; inf: the decoder knows
    timed: bool = False
    cut: bool = False  # the end of the stream is missing
    plain: bool = False  # the file can be opened as it is


class _Chunks(NamedTuple):
    """How a container writes its chunks: name, size, content."""

    name: int  # bytes of a name
    size: str  # format of a size
    first: int  # offset of the first chunk
    data: bytes  # name of the chunk with the samples
    skip: int  # bytes in it that precede the samples
    header: tuple[bytes, ...] = ()  # names of the chunks that a header needs; empty: all before the samples
    align: int = 2
    counted: int = 0  # bytes of a size that are not of the content

    @property
    def width(self) -> int:
        """Bytes of a name and a size."""
        return self.name + struct.calcsize(self.size)

    def length(self, data: mmap.mmap, at: int) -> int:
        """Bytes of the content of the chunk that begins at a place, as it says."""
        return int(struct.unpack_from(self.size, data, at + self.name)[0]) - self.counted


_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_RIFF = _Chunks(4, "<I", 12, b"data", 0, (b"fmt ", b"fact"))
_CONTAINERS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"RIFX": _RIFF._replace(size=">I"),
    b"FORM": _Chunks(4, ">I", 12, b"SSND", 8, (b"FVER", b"COMM")),
    b"caff": _Chunks(4, ">q", 8, b"data", 4, align=1),
    b"riff": _Chunks(16, "<q", 40, b"data" + _GUID, 0, (b"fmt " + _GUID, b"fact" + _GUID), 8, 24),
}


def streams(path: Path) -> tuple[list[Stream], int]:
    """The streams of a file (several if files were joined), and how many bytes behind them are no audio of any kind."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return [Stream(0, 0, plain=True)], 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = list(_streams(data, path.suffix.lower() == ".mp3"))
            return found, 0 if found[-1].plain else len(data) - found[-1].end


def _streams(data: mmap.mmap, mp3: bool) -> Iterator[Stream]:
    start = 0
    while start < len(data):
        magic = data[start : start + 4]
        if magic in _CONTAINERS:
            stream = _chunked(data, start, _CONTAINERS[magic])
        elif magic in _OTHERS:
            stream = _OTHERS[magic](data, start)
        else:
            if start == 0:
                yield from _elementary(data, mp3)
            return
        yield stream
        start = stream.end + (stream.end % 2 and data[stream.end : stream.end + 1] == b"\0")


def _chunked(data: mmap.mmap, start: int, kind: _Chunks) -> Stream:
    size, width = len(data), kind.width
    at, header, long_size, plain = start + kind.first, data[start : start + kind.first], 0, start == 0
    while True:
        if not start < at <= size - width:
            return Stream(start, size, plain=start == 0)  # without samples; the decoder says what it lacks
        name, length = data[at : at + kind.name], kind.length(data, at)
        if name == kind.data:
            break
        end = _after(data, at + width + length, length, kind)
        plain &= length % 2 == 0 or end > at + width + length or kind.align == 1
        if name == b"ds64":
            long_size = int.from_bytes(data[at + width + 8 : at + width + 16], "little")
        elif (not kind.header or name in kind.header) and length < LONGEST_CHUNK:
            header += data[at : at + width + length] + bytes(-length % kind.align)
        at = end
    first, announced = at + width + kind.skip, (long_size if long_size and length in UNKNOWN else length) - kind.skip
    end, tail = first + announced, "samples"
    if announced + kind.skip in UNKNOWN or not 0 <= announced < 1 << 60:
        tail = _tail(data, first, kind) if length == 0 and first < size else "samples"
        announced = 0
    elif end < size:
        tail = _tail(data, _after(data, end, announced + kind.skip, kind), kind)
    if plain and ((tail == "chunks" and announced) or end == size):
        return Stream(0, size, plain=True)
    end = max(first, min(end, size) if tail != "samples" else size)
    length = min(end - first + kind.skip, 0x7FFFFFF0)  # what is longer is PCM, whose header only tells the format
    header += data[at : at + kind.name] + struct.pack(kind.size, length + kind.counted)
    header += data[first - kind.skip : first]
    if kind is not _CONTAINERS[b"caff"]:  # which has no size of the whole
        total = struct.pack(kind.size, len(header) + length - (0 if kind.counted else 8))
        header = header[: kind.name] + total + header[kind.name + len(total) :]
    return Stream(first, end, header.replace(b"RF64", b"RIFF", 1).replace(b"BW64", b"RIFF", 1), announced)


def _after(data: mmap.mmap, end: int, length: int, kind: _Chunks) -> int:
    """Where the next chunk begins; some writers forget the byte that fills up an odd one."""
    forgotten = kind.align == 2 and length % 2 and _is_chunk(data, end, kind) and not _is_chunk(data, end + 1, kind)
    return end if forgotten else end + -length % kind.align


def _is_chunk(data: mmap.mmap, at: int, kind: _Chunks) -> bool:
    """Whether what is at a place can be a chunk: it has a name, and ends in the file."""
    start = at + kind.width
    if start > len(data) or not all(32 <= letter < 127 for letter in data[at : at + 4]):
        return False
    return 0 <= kind.length(data, at) <= len(data) - start + TOLERANCE


def _tail(data: mmap.mmap, at: int, kind: _Chunks) -> str:
    """What lies behind the announced end of the samples: chunks, something else that is no audio, or more samples."""
    while at + kind.width <= len(data):
        if data[at : at + 4] in _CONTAINERS or data[at : at + 12].startswith(TAGS):
            return "other"
        if not _is_chunk(data, at, kind):
            return "other" if len(data) - at <= PADDING and not any(data[at:]) else "samples"
        length = kind.length(data, at)
        at = _after(data, at + kind.width + length, length, kind)
    return "chunks"


def _au(data: mmap.mmap, start: int) -> Stream:
    size = len(data)
    offset, announced = struct.unpack(">II", data[start + 4 : start + 12].ljust(8, b"\0"))
    first = start + offset
    end = first + announced
    if (start == 0 and end == size) or not 24 <= offset <= size - start:
        return Stream(start, size, plain=start == 0)
    if announced in UNKNOWN or not data[end : end + 12].startswith((b".snd", *TAGS)):
        end, announced = size, 0 if announced in UNKNOWN else announced
    header = data[start : start + 8] + struct.pack(">I", min(end, size) - first & 0xFFFFFFFF) + data[start + 12 : first]
    return Stream(first, min(end, size), header, announced)


def _ogg(data: mmap.mmap, start: int) -> Stream:
    """Up to the next stream of a chain: a page that begins one, behind pages that do not."""
    at, inside, size = start, False, len(data)
    while 0 <= at < size:
        flags, count = data[at + 5 : at + 6], data[at + 26 : at + 27]
        if at > start and inside and flags and flags[0] & 2:
            return Stream(start, at)
        length = 27 + count[0] + sum(data[at + 27 : at + 27 + count[0]]) if count else 27
        inside |= bool(flags) and not flags[0] & 2
        if at + length > size:
            return Stream(start, size, cut=True, plain=start == 0)
        at += length
        if at < size and data[at : at + 4] != b"OggS":  # damaged, or something else follows
            follows = data.find(b"OggS", at)
            if follows < 0 and data[at : at + 12].startswith(TAGS):
                return Stream(start, at)
            at = follows if follows >= 0 else size
    return Stream(start, size, plain=start == 0)


_OTHERS = {b".snd": _au, b"OggS": _ogg}


def _elementary(data: mmap.mmap, mp3: bool) -> Iterator[Stream]:
    """FLAC or MP3, which may be several files joined; all other formats are left to the decoder."""
    first = _behind_id3(data, 0)
    if data[first : first + 4] == b"fLaC":
        stream = _flac(data, first, len(data))
        if stream.announced:  # files joined to it are looked for when so much is decoded
            yield stream._replace(plain=True)
        else:
            joined = _joined_flac(data, first + 4)
            yield from [stream._replace(end=joined[0].start - 26 if joined else len(data)), *joined]
    elif mp3 and (first := _next_frame(data, first)) < len(data):
        yield from _mp3(data, first)
    else:
        yield Stream(0, len(data), plain=True)


def _flac(data: mmap.mmap, start: int, end: int) -> Stream:
    head = bytearray(data[start : start + 26])
    rate, total = int.from_bytes(head[18:21]) >> 4, int.from_bytes(head[21:26]) & 0xFFFFFFFFF
    head[21:26] = (int.from_bytes(head[21:26]) & ~0xFFFFFFFFF).to_bytes(5)  # of unknown length: read all
    return Stream(start + 26, end, bytes(head), total / rate if rate else 0, timed=True)


def _joined_flac(data: mmap.mmap, at: int) -> list[Stream]:
    starts = [found.start() for found in re.compile(rb"fLaC\0\0\0\x22").finditer(data, at)]
    return [_flac(data, *ends) for ends in pairwise([*starts, len(data)])]


def joined_flac(path: Path, at: int) -> list[Stream]:
    """FLAC streams that begin behind a byte of a file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _joined_flac(data, at)


def _mp3(data: mmap.mmap, first: int) -> Iterator[Stream]:
    """Frame by frame: how many there are, and where another file begins, with tags or the frame that has its length."""
    start, at, count = first if _behind_id3(data, 0) < first else 0, first, 0  # junk before it is left out
    info, size = _info(data, at), len(data)
    while at < size:
        behind = _behind_id3(data, at)
        if at > first and (behind > at or _info(data, at)) and _frame_length(data, behind):
            yield _mp3_stream(data, start, first, at, info, count)
            start, at, first, count, info = at, behind, behind, 0, _info(data, behind)
        length = _frame_length(data, at)
        if not length:  # damaged, or the tags of music players
            at = _next_frame(data, at + 1)
            continue
        count += at + length <= size
        at += length
    stream = _mp3_stream(data, start, first, size, info, count)
    yield stream._replace(plain=stream.plain and start == 0)


def _next_frame(data: mmap.mmap, at: int) -> int:
    """Where the next two frames in a row begin; the end of the data if there are none."""
    while (at := data.find(b"\xff", at)) >= 0:
        if (length := _frame_length(data, at)) and _frame_length(data, at + length):
            return at
        at += 1
    return len(data)


def _mp3_stream(data: mmap.mmap, start: int, first: int, end: int, info: int, count: int) -> Stream:
    head = bytearray(data[first : first + 4])
    announced = int.from_bytes(data[info + 8 : info + 12]) if info and data[info + 7] & 1 else 0
    if announced >= 0.99 * (count - 1):  # with that of the length itself
        return Stream(start, end, announced=math.inf, timed=True, plain=True)
    if info:
        header = data[first : info + 7] + bytes([data[info + 7] | 1]) + (count - 1).to_bytes(4)
        return Stream(info + 12, end, header, math.inf, timed=True)
    head[1], head[2] = head[1] | 1, head[2] & 0x0D | 0x80  # without a checksum, and large enough
    frame = bytes(head).ljust(4 + _side(head), b"\0") + b"Info\0\0\0\1" + count.to_bytes(4)
    return Stream(first, end, frame.ljust(_frame_length(frame, 0), b"\0"), timed=True)


_RATES = (44100, 48000, 32000)  # Hz, of MPEG 1; half of it for MPEG 2, a quarter for 2.5
_KBITS = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)


def _version(head: Sequence[int]) -> int:
    return (2, 0, 1, 0)[head[1] >> 3 & 3]


def _side(head: Sequence[int]) -> int:
    """Bytes of side information of an MP3 frame."""
    mono = head[3] >> 6 == 3
    return (9 if mono else 17) if _version(head) else (17 if mono else 32)


def _frame_length(data: mmap.mmap | bytes, at: int) -> int:
    """Bytes of the MP3 frame (MPEG layer III) that begins at a place; 0 if none does."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] >> 3 & 3 == 1:
        return 0
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if kbits in (0, 15) or rate == 3:
        return 0
    version = _version(head)
    return (72 if version else 144) * 1000 * _KBITS[version > 0][kbits - 1] // (_RATES[rate] >> version) + (
        head[2] >> 1 & 1
    )


def _info(data: mmap.mmap, at: int) -> int:
    """Where the frame at a place says how many frames follow; 0 if it does not."""
    head = data[at : at + 4]
    if not _frame_length(data, at):
        return 0
    place = at + 4 + _side(head) + 2 * (not head[1] & 1)
    return place if data[place : place + 4] in (b"Xing", b"Info") else 0


def _behind_id3(data: mmap.mmap, at: int) -> int:
    """The byte behind an ID3v2 tag; `at` itself if there is none."""
    tag = data[at : at + 10]
    if tag[:3] != b"ID3" or len(tag) < 10 or max(tag[6:]) > 127:
        return at
    length = sum(value << 7 * (3 - place) for place, value in enumerate(tag[6:]))
    return min(at + 10 + length, len(data) - 1)


class Excerpt(RawIOBase):
    """A header, and behind it a stretch of a file, as a file."""

    def __init__(self, path: Path, stream: Stream) -> None:
        self._file, self._header, self._first = path.open("rb", buffering=0), stream.header, stream.start
        self._size, self._at = len(self._header) + stream.end - stream.start, 0

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        self._at = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self._size - self._at))]
        ahead = self._header[self._at : self._at + len(view)]
        view[: len(ahead)] = ahead
        self._file.seek(self._first + max(0, self._at - len(self._header)))
        count = len(ahead) + self._file.readinto(view[len(ahead) :])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
