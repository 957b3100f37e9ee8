"""``select``: the paper's model selection, a grid of samplings and reductions, each scored by the downstream task."""

import logging
import math
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from edgesea import reduction, sampling
from edgesea.artifact import LOCK_FILE, Digests, atomic_path, claimed, digest, plain, read_json, versions, write_json
from edgesea.audio.framing import Framing
from edgesea.audio.io import checked_count
from edgesea.audio.resampling import checked_resampling
from edgesea.cluster import results
from edgesea.config import checked_options
from edgesea.errors import EdgeseaError, error_of
from edgesea.models import load_model, shared_model
from edgesea.models.base import file_digest, window_of
from edgesea.reduction.base import REDUCTION_FILE, Reduction
from edgesea.sampling.sensors import read_positions
from edgesea.sampling.subset import table_key
from edgesea.table.reader import Table
from edgesea.tasks.evaluate import load_task
from edgesea.tasks.features import Bags, window_embeddings
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions, TaggingOptions, check_seed
from edgesea.tasks.skipped import check_openable, check_skipped, listing_of
from edgesea.tasks.sonyc_ust import SonycUst

log = logging.getLogger(__name__)

Options = dict[str, Any]
Classifier = tuple[int, int | None]  # hidden layers and the units of each; (0, None) is logistic regression
Score = dict[str, Any]  # layers and units of a classifier, its score, and the standard error of an accuracy

SAMPLE_GRID: Options = {"method": ["random", "spl", "kmeans", "dpp_div", "dpp"]}
REDUCE_GRID: Options = {"method": ["pca"], "size": [16, 32, 64, 128, 256]}
RESULT, TRIAL = "select.json", "trial.json"
SET_BY_SELECT = ("table", "out", "subset", "seed", "workers")
SHOWN = ("score", "score_std", "standard_error", "dimensions", "sample", "reduce", "classifier")


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
    max_skipped: float = 0.0,
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
    max_skipped : float
        Largest share of the task's clips that may be missing or unusable, as in `edgesea evaluate`.

    Returns
    -------
    dict
        The winner's options and score, the teacher's score, and where everything is.

    EdgeseaError: the grid, the table or the task is unusable, `out` holds another selection, or a process is
    killed.
    """
    for name, value in (("repeats", repeats), ("workers", workers), ("batch_size", batch_size)):
        checked_count(name, value)
    check_seed(seed, max(repeats, tagging.members))
    source, folder = Table(table), Path(out)
    classifiers = _classifiers([0, 1, 2] if layers is None else layers, [128, 256] if units is None else units)
    samplings = _expand("sample", SAMPLE_GRID if sample is None else sample)
    reductions = _expand("reduce", REDUCE_GRID if reduce is None else reduce)
    sizes = {phi.get("size", 1) for phi in reductions}
    if wrong := sorted(size for size in sizes if not 1 <= size <= source.embedding_size):
        raise EdgeseaError(f"reduce: size must lie in 1 ... {source.embedding_size}, not {', '.join(map(str, wrong))}")
    grid = _trials(Path(table), folder, samplings, reductions, range(seed, seed + repeats))
    problem = load_task(task, Path(data), ProbeOptions(), tagging, [*(folds or ()), *(hold_out or ())])
    if both := sorted(set(folds or ()) & set(hold_out or ())):
        raise EdgeseaError(f"folds {both} are held out, so they cannot be tested")
    if isinstance(problem, FoldTask) and hold_out:
        problem = problem.without(hold_out)
    listing = listing_of(folder)
    check_openable(problem, Path(data), max_skipped, listing, workers)
    model, load, jobs = shared_model(load_model, teacher or source.info["teacher"]["id"], weights, device)
    if (size := model.embedding_size) != source.embedding_size:
        raise EdgeseaError(
            f"teacher {model.id}: {size} dimensions, the table: {source.embedding_size}; give the table's"
        )
    framing = Framing(window_of(model), hop, center, checked_resampling(source.framing.resampler))
    contents = Digests(folder)
    clips = digest([[path.name for path in problem.paths], contents.of(problem.paths)])
    made_from = {"table": table_key(source.info), "clips": clips, "teacher": {"id": model.id, "sha256": model.digest}}
    plan = {**made_from, "framing": framing.plan(), "folds": folds, "hold_out": hold_out, "seed": seed}
    if task == "sonyc_ust":
        plan["tagging"] = plain(replace(tagging, num_hidden_layers=0, hidden_layer_size=1))
    with claimed(folder, plan, "selection"):
        contents.save()
        bags, skipped = window_embeddings(load, problem.paths, framing, batch_size, workers, folder / "cache", jobs)
        del model, load  # whose memory the classifiers may need
        check_skipped(problem, Path(data), skipped, max_skipped, listing)
        evaluator = Evaluator(problem, bags, classifiers, folds, seed)
        errors = _run(list(chain.from_iterable(grid)), evaluator, workers)
        summary, winner = _summary(grid, errors, evaluator)
        winner.publish(folder)
        write_json(folder / RESULT, {**summary, "errors": errors, "skipped": len(skipped), "versions": versions()})
    best = summary["trials"][summary["winner"]]
    found = {"trials": len(summary["trials"]), "left_out": len(errors), "metric": summary["metric"]}
    found |= {"teacher": summary["reference"]["score"], "winner": {key: best[key] for key in SHOWN}}
    return {"selection": str(folder), "reduction": str(folder / "reduction"), **found}


def _classifiers(layers: Sequence[int], units: Sequence[int]) -> list[Classifier]:
    """Classifiers to try; without a hidden layer, the number of units does not matter."""
    if not layers or not units or min(layers) < 0 or min(units) < 1:
        raise EdgeseaError(f"layers {list(layers)} of {list(units)} units are not classifiers; e.g. layers: [0, 1]")
    return list(dict.fromkeys((count, size if count else None) for count, size in product(layers, units)))


def _expand(stage: str, grid: Mapping[str, Any]) -> list[Options]:
    """All combinations of a grid's values, checked, each with the options that its method uses, and each once."""
    values = [value if isinstance(value, list) else [value] for value in grid.values()]
    if not all(values):
        raise EdgeseaError(f"{stage}: an option has an empty list of values: {dict(grid)}")
    function = sampling.sample if stage == "sample" else reduction.reduce
    found: dict[str, Options] = {}
    for combination in product(*values):
        given = dict(zip(grid, combination, strict=True))
        options = checked_options(function, given, f"select: {stage}", fixed=SET_BY_SELECT) | {"seed": 0}
        method = options["method"]
        used = sampling.used_options(options) if stage == "sample" else reduction.used_options(method, options)
        used.pop("seed", None)
        found.setdefault(digest([method, used]), {"method": method, **used})
    return list(found.values())


@dataclass(frozen=True)
class Evaluator:
    """A task, ready to score reductions of the embeddings of its clips."""

    task: FoldTask | SonycUst
    bags: Bags  # the teacher's embeddings
    classifiers: Sequence[Classifier]
    folds: Sequence[int] | None
    seed: int

    def scores(self, phi: Reduction | None, known: Mapping[Classifier, Score]) -> dict[Classifier, Score]:
        """Scores of the reduced (without `phi`: the teacher's) embeddings: those known and all others."""
        bags = self.bags if phi is None else self.bags.with_rows(phi.transform(self.bags.rows))
        return {**known, **{each: self._score(bags, *each) for each in self.classifiers if each not in known}}

    def _score(self, bags: Bags, layers: int, units: int | None) -> Score:
        options: Any = {"num_hidden_layers": layers, "hidden_layer_size": units or 1}
        if isinstance(self.task, FoldTask):
            # Without hidden layers a network is a logistic regression, which scikit-learn has a proper solver for.
            probe = ProbeOptions("mlp" if layers else "logistic", **options)
            result = self.task.score(bags, probe, self.folds, self.seed)
            score = result["accuracy"]
            error = math.sqrt(score * (1 - score) / result["clips"])
        else:
            task = replace(self.task, options=replace(self.task.options, **options))
            score, error = float(task.score(bags, self.seed)["micro_auprc"] or 0.0), None
        return {"layers": layers, "units": units, "score": score, "standard_error": error}


@dataclass(frozen=True)
class Trial:
    """One sampling and one reduction with one seed; a finished trial has a file trial.json."""

    table: Path
    sample: Options
    reduce: Options
    seed: int
    subset: Path  # which trials of other reductions share
    folder: Path  # its reduction and trial.json

    def result(self) -> Options:
        """The content of trial.json, with its scores by classifier; no scores if it is missing or damaged."""
        try:
            found = read_json(self.folder / TRIAL)
            return {**found, "scores": {(score["layers"], score["units"]): score for score in found["scores"]}}
        except (EdgeseaError, KeyError, TypeError):
            return {"scores": {}, "seconds": 0.0}

    def draw(self) -> None:
        """Choose the subset, unless it is there."""
        if not self.subset.exists():
            sampling.sample(self.table, self.subset, **self.sample, seed=self.seed, workers=1)

    def fit(self) -> Reduction:
        """The reduction, which is fitted unless it is there."""
        with suppress(EdgeseaError):  # missing or damaged
            return reduction.load_reduction(self.folder)
        self.draw()
        reduction.reduce(self.table, self.folder, subset=self.subset, **self.reduce, seed=self.seed)
        return reduction.load_reduction(self.folder)

    def run(self, evaluator: Evaluator) -> None:
        """Fit the reduction and score it, both unless they are done; write trial.json."""
        began, before = time.perf_counter(), self.result()
        phi = self.fit()
        result = {
            "sample": self.sample,
            "reduce": self.reduce,
            "seed": self.seed,
            "dimensions": phi.output_size,
            "scores": list(evaluator.scores(phi, before["scores"]).values()),
            "kept": read_json(self.folder / REDUCTION_FILE).get("kept"),
            "seconds": round(time.perf_counter() - began + before["seconds"], 2),
        }
        write_json(self.folder / TRIAL, result)

    def publish(self, out: Path) -> None:
        """Copy the reduction and the subset to a folder."""
        self.fit()  # again, in case that it has been deleted
        self.draw()
        # A process killed here leaves no reduction, or a part that cannot be loaded, but never files of two.
        shutil.rmtree(out / "reduction", ignore_errors=True)
        shutil.copytree(self.folder, out / "reduction", ignore=shutil.ignore_patterns(TRIAL, LOCK_FILE, "*.tmp"))
        with atomic_path(out / "subset.parquet") as temporary:
            shutil.copyfile(self.subset, temporary)


def _trials(
    table: Path, out: Path, samplings: Sequence[Options], reductions: Sequence[Options], seeds: Sequence[int]
) -> list[list[Trial]]:
    """The trials of each combination, one for each seed; what decides a result is hashed into the name of its files."""
    grid = {}
    for sample, phi in product(samplings, reductions):
        content, trials = dict(sample), []
        if "positions" in sample:
            read_positions(sample["positions"])  # which must be readable
            content["positions"] = file_digest(sample["positions"])
        for seed in seeds:
            subset = out / "subsets" / f"{digest([content, seed])[:16]}.parquet"
            folder = out / "trials" / digest([content, phi, seed])[:16]
            trials.append(Trial(table, sample, phi, seed, subset, folder))
        grid[digest([content, phi])] = trials  # files of positions may have the same content
    return list(grid.values())


def _run(trials: Sequence[Trial], evaluator: Evaluator, workers: int) -> dict[str, str]:
    """Run what is missing; returns why trials could not be run, by the names of their folders."""
    todo = [trial for trial in trials if not trial.result()["scores"].keys() >= set(evaluator.classifiers)]
    log.info("%d of %d trials were finished before", len(trials) - len(todo), len(trials))
    undrawn = {trial.subset: (Trial.draw, trial) for trial in todo if not trial.subset.exists()}
    # A subset that cannot be drawn fails again below, for each of its trials.
    list(tqdm(results(error_of, list(undrawn.values()), workers), "sample", len(undrawn), disable=None))
    ended = results(error_of, [(Trial.run, trial, evaluator) for trial in todo], workers)
    errors = {}
    for trial, error in zip(
        todo, tqdm(ended, "reduce and evaluate", len(todo), unit="trial", disable=None), strict=True
    ):
        if error is not None:
            errors[trial.folder.name] = f"sample {trial.sample}, reduce {trial.reduce}, seed {trial.seed}: {error}"
            log.warning("left out: %s", errors[trial.folder.name])
    return errors


def _summary(grid: Sequence[Sequence[Trial]], errors: Mapping[str, str], evaluator: Evaluator) -> tuple[Options, Trial]:
    """The content of select.json: an entry for each combination, over its seeds, and which one is the best."""
    groups = [done for trials in grid if (done := [one for one in trials if one.folder.name not in errors])]
    entries = [_entry(trials, evaluator.classifiers) | {"complete": len(trials) == len(grid[0])} for trials in groups]
    complete = [index for index, entry in enumerate(entries) if entry["complete"]]
    if not complete:  # a mean over fewer seeds is easier to be lucky with
        problem = f"no combination could be run with all {len(grid[0])} seeds"
        raise EdgeseaError(f"{problem}; the first error: {next(iter(errors.values()))}")
    # Of equally good ones the smallest: it makes the smaller student.
    winner = max(complete, key=lambda index: (entries[index]["score"], -entries[index]["dimensions"]))
    teacher = _best(evaluator.scores(None, {}).values())
    summary = {
        "task": evaluator.task.name,
        "metric": "accuracy" if isinstance(evaluator.task, FoldTask) else "micro_auprc",
        "trials": entries,
        "reference": {
            "score": teacher["score"],
            "dimensions": evaluator.bags.rows.shape[1],
            "classifier": {key: teacher[key] for key in ("layers", "units")},
        },
        "winner": winner,
    }
    return summary, groups[winner][0]


def _entry(trials: Sequence[Trial], classifiers: Sequence[Classifier]) -> Options:
    """One combination: means over its seeds, all else of the first."""
    results = [trial.result() for trial in trials]
    scores = [[result["scores"][each] for each in classifiers] for result in results]
    best = [_best(each) for each in scores]
    by_seed = {str(trial.seed): score["score"] for trial, score in zip(trials, best, strict=True)}
    return {
        **{key: results[0][key] for key in ("sample", "reduce", "dimensions")},
        "classifier": {key: best[0][key] for key in ("layers", "units")},
        "scores": scores[0],
        "kept": results[0]["kept"],
        "score": statistics.fmean(by_seed.values()),
        "score_std": statistics.stdev(by_seed.values()) if len(trials) > 1 else None,
        "standard_error": best[0]["standard_error"],
        "by_seed": by_seed,
        "seconds": statistics.fmean(result["seconds"] for result in results),
        "folder": f"trials/{trials[0].folder.name}",
        "subset": f"subsets/{trials[0].subset.name}",
    }


def _best(scores: Iterable[Score]) -> Score:
    """The score of the best classifier, of equally good ones the first."""
    return max(scores, key=itemgetter("score"))
