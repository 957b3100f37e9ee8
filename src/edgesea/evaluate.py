"""``evaluate``: how well a small classifier does a labelled task on a model's embeddings."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.files import atomic_path, file_state, write_json

if TYPE_CHECKING:
    from edgesea.models.base import EmbeddingModel
    from edgesea.tasks.esc50 import Esc50
    from edgesea.tasks.sonyc_ust import SonycUst

Float32 = NDArray[np.float32]
log = logging.getLogger(__name__)


def evaluate(
    task: Literal["esc50", "sonyc_ust"],
    data: Path,
    model: str,
    *,
    out: Path | None = None,
    weights: Path | None = None,
    reduction: Path | None = None,
    hop: float = 0.5,
    center: bool = False,
    classifier: Literal["auto", "logistic", "mlp"] = "auto",
    folds: list[int] | None = None,
    seed: int = 0,
    cache: Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
) -> dict[str, Any]:
    """Embed the clips of a task, train a classifier on the clips' mean embeddings, and score it.

    Parameters
    ----------
    task : {"esc50", "sonyc_ust"}
        esc50: accuracy over the official folds (ESC-50, ESC-10). sonyc_ust: AUPRC of the coarse tags on verified
        validation clips.
    data : Path
        Folder of the data set, laid out as published.
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or a teacher's id.
    out : Path, optional
        JSON file for the scores.
    weights : Path, optional
        A teacher's weight file.
    reduction : Path, optional
        Reduce the embeddings with this first.
    hop : float
        Seconds between windows.
    center : bool
        Precede each clip by half a window of zeros.
    classifier : {"auto", "logistic", "mlp"}
        logistic: multinomial logistic regression. mlp: one hidden layer of 128. auto: the task's own.
    folds : list of int, optional
        Test only these folds, each with all others as training.
    seed : int
        Seed of the classifier.
    cache : Path, optional
        Folder where embeddings are kept, to be used again with the same model, clips and framing.
    batch_size : int
        Windows embedded at once.
    workers : int
        Threads that decode ahead.
    device : str
        auto, cpu, cuda, mps.

    Returns
    -------
    dict
        accuracy or micro_auprc, macro_auprc, micro_f1; results by class; clips, failed clips, embedding_size.

    Raises
    ------
    EdgeseaError
        If the data, the model or the options are unusable.
    """
    from edgesea.models.inference import load_model
    from edgesea.reduction import load_reduction

    source = _load_task(task, Path(data))
    network = load_model(model, weights, device)
    framing = Framing(network.window or 1.0, hop, center)
    rows, counts, failed = _window_embeddings(network, source.paths, framing, batch_size, workers, cache)
    if not len(rows):
        path, reason = next(iter(failed.items()))
        raise EdgeseaError(f"{data}: no clip could be embedded (first: {path}: {reason})")
    if reduction is not None:
        rows = load_reduction(reduction).transform(rows)
    features = _clip_means(rows, counts)
    usable: NDArray[np.bool_] = counts > 0
    kind = {"esc50": "logistic", "sonyc_ust": "mlp"}[task] if classifier == "auto" else classifier
    scores = source.score(features, usable, kind, folds, seed)  # type: ignore[arg-type]
    result = {
        "task": task,
        "model": network.id,
        "classifier": kind,
        "hop": hop,
        **scores,
        "embedding_size": features.shape[1],
        "failed": failed,
    }
    if out is not None:
        write_json(Path(out), result)
    return result


def _load_task(task: str, data: Path) -> "Esc50 | SonycUst":
    if task == "esc50":
        from edgesea.tasks.esc50 import Esc50

        return Esc50.load(data)
    from edgesea.tasks.sonyc_ust import SonycUst

    return SonycUst.load(data)


def _clip_means(rows: Float32, counts: NDArray[np.int64]) -> Float32:
    """Mean of each clip's rows, (clips, D); NaN for a clip without any."""
    means = np.full((len(counts), rows.shape[1]), np.nan, np.float32)
    present = np.flatnonzero(counts)
    if len(present):
        first = (np.cumsum(counts) - counts)[present]
        means[present] = np.add.reduceat(rows, first, axis=0, dtype=np.float64) / counts[present, None]
    return means


def _window_embeddings(
    model: "EmbeddingModel",
    paths: Sequence[Path],
    framing: Framing,
    batch_size: int,
    workers: int,
    cache: Path | None,
) -> tuple[Float32, NDArray[np.int64], dict[str, str]]:
    """All clips' embeddings (windows, D), the number of windows of each clip (0 where it failed), and the failures."""
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
    if stored is not None:
        names, reasons = np.array(list(failed), str), np.array(list(failed.values()), str)
        with atomic_path(stored) as temporary, temporary.open("wb") as file:
            np.savez(file, embedding=embedding, counts=counts, failed=names, reasons=reasons)
    return embedding, counts, failed


def _cache_key(model: "EmbeddingModel", paths: Sequence[Path], framing: Framing) -> str:
    digest = hashlib.sha256(repr((model.id, model.digest, framing)).encode())
    for path in paths:
        digest.update(repr((path.name, file_state(path))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
