"""Reading embeddings from ``.npz``, ``.npy`` and ``.npy.gz`` files, a few rows at a time; nothing is unpickled."""

import gzip
import math
import tokenize
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float32 = NDArray[np.float32]

EMBEDDING, TIMESTAMPS = "embedding", "timestamps"  # arrays of an .npz, as openl3, edgel3 and `edgesea embed` name them
STAMP_TOLERANCE = 1e-3  # s; and 1e-6 of the timestamp itself, which may be in single precision
UNREADABLE = (  # what numpy, zipfile and gzip raise for files that are damaged or of another kind
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class EmbeddingFile:
    """The embeddings of one clip, opened for reading from the first row to the last; use it as a context manager.

    Parameters
    ----------
    path : Path
        ``.npz`` with an array ``embedding`` (and ``timestamps``), ``.npy`` or ``.npy.gz``.

    Attributes
    ----------
    count, size : int
        Rows and columns: windows and dimensions.
    timestamps : ndarray, (count,) float64, or None
        Seconds, as the file has them.

    Raises
    ------
    EdgeseaError
        If the file is damaged, or holds something else than a two-dimensional array of floating-point numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.timestamps: NDArray[np.float64] | None = None
        self._stack = ExitStack()
        self._columns: NDArray[Any] | None = None
        try:
            self._stream, length = self._open()
            shape, self._by_columns, self._dtype = _read_header(self._stream)
            self._check(shape, length)
        except UNREADABLE as error:
            self._stack.close()
            raise self._unreadable(error) from error
        self.count, self.size = shape

    def __enter__(self) -> "EmbeddingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, rows: int) -> Float32:
        """The next `rows` rows, (rows, size) float32.

        Raises
        ------
        EdgeseaError
            If the file is damaged, or holds NaN or Inf.
        """
        try:
            if self._by_columns and self._columns is None:  # then the rows are spread over the file
                columns = _read_values(self._stream, self.count * self.size, self._dtype)
                self._columns = columns.reshape(self.size, self.count).T
            if self._columns is not None:
                block, self._columns = self._columns[:rows], self._columns[rows:]
            else:
                block = _read_values(self._stream, rows * self.size, self._dtype).reshape(rows, self.size)
        except UNREADABLE as error:
            raise self._unreadable(error) from error
        with np.errstate(over="ignore"):
            result = np.asarray(block, np.float32)
        if not np.isfinite(result).all():
            raise EdgeseaError(f"{self.path.name}: the embeddings hold NaN or Inf")
        return result

    def _open(self) -> tuple[IO[bytes], int | None]:
        """The stream of the array, and its bytes where they are known beforehand."""
        if self.path.suffix == ".gz":
            return self._stack.enter_context(gzip.open(self.path)), None  # type: ignore[arg-type]
        if self.path.suffix == ".npy":
            return self._stack.enter_context(self.path.open("rb")), self.path.stat().st_size
        try:
            archive = self._stack.enter_context(zipfile.ZipFile(self.path))
        except zipfile.BadZipFile as error:
            raise ValueError("damaged, or no .npz file") from error
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if EMBEDDING not in names:
            raise ValueError(f"no array {EMBEDDING!r}; it has {', '.join(names) or 'none'}")
        if TIMESTAMPS in names:
            with archive.open(f"{TIMESTAMPS}.npy") as stream:
                self.timestamps = _read_timestamps(stream)
        member = archive.getinfo(f"{EMBEDDING}.npy")
        return self._stack.enter_context(archive.open(member)), member.file_size

    def _check(self, shape: tuple[int, ...], length: int | None) -> None:
        if self._dtype.kind != "f":
            raise ValueError(f"the embeddings are {self._dtype}, where floating-point numbers are needed")
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"the embeddings have the shape {shape}, where (windows, dimensions) is needed")
        if length is not None and math.prod(shape) * self._dtype.itemsize > length:
            raise ValueError(f"truncated: the header announces {shape[0]} x {shape[1]} numbers, which are not there")
        if self.timestamps is not None and len(self.timestamps) != shape[0]:
            raise ValueError(f"{len(self.timestamps)} timestamps for {shape[0]} embeddings")

    def _unreadable(self, error: BaseException) -> EdgeseaError:
        return EdgeseaError(f"{self.path.name}: {str(error) or type(error).__name__}")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first (Fortran's order), and dtype of an array in numpy's format."""
    try:
        version = np.lib.format.read_magic(stream)
    except (ValueError, gzip.BadGzipFile) as error:  # of either format, the first bytes are wrong
        raise ValueError("damaged, or no file in numpy's format (.npy)") from error
    if version == (1, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version[0]}.{version[1]} of numpy's format, which only named fields need")
    if dtype.hasobject:
        raise ValueError("holds Python objects, which only unpickling could read; save an array of numbers")
    return shape, by_columns, dtype


def _read_values(stream: IO[bytes], count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    content = stream.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError("truncated: the array ends before its last row")
    return np.frombuffer(content, dtype)


def _read_timestamps(stream: IO[bytes]) -> NDArray[np.float64]:
    shape, _, dtype = _read_header(stream)
    if len(shape) != 1 or dtype.kind not in "fiu":
        raise ValueError(f"the timestamps are {dtype} of shape {shape}, where one number for each window is needed")
    stamps = _read_values(stream, shape[0], dtype).astype(np.float64)
    if not np.isfinite(stamps).all():
        raise ValueError("the timestamps hold NaN or Inf")
    if len(stamps) > 1:
        even = np.linspace(stamps[0], stamps[-1], len(stamps))
        if stamps[0] >= stamps[-1] or not np.allclose(stamps, even, rtol=1e-6, atol=STAMP_TOLERANCE):
            raise ValueError("the timestamps are not evenly spaced")
    return stamps
