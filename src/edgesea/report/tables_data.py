"""Scores for tables, read from runs, selections and evaluations, with all that decides them."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from edgesea.errors import EdgeseaError
from edgesea.files import PLAN_FILE, read_json
from edgesea.report.run import RESULTS, STAMPS, STUDENT, RunFiles, read_run
from edgesea.report.selection import read_selection

log = logging.getLogger(__name__)

TEACHER, SELECTION, TRIALS, EVALUATIONS = "teacher", "select.json", "trials", "evaluate"
METRICS = ("micro_auprc", "macro_auprc", "accuracy")
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


@dataclass(frozen=True)
class Record:
    """The scores of one system in one task.

    Attributes
    ----------
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
        Whether it was made for the clips that it is judged on.
    """

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
    return [
        _record(system, level, run, judged=True) for system, result in run.scores.items() for level in _levels(result)
    ]


def _of_evaluation(path: Path) -> list[Record]:
    """Of one JSON file; how a student that lies in a run was made is told by the run."""
    found = read_json(path)
    if not isinstance(found, dict) or not {"task", "model", "embedding_size"} <= found.keys() or not _scores(found):
        raise EdgeseaError(f"{path}: neither a run, nor a selection, nor what `edgesea evaluate --out` writes")
    from edgesea.models import is_teacher

    model, run = Path(str(found["model"])), None
    system = "reduced" if found.get("reduction") else TEACHER if is_teacher(str(model)) else "student"
    if system == "student" and model.name == STUDENT and (model.parent / RESULTS).is_file():
        run = read_run(model.parent)
    return [_record(system, level, run) for level in _levels(found)]


def _levels(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scores, and, if fine tags were learned, those of the coarse tags that follow from them."""
    if not isinstance(result.get("coarse"), dict):
        return [result]
    return [result, {**result, **result["coarse"], "label_mode": "coarse, by fine tags"}]


def _record(system: str, result: Mapping[str, Any], run: RunFiles | None = None, *, judged: bool = False) -> Record:
    """Scores of a system that a run has made (and `judged`), or of any other."""
    config: dict[str, Any] = {} if run is None else run.results["config"]
    model, size = str(result["model"]), int(result["embedding_size"])
    recipe = {} if run is None else _recipe(run, system)
    parameters: int | None = None
    if system != "student":
        key, name = (TEACHER if system == TEACHER else ""), f"{system} ({model})"
    elif run is not None:
        key, name = _student(config["distill"], size)
        parameters = run.stage("distill").get("parameters")
    elif (Path(model) / "config.json").is_file():
        key, name, parameters = _folder_student(Path(model))
        recipe = {"folder": model}  # two of them are not known to be made alike
    else:
        key, name, parameters = _published_student(model)
    versions = (result if run is None or not judged else run.results).get("versions") or {}
    return Record(
        system=system,
        name=name,
        key=key,
        task=_task(result),
        scores=_scores(result),
        confidence={
            metric: (float(low), float(high)) for metric, (low, high) in (result.get("confidence") or {}).items()
        },
        dimensions=size,
        parameters=parameters,
        sampling=str((config.get("sample") or {}).get("method") or "") if system != TEACHER else "",
        recipe=recipe,
        protocol=_protocol(result, config["evaluate"] if judged else {}, versions),
        seeds=tuple(_text(config[stage].get("seed")) for stage in STAGES[system] if config.get(stage)),
        judged_with=_text(config["evaluate"].get("seed")) if judged else None,
        in_domain=judged and system != TEACHER and _same_data(config),
    )


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


def _folder_student(folder: Path) -> tuple[str, str, int | None]:
    """Key, name and parameters of a student of `edgesea distill` that is in no run."""
    from edgesea.models.config import FILTERS

    own = read_json(folder / "config.json")["architecture"]
    kind = next((kind for kind, filters in FILTERS.items() if list(filters) == own["filters"]), None)
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    if kind is None:
        return "", f"student {folder}", results.get("parameters")
    return *_student({**own, "student": kind, "filters": None}, int(own["embedding_size"])), results.get("parameters")


def _published_student(model: str) -> tuple[str, str, int | None]:
    """Key, name and parameters of published weights; of anything else the name alone."""
    kind = model.removeprefix("edgel3/")
    if model == kind or kind not in STUDENTS:
        return "", f"student {model}", None
    from edgesea.models.config import StudentConfig
    from edgesea.models.student import Student

    network = Student(StudentConfig.named(kind, head="relu_max"))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return kind, f"{STUDENTS[kind]} ({model}, published weights)", parameters


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


def _protocol(result: Mapping[str, Any], options: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """All that decides how a system was judged, but for the seed."""
    found = {**(result.get("probe") or {}), **(result.get("tagging") or {})}
    found |= {name: result[name] for name in ("classifier", "label_mode", "window", "hop", "clips") if name in result}
    if "accuracy_by_fold" in result:
        found["folds"] = [int(fold) for fold in result["accuracy_by_fold"]]
    if "center" in options:
        found["center"] = options["center"]
    if "edgesea" in versions:
        found["edgesea"] = versions["edgesea"]
    return {name: _text(value) for name, value in found.items()}


def _same_data(config: Mapping[str, Any]) -> bool:
    """Whether the clips that a student was made for lie in the folder of those that it is judged on."""
    return PurePath(config["extract"]["source"]).is_relative_to(PurePath(config["evaluate"]["data"]))


def _of_selection(folder: Path) -> list[Record]:
    """A record for each seed of each trial."""
    selection, found = read_selection(folder / SELECTION), read_json(folder / SELECTION)
    plan = read_json(folder / PLAN_FILE) if (folder / PLAN_FILE).is_file() else {}
    shared = {**(plan.get("framing") or {}), **(plan.get("tagging") or {})}
    shared |= {name: plan[name] for name in ("folds", "hold_out", "edgesea") if name in plan}
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
                    system="reduced",
                    name=f"reduced ({teacher})",
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
