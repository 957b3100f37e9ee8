"""``extract``: an audio folder or a manifest becomes a table of clips, windows and teacher embeddings."""

import csv
import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, make_vacant, read_json, write_json
from edgesea.prefetch import prefetch
from edgesea.table.manifest import ClipEntry, cut_parts, manifest_digest, read_manifest
from edgesea.table.pieces import Piece, Rates, clip_pieces
from edgesea.version import versions

if TYPE_CHECKING:
    from edgesea.models.base import EmbeddingModel
    from edgesea.table.reader import Table

Float32 = NDArray[np.float32]
log = logging.getLogger(__name__)


class _ClipError(Exception):
    """A clip turned out to be unusable after some of its pieces had been written."""

    def __init__(self, clip: str, reason: str) -> None:
        super().__init__(clip, reason)
        self.clip, self.reason = clip, reason


def extract(
    source: Path,
    out: Path,
    *,
    teacher: str = "spectral",
    weights: Path | None = None,
    root: Path | None = None,
    columns: dict[str, str] | None = None,
    validate: float | str = 0.1,
    sample_rate: int = 8000,
    window: float = 1.0,
    hop: float = 0.5,
    center: bool = False,
    level_rate: float = 1.0,
    dtype: Literal["float16", "float32"] = "float16",
    part_clips: int = 128,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
    max_skipped: float = 0.5,
) -> dict[str, Any]:
    """Embed the windows of all clips with a teacher and store them, with the audio, as a table.

    Killed or failed, it resumes at the first missing part when it is started again with the same options. Clips that
    cannot be used are listed in ``skipped.csv`` with the reason.

    Parameters
    ----------
    source : Path
        Folder of recordings, or a manifest (.csv or .parquet) with a column `path` and any of `sensor`, `time` (ISO
        8601), `split` (train, validate, test), `level` (dB SPL: a number or a list).
    out : Path
        Folder of the table.
    teacher : str
        Teacher model: spectral, efficientat/mn04 ... mn40, openl3/env-mel256-512 ..., hear:MODULE, onnx:FILE,
        callable:MODULE:FUNCTION@RATE.
    weights : Path, optional
        The teacher's weight file; default: the published one, downloaded and verified.
    root : Path, optional
        Folder that the manifest's paths are relative to; default: the manifest's own.
    columns : dict, optional
        The manifest's own names of its columns, as {path: filename}.
    validate : float or str
        Which clips without a split validate: a share (chosen by a hash of the clip's name; subfolders `train` and
        `validate` go first) or a condition on the manifest, as fold=5.
    sample_rate : int
        Rate in Hz of the stored audio: the student's.
    window : float
        Length of a window in seconds.
    hop : float
        Distance between the starts of two windows in seconds.
    center : bool
        Precede each clip by half a window of zeros.
    level_rate : float
        Readings per second of the manifest's `level` lists.
    dtype : {"float16", "float32"}
        How embeddings are stored.
    part_clips : int
        Clips in a part: what a killed extraction loses at most.
    batch_size : int
        Windows that the teacher embeds at once.
    workers : int
        Threads that decode ahead of the teacher.
    device : str
        Where the teacher runs: auto, cpu, cuda, cuda:1, mps.
    max_skipped : float
        Largest share of clips that may be skipped.

    Returns
    -------
    dict
        clips, windows, skipped, seconds of audio, windows_per_second and hours_per_hour of this call.

    Raises
    ------
    EdgeseaError
        If the source, the options or the teacher's weights are unusable, `out` holds another table, or too many clips
        had to be skipped.
    """
    for name, value in (("part_clips", part_clips), ("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise EdgeseaError(f"{name} must be at least 1, not {value}")
    if not level_rate > 0:
        raise EdgeseaError(f"level_rate must be a positive number of readings per second, not {level_rate}")
    from edgesea.models import load_teacher

    framing = Framing(window, hop, center)
    framing.at(sample_rate)
    entries = read_manifest(Path(source), root and Path(root), columns, validate)
    model = load_teacher(teacher, weights, device=device)
    if model.window is not None and round(model.window * model.sample_rate) != round(window * model.sample_rate):
        raise EdgeseaError(f"teacher {teacher} embeds windows of {model.window} s, not {window} s")
    parts = cut_parts(entries, part_clips)
    measured = any(entry.level for entry in entries)
    plan = {
        "teacher": {
            "id": model.id,
            "sha256": model.digest,
            "sample_rate": model.sample_rate,
            "embedding_size": model.embedding_size,
        },
        "sample_rate": sample_rate,
        "framing": asdict(framing),
        "dtype": dtype,
        "parts": len(parts),
        "part_clips": part_clips,
        "batch_size": batch_size,
        "level": {"unit": "dB SPL" if measured else "dB(A) re full scale", "rate": level_rate},
        "manifest_sha256": manifest_digest(entries),
    }
    _check_plan(Path(out), plan)
    rates = Rates(framing, sample_rate, model.sample_rate, level_rate, measured)
    speed = _write_parts(Path(out), parts, model, rates, dtype, batch_size, workers)
    return {**_finish(Path(out), entries, plan, max_skipped), **speed}


def _check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Claim the folder for this plan, or make sure that it is already this plan's."""
    from edgesea.table.schema import PLAN_FILE

    path = out / PLAN_FILE
    if path.exists():
        found = read_json(path)
        if found != plan:
            keys = sorted(key for key in plan.keys() | found.keys() if plan.get(key) != found.get(key))
            differences = "; ".join(f"{key}: {found.get(key)} there, {plan.get(key)} here" for key in keys)
            raise EdgeseaError(
                f"{out}: holds a table made from other input or options ({differences}); choose another folder "
                "or delete it"
            )
        return
    make_vacant(out, "no table")
    write_json(path, plan)


def _write_parts(
    out: Path,
    parts: Sequence[Sequence[ClipEntry]],
    model: "EmbeddingModel",
    rates: Rates,
    dtype: str,
    batch_size: int,
    workers: int,
) -> dict[str, float]:
    """Write the missing parts; returns how fast the windows went through."""
    from edgesea.table.reader import part_skipped
    from edgesea.table.schema import TABLE_FILE
    from edgesea.table.writer import PartWriter

    failed: dict[str, str] = {}
    windows, began = 0, time.perf_counter()
    with tqdm(total=sum(map(len, parts)), unit="clip", desc="extract", disable=None, smoothing=0.05) as bar:
        while missing := [part for part in range(len(parts)) if part_skipped(out, part) is None]:
            (out / TABLE_FILE).unlink(missing_ok=True)  # it says that all parts are there
            bar.n = sum(map(len, parts)) - sum(len(parts[part]) for part in missing)
            bar.refresh()
            todo = [entry for part in missing for entry in parts[part] if entry.clip not in failed]
            streams = prefetch((partial(clip_pieces, entry, rates) for entry in todo), workers)
            try:
                for part in missing:
                    with PartWriter(out, part, model.embedding_size, dtype) as writer:
                        batcher = _Batcher(model, batch_size, dtype, writer.add)
                        for entry in parts[part]:
                            if entry.clip in failed:
                                writer.skipped.append((entry.clip, failed[entry.clip]))
                            else:
                                _write_clip(entry, next(streams), batcher, writer.skipped)
                            bar.update()
                            rate = (windows + writer.windows) / (time.perf_counter() - began)
                            bar.set_postfix_str(f"{rate:.0f} windows/s", refresh=False)
                        batcher.flush()
                    windows += writer.windows
            except _ClipError as failure:
                failed[failure.clip] = failure.reason  # its part is written anew without it
            finally:
                streams.close()  # type: ignore[attr-defined]
    elapsed = time.perf_counter() - began
    hours = windows * rates.framing.hop / 3600.0
    if windows:
        log.info(
            "%d windows in %.1f s: %.1f windows/s, %.1f hours of audio per hour",
            windows,
            elapsed,
            windows / elapsed,
            hours / elapsed * 3600.0,
        )
    return {"windows_per_second": windows / elapsed, "hours_per_hour": hours / elapsed * 3600.0}


def _write_clip(entry: ClipEntry, pieces: Iterator[Piece], batcher: "_Batcher", skipped: list[tuple[str, str]]) -> None:
    written = clipped = 0
    while True:
        try:
            piece = next(pieces, None)
        except (EdgeseaError, OSError, MemoryError) as error:
            reason = str(error).removeprefix(f"{entry.path}: ")
            if written:
                raise _ClipError(entry.clip, reason) from error
            skipped.append((entry.clip, reason))
            log.warning("skipped %s: %s", entry.clip, reason)
            return
        if piece is None:
            break
        batcher.add(entry, piece)  # what fails here (teacher, disk) is not the clip's fault
        written += 1
        clipped += piece.clipped
    if clipped:
        log.debug("%s: %d samples beyond full scale were clipped", entry.clip, clipped)


class _Batcher:
    """Collects pieces of several clips until a batch is full, embeds it, and hands the pieces on in order.

    Batches never reach over the end of a part, so a part's bytes do not depend on what was computed before it.
    """

    def __init__(self, model: "EmbeddingModel", size: int, dtype: str, sink: Callable[..., None]) -> None:
        self._model, self._size, self._dtype, self._sink = model, size, dtype, sink
        self._pending: list[tuple[ClipEntry, Piece]] = []
        self._count = 0

    def add(self, entry: ClipEntry, piece: Piece) -> None:
        self._pending.append((entry, piece))
        self._count += len(piece.starts)
        if self._count >= self._size:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        windows = np.concatenate([piece.windows for _, piece in self._pending])
        blocks = [self._model.embed(windows[i : i + self._size]) for i in range(0, len(windows), self._size)]
        embeddings = np.concatenate(blocks)
        first = 0
        for entry, piece in self._pending:
            last = first + len(piece.starts)
            self._check(embeddings[first:last], entry.clip)
            self._sink(entry, piece.offset, piece.pcm, piece.starts, piece.levels, embeddings[first:last])
            first = last
        self._pending, self._count = [], 0

    def _check(self, embeddings: Float32, clip: str) -> None:
        if not np.isfinite(embeddings).all():
            raise EdgeseaError(f"teacher {self._model.id} gave NaN or Inf for a window of {clip}")
        if (largest := np.abs(embeddings).max()) > np.finfo(self._dtype).max:
            raise EdgeseaError(
                f"teacher {self._model.id} gave {largest:g} for a window of {clip}, too large for dtype={self._dtype}; "
                "choose dtype=float32"
            )


def _finish(out: Path, entries: Sequence[ClipEntry], plan: dict[str, Any], max_skipped: float) -> dict[str, Any]:
    """Write skipped.csv and, last of all, table.json, unless a former call has done it."""
    from edgesea.table.reader import Table, part_skipped
    from edgesea.table.schema import SKIPPED_FILE, TABLE_FILE

    finished = (out / TABLE_FILE).exists()
    skipped = [row for part in range(plan["parts"]) for row in part_skipped(out, part) or []]
    if not finished:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("clip", "reason"), *skipped])
        with atomic_path(out / SKIPPED_FILE) as temporary:
            temporary.write_text(text.getvalue(), "utf-8", "surrogateescape")
    used = len(entries) - len(skipped)
    if used == 0 or len(skipped) > max_skipped * len(entries):
        raise EdgeseaError(
            f"{len(skipped)} of {len(entries)} clips cannot be used (first: {skipped[0][0]}: {skipped[0][1]}); all are "
            f"listed in {out / SKIPPED_FILE}; raise max_skipped ({max_skipped}) to go on without them"
        )
    if not finished:
        by_split = _windows_by_split(Table(out, plan))
        counts = {"clips": used, "skipped": len(skipped), "windows": sum(by_split.values())}
        for stale in out.glob("*/.*.tmp"):  # left by killed calls
            stale.unlink(missing_ok=True)
        write_json(out / TABLE_FILE, {**plan, **counts, "windows_by_split": by_split, "versions": versions()})
    info = read_json(out / TABLE_FILE)
    keys = ("clips", "windows", "skipped", "windows_by_split")
    return {"table": str(out), **{key: info[key] for key in keys}}


def _windows_by_split(table: "Table") -> dict[str, int]:
    by_split: Counter[str] = Counter()
    for chunk in table.chunks():
        by_split.update(chunk.splits[chunk.clip].tolist())
    return dict(sorted(by_split.items()))
