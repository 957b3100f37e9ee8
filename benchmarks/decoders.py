"""What becomes of recordings with broken headers, cut short or joined: seconds used, and seconds that are there.

    python benchmarks/decoders.py [--keep FOLDER]

Makes a recording of three seconds in every container, damages it in the ways that recorders and people do, and decodes
it with `edgesea.audio.io.AudioFile`, told to use what is left. What is there is known for uncompressed audio from its
bytes, and for the others from PyAV (ffmpeg), a decoder of its own; both may differ by one frame of the codec. Prints
a table of what is done with each, and fails if more is lost. Writes benchmarks/results/decoders.json.
"""

import argparse
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from edgesea.audio.io import AudioFile
from edgesea.errors import EdgeseaError

RESULTS = Path(__file__).parent / "results" / "decoders.json"
RATE, SECONDS = 16000, 3.0
CUTS = [round(0.05 + 0.1 * step, 2) for step in range(10)]  # shares of the file that are left
CODEC_FRAME = {"flac": 4608, "ogg": 4096, "opus": 1920, "mp3": 2304, "ima": 2048}  # samples; at 48 kHz less time
# container: libsndfile's names, bytes of a second (0: compressed)
CONTAINERS = {
    "wav": ("WAV", "PCM_16", 32000),
    "wav24": ("WAV", "PCM_24", 48000),
    "wavex": ("WAVEX", "FLOAT", 64000),
    "ima": ("WAV", "IMA_ADPCM", 0),
    "rf64": ("RF64", "PCM_16", 32000),
    "w64": ("W64", "PCM_16", 32000),
    "aiff": ("AIFF", "PCM_16", 32000),
    "caf": ("CAF", "PCM_16", 32000),
    "au": ("AU", "PCM_16", 32000),
    "flac": ("FLAC", "PCM_16", 0),
    "ogg": ("OGG", "VORBIS", 0),
    "opus": ("OGG", "OPUS", 0),
    "mp3": ("MP3", "MPEG_LAYER_III", 0),
}
# where a container's size of the samples is: bytes behind the marker, format, what it counts besides, unknown sizes
SIZES = {
    "wav": (b"data", 4, "<I", 0, (0, 0x7FFFFFFF, 0xFFFFFFFF)),
    "rf64": (b"ds64", 16, "<Q", 0, (0,)),
    "w64": (b"data\xf3\xac", 16, "<Q", 24, (24,)),
    "aiff": (b"SSND", 4, ">I", 8, (0, 8, 0xFFFFFFFF)),
    "caf": (b"data", 4, ">q", 4, (-1, 4)),
    "au": (b".snd", 8, ">I", 0, (0, 0xFFFFFFFF)),
}
SIZES |= dict.fromkeys(("wav24", "wavex", "ima"), SIZES["wav"])


@dataclass
class Case:
    """A damaged recording, and what becomes of it."""

    container: str
    damage: str
    there: float  # seconds; NaN: what PyAV finds
    content: bytes
    whole: bool = True  # whether it is to be used without a word about what is missing


def tone(seconds: float = SECONDS) -> np.ndarray:
    rng, time = np.random.default_rng(0), np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * 440 * time) + 0.05 * rng.standard_normal(len(time))


def encode(folder: Path, container: str) -> bytes:
    fmt, subtype, _ = CONTAINERS[container]
    path = folder / "healthy"
    soundfile.write(path, tone(), RATE, format=fmt, subtype=subtype)
    return path.read_bytes()


def chunk(name: bytes, content: bytes, order: str = "<", pad: bool = True) -> bytes:
    return name + struct.pack(f"{order}I", len(content)) + content + bytes(pad * len(content) % 2)


def cases(folder: Path) -> Iterator[Case]:
    """Every container with every damage that it can have."""
    for name, (_, _, per_second) in CONTAINERS.items():
        healthy, other = encode(folder, name), encode(folder, name)
        if name in ("ogg", "opus"):  # libsndfile takes the serial number of a stream from the clock
            other = healthy
        yield Case(name, "healthy", SECONDS, healthy)
        yield Case(name, "two joined", 2 * SECONDS, healthy + other)
        for share in CUTS:
            left = healthy[: round(share * len(healthy))]
            yield Case(name, f"cut at {share:.0%}", _left(name, healthy, left, per_second), left, whole=False)
        if name in SIZES:
            yield from _sizes(name, healthy, per_second)
        if name in ("wav", "wav24", "wavex", "ima", "aiff"):
            order, head = (">", 12) if name == "aiff" else ("<", 12)
            for pad in (True, False):
                what = "an odd chunk" + ("" if pad else " without its pad byte")
                odd = chunk(b"NAME" if name == "aiff" else b"LIST", b"INFO.", order, pad)
                yield Case(name, what + " before", SECONDS, healthy[:head] + odd + healthy[head:])
                yield Case(name, what + " behind", SECONDS, healthy + odd)
        if name in ("wav", "aiff", "au", "flac", "mp3", "w64", "caf"):
            yield Case(name, "an ID3 tag behind", SECONDS, healthy + b"TAG" + b"x" * 125)
        if name == "flac":
            for what, total in (("unknown", 0), ("too small", 24000), ("too large by 1 %", 48400)):
                first = healthy[:21] + bytes([healthy[21] & 0xF0]) + struct.pack(">I", total) + healthy[26:]
                yield Case(name, f"length {what}", SECONDS, first)
        if name == "mp3":
            tag = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
            frames = healthy.index(b"Xing") + 8
            (right,) = struct.unpack_from(">I", healthy, frames)
            for what, count in (("half too small", right // 2), ("zero", 0), ("1 % too large", right + right // 100)):
                content = healthy[:frames] + struct.pack(">I", count) + healthy[frames + 4 :]
                yield Case(name, f"length {what}", SECONDS, content)
            bare = healthy[healthy.index(b"\xff\xf3", 10) :]
            yield Case(name, "without a length", SECONDS, bare)
            yield Case(name, "begun in a frame", SECONDS, bare[100:])
            yield Case(name, "two joined, with tags", 2 * SECONDS, tag + healthy + tag + other)


def _left(name: str, healthy: bytes, left: bytes, per_second: int) -> float:
    if not per_second:
        return float("nan")
    marker, behind, fmt, _, _ = SIZES[name]
    first = healthy.index(b"data" if name == "rf64" else marker, 4 * (name != "au")) + behind + struct.calcsize(fmt)
    first = {"aiff": first + 8, "caf": first + 4, "rf64": 104, "au": 24}.get(name, first)
    return max(0.0, (len(left) - first) / per_second)


def _sizes(name: str, healthy: bytes, per_second: int) -> Iterator[Case]:
    marker, behind, fmt, _, unknown = SIZES[name]
    at = healthy.index(marker, 4 * (name != "au")) + behind
    (right,) = struct.unpack_from(fmt, healthy, at)

    def with_size(size: int) -> bytes:
        return healthy[:at] + struct.pack(fmt, size) + healthy[at + struct.calcsize(fmt) :]

    yield Case(name, "size 44 bytes too large", SECONDS, with_size(right + 44))
    yield Case(name, "size 1 % too large", SECONDS, with_size(right + right // 100))
    yield Case(name, "size twice too large", SECONDS, with_size(2 * right), whole=False)
    yield Case(name, "size half too small", SECONDS, with_size(right // 4 * 2))
    for size in unknown:
        yield Case(name, f"size {size & 0xFFFFFFFF:#x}", SECONDS, with_size(size))
    if name in ("wav", "aiff"):
        yield Case(name, "never finished", SECONDS, healthy[:4] + bytes(4) + with_size(0)[8:])


def wrapped(folder: Path) -> Case:
    """A WAV file of 4 GiB and three seconds, of which a header of 32 bits can only count the three seconds."""
    path, samples, bytes_there = folder / "case.large", encode(folder, "wav")[44:], 2**32 + round(SECONDS * 2 * RATE)
    with path.open("wb") as file:
        fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
        sizes = (bytes_there + 36) % 2**32, bytes_there % 2**32
        file.write(
            b"RIFF" + struct.pack("<I", sizes[0]) + b"WAVE" + fmt + b"data" + struct.pack("<I", sizes[1]) + samples
        )
        file.truncate(44 + bytes_there)
    return Case("large", "wrapped at 4 GiB", bytes_there / 2 / RATE, b"")


def peer_seconds(path: Path) -> float:
    """Seconds that PyAV decodes, as far as it comes."""
    import av

    av.logging.set_level(None)
    seconds = 0.0
    try:
        with av.open(str(path)) as file:
            for packet in file.demux(audio=0):
                try:
                    seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
                except av.error.FFmpegError:
                    continue
    except (av.error.FFmpegError, IndexError):
        pass
    return seconds


def used(path: Path, truncated: str) -> tuple[float, str]:
    """Seconds decoded, and what is said of the file."""
    try:
        with AudioFile(path, truncated) as file:
            seconds = sum(len(chunk) for chunk in file.chunks()) / file.sample_rate
    except EdgeseaError as error:
        return 0.0, str(error).removeprefix(f"{path}: ")
    return seconds, "; ".join(file.notes)


def survey(folder: Path, large: bool) -> list[dict[str, Any]]:
    """One row for each case."""
    rows = []
    for case in (*cases(folder), *([wrapped(folder)] if large else [])):
        path = folder / f"case.{case.container}"
        if case.content:
            path.write_bytes(case.content)
        there = peer_seconds(path) if np.isnan(case.there) else case.there
        (seconds, notes), (kept, reason) = used(path, "use"), used(path, "skip")
        frame = CODEC_FRAME.get(case.container, 1) / RATE
        # a file cut inside its head has nothing to decode
        right = abs(seconds - there) <= frame + 1e-9 and (not case.whole or abs(kept - there) <= frame + 1e-9)
        row = {key: value for key, value in asdict(case).items() if key not in ("content", "there")}
        rows.append(
            {**row, "there": there, "used": seconds, "by_default": kept, "notes": notes or reason, "right": right}
        )
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """For each damage: in which containers, what is done by default, and the largest error in ms."""
    by_damage: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        damage = "size unknown (0, -1, 0xffffffff ...)" if row["damage"].startswith("size 0x") else row["damage"]
        by_damage.setdefault("cut at 10 points" if damage.startswith("cut") else damage, []).append(row)
    return {
        damage: {
            "containers": ", ".join(dict.fromkeys(row["container"] for row in found)),
            "by default": " / ".join(dict.fromkeys("used" if row["by_default"] else "skipped" for row in found)),
            "largest difference, ms": f"{max(1000 * abs(row['used'] - row['there']) for row in found):.1f}",
        }
        for damage, found in by_damage.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a folder where the files stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = survey(arguments.keep or Path(temporary), large=True)
    wrong = [row for row in rows if not row["right"]]
    summary = summarise(rows)
    print("| damage | containers | by default | largest difference, ms |\n|---|---|---|---|")
    for damage, values in summary.items():
        print(f"| {damage} | {' | '.join(values.values())} |")
    print(f"\n{len(rows)} files, {len(wrong)} wrong")
    for row in wrong:
        print(row)
    RESULTS.write_text(json.dumps({"files": len(rows), "wrong": len(wrong), **summary}, indent=1) + "\n")
    sys.exit(bool(wrong))
