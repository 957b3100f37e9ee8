"""``evaluate``: how well a small classifier does a labelled task on a model's embeddings."""

from pathlib import Path
from typing import Any, Literal

from edgesea.audio.windows import Framing
from edgesea.errors import EdgeseaError
from edgesea.files import write_json


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
    hidden_layers: int = 1,
    hidden_size: int = 128,
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
        logistic: multinomial logistic regression. mlp: a network with hidden layers. auto: the task's own.
    hidden_layers : int
        Of mlp: number of hidden layers.
    hidden_size : int
        Of mlp: units in each hidden layer.
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
    if hidden_layers < 0 or hidden_size < 1:
        raise EdgeseaError(f"hidden layers: {hidden_layers} of {hidden_size} units is no network")
    from edgesea.models.inference import load_model
    from edgesea.reduction import load_reduction
    from edgesea.tasks.features import clip_means, load_task, window_embeddings

    source = load_task(task, Path(data))
    network = load_model(model, weights, device)
    framing = Framing(network.window or 1.0, hop, center)
    rows, counts, failed = window_embeddings(network, source.paths, framing, batch_size, workers, cache)
    if reduction is not None:
        rows = load_reduction(reduction).transform(rows)
    features = clip_means(rows, counts)
    kind = {"esc50": "logistic", "sonyc_ust": "mlp"}[task] if classifier == "auto" else classifier
    hidden = (hidden_size,) * hidden_layers
    scores = source.score(features, counts > 0, kind, folds, seed, hidden)  # type: ignore[arg-type]
    result = {
        "task": task,
        "model": network.id,
        "classifier": kind,
        **({"hidden_layers": hidden_layers, "hidden_size": hidden_size} if kind == "mlp" else {}),
        "hop": hop,
        **scores,
        "embedding_size": features.shape[1],
        "failed": failed,
    }
    if out is not None:
        write_json(Path(out), result)
    return result
