"""What a task is judged on: its clips, embedded window by window with a model, and averaged."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, file_state
from edgesea.models.base import EmbeddingModel
from edgesea.tasks.esc50 import Esc50
from edgesea.tasks.sonyc_ust import SonycUst

Float32 = NDArray[np.float32]
log = logging.getLogger(__name__)


def load_task(task: str, data: Path) -> Esc50 | SonycUst:
    """The data set of a task: ``esc50`` or ``sonyc_ust``."""
    return Esc50.load(data) if task == "esc50" else SonycUst.load(data)


def clip_means(rows: Float32, counts: NDArray[np.int64]) -> Float32:
    """Mean of each clip's rows, (clips, D); NaN for a clip without any."""
    means = np.full((len(counts), rows.shape[1]), np.nan, np.float32)
    present = np.flatnonzero(counts)
    if len(present):
        first = (np.cumsum(counts) - counts)[present]
        means[present] = np.add.reduceat(rows, first, axis=0, dtype=np.float64) / counts[present, None]
    return means


def window_embeddings(
    model: EmbeddingModel,
    paths: Sequence[Path],
    framing: Framing,
    batch_size: int,
    workers: int,
    cache: Path | None,
) -> tuple[Float32, NDArray[np.int64], dict[str, str]]:
    """Embed all clips, or read what was kept of a former call with the same model, clips and framing.

    Returns
    -------
    embedding : ndarray, (windows, D) float32
        Of all clips, in order.
    counts : ndarray, (clips,) int64
        Windows of each clip; 0 where it could not be embedded.
    failed : dict of str to str
        The names of these clips, and the reasons.

    Raises
    ------
    EdgeseaError
        If no clip could be embedded.
    """
    from edgesea.models.inference import embed_files

    stored = None if cache is None else Path(cache) / f"{_cache_key(model, paths, framing)}.npz"
    if stored is not None and stored.exists():
        with np.load(stored) as arrays:
            failed = dict(zip(arrays["failed"].tolist(), arrays["reasons"].tolist(), strict=True))
            return arrays["embedding"], arrays["counts"], failed
    blocks, counts, failed = [np.zeros((0, model.embedding_size), np.float32)], np.zeros(len(paths), np.int64), {}
    results = embed_files(model, paths, framing, batch_size, workers)
    for index, result in enumerate(
        tqdm(results, total=len(paths), unit="clip", desc=f"embed {model.id}", disable=None)
    ):
        if result.embedding is None:
            failed[result.path.name] = result.error
            log.warning("%s: %s", result.path, result.error)
        else:
            blocks.append(result.embedding)
            counts[index] = len(result.embedding)
    embedding = np.concatenate(blocks)
    if not len(embedding):
        name, reason = next(iter(failed.items()))
        raise EdgeseaError(f"no clip could be embedded (first: {name}: {reason})")
    if stored is not None:
        names, reasons = np.array(list(failed), str), np.array(list(failed.values()), str)
        with atomic_path(stored) as temporary, temporary.open("wb") as file:
            np.savez(file, embedding=embedding, counts=counts, failed=names, reasons=reasons)
    return embedding, counts, failed


def _cache_key(model: EmbeddingModel, paths: Sequence[Path], framing: Framing) -> str:
    digest = hashlib.sha256(repr((model.id, model.digest, framing)).encode())
    for path in paths:
        digest.update(repr((path.name, file_state(path))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
