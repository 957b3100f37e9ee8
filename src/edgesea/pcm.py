"""Embeddings of raw PCM from a pipe, as a recorder writes it: the command ``stream`` (``embed --stdin``)."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, get_args

import numpy as np
from numpy.typing import NDArray

from edgesea.embedding import ModelOrName
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, check_way
from edgesea.models import Backend
from edgesea.stream import MOST_CHANNELS, Embedded, Float32, Float64, Stream

log = logging.getLogger(__name__)

Encoding = Literal["s16le", "f32le"]
Lines = Literal["json", "csv"]

TYPES: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
READ_BYTES = 1 << 16  # of raw PCM at once, if so many are there


def stream(
    model: str,
    *,
    sample_rate: int,
    channels: int = 1,
    encoding: Encoding = "s16le",
    out: Path | None = None,
    lines: Lines = "json",
    weights: Path | None = None,
    hop: float = 0.1,
    center: bool = True,
    batch_size: int = 64,
    device: str = "auto",
    backend: Backend = "auto",
) -> dict[str, Any] | None:
    """Embed raw PCM from standard input, window by window as it comes, until it ends.

    For example: arecord -t raw -f S16_LE -r 48000 | edgesea stream MODEL --sample_rate 48000

    Parameters
    ----------
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or a teacher's id.
    sample_rate : int
        Rate of the samples in Hz.
    channels : int
        Number of interleaved channels; they are averaged.
    encoding : {"s16le", "f32le"}
        16-bit integers or 32-bit floating point, both little-endian.
    out : Path, optional
        An .npz file for the embeddings, written at the end; default: a line for each window on standard output.
    lines : {"json", "csv"}
        What such a line looks like.
    weights : Path, optional
        A teacher's weight file.
    hop : float
        Seconds between windows.
    center : bool
        Let timestamps be the windows' middles (half a window of zeros precedes the audio).
    batch_size : int
        Windows embedded at once, at most.
    device : str
        auto, cpu, cuda, mps.
    backend : {"auto", "torch", "onnx"}
        What computes a student: onnx on the CPU, torch (edgesea[train]) anywhere; auto: onnx unless there is a GPU.

    Returns
    -------
    dict or None
        With `out`: windows, seconds (of audio read), interrupted.

    Raises
    ------
    EdgeseaError
        If an option is wrong, the input is a terminal or empty, a sample is NaN or Inf, or the model fails.
    """
    from edgesea.models.inference import load_model

    network = load_model(model, weights, device, backend)
    result = embed_pcm(
        sys.stdin.buffer,
        network,
        sample_rate,
        channels,
        encoding,
        hop,
        center,
        out=out,
        lines=lines,
        batch_size=batch_size,
    )
    if out is not None:
        return result
    log.info("%d windows of %.1f s", result["windows"], result["seconds"])
    return None


def embed_pcm(
    file: BinaryIO,
    model: ModelOrName,
    sample_rate: int,
    channels: int = 1,
    encoding: Encoding = "s16le",
    hop_size: float = 0.1,
    center: bool = True,
    *,
    out: Path | TextIO | None = None,
    lines: Lines = "json",
    batch_size: int = 64,
) -> dict[str, Any]:
    """Embed raw PCM, as a recorder writes it into a pipe, until it ends.

    Ctrl-C ends it too: while it waits for more, what has been read is embedded to its end; while it computes, the last
    windows are left out. So does a closed pipe at `out`. An error after the first windows leaves them in `out`.

    Parameters
    ----------
    file : binary file
        Interleaved samples without a header, such as ``sys.stdin.buffer``. Bytes are taken as they come.
    model, hop_size, center, batch_size
        As in `Stream`.
    sample_rate : int
        Rate of the samples in Hz.
    channels : int
        Number of channels; they are averaged.
    encoding : {"s16le", "f32le"}
        16-bit integers or 32-bit floating point, both little-endian.
    out : path ending in .npz, or text file
        A path gets `embedding` and `timestamps` at the end, as for audio files; a text file (default: standard output)
        gets a line for each window as soon as it is complete.
    lines : {"json", "csv"}
        Lines ``{"timestamp": 0.1, "embedding": [...]}``, or ``0.1,...`` below a header. Timestamps are rounded to
        microseconds; embeddings are exact as float32.

    Returns
    -------
    dict
        windows, seconds (of audio read), interrupted (whether by Ctrl-C or a closed pipe).

    Raises
    ------
    EdgeseaError
        If an option is wrong, the input is a terminal or empty, a sample is NaN or Inf, or the model fails.
    """
    if encoding not in get_args(Encoding):
        raise EdgeseaError(f"unknown encoding {encoding!r}; choose {', '.join(get_args(Encoding))}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise EdgeseaError(f"channels must be 1 to {MOST_CHANNELS}, not {channels}")
    if lines not in get_args(Lines):
        raise EdgeseaError(f"unknown lines {lines!r}; choose {', '.join(get_args(Lines))}")
    if hasattr(file, "isatty") and file.isatty():
        raise EdgeseaError("the input is a terminal; let a recorder write raw PCM into it: arecord -t raw ... | ...")
    sink = _Npz(Path(out)) if isinstance(out, Path | str) else _Lines(out or sys.stdout, lines)
    stream = Stream(model, hop_size, center, sample_rate, batch_size)
    frames = _Frames(file, channels, encoding)
    interrupted = False
    try:
        sink.write(*stream.feed(np.zeros(0, np.float32)))  # a table's header
        for chunk in frames:
            sink.write(*stream.feed(chunk))
        sink.write(*stream.finish())
    except KeyboardInterrupt:  # while it computed: more windows would leave a gap
        interrupted = True
    except BrokenPipeError:
        interrupted = True
        sink.abandon()
    finally:
        sink.close()
    interrupted = interrupted or frames.interrupted
    if not (frames.count or interrupted):
        raise EdgeseaError(f"{getattr(file, 'name', 'input')}: holds no samples")
    return {"windows": sink.windows, "seconds": frames.count / sample_rate, "interrupted": interrupted}


class _Frames:
    """The frames of raw PCM, in chunks (n, channels); Ctrl-C while it waits for more ends them."""

    def __init__(self, file: BinaryIO, channels: int, encoding: Encoding) -> None:
        self._file, self._channels, self._type = file, channels, TYPES[encoding]
        self.count = 0
        self.interrupted = False

    def __iter__(self) -> Iterator[NDArray[Any]]:
        size = self._channels * self._type.itemsize
        read: Callable[[int], bytes] = getattr(self._file, "read1", self._file.read)  # read1 does not wait for so many
        rest = b""
        while data := self._read(read):
            data = rest + data
            whole = len(data) // size
            rest = data[whole * size :]
            self.count += whole
            yield np.frombuffer(data, self._type, whole * self._channels).reshape(whole, self._channels)
        if rest:
            log.warning("the last %d bytes are no whole frame of %d; they are left out", len(rest), size)

    def _read(self, read: Callable[[int], bytes]) -> bytes:
        try:
            return read(READ_BYTES)
        except KeyboardInterrupt:
            self.interrupted = True
            return b""


class _Lines:
    """Embeddings as lines of text, as they come."""

    def __init__(self, file: TextIO, style: Lines) -> None:
        self._file, self._style = file, style
        self._begun = False
        self.windows = 0

    def write(self, embedding: Float32, timestamps: Float64) -> None:
        text = []
        if self._style == "csv" and not self._begun:
            text.append(",".join(["timestamp", *(f"e{index}" for index in range(embedding.shape[1]))]))
        for row, time in zip(embedding, timestamps.round(6).tolist(), strict=True):
            values = list(map(str, row))  # the shortest text that is this float32
            json = f'{{"timestamp": {time}, "embedding": [{", ".join(values)}]}}'
            text.append(json if self._style == "json" else ",".join([str(time), *values]))
        self._begun = True
        if text:
            self._file.write("\n".join(text) + "\n")
            self._file.flush()
        self.windows += len(embedding)

    def abandon(self) -> None:
        """Whoever read it has gone: let what is still buffered vanish instead of failing again when it is closed."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._file.fileno())
        os.close(nowhere)

    def close(self) -> None:
        """Leave the file open, for it is the caller's."""


class _Npz:
    """Embeddings as a file that is written at the end, unless there are none."""

    def __init__(self, path: Path) -> None:
        if path.suffix != ".npz":
            raise EdgeseaError(f"{path}: out must end in .npz; lines of text go to standard output")
        check_way(path.parent)  # not after hours of listening
        self._path = path
        self._parts: list[Embedded] = []

    @property
    def windows(self) -> int:
        return sum(len(embedding) for embedding, _ in self._parts)

    def write(self, embedding: Float32, timestamps: Float64) -> None:
        if len(embedding):
            self._parts.append((embedding, timestamps))

    def abandon(self) -> None:
        """Nobody reads it yet."""

    def close(self) -> None:
        if not self._parts:
            return
        embedding, timestamps = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        with atomic_path(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, embedding=embedding, timestamps=timestamps)
