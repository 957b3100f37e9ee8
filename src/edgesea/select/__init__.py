"""``select``: the paper's model selection, a grid of samplings and reductions, each scored by the downstream task."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from edgesea import reduction, sampling
from edgesea.artifact import claim, file_state, locked, plain, versions, write_json
from edgesea.audio.framing import Framing
from edgesea.audio.io import checked_count
from edgesea.config import checked_options
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.models.base import window_of
from edgesea.sampling.sensors import read_positions
from edgesea.sampling.subset import table_key
from edgesea.select.trials import Evaluator, Hidden, Options, Trial, run_all, summarise
from edgesea.table.reader import Table
from edgesea.tasks.evaluate import load_task
from edgesea.tasks.features import window_embeddings
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed

SAMPLE_GRID: Options = {"method": ["random", "spl", "kmeans", "dpp_div", "dpp"]}
REDUCE_GRID: Options = {"method": ["pca"], "size": [16, 32, 64, 128, 256]}
RESULT = "select.json"
SET_BY_SELECT = ("table", "out", "subset", "seed", "workers")


def select(
    table: Path,
    task: Literal["esc50", "urbansound8k", "sonyc_ust"],
    data: Path,
    out: Path,
    *,
    sample: dict[str, Any] | None = None,
    reduce: dict[str, Any] | None = None,
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
    """Try samplings x reductions, score each by a task with a grid of classifiers, and copy the best.

    Killed, or called again with a larger grid, it runs what is missing: sample, reduce, repeats, layers and units may
    change from call to call; table, task, data, teacher, hop, center, folds, hold_out, tagging and seed must stay the
    same in a folder. The best reduction is copied to ``reduction`` (and its subset to ``subset.parquet``), for
    `edgesea distill`; all trials are in ``select.json`` and ``report.html``.

    Parameters
    ----------
    table : Path
        Folder of a table.
    task : {"esc50", "urbansound8k", "sonyc_ust"}
        What scores a trial, as in `edgesea evaluate`: accuracy over the folds, or micro AUPRC of the test clips.
    data : Path
        Folder of the task's data set.
    out : Path
        Folder of the selection.
    sample : dict, optional
        Options of `edgesea sample`; a list stands for several values to try: {"method": ["random", "dpp"]}.
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
        Of these too: folds that take no part in the scores, so that they can test the winner. (If their clips are in
        the table's training split, the reduction may still be fitted on them.)
    tagging : TaggingOptions
        Of sonyc_ust: how tags are learned and scored; num_hidden_layers and hidden_layer_size are set by select.
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
    for name, value in (("repeats", repeats), ("workers", workers), ("batch_size", batch_size)):
        checked_count(name, value)
    check_seed(seed, max(repeats, tagging.members))
    source, folder = Table(table), Path(out)
    classifiers = _classifiers([0, 1, 2] if layers is None else layers, [128, 256] if units is None else units)
    samplings = _expand("sample", SAMPLE_GRID if sample is None else sample)
    reductions = _expand("reduce", REDUCE_GRID if reduce is None else reduce)
    if wrong := sorted({phi["size"] for phi in reductions if not 1 <= phi.get("size", 1) <= source.embedding_size}):
        raise EdgeseaError(f"reduce: size must lie in 1 ... {source.embedding_size}, not {', '.join(map(str, wrong))}")
    found = [
        Trial(Path(table), folder, choice, _position_digest(choice.get("positions")), phi, seed + k)
        for choice, phi in product(samplings, reductions)
        for k in range(repeats)
    ]
    trials = list({trial.folder: trial for trial in found}.values())  # files of positions may have the same content
    problem = load_task(task, Path(data), ProbeOptions(), tagging, folds)
    if hold_out:
        if not isinstance(problem, FoldTask):
            raise EdgeseaError(f"the task {task} has no folds; leave hold_out out")
        if both := sorted(set(folds or ()) & set(hold_out)):
            raise EdgeseaError(f"folds {both} are held out, so they cannot be tested")
        problem = problem.without(hold_out)
    model = load_model(teacher or source.info["teacher"]["id"], weights, device)
    if model.embedding_size != source.embedding_size:
        sizes = f"{model.embedding_size} dimensions and the table {source.embedding_size}"
        raise EdgeseaError(f"teacher {model.id} has {sizes}; give the teacher that made the table")
    framing = Framing(window_of(model), hop, center)
    clips = repr([(path.name, file_state(path)) for path in problem.paths])
    plan = {
        "table": table_key(source.info),
        "clips": hashlib.sha256(clips.encode("utf-8", "surrogateescape")).hexdigest(),
        "teacher": {"id": model.id, "sha256": model.digest},
        "framing": asdict(framing),
        "edgesea": versions()["edgesea"],
        "folds": folds,
        "hold_out": hold_out,
        "seed": seed,
    }
    if task == "sonyc_ust":
        plan["tagging"] = plain(replace(tagging, num_hidden_layers=0, hidden_layer_size=1))
    claim(folder, plan, "selection")
    with locked(folder):
        bags, failed = window_embeddings(model, problem.paths, framing, batch_size, workers, folder / "cache")
        evaluator = Evaluator(problem, bags, classifiers, folds, seed)
        del model
        results, errors = run_all(trials, evaluator, workers)
        summary = summarise(results, evaluator, repeats)
        best = summary["trials"][summary["winner"]]
        next(trial for trial in trials if trial.folder == folder / best["folder"]).publish()
        write_json(folder / RESULT, {**summary, "errors": errors, "failed": failed, "versions": versions()})
    shown = ("score", "score_std", "standard_error", "dimensions", "sample", "reduce", "classifier")
    return {
        "selection": str(folder),
        "reduction": str(folder / "reduction"),
        "trials": len(summary["trials"]),
        "left_out": len(errors),
        "metric": summary["metric"],
        "teacher": summary["reference"]["score"],
        "winner": {key: best[key] for key in shown},
    }


def _classifiers(layers: Sequence[int], units: Sequence[int]) -> list[Hidden]:
    """Hidden layers of the classifiers to try; without a hidden layer, the number of units does not matter."""
    if not layers or not units or min(layers) < 0 or min(units) < 1:
        raise EdgeseaError(f"layers {list(layers)} of {list(units)} units are not classifiers; e.g. layers: [0, 1]")
    return list(dict.fromkeys((size,) * count for count in layers for size in units))


def _expand(stage: str, grid: Mapping[str, Any]) -> list[Options]:
    """All combinations of a grid's values, checked, each with the options that its method uses, and each once."""
    values = [value if isinstance(value, list) else [value] for value in grid.values()]
    if not all(values):
        raise EdgeseaError(f"{stage}: an option has an empty list of values: {dict(grid)}")
    found: dict[str, Options] = {}
    for combination in product(*values):
        given = dict(zip(grid, combination, strict=True))
        function = sampling.sample if stage == "sample" else reduction.reduce
        options = checked_options(function, given, f"select: {stage}", fixed=SET_BY_SELECT) | {"seed": 0}
        method = options["method"]
        try:
            used = sampling.used_options(options) if stage == "sample" else reduction.used_options(method, options)
        except EdgeseaError as error:
            raise EdgeseaError(f"{stage}: {error}") from error
        used = {"method": method} | {name: used[name] for name in used if name != "seed"}
        found.setdefault(json.dumps(used, sort_keys=True, default=str), used)
    return list(found.values())


def _position_digest(path: Path | None) -> str:
    """Hash of a file of positions, which must be readable; empty without one."""
    if path is None:
        return ""
    read_positions(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
