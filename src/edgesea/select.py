"""``select``: the paper's model selection, a grid of samplings and reductions, each judged by the downstream task."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import atomic_path, claim, file_state, versions, write_json
from edgesea.audio.framing import Framing
from edgesea.config import checked_options
from edgesea.errors import EdgeseaError
from edgesea.pipeline import STAGES
from edgesea.reduction import load_reduction
from edgesea.reduction import used_options as used_by_reduce
from edgesea.sampling import used_options as used_by_sample
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed
from edgesea.trials import Options, Trial, run_all, summarise

if TYPE_CHECKING:
    from edgesea.models.base import EmbeddingModel
    from edgesea.table.reader import Table
    from edgesea.tasks.evaluate import Task

log = logging.getLogger(__name__)

SAMPLE_GRID: Options = {"method": ["random", "spl", "kmeans", "dpp_div", "dpp"]}
REDUCE_GRID: Options = {"method": ["pca"], "size": [16, 32, 64, 128, 256]}
RESULT = "select.json"
EXAMPLES = {"sample": "{method: [random, dpp], size: 5000}", "reduce": "{method: [pca, umap], size: [16, 64]}"}
SET_BY_SELECT = ("seed", "workers", "subset", "table", "out")


def select(
    table: Path,
    task: Literal["esc50", "urbansound8k", "sonyc_ust"],
    data: Path,
    out: Path,
    *,
    sample: dict[str, Any] | str | None = None,
    reduce: dict[str, Any] | str | None = None,
    repeats: int = 1,
    layers: list[int] | None = None,
    units: list[int] | None = None,
    folds: list[int] | None = None,
    hold_out: list[int] | None = None,
    tagging: TaggingOptions = TaggingOptions(),
    teacher: str | None = None,
    weights: Path | None = None,
    hop: float = 0.5,
    center: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    workers: int = 2,
    device: str = "auto",
) -> dict[str, Any]:
    """Try samplings x reductions, judge each by a task with a grid of classifiers, and keep the best.

    Killed, or called again with a larger grid, it goes on with what is missing: sample, reduce, repeats, layers and
    units may change from call to call; table, task, data, teacher, hop, center, folds, hold_out, tagging and seed must
    stay the same in a folder. The best reduction is copied to ``reduction`` (and its subset to ``subset.parquet``), for
    `edgesea distill`; all trials are in ``select.json`` and ``report.html``.

    Parameters
    ----------
    table : Path
        Folder of a table.
    task : {"esc50", "urbansound8k", "sonyc_ust"}
        What to judge by, as for `edgesea evaluate`: accuracy over the folds, or micro AUPRC of the judged clips.
    data : Path
        Folder of the task's data set.
    out : Path
        Folder of the selection.
    sample : dict, optional
        Options of `edgesea sample`; a list stands for several values to try: {method: [random, dpp], size: 5000}.
        Default: {method: [random, spl, kmeans, dpp_div, dpp]}.
    reduce : dict, optional
        Options of `edgesea reduce`, likewise. Default: {method: [pca], size: [16, 32, 64, 128, 256]}.
    repeats : int
        How often each combination is tried, with different seeds of sample and reduce; the mean score counts. A
        combination that fails with any of them is not chosen.
    layers : list of int, optional
        Numbers of hidden layers of the classifiers tried; 0 is logistic regression; default: 0, 1, 2.
    units : list of int, optional
        Units of a hidden layer; default: 128, 256.
    folds : list of int, optional
        Of esc50, urbansound8k: folds that are tested, each with all others as training; default: each in turn.
    hold_out : list of int, optional
        Of these too: folds that take no part in the judging, so that they can test the winner. (If their clips are in
        the table's training split, the reduction may still be fitted on them.)
    tagging : TaggingOptions
        Of sonyc_ust: how tags are learned and judged; num_hidden_layers and hidden_layer_size are set by select.
    teacher : str, optional
        Teacher that embeds the task's clips; default: the table's.
    weights : Path, optional
        Its weight file.
    hop : float
        Seconds between windows of the task's clips.
    center : bool
        Precede each clip by half a window of zeros.
    batch_size : int
        Windows embedded at once.
    seed : int
        First seed of sample and reduce, and seed of the classifiers.
    workers : int
        Trials at once, each in a process of its own.
    device : str
        Where the teacher runs: auto, cpu, cuda, mps.

    Returns
    -------
    dict
        The winner's options and score, the teacher's score, and where everything is.

    Raises
    ------
    EdgeseaError
        If the grid, the table or the task is unusable, `out` holds another selection, or a process is killed.
    """
    from edgesea.models import load_model
    from edgesea.models.base import window_of
    from edgesea.table.reader import Table
    from edgesea.tasks.features import window_embeddings
    from edgesea.tasks.judge import Judge

    for name, value in (("repeats", repeats), ("workers", workers), ("batch_size", batch_size)):
        if value < 1:
            raise EdgeseaError(f"{name} must be at least 1, not {value}")
    check_seed(seed, max(repeats, tagging.members))
    source, folder = Table(table), Path(out)
    hidden = _classifiers([0, 1, 2] if layers is None else layers, [128, 256] if units is None else units)
    given = _expand("sample", SAMPLE_GRID if sample is None else sample, used_by_sample)
    samplings = [(own, _positions(own)) for own in given]
    reductions = _expand("reduce", REDUCE_GRID if reduce is None else reduce, _used_by_reduce)
    every = [
        Trial(Path(table), folder, own, phi, seed + k, positions)
        for (own, positions), phi in product(samplings, _sized(reductions, source.embedding_size))
        for k in range(repeats)
    ]
    trials = list({trial.folder: trial for trial in every}.values())  # files of positions may have the same content
    problem = _problem(task, Path(data), folds, hold_out, tagging)
    network = load_model(teacher or source.info["teacher"]["id"], weights, device)
    if network.embedding_size != source.embedding_size:
        raise EdgeseaError(
            f"teacher {network.id} has {network.embedding_size} dimensions and the table {source.embedding_size}; give "
            "the teacher that made the table"
        )
    framing = Framing(window_of(network), hop, center)
    rest: dict[str, Any] = {"folds": folds, "hold_out": hold_out, "seed": seed}
    if task == "sonyc_ust":
        rest["tagging"] = replace(tagging, num_hidden_layers=0, hidden_layer_size=1).to_dict()
    claim(folder, _plan(source, network, problem.paths, framing) | rest, "selection")
    bags, failed = window_embeddings(network, problem.paths, framing, batch_size, workers, folder / "cache")
    judge = Judge(problem, bags, hidden, folds, seed)
    del network
    errors = run_all(trials, judge, workers)
    finished = [trial for trial in trials if trial.folder.name not in errors]
    summary = summarise(finished, judge, repeats)
    best = summary["trials"][summary["winner"]]
    _keep_winner(next(trial for trial in finished if trial.folder == folder / best["folder"]))
    write_json(folder / RESULT, {**summary, "errors": errors, "failed": failed, "versions": versions()})
    return _report(folder, summary, errors)


def _problem(
    task: str, data: Path, folds: Sequence[int] | None, hold_out: Sequence[int] | None, tagging: TaggingOptions
) -> "Task":
    """The task without the folds held out, of which those to test are there."""
    from edgesea.tasks.evaluate import load_task
    from edgesea.tasks.folds import FoldTask

    problem = load_task(task, data, ProbeOptions(), tagging, folds)
    if not isinstance(problem, FoldTask):
        if hold_out:
            raise EdgeseaError(f"the task {task} has no folds; leave hold_out out")
        return problem
    if both := sorted(set(folds or ()) & set(hold_out or ())):
        raise EdgeseaError(f"folds {both} are held out, so they cannot be tested")
    kept = problem.without(hold_out) if hold_out else problem
    kept.tested(folds)
    return kept


def _plan(table: "Table", network: "EmbeddingModel", paths: Sequence[Path], framing: Framing) -> dict[str, Any]:
    """What all trials of a selection share."""
    from edgesea.sampling.subset import table_key

    clips = repr([(path.name, file_state(path)) for path in paths])
    return {
        "table": table_key(table.info),
        "clips": hashlib.sha256(clips.encode("utf-8", "surrogateescape")).hexdigest(),
        "teacher": {"id": network.id, "sha256": network.digest},
        "framing": asdict(framing),
        "edgesea": versions()["edgesea"],
    }


def _classifiers(layers: Sequence[int], units: Sequence[int]) -> list[tuple[int, ...]]:
    """Hidden layers of the classifiers to try; without a hidden layer, the number of units does not matter."""
    if not layers or not units or min(layers) < 0 or min(units) < 1:
        raise EdgeseaError(f"layers {list(layers)} of {list(units)} units are no classifiers; as layers: [0, 1]")
    return list(dict.fromkeys((size,) * count for count in layers for size in units))


def _expand(stage: str, grid: Mapping[str, Any] | str, used: Callable[[Options], Options]) -> list[Options]:
    """All combinations of a grid's values, checked, each with the options that its method uses, and each once.

    Raises
    ------
    EdgeseaError
        If an option is unknown, or has no value or one that does not fit.
    """
    if not isinstance(grid, Mapping):  # the command line gives what it cannot read as a mapping as text
        raise EdgeseaError(f"{stage}: needs a mapping, as {EXAMPLES[stage]}, not {grid!r}")
    for name in grid:
        if name in SET_BY_SELECT:
            raise EdgeseaError(f"{stage}: {name} is set by select itself (see repeats, seed and workers)")
    values = [value if isinstance(value, list) else [value] for value in grid.values()]
    if not all(values):
        raise EdgeseaError(f"{stage}: an option has an empty list of values: {dict(grid)}")
    found: dict[str, Options] = {}
    for combination in product(*values):
        given = dict(zip(grid, combination, strict=True))
        options = checked_options(STAGES[stage].function, given, f"select: {stage}", fixed=STAGES[stage].fixed)
        try:
            own = {name: value for name, value in used(options).items() if name not in SET_BY_SELECT}
        except EdgeseaError as error:
            raise EdgeseaError(f"{stage}: {error}") from error
        own = {"method": options["method"], **own}
        found.setdefault(json.dumps(own, sort_keys=True, default=str), own)
    return list(found.values())


def _used_by_reduce(options: Options) -> Options:
    return used_by_reduce(options["method"], options)


def _sized(reductions: Sequence[Options], most: int) -> Sequence[Options]:
    """The reductions, if the embeddings have as many dimensions as they are to have."""
    sizes = {phi["size"] for phi in reductions if "size" in phi}
    if wrong := sorted(size for size in sizes if not 1 <= size <= most):
        raise EdgeseaError(f"reduce: size must lie in 1 ... {most}, not {', '.join(map(str, wrong))}")
    return reductions


def _positions(options: Options) -> str:
    """Hash of the file of positions that a sampling uses, or nothing; a bad file or time zone is refused."""
    from edgesea.sampling.sensors import read_positions
    from edgesea.sampling.strata import find_zone

    find_zone(options["time_zone"])
    if options.get("sensors") is None:
        return ""
    if options["positions"] is None:
        raise EdgeseaError(
            "sample: to choose sensors, give their positions: a file with sensor, latitude and longitude"
        )
    read_positions(options["positions"])
    return hashlib.sha256(options["positions"].read_bytes()).hexdigest()


def _keep_winner(trial: Trial) -> None:
    """Copy a trial's reduction and subset to the top of the selection's folder."""
    trial.load()  # once more, in case that it has been deleted
    if not trial.subset.exists():
        trial.draw()
    place = trial.out / "reduction"
    # A folder cannot be replaced at once: that a killed process leaves none is better than files of two.
    new, old = (place.with_name(f".reduction.{name}.tmp") for name in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(trial.folder, new, ignore=shutil.ignore_patterns(trial.result.name, "*.tmp"))
    load_reduction(new)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    with atomic_path(trial.out / "subset.parquet") as temporary:
        shutil.copyfile(trial.subset, temporary)


def _report(out: Path, summary: Mapping[str, Any], errors: Mapping[str, str]) -> dict[str, Any]:
    from edgesea.report import selection_page

    best = summary["trials"][summary["winner"]]
    result = {
        "selection": str(out),
        "reduction": str(out / "reduction"),
        "trials": len(summary["trials"]),
        "left_out": len(errors),
        "metric": summary["metric"],
        "teacher": summary["reference"]["score"],
        "winner": {
            key: best[key]
            for key in ("score", "score_std", "standard_error", "dimensions", "sample", "reduce", "classifier")
        },
    }
    try:
        return {**result, "report": str(selection_page(out))}
    except Exception as error:  # hours of work must not end in an error for the sake of a plot
        log.warning("the selection is finished, but its page is not: %s", error)
        return result
