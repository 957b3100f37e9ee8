"""Where the embeddings of a stream go: lines of text as they come, or an ``.npz`` file at its end."""

import errno
import io
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

import numpy as np

from edgesea.artifact import check_file
from edgesea.embed.results import ENDING, write_embedding
from edgesea.embed.stream import Float32, Float64
from edgesea.errors import EdgeseaError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

Lines = Literal["json", "csv"]


class Sink(Protocol):
    """What takes the embeddings (t, D) and timestamps (t,) of a stream; `windows` counts them."""

    windows: int

    def write(self, embedding: Float32, timestamps: Float64) -> None: ...

    def close(self) -> None: ...


class LineSink:
    """Embeddings as lines of text, as they come.

    Parameters
    ----------
    file : text file
        It is the caller's, and stays open.
    style : {"json", "csv"}
        See `edgesea.embed.pcm.embed_pcm`.
    """

    def __init__(self, file: TextIO, style: Lines) -> None:
        self._file, self._style = file, style
        self._begun = False
        self.windows = 0

    def write(self, embedding: Float32, timestamps: Float64) -> None:
        """Write a line for each window; with no windows a table's header.

        Raises
        ------
        BrokenPipeError
            If whoever read the lines has gone.
        """
        text = []
        if self._style == "csv" and not self._begun:
            text.append(",".join(["timestamp", *(f"e{index}" for index in range(embedding.shape[1]))]))
        for row, time in zip(embedding, timestamps.round(6).tolist(), strict=True):
            values = list(map(str, row))  # the shortest text that is this float32
            json = f'{{"timestamp": {time}, "embedding": [{", ".join(values)}]}}'
            text.append(json if self._style == "json" else ",".join([str(time), *values]))
        self._begun = True
        if text:
            try:
                self._file.write("\n".join(text) + "\n")
                self._file.flush()
            except BrokenPipeError:
                self._abandon()
                raise
        self.windows += len(embedding)

    def _abandon(self) -> None:
        """Let what is still buffered vanish, instead of failing again when the file is closed."""
        with suppress(io.UnsupportedOperation):  # a text file of the caller's making, on nothing of the system's
            number = self._file.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)

    def close(self) -> None:
        """Nothing is to be done."""


class NpzSink:
    """An ``.npz`` file that is written at the end, unless there are no windows; see `embedding_file`.

    Until then they are in ``OUT.npz.rows`` beside it, however many they are: a row is a window's timestamp and its
    embedding, in the type `row_type` and without a header, so that those of a process that was killed can be read. This
    file also keeps another stream from the same `path`.

    Parameters
    ----------
    path : Path
        Ends in .npz; its folder is made if it is missing.
    embedding_size : int
        D.
    provenance : mapping
        What the embeddings are made of, as JSON values.
    overwrite : bool
        Replace the file, and the rows that a process has left, if they exist.

    Raises
    ------
    EdgeseaError
        If they exist and are not to be replaced, or cannot be written.
    """

    def __init__(self, path: Path, embedding_size: int, provenance: Mapping[str, Any], overwrite: bool = False) -> None:
        if path.suffix != ENDING:
            raise EdgeseaError(f"{path}: out must end in {ENDING}; lines of text go to standard output")
        check_file(path)  # now, not after days of listening
        self._path, self._provenance, self._overwrite = path, provenance, overwrite
        self._check_vacant()
        self.rows = path.with_name(f"{path.name}.rows")
        self._type = row_type(embedding_size)
        self.windows = 0
        self._file = self._opened(embedding_size, overwrite)

    def _opened(self, embedding_size: int, overwrite: bool) -> io.FileIO:
        """The file of rows, empty and locked, so that no other stream takes it as long as this one goes on."""
        try:
            self.rows.parent.mkdir(parents=True, exist_ok=True)
            mode = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | (0 if overwrite else os.O_EXCL)
            file = io.FileIO(os.open(self.rows, mode, 0o666), "r+")
        except FileExistsError:
            raise EdgeseaError(
                f"{self.rows}: the windows of a stream that was killed, or goes on; read them with "
                f"{how_to_read(self.rows, embedding_size)} and delete it, or choose another name"
            ) from None
        except OSError as error:
            raise EdgeseaError(f"{self.rows}: cannot be written: {error.strerror}; choose another name") from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:
                raise FileNotFoundError(self.rows)  # deleted by the other stream, which has just ended
            file.truncate()
        except OSError:
            file.close()
            raise EdgeseaError(f"{self.rows}: another stream is writing it; choose another name") from None
        return file

    def write(self, embedding: Float32, timestamps: Float64) -> None:
        """Append windows to the rows; they are out of this process when it returns.

        Raises
        ------
        OSError
            If the disk is full or broken.
        """
        rows = np.empty(len(embedding), self._type)
        rows["timestamp"], rows["embedding"] = timestamps, embedding
        left = memoryview(rows.tobytes())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(self.rows)) from error
        self.windows += len(embedding)

    def close(self) -> None:
        """Write the file and delete the rows; if that fails, they are kept and named in the log.

        Raises
        ------
        EdgeseaError
            If the file has come into being meanwhile, and is not to be replaced.
        OSError
            If it cannot be written.
        """
        with self._file:
            try:
                if self.windows:
                    self._check_vacant()
                    rows = np.memmap(self._file, self._type, "r", shape=(self.windows,))
                    write_embedding(self._path, rows["embedding"], rows["timestamp"], self._provenance)
                    del rows  # Windows deletes no file that is mapped
            except BaseException:
                size = self._type["embedding"].shape[0]
                log.error(
                    "%s is not written, but its %d windows are kept in %s; read them with %s",
                    *(self._path, self.windows, self.rows, how_to_read(self.rows, size)),
                )
                raise
        self.rows.unlink(missing_ok=True)

    def _check_vacant(self) -> None:
        if self._path.exists() and not self._overwrite:
            raise EdgeseaError(f"{self._path}: exists; choose another name, or overwrite")


def row_type(embedding_size: int) -> np.dtype[Any]:
    """What a row of `NpzSink` is."""
    return np.dtype([("timestamp", "<f8"), ("embedding", "<f4", (embedding_size,))])


def how_to_read(path: Path, embedding_size: int) -> str:
    """How rows of `NpzSink` are read, in Python."""
    return f"numpy.fromfile({str(path)!r}, [('timestamp', '<f8'), ('embedding', '<f4', {embedding_size})])"
