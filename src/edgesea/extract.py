"""``extract``: an audio folder or a manifest becomes a table of clips, windows and teacher embeddings."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.table.manifest import ClipEntry, cut_parts, manifest_digest, read_manifest
from edgesea.table.pieces import Piece, Rates, check_rate, clip_pieces

if TYPE_CHECKING:
    from edgesea.models.base import EmbeddingModel
    from edgesea.table.building import Written

Float32 = NDArray[np.float32]
log = logging.getLogger(__name__)


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
    check_rate("sample_rate", sample_rate)
    from edgesea.models import load_teacher
    from edgesea.table.building import finish_table, write_parts
    from edgesea.table.claiming import claim_table

    framing = Framing(window, hop, center)
    framing.at(sample_rate)
    entries = read_manifest(Path(source), root and Path(root), columns, validate)
    model = load_teacher(teacher, weights, device=device)
    if model.window is not None and round(model.window * model.sample_rate) != round(window * model.sample_rate):
        raise EdgeseaError(f"teacher {teacher} embeds windows of {model.window} s, not {window} s")
    framing.at(model.sample_rate)
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
    folder = Path(out)
    claim_table(folder, plan)
    rates = Rates(framing, sample_rate, model.sample_rate, level_rate, measured)
    written = write_parts(
        folder,
        plan,
        parts,
        lambda entry: ((entry, piece) for piece in clip_pieces(entry, rates)),
        lambda writer: _Batcher(model, batch_size, dtype, writer.add),
        workers=workers,
        task="extract",
    )
    return {**finish_table(folder, plan, len(entries), max_skipped), **_speed(written, hop)}


def _speed(written: "Written", hop: float) -> dict[str, float]:
    """Log and return how fast the windows went through."""
    windows, seconds = written.windows, written.seconds
    speed = {"windows_per_second": windows / seconds, "hours_per_hour": windows * hop / seconds}
    if windows:
        log.info(
            "%d windows in %.1f s: %.1f windows/s, %.1f hours of audio per hour", windows, seconds, *speed.values()
        )
    return speed


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
        from edgesea.table.building import check_range

        if not np.isfinite(embeddings).all():
            raise EdgeseaError(f"teacher {self._model.id} gave NaN or Inf for a window of {clip}")
        check_range(embeddings, self._dtype, self._model.id, clip)
