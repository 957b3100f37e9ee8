"""Making a table: threads read clips ahead, parts are written in order, and ``table.json`` says that all are there."""

import csv
import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.artifact import atomic_path, versions, write_json
from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.table.claiming import check_plan
from edgesea.table.manifest import ClipEntry
from edgesea.table.reader import Table, part_skipped
from edgesea.table.schema import SKIPPED_FILE, TABLE_FILE
from edgesea.table.writer import PartWriter

log = logging.getLogger(__name__)


class Skipped(NamedTuple):
    """A clip that could not be used, and why."""

    clip: str
    reason: str


class Source(Protocol):
    """What one thread reads: a clip, or a few that lie in one file.

    Attributes
    ----------
    clip : str
        Its name, by which it is listed if it cannot be read.
    path : Path
        The file.
    """

    @property
    def clip(self) -> str: ...

    @property
    def path(self) -> Path: ...


class AnyPiece(Protocol):
    """Windows of one clip; `clipped` counts the samples beyond full scale."""

    @property
    def clipped(self) -> int: ...


S = TypeVar("S", bound=Source)
P = TypeVar("P", bound=AnyPiece)
P_contra = TypeVar("P_contra", bound=AnyPiece, contravariant=True)


class Collector(Protocol[P_contra]):
    """Hands the pieces of one part to its writer, with their embeddings."""

    def add(self, entry: ClipEntry, piece: P_contra) -> None:
        """Take the next piece of a clip."""

    def flush(self) -> None:
        """Hand over what is still held back: the part ends here."""


@dataclass
class Written:
    """What one call has written, and in which time.

    Attributes
    ----------
    windows, clipped : int
        Windows; samples beyond full scale.
    seconds : float
        Duration.
    """

    windows: int = 0
    clipped: int = 0
    seconds: float = 0.0


class _SourceError(Exception):
    """A source turned out to be unusable after some of its pieces had been written."""

    def __init__(self, clip: str, reason: str) -> None:
        super().__init__(clip, reason)
        self.clip, self.reason = clip, reason


def write_parts(
    out: Path,
    plan: dict[str, Any],
    parts: Sequence[Sequence[S]],
    read: Callable[[S], Iterator[tuple[ClipEntry, P] | Skipped]],
    collect: Callable[[PartWriter], Collector[P]],
    *,
    workers: int,
    task: str,
    unit: str = "clip",
    depth: int = 2,
) -> Written:
    """Write the parts of a table that are not there yet.

    Parameters
    ----------
    out : Path
        Folder of the table.
    plan : dict
        Its plan; the dtype and the embeddings' size are read from it.
    parts : sequence of sequence of Source
        What each part holds. The bytes of a part depend on nothing but its sources.
    read : callable
        Called in a thread for each source: yields its pieces in order, and its clips that cannot be used. If it raises
        EdgeseaError, OSError or MemoryError, the whole source is skipped, pieces that it has yielded included.
    collect : callable
        Makes what stands between the pieces and the writer of a part.
    workers : int
        Threads that read ahead.
    task, unit : str
        What the progress bar is called and what it counts: the sources.
    depth : int
        Pieces of one source that may be held in advance.

    Returns
    -------
    Written
        Of this call.
    """
    size, dtype = plan["teacher"]["embedding_size"], plan["dtype"]
    failed: dict[str, str] = {}
    done, began = Written(), time.perf_counter()
    with tqdm(total=sum(map(len, parts)), unit=unit, desc=task, disable=None, smoothing=0.05) as bar:
        while missing := [part for part in range(len(parts)) if part_skipped(out, part) is None]:
            (out / TABLE_FILE).unlink(missing_ok=True)  # it says that all parts are there
            bar.n = sum(map(len, parts)) - sum(len(parts[part]) for part in missing)
            bar.refresh()
            todo = [source for part in missing for source in parts[part] if source.clip not in failed]
            streams = prefetch((partial(read, source) for source in todo), workers, depth)
            try:
                for part in missing:
                    with PartWriter(out, part, size, dtype) as writer:
                        collector = collect(writer)
                        clipped = 0
                        for source in parts[part]:
                            if source.clip in failed:
                                writer.skipped.append((source.clip, failed[source.clip]))
                            else:
                                clipped += _write_source(source, next(streams), collector, writer.skipped)
                            bar.update()
                            rate = (done.windows + writer.windows) / (time.perf_counter() - began)
                            bar.set_postfix_str(f"{rate:.0f} windows/s", refresh=False)
                        collector.flush()
                        check_plan(out, plan)
                    done.windows += writer.windows
                    done.clipped += clipped
            except _SourceError as failure:
                failed[failure.clip] = failure.reason  # its part is written anew without it
            finally:
                streams.close()  # type: ignore[attr-defined]
    done.seconds = time.perf_counter() - began
    return done


def _write_source(
    source: Source,
    items: Iterator[tuple[ClipEntry, P] | Skipped],
    collector: Collector[P],
    skipped: list[tuple[str, str]],
) -> int:
    """Hand the pieces of a source to the collector; returns the samples beyond full scale."""
    written = clipped = 0
    while True:
        try:
            item = next(items, None)
        except (EdgeseaError, OSError, MemoryError) as error:
            reason = str(error).removeprefix(f"{source.path}: ")
            if written:
                raise _SourceError(source.clip, reason) from error
            item = Skipped(source.clip, reason)
        if item is None:
            break
        if isinstance(item, Skipped):
            skipped.append((item.clip, item.reason))
            log.warning("skipped %s: %s", item.clip, item.reason)
            continue
        entry, piece = item
        collector.add(entry, piece)  # what fails here (teacher, disk) is not the clip's fault
        written += 1
        clipped += piece.clipped
    if clipped:
        log.debug("%s: %d samples beyond full scale were clipped", source.clip, clipped)
    return clipped


def check_range(embeddings: NDArray[np.floating], dtype: str, teacher: str, clip: str) -> None:
    """Make sure that the embeddings (n, D), all finite, of a clip fit the dtype that they will be stored in.

    Raises
    ------
    EdgeseaError
        If a number is too large; `teacher` and `clip` are named.
    """
    if (largest := np.abs(embeddings).max()) > np.finfo(dtype).max:
        raise EdgeseaError(
            f"teacher {teacher} gave {largest:g} for a window of {clip}, too large for dtype={dtype}; "
            "choose dtype=float32"
        )


def finish_table(out: Path, plan: dict[str, Any], clips: int, max_skipped: float) -> dict[str, Any]:
    """Write skipped.csv and, last of all, table.json, unless a former call has done it.

    Parameters
    ----------
    out : Path
        Folder of a table whose parts are all there.
    plan : dict
        Its plan.
    clips : int
        Number of clips, those skipped included.
    max_skipped : float
        Largest share of them that may be skipped.

    Returns
    -------
    dict
        table, clips, windows, skipped, windows_by_split.

    Raises
    ------
    EdgeseaError
        If too many clips were skipped, or all.
    """
    finished = (out / TABLE_FILE).exists()
    skipped = [row for part in range(plan["parts"]) for row in part_skipped(out, part) or []]
    if not finished:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("clip", "reason"), *skipped])
        with atomic_path(out / SKIPPED_FILE) as temporary:
            temporary.write_text(text.getvalue(), "utf-8", "surrogateescape")
    used = clips - len(skipped)
    if used == 0 or len(skipped) > max_skipped * clips:
        remedy = f"raise max_skipped ({max_skipped}) to go on without them" if used else "mend them or the options"
        raise EdgeseaError(
            f"{len(skipped)} of {clips} clips cannot be used (first: {skipped[0][0]}: {skipped[0][1]}); all are "
            f"listed in {out / SKIPPED_FILE}; {remedy}"
        )
    if not finished:
        by_split = _windows_by_split(Table(out, plan))
        counts = {"clips": used, "skipped": len(skipped), "windows": sum(by_split.values())}
        for stale in out.glob("*/.*.tmp"):  # left by killed calls
            stale.unlink(missing_ok=True)
        write_json(out / TABLE_FILE, {**plan, **counts, "windows_by_split": by_split, "versions": versions()})
    info = Table(out).info
    counts = {"clips": used, "windows": info["windows"], "skipped": len(skipped)}
    return {"table": str(out), **counts, "windows_by_split": info["windows_by_split"]}


def _windows_by_split(table: Table) -> dict[str, int]:
    by_split: Counter[str] = Counter()
    for chunk in table.chunks():
        by_split.update(chunk.splits[chunk.clip].tolist())
    return dict(sorted(by_split.items()))
