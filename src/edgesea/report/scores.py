"""Scores for the paper's tables, read from runs, selections and evaluations, with all options that decide them."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.models.student_config import StudentConfig, parameter_count
from edgesea.report.data import EVERYTHING, RESULTS, SELECTION, Frame, damaged, optional_json, read_results
from edgesea.report.summary import SYSTEMS, interval

log = logging.getLogger(__name__)

SONYC = "sonyc_ust"
STUDENTS = {f"sea-{512 >> number}": f"Student {number}" for number in range(4)}
COMMON = ("engine", "human-voice", "alert-signal", "machinery-impact", "non-machinery-impact")
AUPRC = ("micro_auprc", "macro_auprc", "macro_auprc_5_common")
OFFICIAL = {SONYC: "micro_auprc", "urbansound8k": "fold_accuracy"}  # scores of table 3; of other tasks the accuracy
ARCHITECTURE = {"filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "fmax": None}
PROTOCOL = ("classifier", "label_mode", "data", "window", "hop", "center", "clips")  # of what stands with scores
LEFT_OUT = {  # options that do not decide a score, or are shown otherwise: as a row, a column or by their seeds
    "extract": ("source", "root", "weights", "columns", "workers", "device", "batch_size", "part_clips", "max_skipped"),
    "sample": ("seed", "workers", "method"),
    "reduce": ("seed", "workers", "size"),
    "distill": ("seed", "student", "device", "devices", "save_every", *ARCHITECTURE),
}
Row = dict[str, Any]
# teacher, reduced or student; its scores with their protocol; its name and how it was made
System = tuple[str, Row, Row]


def read_scores(paths: Iterable[Path]) -> Frame:
    """All scores, one a row: the table and column that it belongs in, the system, options and seeds."""
    rows: list[Row] = []
    folders = (path.parent if path.name in (RESULTS, SELECTION) else path for path in map(Path, paths))
    given = {path.resolve(): path for path in folders}
    for place, path in given.items():
        if place.parent.name == "evaluate" and place.parents[1] in given:
            continue  # the results of the run hold these scores, too
        read = _of_selection if (path / SELECTION).is_file() else _of_evaluation if path.suffix else _of_run
        with damaged(path):
            found = [row for system in read(path) for row in _rows(*system)]
        if not found:
            log.warning("%s: no score that belongs in a table; evaluate again", path)
        rows += found
    return pd.DataFrame(rows, columns=None if rows else ["table", "column"])


def _of_run(folder: Path) -> Iterator[System]:
    results = read_results(folder)
    options = results["config"].get("evaluate") or {}
    # What an older edgesea did not repeat in the scores of each system.
    known = {name: options[name] for name in ("data", "center", "seed") if name in options}
    for kind, scores in (results.get("evaluate") or {}).items():
        if kind in SYSTEMS:
            yield kind, {**known, "versions": results.get("versions"), **scores}, _made(kind, scores, results)


def _of_evaluation(path: Path) -> Iterator[System]:
    """Of a JSON file; how a student or a reduction that lies in a run was made is read from the run."""
    from edgesea.models import is_teacher

    found = read_json(path)
    if not isinstance(found, dict) or not {"task", "model", "embedding_size"} <= found.keys():
        raise EdgeseaError(f"{path}: not a run, a folder of `edgesea select`, or a file of `edgesea evaluate --out`")
    model, reduction = str(found["model"]), found.get("reduction")
    kind = "reduced" if reduction else "teacher" if is_teacher(model) else "student"
    place = Path(str(reduction or model))
    stage = {"reduced": "reduction", "student": "student"}.get(kind)
    results = read_results(place.parent) if place.name == stage and (place.parent / RESULTS).is_file() else None
    if results and reduction and results["config"]["extract"]["teacher"] != model:
        results = None  # it reduced the embeddings of another model
    yield kind, found, _made(kind, found, results)


def _of_selection(folder: Path) -> Iterator[System]:
    """The reduced teacher of each seed of each trial."""
    found, plan = read_json(folder / SELECTION), optional_json(folder / "plan.json")
    data = {"data": f"clips {str(plan.get('clips'))[:8]}"}
    protocol = {**(plan.get("framing") or {}), **(plan.get("tagging") or {}), **data}
    protocol |= {name: plan[name] for name in ("folds", "hold_out", "edgesea") if name in plan}
    for name in ("num_hidden_layers", "hidden_layer_size"):  # chosen by the score
        protocol.pop(name, None)
    made = {"table": str(plan.get("table"))[:8], "extract.teacher": (plan.get("teacher") or {}).get("id", "?")}
    for trial in found["trials"]:
        sample = trial.get("sample") or {"method": EVERYTHING}
        system = f"reduced, best of {len(trial['scores'])} classifiers of edgesea select"
        options = {**made, **_options("sample", sample), **_options("reduce", trial["reduce"])}
        known = {"system": system, "sampling": sample["method"], "options": options}
        scores = {"task": found["task"], "embedding_size": trial["dimensions"], "tagging": protocol}
        for seed, score in trial["by_seed"].items():
            yield "reduced", {**scores, found["metric"]: score}, {**known, "seeds": seed}


def _rows(kind: str, scores: Row, made: Row) -> Iterator[Row]:
    """A row for each table and column that a system's scores belong in."""
    key, sampling, options = made.get("key", ""), made.get("sampling", ""), made.get("options", {})
    task, size, coarse = scores["task"], scores["embedding_size"], scores.get("coarse")
    classes = len((scores.get("confusion") or {}).get("classes") or scores.get("accuracy_by_class") or ())
    if task == "esc50" and classes not in (0, 50):
        task = "esc10" if classes == 10 else f"esc50, {classes} classes"
    places = []  # table, column, metric, key of the row there, and what the names of its options begin with
    if kind != "reduced" or not sampling:
        places += [("Table 2", name, name, key, "") for name in AUPRC[:2] if task == SONYC]
        places += [("Table 3", task, OFFICIAL.get(task, "accuracy"), key, f"{task}: ")]
    if kind != "teacher" and sampling:
        method = options.get("reduce.method") if kind == "reduced" else key and "student"
        table, metrics = ("Table 4", AUPRC) if task == SONYC else (f"As table 4: {task}", ("accuracy",))
        places += [(table, name, name, method and f"{method}-{size} {sampling}", "") for name in metrics]
    system = {"parameters": None, "sampling": "", "seeds": "", **made, "rank": SYSTEMS.index(kind), "dimensions": size}
    for level in [scores, {**scores, **coarse, "label_mode": "coarse, by fine tags"}] if coarse else [scores]:
        areas = pd.Series(level.get("class_auprc") or {}, dtype=float).reindex(COMMON)
        shown = {"macro_auprc_5_common": areas.mean(skipna=False), **level}
        for table, column, name, key, scope in places:
            if pd.notna(value := shown.get(name)):
                low, high = interval(level, name) or (None, None)
                row = {**system, "table": table, "column": column, "key": key, "value": float(value), "low": low}
                row["options"] = options | {f"{scope}{option}": item for option, item in _protocol(level).items()}
                yield {**row, "high": high, "evaluated_with": str(scores.get("seed"))}


def _made(kind: str, scores: Row, results: Row | None) -> Row:
    """Name of a system, and how it was made; `results`: of the run that made it."""
    model = str(scores["model"])
    if kind == "teacher":
        return {"system": f"teacher ({model})", "key": "teacher" if model.startswith("openl3/") else ""}
    if results is None and kind == "reduced":
        return {"system": f"reduced ({model})", "options": {"reduction": str(scores["reduction"])}}
    if results is None and (name := model.removeprefix("edgel3/")) in STUDENTS:
        parameters = parameter_count(StudentConfig.named(name, head="relu_max"))
        return {"system": f"{STUDENTS[name]} ({model}, published weights)", "key": name, "parameters": parameters}
    if results is None:  # nothing records how it was made
        item = optional_json(Path(model) / "config.json").get("architecture")
        return {"system": f"student {model}", "parameters": parameter_count(StudentConfig(**item)) if item else None}
    config, extract = results["config"], results["extract"]
    stages = [name for name in LEFT_OUT if config.get(name) and (name != "distill" or kind == "student")]
    options = {key: value for name in stages for key, value in _options(name, config[name]).items()}
    options["extract.source"] = "/".join(PurePath(str(config["extract"].get("source", ""))).parts[-3:])
    options |= {f"extract.{name}": str(extract.get(name)) for name in ("clips", "windows")}
    options["made by edgesea"] = str((results.get("versions") or {}).get("edgesea"))
    sampling, seeds = (config.get("sample") or {}).get("method") or "", [config[name].get("seed") for name in stages]
    made = {"system": f"reduced ({model})", "options": options, "sampling": sampling, "seeds": str(seeds)}
    if kind == "reduced":
        return made
    student, key, size = config["distill"], config["distill"]["student"], scores["embedding_size"]
    changed = [
        f"{name} {student[name]}" for name, usual in ARCHITECTURE.items() if student.get(name) not in (usual, None)
    ]
    changed += [f"{size} dimensions"] if key != f"sea-{size}" else []
    system = f"{key} with {', '.join(changed)}" if changed else f"{STUDENTS[key]} ({key})"
    parameters = results["distill"]["parameters"]
    return {**made, "system": system, "key": "" if changed else key, "parameters": parameters}


def _options(stage: str, options: Mapping[str, Any]) -> dict[str, str]:
    return {f"{stage}.{name}": str(value) for name, value in options.items() if name not in LEFT_OUT[stage]}


def _protocol(scores: Row) -> dict[str, str]:
    """All that decides how a system was evaluated, but for the seed."""
    found = {**(scores.get("probe") or {}), **(scores.get("tagging") or {})}
    found |= {name: scores[name] for name in PROTOCOL if name in scores}
    if scores.get("skipped"):
        found["skipped"] = scores["skipped"]
    if "accuracy_by_fold" in scores:
        found["folds"] = ", ".join(scores["accuracy_by_fold"])
    return {name: str(value) for name, value in {**found, **(scores.get("versions") or {})}.items()}
