"""The embeddings of a table as one array on disk, and the exact search through it, a block at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from edgesea.artifact import atomic_path, digest, locked
from edgesea.errors import EdgeseaError, explained
from edgesea.models.base import file_digest
from edgesea.parallel import thread_count
from edgesea.reduction.base import ARRAYS_FILE, REDUCTION_FILE, Reduction, transform_all
from edgesea.sampling.subset import table_key
from edgesea.table.reader import Table

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
ROWS, PLACES = "rows.npy", "places.npz"  # the second is written last
NUMBERS = 1 << 18  # that a thread holds of rows, and of cosines: they fit its cache
BLOCKS = 16  # that a thread reads, one after the other


class Hit(NamedTuple):
    """A clip or window that was found."""

    cosine: float  # of a clip: the mean over the query's vectors, each to the clip's row that is nearest to it
    row: int  # of all windows of the table; of a clip, the nearest to any vector of the query
    vector: int  # of the query, the nearest to that row


class Index:
    """Finds the rows nearest to some vectors: a table's embeddings, or what a reduction makes of them.

    ``rows.npy`` holds them (n, D) in the order of the table, in its dtype (reduced ones in float32), and zeros for one
    that is not finite. ``places.npz`` has `clips`, the first row of each clip and the end of the last, and `chunks`:
    part, row group and first row of each. Both are written if they are missing, in a folder below `folder` that is
    named by a digest of table and reduction.
    """

    def __init__(self, table: Table, folder: Path, reduction: Path | None = None, phi: Reduction | None = None) -> None:
        files = [file_digest(Path(reduction, name)) for name in (REDUCTION_FILE, ARRAYS_FILE)] if reduction else []
        self.folder = folder / digest([table_key(table.info), *files])[:16]
        try:
            if not (self.folder / PLACES).exists():
                with locked(self.folder):
                    if not (self.folder / PLACES).exists():
                        _write(table, self.folder, phi)
        except OSError as error:
            reason = f"{error.filename or self.folder}: {error.strerror or error}"
            raise EdgeseaError(f"no index can be written ({reason}); name another folder for it: index") from error
        with explained(f"{self.folder}: damaged; delete it, and it is written anew"):
            self.rows: np.memmap[tuple[int, ...], np.dtype[np.floating]] = np.load(self.folder / ROWS, mmap_mode="r")
            with np.load(self.folder / PLACES) as places:
                self.clips, self.chunks = places["clips"], places["chunks"]
            if len(self.rows) != self.clips[-1]:
                raise ValueError(f"{len(self.rows)} rows instead of {self.clips[-1]}")
        self.size = int(self.rows.shape[1])
        self.margin = 2 * (self.size + 8) * float(np.finfo(np.float32).eps)  # twice what a cosine may be off in float32

    def search(self, query: NDArray[np.floating], top: int, windows: bool = False) -> list[Hit]:
        """The `top` clips (or windows) with the highest cosine to the vectors `query` (T, D), best first.

        Exact: candidates are found in single precision, with a margin for its rounding, and ranked in double; equals
        are in the order of the table. Rows that are zero, or not finite, are never found.
        """
        exact = query / np.linalg.norm(query.astype(np.float64), axis=1, keepdims=True)
        bounds = np.arange(len(self.rows) + 1) if windows else self.clips
        begins = np.searchsorted(bounds, np.arange(0, len(self.rows), BLOCKS * self._block(exact)))
        spans = zip(begins, [*begins[1:], len(bounds) - 1], strict=True)  # of clips, for a thread
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(thread_count()) as pool:
            scores = np.concatenate([*pool.map(lambda span: self._scan(exact, bounds, windows, *span), spans)])
        count = min(top, len(scores))
        least = np.partition(scores, -count)[-count] - self.margin
        places = np.flatnonzero((scores >= least) & (scores > -np.inf))
        hits = self._windows(exact, places) if windows else [self._clip(exact, *bounds[i : i + 2]) for i in places]
        return sorted(hits, key=lambda hit: -hit.cosine)[:top]

    def place(self, row: int) -> tuple[int, int, int]:
        """Part, row group, and first row of the chunk that has a row."""
        part, group, first = self.chunks[np.searchsorted(self.chunks[:, 2], row, "right") - 1].tolist()
        return part, group, first

    def _block(self, query: Float64) -> int:
        """How many rows are read at once."""
        return max(1, NUMBERS // max(len(query), self.size))

    def _blocks(self, query: Float64, begin: int, end: int) -> Iterator[tuple[int, Float32]]:
        """(first row, cosines (T, b)) of blocks of rows, in single precision; NaN of rows without a direction.

        Read, not mapped, for mapped pages stay in memory; and always into the same arrays, for new ones cost as much
        time as all else.
        """
        vectors, block = query.T.astype(np.float32), max(1, min(self._block(query), end - begin))
        stored = np.empty((block, self.size), self.rows.dtype)
        single = stored if stored.dtype == np.float32 else np.empty(stored.shape, np.float32)
        cosines = np.empty((len(query), block), np.float32)
        with (self.folder / ROWS).open("rb") as file, np.errstate(all="ignore"):
            file.seek(self.rows.offset + begin * self.rows.strides[0])
            for first in range(begin, end, block):
                count = min(block, end - first)
                file.readinto(stored[:count].data)
                if stored is not single:
                    _to_single(stored, single)
                squares = np.einsum("ij,ij->i", single[:count], single[:count])
                scale = np.where((squares > 0) & (squares < np.inf), 1 / np.sqrt(squares), np.float32(np.nan))
                yield first, np.multiply((single[:count] @ vectors).T, scale, out=cosines[:, :count])

    def _scan(self, query: Float64, bounds: Int64, windows: bool, begin: int, end: int) -> Float32:
        """The cosine of some of the clips (or windows) in single precision, -inf where there is none."""
        best = np.full((len(query), end - begin), -np.inf, np.float32)
        for first, cosines in self._blocks(query, bounds[begin], bounds[end]):
            last = first + cosines.shape[1]
            some = slice(np.searchsorted(bounds, first, "right") - 1, np.searchsorted(bounds, last))
            if some.stop - some.start < last - first:  # else, each row is a clip
                cosines = np.fmax.reduceat(cosines, np.maximum(bounds[some] - first, 0), axis=1)
            seen = best[:, some.start - begin : some.stop - begin]
            np.fmax(seen, cosines, out=seen)
        scores: Float32 = best.max(0) if windows else best.mean(0, np.float64).astype(np.float32)
        return scores

    def _exact(self, query: Float64, rows: Int64) -> Float64:
        """Cosines (T, r) of some rows in double precision; unlike those of BLAS, the same wherever a row stands."""
        some = self.rows[rows].astype(np.float64)
        some /= np.sqrt(np.square(some).sum(1, keepdims=True))
        return np.stack([(some * vector).sum(1) for vector in query])

    def _windows(self, query: Float64, rows: Int64) -> Iterator[Hit]:
        for block in np.array_split(rows, len(rows) // self._block(query) + 1):
            cosines = self._exact(query, block)
            yield from map(Hit, cosines.max(0).tolist(), block.tolist(), cosines.argmax(0).tolist())

    def _clip(self, query: Float64, begin: int, end: int) -> Hit:
        best, nearest = np.full(len(query), -np.inf), np.zeros(len(query), np.int64)
        for first, cosines in self._blocks(query, begin, end):
            for number, near in enumerate(cosines):
                some = first + np.flatnonzero(near >= np.fmax.reduce(near) - self.margin)
                exact = self._exact(query[number : number + 1], some)[0]
                if len(some) and exact.max() > best[number]:
                    best[number], nearest[number] = exact.max(), some[exact.argmax()]
        return Hit(float(best.mean()), int(nearest[best.argmax()]), int(best.argmax()))


def _to_single(halves: NDArray[np.floating], out: Float32) -> None:
    """Finite numbers from float16 to float32, in half the time that numpy takes."""
    bits = out.view(np.int32)
    bits[:] = halves.view(np.int16)
    bits <<= 13
    bits &= ~0x70000000  # copies of the sign
    out *= np.float32(2.0**112)  # by which exponents count from 127 instead of 15


def _write(table: Table, folder: Path, phi: Reduction | None) -> None:
    """Write the two files, a chunk at a time."""
    total, size = sum(table.counts.values()), phi.output_size if phi else table.embedding_size
    dtype = np.dtype(np.float32) if phi else table.embedding_dtype
    clips, chunks, last, count = list[Int64](), list[tuple[int, int, int]](), None, 0
    with atomic_path(folder / ROWS) as path, path.open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (total, size)}
        np.lib.format.write_array_header_1_0(file, header)
        with tqdm(total=total, unit="window", desc="index", disable=None) as bar:
            for chunk in table.chunks(columns=["clip"]):
                rows = table.embeddings(chunk.part, chunk.group)
                rows = transform_all(phi, rows.astype(np.float32)) if phi else rows
                np.where(np.isfinite(rows).all(1, keepdims=True), rows, dtype.type(0)).tofile(file)
                names = chunk.names[chunk.clip]
                clips.append(count + np.flatnonzero(names != np.array([last, *names[:-1]], object)))
                chunks.append((chunk.part, chunk.group, count))
                last, count = names[-1], count + len(rows)
                bar.update(len(rows))
    with atomic_path(folder / PLACES) as path, path.open("wb") as file:
        np.savez(file, clips=np.concatenate([*clips, [count]]), chunks=np.array(chunks))
