"""Scores for tables, read from runs, selections and evaluations, with all that decides them."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesea.artifact import PLAN_FILE, read_json
from edgesea.errors import EdgeseaError
from edgesea.report.run import REDUCTION, RESULTS, STAMPS, STUDENT, RunFiles, read_run
from edgesea.report.selection import read_selection
from edgesea.report.tables_systems import LEFT_OUT, TEACHER, as_text, made_alone, made_in_run, reduced_name

log = logging.getLogger(__name__)

SELECTION, TRIALS, EVALUATIONS = "select.json", "trials", "evaluate"
METRICS = ("micro_auprc", "macro_auprc", "accuracy", "fold_accuracy")
MANIFESTS = (".csv", ".parquet")


@dataclass(frozen=True)
class Record:
    """The scores of one system in one task.

    Attributes
    ----------
    source : str
        What it was read from.
    system : str
        teacher, reduced or student.
    name, key : str
        What it is called; ``sea-512`` ... ``sea-64`` or ``teacher`` if it is one that the paper has, or else empty.
    task : str
        sonyc_ust, urbansound8k, esc50, esc10, or with another number of classes ``esc50 (2 classes)``.
    scores : mapping of str to float
        By metric.
    confidence : mapping of str to (float, float)
        Intervals, by metric.
    dimensions, parameters : int
        Of the embedding; of the network, if it is known.
    sampling : str
        Method that chose the subset, or empty.
    recipe, protocol : mapping of str to str
        How the system was made, and how it was judged; without seeds.
    seeds : tuple of str
        Those of the stages that made it.
    judged_with : str, optional
        Seed of the classifier, if it is known.
    in_domain : bool
        Whether it was made for the clips that it is judged on, as far as it is known.
    """

    source: str
    system: str
    name: str
    key: str
    task: str
    scores: Mapping[str, float]
    confidence: Mapping[str, tuple[float, float]]
    dimensions: int
    parameters: int | None
    sampling: str
    recipe: Mapping[str, str]
    protocol: Mapping[str, str]
    seeds: tuple[str, ...]
    judged_with: str | None = None
    in_domain: bool = False


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Read all scores.

    Parameters
    ----------
    paths : iterable of Path
        Run directories, folders of `edgesea select`, and JSON files of `edgesea evaluate --out`; each is read once.

    Raises
    ------
    EdgeseaError
        If one of them is something else, unfinished or damaged.
    """
    given = list({path.resolve(): path for path in map(_folder, map(Path, paths))}.values())
    folders = {path.resolve() for path in given}
    records: list[Record] = []
    for path in given:
        place = path.resolve()
        if place.parent.name == EVALUATIONS and place.parents[1] in folders:
            continue  # the scores of a run's own evaluation are in its results, too
        is_file = path.is_file() or path.suffix == ".json"
        read = _of_evaluation if is_file else _of_selection if _is_selection(path) else _of_run
        try:
            found = read(path)
        except EdgeseaError:  # a ValueError, too, but one that says what is wrong
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EdgeseaError(
                f"{path}: damaged, or of another version of edgesea ({type(error).__name__}: {error}); make it again"
            ) from error
        if not found:
            log.warning("%s: has no scores of a task; give its configuration a section evaluate and run it again", path)
        records += found
    return records


def _folder(path: Path) -> Path:
    """The folder of a run or a selection of which a file was named."""
    return path.parent if path.name in (RESULTS, STAMPS, SELECTION) and path.is_file() else path


def _is_selection(folder: Path) -> bool:
    if (folder / TRIALS).is_dir() and not (folder / SELECTION).is_file():
        raise EdgeseaError(
            f"{folder}: unfinished selection (no {SELECTION}); the same `edgesea select` goes on with it"
        )
    return (folder / SELECTION).is_file()


def _of_run(folder: Path) -> list[Record]:
    run = read_run(folder)
    options = run.results["config"].get("evaluate") or {}
    told = {name: options[name] for name in ("data", "center", "seed") if name in options}
    told["versions"] = run.results.get("versions")  # which evaluate did not always tell itself
    return [
        _record(folder, system, {**told, **level}, run)
        for system, result in run.scores.items()
        for level in _levels(result)
    ]


def _of_evaluation(path: Path) -> list[Record]:
    """Of one JSON file; how a student or a reduction that lies in a run was made is told by the run."""
    found = _read_evaluation(path)
    from edgesea.models import is_teacher

    model, reduction = str(found["model"]), found.get("reduction")
    system = "reduced" if reduction else TEACHER if is_teacher(model) else "student"
    run = None
    if system != TEACHER:
        place = Path(str(reduction)) if reduction else Path(model)
        if place.name == (REDUCTION if reduction else STUDENT) and (place.parent / RESULTS).is_file():
            run = read_run(place.parent)
    if run is not None and reduction and str(run.results["config"]["extract"]["teacher"]) != model:
        run = None  # it reduced another model's embeddings
    return [_record(path, system, level, run) for level in _levels(found)]


def _read_evaluation(path: Path) -> dict[str, Any]:
    wanted = "needed is a run directory, a folder of `edgesea select`, or what `edgesea evaluate --out` writes"
    if path.suffix == ".csv" and path.is_file():
        raise EdgeseaError(f"{path}: a CSV file; {wanted}. (Published figures are given as --published)")
    found = read_json(path)
    keys = found.keys() if isinstance(found, dict) else set()
    if "ties" in keys and not {"coarse", "fine"}.isdisjoint(keys):
        raise EdgeseaError(
            f"{path}: from `edgesea score`, which does not know which system made the predictions, nor how; {wanted}"
        )
    if not {"task", "model", "embedding_size"} <= keys or keys.isdisjoint(METRICS):
        raise EdgeseaError(f"{path}: neither a run, nor a selection, nor what `edgesea evaluate --out` writes")
    return dict(found)


def _levels(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scores, and, if fine tags were learned, those of the coarse tags that follow from them."""
    if not isinstance(result.get("coarse"), dict):
        return [result]
    return [result, {**result, **result["coarse"], "label_mode": "coarse, by fine tags"}]


def _record(source: Path, system: str, result: Mapping[str, Any], run: RunFiles | None) -> Record:
    """Scores of a system that a run has made, or that is in none."""
    made = made_alone(system, result) if run is None or system == TEACHER else made_in_run(system, result, run)
    return Record(
        source=str(source),
        system=system,
        task=_task(result),
        scores=_scores(result),
        confidence={
            metric: (float(low), float(high)) for metric, (low, high) in (result.get("confidence") or {}).items()
        },
        dimensions=int(result["embedding_size"]),
        protocol=_protocol(result),
        judged_with=as_text(result["seed"]) if "seed" in result else None,
        in_domain=run is not None and system != TEACHER and _same_data(run, result.get("data")),
        **made._asdict(),
    )


def _scores(result: Mapping[str, Any]) -> dict[str, float]:
    return {metric: float(result[metric]) for metric in METRICS if result.get(metric) is not None}


def _task(result: Mapping[str, Any]) -> str:
    """The task; data sets in ESC-50's layout are told apart by their number of classes."""
    names = (result.get("confusion") or {}).get("classes") or result.get("accuracy_by_class") or ()
    if result["task"] != "esc50" or len(names) in (0, 50):
        return str(result["task"])
    return "esc10" if len(names) == 10 else f"esc50 ({len(names)} classes)"


def _protocol(result: Mapping[str, Any]) -> dict[str, str]:
    """All that decides how a system was judged, but for the seed."""
    found = {**(result.get("probe") or {}), **(result.get("tagging") or {})}
    names = ("classifier", "label_mode", "data", "window", "hop", "center", "clips")
    found |= {name: result[name] for name in names if name in result}
    if "accuracy_by_fold" in result:
        found["folds"] = [int(fold) for fold in result["accuracy_by_fold"]]
    return {name: as_text(value) for name, value in {**found, **(result.get("versions") or {})}.items()}


def _same_data(run: RunFiles, data: str | None) -> bool:
    """Whether a run took its clips from the data set `data`: from below it, or from a folder that holds it."""
    if data is None:
        return False
    options = run.results["config"]["extract"]
    source, root = Path(options["source"]), options.get("root")
    is_manifest = source.suffix in MANIFESTS  # which may lie, or have its root, above a data set that it does not list
    for place in (source, *([Path(root)] if root and is_manifest else [])):
        # As given, for links below a data set and files of another machine; resolved, for one place of two names.
        for own, judged in ((place, Path(data)), (place.resolve(), Path(data).resolve())):
            if own.is_relative_to(judged) or (not is_manifest and judged.is_relative_to(own)):
                return True
    return False


def _of_selection(folder: Path) -> list[Record]:
    """A record for each seed of each trial."""
    selection, found = read_selection(folder / SELECTION), read_json(folder / SELECTION)
    plan = read_json(folder / PLAN_FILE) if (folder / PLAN_FILE).is_file() else {}
    shared = {**(plan.get("framing") or {}), **(plan.get("tagging") or {})}
    shared |= {name: plan[name] for name in ("folds", "hold_out", "edgesea") if name in plan}
    if "clips" in plan:
        shared["data"] = f"clips {str(plan['clips'])[:8]}"  # a plan has no path of the data, but a hash of its clips
    teacher, table = (plan.get("teacher") or {}).get("id", "?"), str(plan.get("table", "?"))[:8]
    records = []
    for trial, entry in zip(selection.trials, found["trials"], strict=True):
        if trial.score is None:
            continue
        made = {"extract.teacher": str(teacher), "table": table}
        for stage, options in (("sample", trial.sample), ("reduce", trial.reduce)):
            made |= {f"{stage}.{name}": as_text(own) for name, own in options.items() if name not in LEFT_OUT[stage]}
        # Hidden layers are chosen by the score.
        judged = {
            name: as_text(own) for name, own in shared.items() if name not in ("num_hidden_layers", "hidden_layer_size")
        }
        judged["judged by"] = f"edgesea select, best of {len(entry.get('scores') or ()) or '?'} classifiers"
        for seed, score in (entry.get("by_seed") or {"?": trial.score}).items():
            records.append(
                Record(
                    source=str(folder),
                    system="reduced",
                    name=reduced_name(str(teacher), trial.dimensions),
                    key="",
                    task=selection.task,
                    scores={selection.metric.key: float(score)},
                    confidence={},
                    dimensions=trial.dimensions,
                    parameters=None,
                    sampling=trial.sampling,
                    recipe=made,
                    protocol=judged,
                    seeds=(str(seed),),
                )
            )
    return records
