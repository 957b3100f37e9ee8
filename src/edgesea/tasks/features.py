"""What a task is judged on: its clips, embedded window by window with a model."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from edgesea.artifact import atomic_path, file_state
from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel
from edgesea.tasks.bags import Bags, Float32
from edgesea.tasks.esc50 import load_esc50
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions, TaggingOptions
from edgesea.tasks.sonyc_ust import SonycUst
from edgesea.tasks.urbansound8k import load_urbansound8k

Task = FoldTask | SonycUst
KEEP_AFTER = 60.0  # seconds
log = logging.getLogger(__name__)


def load_task(task: str, data: Path, probe: ProbeOptions, tagging: TaggingOptions, folds: Sequence[int] | None) -> Task:
    """The data set of a task, of which the options are known to fit.

    Parameters
    ----------
    task : {"esc50", "urbansound8k", "sonyc_ust"}
        Its name.
    data : Path
        Its folder.
    probe, tagging : ProbeOptions, TaggingOptions
        Options of the classifier; those of the other kind of task must be the defaults.
    folds : sequence of int, optional
        Folds to test.

    Raises
    ------
    EdgeseaError
        If the data set is unusable, or an option belongs to another task or asks for what is not there.
    """
    if task == "sonyc_ust":
        if probe != ProbeOptions():
            raise EdgeseaError(f"probe is of the tasks with folds; the options of {task} are called tagging")
        if folds:
            raise EdgeseaError(f"the task {task} has a fixed split and no folds; see tagging.split_path")
        return SonycUst.load(data, tagging)
    if tagging != TaggingOptions():
        raise EdgeseaError(f"tagging is of the task sonyc_ust; the options of {task} are called probe")
    source = load_esc50(data) if task == "esc50" else load_urbansound8k(data)
    source.tested(folds)
    return source


def window_embeddings(
    model: EmbeddingModel,
    paths: Sequence[Path],
    framing: Framing,
    batch_size: int,
    workers: int,
    cache: Path | None,
) -> tuple[Bags, dict[str, str]]:
    """Embed all clips, but for those that a former call with the same model, clips and framing has embedded.

    Returns
    -------
    bags : Bags
        The windows of all clips, in order; none where a clip could not be embedded.
    failed : dict of str to str
        The names of these clips, and the reasons. They are tried again by every call.

    Raises
    ------
    EdgeseaError
        If no clip could be embedded.
    """
    stored = None if cache is None else Path(cache) / f"{_cache_key(model, paths, framing)}.npz"
    blocks = [np.zeros((0, model.embedding_size), np.float32)] * len(paths)
    if stored is not None and stored.exists():
        blocks = _read_cache(stored, blocks)
    todo = [index for index, block in enumerate(blocks) if not len(block)]

    def keep() -> None:
        if stored is not None and any(len(blocks[index]) for index in todo):
            _write_cache(stored, blocks)

    try:
        failed = _embed(model, paths, framing, batch_size, workers, todo, blocks, keep)
    finally:
        keep()
    embedding, counts = np.concatenate(blocks), np.array([len(block) for block in blocks], np.int64)
    if not len(embedding):
        name, reason = next(iter(failed.items()))
        raise EdgeseaError(f"no clip could be embedded (first: {name}: {reason})")
    return Bags(embedding, counts), failed


def _embed(
    model: EmbeddingModel,
    paths: Sequence[Path],
    framing: Framing,
    batch_size: int,
    workers: int,
    todo: Sequence[int],
    blocks: list[Float32],
    keep: Callable[[], None],
) -> dict[str, str]:
    """Fill in the blocks of some clips; returns the names of those that cannot be embedded, and the reasons.

    What is there is kept now and then, so that a killed process does not lose it all.
    """
    from edgesea.embed.engine import embed_files

    failed: dict[str, str] = {}
    if not todo:
        return failed
    results = embed_files(model, [paths[index] for index in todo], framing, batch_size, workers)
    bar = tqdm(results, total=len(todo), unit="clip", desc=f"embed {model.id}", disable=None)
    next_time = time.monotonic() + KEEP_AFTER
    for index, result in zip(todo, bar, strict=True):
        if result.embedding is None:
            failed[result.path.name] = result.error
            log.warning("%s: %s", result.path, result.error)
        else:
            blocks[index] = result.embedding
        if time.monotonic() > next_time:
            began = time.monotonic()
            keep()
            next_time = began + max(KEEP_AFTER, 20 * (time.monotonic() - began))
    return failed


def _write_cache(path: Path, blocks: Sequence[Float32]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, embedding=np.concatenate(blocks), counts=[len(block) for block in blocks])


def _read_cache(path: Path, empty: list[Float32]) -> list[Float32]:
    """Embeddings of each clip, as `window_embeddings` kept them; `empty` if the file is damaged."""
    try:
        with np.load(path) as arrays:
            embedding, counts = arrays["embedding"], arrays["counts"]
        if embedding.shape != (counts.sum(), empty[0].shape[1]) or len(counts) != len(empty):
            raise ValueError(f"embeddings {embedding.shape} of {len(counts)} clips")
        return np.split(embedding, np.cumsum(counts)[:-1])
    except MemoryError:
        raise
    except Exception as error:  # of many types, depending on which byte is wrong
        log.warning("%s: damaged (%s); the clips are embedded again", path, error)
        return empty


def _cache_key(model: EmbeddingModel, paths: Sequence[Path], framing: Framing) -> str:
    digest = hashlib.sha256(repr((model.id, model.digest, framing.at(model.sample_rate))).encode())
    for path in paths:
        digest.update(repr((path.name, file_state(path))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
