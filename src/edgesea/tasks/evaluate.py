"""``evaluate``: how well a small classifier does a labelled task on a model's embeddings."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import check_file, versions, write_json
from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed


def evaluate(
    task: Literal["esc50", "urbansound8k", "sonyc_ust"],
    data: Path,
    model: str,
    *,
    out: Path | None = None,
    predictions: Path | None = None,
    weights: Path | None = None,
    reduction: Path | None = None,
    window: float | None = None,
    hop: float = 0.5,
    center: bool = False,
    probe: ProbeOptions = ProbeOptions(),
    folds: list[int] | None = None,
    tagging: TaggingOptions = TaggingOptions(),
    resamples: int = 1000,
    seed: int = 0,
    cache: Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
) -> dict[str, Any]:
    """Embed the clips of a task, train a classifier on the embeddings, and score it.

    `edgesea evaluate PREDICTIONS.csv` scores predictions of SONYC-UST that any system has made; see `edgesea score`.

    Parameters
    ----------
    task : {"esc50", "urbansound8k", "sonyc_ust"}
        esc50, urbansound8k: accuracy over the official folds (ESC-50, ESC-10, UrbanSound8K). sonyc_ust: AUPRC of the
        tags of verified validation clips.
    data : Path
        Folder of the data set, laid out as published.
    model : str
        A student's folder, a published .h5 file, edgel3/sea-64 ..., or a teacher's id.
    out : Path, optional
        JSON file for the scores.
    predictions : Path, optional
        Of sonyc_ust: CSV file for the predictions of the judged clips, in the challenge's layout.
    weights : Path, optional
        A teacher's weight file.
    reduction : Path, optional
        Reduce the embeddings with this first.
    window : float, optional
        Length of a window in seconds, for models that accept any; default: the model's own, or 1.
    hop : float
        Seconds between windows.
    center : bool
        Precede each clip by half a window of zeros.
    probe : ProbeOptions
        Of esc50 and urbansound8k: the classifier.
    folds : list of int, optional
        Of these too: test only these folds, as [1, 2], each with all others as training.
    tagging : TaggingOptions
        Of sonyc_ust: the classifier, and what is learned and judged.
    resamples : int
        Bootstrap resamples for 95 % confidence intervals, of the judged clips, or of their recordings where these are
        known; 0: none.
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
        accuracy, class_accuracy, confusion, or micro_auprc, macro_auprc, micro_f1, lwlrap; results by class;
        confidence intervals; clips, failed clips, embedding_size.

    Raises
    ------
    EdgeseaError
        If the data, the model or the options are unusable.
    """
    # A run gives them as they stand in its YAML.
    probe = ProbeOptions(**probe) if isinstance(probe, Mapping) else probe
    tagging = TaggingOptions(**tagging) if isinstance(tagging, Mapping) else tagging
    if resamples < 0:
        raise EdgeseaError(f"resamples must be at least 0, not {resamples}")
    check_seed(seed, tagging.members)
    for file in (out, predictions):
        if file is not None:
            check_file(Path(file))
    from edgesea.models import load_model
    from edgesea.reduction import load_reduction
    from edgesea.tasks.features import load_task, window_embeddings
    from edgesea.tasks.folds import FoldTask

    source = load_task(task, Path(data), probe, tagging, folds)
    single = isinstance(source, FoldTask)
    if predictions is not None and single:
        raise EdgeseaError(f"predictions can be written of the task sonyc_ust, not of {task}")
    network = load_model(model, weights, device)
    framing = Framing(network.window or window or 1.0, hop, center)
    if window not in (None, framing.window):
        raise EdgeseaError(f"{model} takes windows of {network.window} s, not of {window} s; leave window out")
    bags, failed = window_embeddings(network, source.paths, framing, batch_size, workers, cache)
    if reduction is not None:
        bags = bags.with_rows(load_reduction(reduction).transform(bags.rows))
    if isinstance(source, FoldTask):
        scores = source.score(bags, probe, folds, seed, resamples=resamples)
    else:
        file = None if predictions is None else Path(predictions)
        scores = source.score(bags, seed, resamples=resamples, predictions=file)
    result = {
        "task": task,
        "model": network.id,
        **({"probe": asdict(probe)} if single else {"tagging": tagging.to_dict()}),
        "data": str(data),
        "reduction": None if reduction is None else str(reduction),
        "window": framing.window,
        "hop": hop,
        "center": center,
        "seed": seed,
        **scores,
        "embedding_size": bags.rows.shape[1],
        "failed": failed,
        "versions": versions(),
    }
    if out is not None:
        write_json(Path(out), result)
    return result
