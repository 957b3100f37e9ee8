"""Scores for tables, read from runs, selections and evaluations, with all that decides them."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from edgesea.errors import EdgeseaError
from edgesea.files import PLAN_FILE, read_json
from edgesea.reduction.base import OPTIONS, REDUCTION_FILE, used_options
from edgesea.report.run import REDUCTION, RESULTS, STAMPS, STUDENT, RunFiles, read_run
from edgesea.report.selection import EVERYTHING, read_selection

log = logging.getLogger(__name__)

TEACHER, SELECTION, TRIALS, EVALUATIONS = "teacher", "select.json", "trials", "evaluate"
METRICS = ("micro_auprc", "macro_auprc", "accuracy", "fold_accuracy")
STUDENTS = {"sea-512": "Student 0", "sea-256": "Student 1", "sea-128": "Student 2", "sea-64": "Student 3"}
ARCHITECTURE = {"filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "fmax": None}
# Options that do not decide a score, or are told otherwise: by the row, the column or the seeds.
LEFT_OUT = {
    "extract": ("source", "root", "weights", "columns", "workers", "device", "batch_size", "part_clips", "max_skipped"),
    "sample": ("seed", "workers", "method"),
    "reduce": ("seed", "workers", "size"),
    "distill": ("seed", "student", "device", "devices", "save_every", *ARCHITECTURE),
}
STAGES = {"teacher": (), "reduced": ("extract", "sample", "reduce"), "student": tuple(LEFT_OUT)}
FOUND_BY_SAMPLING = ("table", "candidates", "frames", "mean_core")  # what a subset tells besides its options
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


class _Made(NamedTuple):
    """How a system was made, as far as it is known; see `Record`."""

    name: str
    key: str = ""
    parameters: int | None = None
    sampling: str = ""
    recipe: Mapping[str, str] = {}
    seeds: tuple[str, ...] = ()


def _record(source: Path, system: str, result: Mapping[str, Any], run: RunFiles | None) -> Record:
    """Scores of a system that a run has made, or that is in none."""
    made = _made_alone(system, result) if run is None or system == TEACHER else _made_in_run(system, result, run)
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
        judged_with=_text(result["seed"]) if "seed" in result else None,
        in_domain=run is not None and system != TEACHER and _same_data(run, result.get("data")),
        **made._asdict(),
    )


def _made_in_run(system: str, result: Mapping[str, Any], run: RunFiles) -> _Made:
    config, size = run.results["config"], int(result["embedding_size"])
    made = _Made(
        _reduced(str(result["model"]), size),
        sampling=str((config.get("sample") or {}).get("method") or ""),
        recipe=_recipe(run, system),
        seeds=tuple(_text(config[stage].get("seed")) for stage in STAGES[system] if config.get(stage)),
    )
    if system == "reduced":
        return made
    key, name = _student(config["distill"], size)
    return made._replace(name=name, key=key, parameters=run.stage("distill").get("parameters"))


def _made_alone(system: str, result: Mapping[str, Any]) -> _Made:
    """Of a system of no run; if it is not known how two were made, they are not known to be made alike."""
    model, size = str(result["model"]), int(result["embedding_size"])
    if system == TEACHER:
        return _Made(f"{TEACHER} ({model})", TEACHER)
    if system == "reduced":
        return _reduction(Path(str(result["reduction"])), model, size)
    if (Path(model) / "config.json").is_file():
        return _folder_student(Path(model))
    return _published_student(model)


def _reduced(model: str, size: int) -> str:
    return f"reduced, {size} dimensions ({model})"


def _reduction(folder: Path, model: str, size: int) -> _Made:
    """A reduction of no run, by its own files; without a sampling if they are gone, or are those of another."""
    info = read_json(folder / REDUCTION_FILE) if (folder / REDUCTION_FILE).is_file() else {}
    method, provenance = info.get("method"), info.get("provenance") or {}
    fits = info.get("output_size") == size and (provenance.get("teacher") or {}).get("id") == model
    if not fits or method not in OPTIONS or "subset" not in provenance:
        return _Made(_reduced(model, size), recipe={"reduction": str(folder)})
    subset, options = provenance["subset"], used_options(method, {**info, "size": size})
    recipe = {"extract.teacher": model, "table": f"of manifest {str(provenance.get('table', '?'))[:8]}"}
    if subset is not None:
        recipe["table"] = str(subset.get("table", "?"))[:8]  # as a selection names it
    told = {name: own for name, own in (subset or {}).items() if name not in FOUND_BY_SAMPLING}
    for stage, own in (("sample", told), ("reduce", {"method": method, **options})):
        recipe |= {f"{stage}.{name}": _text(value) for name, value in own.items() if name not in LEFT_OUT[stage]}
    recipe["made by edgesea"] = _text((provenance.get("versions") or {}).get("edgesea"))
    sampling = EVERYTHING if subset is None else str(subset["method"])
    seeds = tuple(_text(own.get("seed")) for own in (told, options))
    return _Made(_reduced(model, size), sampling=sampling, recipe=recipe, seeds=seeds)


def _scores(result: Mapping[str, Any]) -> dict[str, float]:
    return {metric: float(result[metric]) for metric in METRICS if result.get(metric) is not None}


def _task(result: Mapping[str, Any]) -> str:
    """The task; data sets in ESC-50's layout are told apart by their number of classes."""
    names = (result.get("confusion") or {}).get("classes") or result.get("accuracy_by_class") or ()
    if result["task"] != "esc50" or len(names) in (0, 50):
        return str(result["task"])
    return "esc10" if len(names) == 10 else f"esc50 ({len(names)} classes)"


def _student(options: Mapping[str, Any], size: int) -> tuple[str, str]:
    """Key and name of a student of a run; one that was changed is none of the paper's."""
    kind = str(options["student"])
    changed = [
        f"{name} {_text(options[name])}"
        for name, usual in ARCHITECTURE.items()
        if options.get(name) not in (None, usual)
    ]
    if f"sea-{size}" != kind:
        changed.append(f"{size} dimensions")
    return ("", f"{kind} with {', '.join(changed)}") if changed else (kind, f"{STUDENTS[kind]} ({kind})")


def _folder_student(folder: Path) -> _Made:
    """A student of `edgesea distill` that is in no run."""
    from edgesea.models.config import FILTERS

    own = read_json(folder / "config.json")["architecture"]
    kind = next((kind for kind, filters in FILTERS.items() if list(filters) == own["filters"]), None)
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    made = _Made(f"student {folder}", parameters=results.get("parameters"), recipe={"folder": str(folder)})
    if kind is None:
        return made
    key, name = _student({**own, "student": kind, "filters": None}, int(own["embedding_size"]))
    return made._replace(key=key, name=name)


def _published_student(model: str) -> _Made:
    """Published weights; of anything else the name alone."""
    kind = model.removeprefix("edgel3/")
    if model == kind or kind not in STUDENTS:
        return _Made(f"student {model}")
    from edgesea.models.config import StudentConfig
    from edgesea.models.student import Student

    network = Student(StudentConfig.named(kind, head="relu_max"))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return _Made(f"{STUDENTS[kind]} ({model}, published weights)", kind, parameters)


def _recipe(run: RunFiles, system: str) -> dict[str, str]:
    """All options of a run that decide what a system is, but for its seeds."""
    config, found = run.results["config"], {}
    for stage in STAGES[system]:
        for name, value in (config.get(stage) or {}).items():
            if name not in LEFT_OUT[stage]:
                found[f"{stage}.{name}"] = _text(value)
    if STAGES[system]:
        source = PurePath(str(config.get("extract", {}).get("source", "")))
        found["extract.source"] = "/".join(source.parts[-3:])  # folders above it depend on the machine
        for name in ("clips", "windows"):
            found[f"extract.{name}"] = _text(run.stage("extract").get(name))
        found["made by edgesea"] = _text((run.results.get("versions") or {}).get("edgesea"))
    return found


def _protocol(result: Mapping[str, Any]) -> dict[str, str]:
    """All that decides how a system was judged, but for the seed."""
    found = {**(result.get("probe") or {}), **(result.get("tagging") or {})}
    names = ("classifier", "label_mode", "data", "window", "hop", "center", "clips")
    found |= {name: result[name] for name in names if name in result}
    if "accuracy_by_fold" in result:
        found["folds"] = [int(fold) for fold in result["accuracy_by_fold"]]
    return {name: _text(value) for name, value in {**found, **(result.get("versions") or {})}.items()}


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
            made |= {f"{stage}.{name}": _text(own) for name, own in options.items() if name not in LEFT_OUT[stage]}
        # Hidden layers are chosen by the score.
        judged = {
            name: _text(own) for name, own in shared.items() if name not in ("num_hidden_layers", "hidden_layer_size")
        }
        judged["judged by"] = f"edgesea select, best of {len(entry.get('scores') or ()) or '?'} classifiers"
        for seed, score in (entry.get("by_seed") or {"?": trial.score}).items():
            records.append(
                Record(
                    source=str(folder),
                    system="reduced",
                    name=_reduced(str(teacher), trial.dimensions),
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


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_text(own)}" for name, own in value.items())
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value)) or "none"
    return "none" if value is None else "yes" if value is True else "no" if value is False else str(value)
