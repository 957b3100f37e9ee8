"""Embeddings of raw PCM from a pipe, as a recorder writes it: the command ``stream`` (``embed --stdin``)."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, get_args

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.io import checked_count, to_mono
from edgesea.embed.memory import DEFAULT_MODEL
from edgesea.embed.results import model_provenance
from edgesea.embed.signals import Interruptible, ended_by_signals, reading
from edgesea.embed.sinks import Lines, LineSink, NpzSink, Sink
from edgesea.embed.stream import MOST_CHANNELS, Stream
from edgesea.errors import EdgeseaError
from edgesea.models import Backend, ModelOrName, load_model

log = logging.getLogger(__name__)

Encoding = Literal["s16le", "f32le"]

TYPES: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
HEADERS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b".snd")  # that files of audio begin with
READ_BYTES = 1 << 16  # of raw PCM at once, if so many are there


def stream(
    model: str = DEFAULT_MODEL,
    *,
    sample_rate: int | None = None,
    channels: int = 1,
    encoding: Encoding = "s16le",
    out: Path | None = None,
    overwrite: bool = False,
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

    Ctrl-C, SIGTERM (systemd, SLURM, timeout) and SIGHUP end it too: what has been read is embedded to its end and
    written, and the command succeeds. Another signal, a second later or more, ends it at once.

    Parameters
    ----------
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or a teacher's id.
    sample_rate : int
        Rate of the samples in Hz; it must be given.
    channels : int
        Number of interleaved channels; they are averaged.
    encoding : {"s16le", "f32le"}
        16-bit integers or 32-bit floating point, both little-endian.
    out : Path, optional
        An .npz file for the embeddings, written at the end; default: a line for each window on standard output. Until
        then they are in OUT.npz.rows, which a killed process leaves; see `edgesea.embed.sinks.NpzSink`.
    overwrite : bool
        Replace `out` if it exists (at the end, if there are any windows), and what a killed process has left of it.
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
        If an option is wrong, `out` exists or cannot be written, the input is a terminal or empty, a sample is NaN or
        Inf, or the model fails.
    """
    if sample_rate is None:
        raise EdgeseaError("raw PCM has no header that tells its rate; give it, as --sample_rate 48000")
    if out is None and sys.stdout is None:
        raise EdgeseaError("there is no standard output for the lines; name a file, as --out embeddings.npz")
    if sys.stdin is None:
        raise EdgeseaError("there is no standard input; let a recorder write raw PCM into it: arecord -t raw ... | ...")
    network = load_model(model, weights, device, backend)
    with ended_by_signals(sys.stdin.buffer) as file:
        result = embed_pcm(
            file,
            network,
            sample_rate,
            channels,
            encoding,
            hop,
            center,
            out=out,
            overwrite=overwrite,
            lines=lines,
            batch_size=batch_size,
        )
    if out is not None:
        return result
    log.info("%d windows of %.1f s", result["windows"], result["seconds"])
    return None


def embed_pcm(
    file: BinaryIO | Interruptible,
    model: ModelOrName,
    sample_rate: int,
    channels: int = 1,
    encoding: Encoding = "s16le",
    hop_size: float = 0.1,
    center: bool = True,
    *,
    out: Path | TextIO | None = None,
    overwrite: bool = False,
    lines: Lines = "json",
    batch_size: int = 64,
) -> dict[str, Any]:
    """Embed raw PCM, as a recorder writes it into a pipe, until it ends.

    A KeyboardInterrupt (Ctrl-C) ends it too: while it waits for more, what has been read is embedded to its end; while
    it computes, the last windows are left out. So does a closed pipe at `out`. An error after the first windows leaves
    them in `out`. Memory does not grow with the stream.

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
        A path gets `embedding` and `timestamps` at the end, as for audio files, and until then there are rows beside
        it (`edgesea.embed.sinks.NpzSink`); a text file (default: standard output) gets a line for each window as soon
        as it is complete.
    overwrite : bool
        Replace the file `out` if it exists.
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
        If an option is wrong, `out` exists or cannot be written, the input is a terminal or empty, a sample is NaN or
        Inf, or the model fails.
    OSError
        If the disk is full; the rows are kept.
    """
    if encoding not in get_args(Encoding):
        raise EdgeseaError(f"unknown encoding {encoding!r}; choose {', '.join(get_args(Encoding))}")
    channels = checked_count("channels", channels)
    if channels > MOST_CHANNELS:
        raise EdgeseaError(f"channels must be 1 to {MOST_CHANNELS}, not {channels}")
    if lines not in get_args(Lines):
        raise EdgeseaError(f"unknown lines {lines!r}; choose {', '.join(get_args(Lines))}")
    if hasattr(file, "isatty") and file.isatty():
        raise EdgeseaError("the input is a terminal; let a recorder write raw PCM into it: arecord -t raw ... | ...")
    stream = Stream(model, hop_size, center, sample_rate, batch_size)
    frames = _Frames(file, channels, encoding)
    pcm = {
        "source": str(getattr(file, "name", "raw PCM")).strip("<>"),
        "sample_rate": stream.sample_rate,
        "channels": channels,
        "encoding": encoding,
    }
    provenance = model_provenance(stream.model, float(hop_size), bool(center)) | pcm
    sink: Sink
    if isinstance(out, Path | str):
        sink = NpzSink(Path(out), stream.model.embedding_size, provenance, overwrite)
    else:
        sink = LineSink(out or sys.stdout, lines)
    return _embed_frames(frames, stream, sink)


def _embed_frames(frames: "_Frames", stream: Stream, sink: Sink) -> dict[str, Any]:
    """Embed all frames; what `embed_pcm` returns."""
    interrupted = False
    try:
        sink.write(*stream.feed(np.zeros(0, np.float32)))  # a table's header
        for chunk in frames:
            sink.write(*stream.feed(chunk))
        sink.write(*stream.finish())
    except (KeyboardInterrupt, BrokenPipeError):  # while it computed: more windows would leave a gap
        interrupted = True
    finally:
        sink.close()
    interrupted = interrupted or frames.interrupted
    if not (frames.count or interrupted):
        raise EdgeseaError(f"{frames.name}: holds no samples")
    return {"windows": sink.windows, "seconds": frames.count / stream.sample_rate, "interrupted": interrupted}


class _Frames:
    """The frames of raw PCM, averaged over the channels, in chunks (n,); Ctrl-C while it waits for more ends them."""

    def __init__(self, file: BinaryIO | Interruptible, channels: int, encoding: Encoding) -> None:
        self._read, self._channels, self._type = reading(file), channels, TYPES[encoding]
        self.name = getattr(file, "name", "input")
        self.count = 0
        self.interrupted = False

    def __iter__(self) -> Iterator[NDArray[Any]]:
        size = self._channels * self._type.itemsize
        rest = b""
        while data := self._bytes():
            data = rest + data
            if not self.count:
                self._check_raw(data)
            whole = len(data) // size
            rest = data[whole * size :]
            self.count += whole
            yield to_mono(np.frombuffer(data, self._type, whole * self._channels).reshape(whole, self._channels))
        if rest:
            log.warning("the last %d bytes are no whole frame of %d; they are left out", len(rest), size)

    def _check_raw(self, data: bytes) -> None:
        if data.startswith(HEADERS):
            raise EdgeseaError(
                f"{self.name}: no raw PCM, but a file with a header ({data[:4]!r}); let the recorder write raw PCM "
                "(arecord -t raw), or embed the file: edgesea embed FILE"
            )

    def _bytes(self) -> bytes:
        try:
            return self._read(READ_BYTES)
        except KeyboardInterrupt:
            self.interrupted = True
            return b""
