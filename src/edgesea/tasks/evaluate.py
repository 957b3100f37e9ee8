"""``evaluate``: how well a small classifier does a labelled task on a model's embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import PLAN_FILE, check_file, digest, plain, read_json, versions, write_json
from edgesea.audio.framing import Framing
from edgesea.audio.resampling import Resampling, checked_resampling
from edgesea.errors import EdgeseaError
from edgesea.models.engine import Engine, Precision
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed
from edgesea.tracking import current, origin, recording, using

if TYPE_CHECKING:
    from edgesea.tasks.folds import FoldTask
    from edgesea.tasks.sonyc_ust import SonycUst


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
    resampler: Resampling = "soxr",
    probe: ProbeOptions = ProbeOptions(),
    folds: list[int] | None = None,
    tagging: TaggingOptions = TaggingOptions(),
    resamples: int = 1000,
    seed: int = 0,
    cache: Path | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    max_skipped: float = 0.0,
) -> dict[str, Any]:
    """Embed the clips of a task, train a classifier on the embeddings, and score it.

    `edgesea score` scores a file of predictions of SONYC-UST that any system has made.

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
        JSON file for the scores; clips that are missing or unusable are listed beside it, in ``<name>.skipped.csv``.
    predictions : Path, optional
        Of sonyc_ust: CSV file for the predictions of the test clips, in the challenge's layout.
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
    resampler : {"soxr", "resampy"}
        What brings clips to the model's rate; resampy (edgesea[compat]) as edgel3 and openl3 do.
    probe : ProbeOptions
        Of esc50 and urbansound8k: the classifier.
    folds : list of int, optional
        Of these too: test only these folds, e.g. [1, 2], each with all others as training.
    tagging : TaggingOptions
        Of sonyc_ust: the classifier, what it learns and which clips test it.
    resamples : int
        Bootstrap resamples for 95 % confidence intervals, of the test clips, or of their recordings where these are
        known; 0: none.
    seed : int
        Seed of the classifier.
    cache : Path, optional
        Folder where embeddings are stored, to be reused with the same model, clips and framing.
    batch_size : int
        Windows embedded at once.
    workers : int, optional
        Threads that decode ahead; default: OMP_NUM_THREADS, or one for each processor, but 8 at most.
    device : str
        auto, cpu, cuda, mps.
    engine : {"auto", "torch", "onnx", "openvino"}
        What computes the network; see edgesea embed.
    precision : {"float32", "float16", "bfloat16"}
        In which the network is computed; see edgesea embed.
    max_skipped : float
        Largest share of the task's clips that may be missing or unusable; the scores are those of the others. A fold, a
        class or a split of which nothing is left is an error in any case.

    Returns
    -------
    dict
        accuracy, class_accuracy, confusion, or micro_auprc, macro_auprc, micro_f1, lwlrap; results by class;
        confidence intervals; clips, skipped clips, embedding_size.

    EdgeseaError: the data, the model or the options are unusable.
    """
    if resamples < 0:
        raise EdgeseaError(f"resamples must be at least 0, not {resamples}")
    check_seed(seed, tagging.members)
    out, predictions = (None if file is None else Path(file) for file in (out, predictions))
    for file in filter(None, (out, predictions)):
        check_file(file)
    from edgesea.models import load_model, shared_model
    from edgesea.reduction.base import load_reduction, transform_all
    from edgesea.tasks.features import window_embeddings
    from edgesea.tasks.folds import FoldTask
    from edgesea.tasks.skipped import check_openable, check_skipped, listing_of

    data, listing = Path(data), listing_of(out)
    source = load_task(task, data, probe, tagging, folds)
    if predictions is not None and isinstance(source, FoldTask):
        raise EdgeseaError(f"predictions: only the task sonyc_ust can write them, not {task}")
    check_openable(source, data, max_skipped, listing, workers)
    network, load, jobs = shared_model(load_model, model, weights, device, engine, precision)
    framing = Framing(network.window or window or 1.0, hop, center, checked_resampling(resampler))
    if window not in (None, framing.window):
        raise EdgeseaError(f"{model} takes windows of {network.window} s, not of {window} s; leave window out")
    bags, skipped = window_embeddings(load, source.paths, framing, batch_size, workers, cache, jobs, precision)
    id = network.id
    del network, load  # whose memory the classifier may need
    check_skipped(source, data, skipped, max_skipped, listing)
    if reduction is not None:
        bags = bags.with_rows(transform_all(load_reduction(reduction), bags.rows))
    options: dict[str, Any]
    if isinstance(source, FoldTask):
        options, scores = {"probe": asdict(probe)}, source.score(bags, probe, folds, seed, resamples)
    else:
        options = {"tagging": plain(tagging)}
        scores = source.score(bags, seed, resamples=resamples, predictions=predictions)
    made = {"data": str(data), "reduction": None if reduction is None else str(reduction), **asdict(framing)}
    given = {"task": task, "model": id, **options, **made, "seed": seed}
    given |= {} if precision == "float32" else {"precision": precision}
    made_by = {"versions": versions(), "origin": origin()}
    result = {**given, **scores, "embedding_size": bags.rows.shape[1], "skipped": len(skipped), **made_by}
    if out is not None:
        write_json(out, result)
    place = (out or Path(f"{task}-{digest(given)[:12]}")).absolute()
    paths = {"data": str(data.absolute()), "output": str(place.with_suffix("")), "cache": cache and str(cache)}
    trained = read_json(plan)["table"]["manifest_sha256"] if (plan := Path(model, PLAN_FILE)).is_file() else None
    with recording(f"evaluate {task}", {**given, **paths, "experiment": place.stem, "upstream": trained}) as run:
        run.end(scores, [file for file in (out, predictions) if file])
    return result


def evaluate_systems(
    options: Mapping[str, Any], systems: Mapping[str, Mapping[str, Any]], folder: Path, cache: Path
) -> dict[str, Any]:
    """`evaluate` several models of a run, given by further options; files are named after them."""
    rows = replace(current(), track=[name for name in current().track if name == "sheets"])  # others: the run's end
    result = {}
    for system, model in systems.items():
        out = folder / f"{system}.json"
        tags = out.with_suffix(".csv") if options["task"] == "sonyc_ust" else None
        with using(rows):
            result[system] = evaluate(**{**options, **model}, out=out, predictions=tags, cache=cache)
    return result


def load_task(
    task: str, data: Path, probe: ProbeOptions, tagging: TaggingOptions, folds: Sequence[int] | None
) -> "FoldTask | SonycUst":
    """Read the data set of a task; refuse options of the other kind of task, and folds that do not exist."""
    from edgesea.tasks.folds import FoldTask
    from edgesea.tasks.sonyc_ust import SonycUst

    if task == "sonyc_ust":
        if probe != ProbeOptions() or folds:
            raise EdgeseaError(f"probe, folds: not options of {task}; tagging sets its classifier and its split")
        return SonycUst.load(data, tagging)
    if tagging != TaggingOptions():
        raise EdgeseaError(f"tagging: an option of the task sonyc_ust; those of {task} are called probe")
    source = FoldTask.load(task, data)
    source.tested(folds)
    return source
