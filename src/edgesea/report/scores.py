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
LEFT_OUT = {  # options that do not decide a score, or are shown otherwise: as a row, a column or by their seeds
    "extract": ("source", "root", "weights", "columns", "workers", "device", "batch_size", "part_clips", "max_skipped"),
    "sample": ("seed", "workers", "method"),
    "reduce": ("seed", "workers", "size"),
    "distill": ("seed", "student", "device", "devices", "save_every", *ARCHITECTURE),
}
Row = dict[str, Any]


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
            found = list(read(path))
        if not found:
            log.warning("%s: no score that belongs in a table; evaluate again", path)
        rows += found
    return pd.DataFrame(rows, columns=None if rows else ["table", "column"])


def _of_run(folder: Path) -> Iterator[Row]:
    results = read_results(folder)
    options = results["config"].get("evaluate") or {}
    # What an older edgesea did not repeat in the scores of each system.
    known = {name: options[name] for name in ("data", "center", "seed") if name in options}
    for system, scores in (results.get("evaluate") or {}).items():
        if system in SYSTEMS:
            yield from _rows(system, {**known, "versions": results.get("versions"), **scores}, results)


def _of_evaluation(path: Path) -> Iterator[Row]:
    """Of a JSON file; how a student or a reduction that lies in a run was made is read from the run."""
    from edgesea.models import is_teacher

    found = read_json(path)
    if not isinstance(found, dict) or not {"task", "model", "embedding_size"} <= found.keys():
        raise EdgeseaError(f"{path}: not a run, a folder of `edgesea select`, or a file of `edgesea evaluate --out`")
    model, reduction = str(found["model"]), found.get("reduction")
    system = "reduced" if reduction else "teacher" if is_teacher(model) else "student"
    place = Path(str(reduction or model))
    in_run = place.name == ("reduction" if reduction else "student") and (place.parent / RESULTS).is_file()
    results = read_results(place.parent) if system != "teacher" and in_run else None
    if results and reduction and results["config"]["extract"]["teacher"] != model:
        results = None  # it reduced the embeddings of another model
    return _rows(system, found, results)


def _of_selection(folder: Path) -> Iterator[Row]:
    """Rows of each seed of each trial."""
    found, plan = read_json(folder / SELECTION), optional_json(folder / "plan.json")
    by_score = ("num_hidden_layers", "hidden_layer_size")  # chosen by the score
    tagging = {name: value for name, value in (plan.get("tagging") or {}).items() if name not in by_score}
    protocol: Row = {**(plan.get("framing") or {}), **tagging}
    protocol["data"] = f"clips {str(plan.get('clips'))[:8]}"
    protocol |= {name: plan[name] for name in ("folds", "hold_out", "edgesea") if name in plan}
    made = {"table": str(plan.get("table"))[:8], "extract.teacher": (plan.get("teacher") or {}).get("id", "?")}
    for trial in found["trials"]:
        sample = trial.get("sample") or {"method": EVERYTHING}
        known = {
            "system": f"reduced, best of {len(trial['scores'])} classifiers of edgesea select",
            "sampling": sample["method"],
            "options": {**made, **_options("sample", sample), **_options("reduce", trial["reduce"])},
        }
        scores = {"task": found["task"], "embedding_size": trial["dimensions"], "tagging": protocol}
        for seed, score in trial["by_seed"].items():
            yield from _rows("reduced", {**scores, found["metric"]: score}, None, {**known, "seeds": seed})


def _rows(kind: str, scores: Mapping[str, Any], results: Row | None, known: Row | None = None) -> Iterator[Row]:
    """A row for each table and column that a system's scores belong in; `results`: of the run that made it."""
    made: Row = {"key": "", "rank": SYSTEMS.index(kind), "parameters": None, "sampling": "", "options": {}, "seeds": ""}
    made |= known or _made(kind, scores, results)
    method = made["options"].get("reduce.method") if kind == "reduced" else made["key"] and "student"
    names = (scores.get("confusion") or {}).get("classes") or scores.get("accuracy_by_class") or ()
    task, size, sampling, coarse = scores["task"], scores["embedding_size"], made["sampling"], scores.get("coarse")
    if task == "esc50" and len(names) not in (0, 50):
        task = "esc10" if len(names) == 10 else f"esc50, {len(names)} classes"
    for level in [scores, {**scores, **coarse, "label_mode": "coarse, by fine tags"}] if coarse else [scores]:
        areas = pd.Series(level.get("class_auprc") or {}, dtype=float).reindex(COMMON)
        shown = {"macro_auprc_5_common": areas.mean(skipna=False), **level}
        places = []  # table, column and metric
        if kind != "reduced" or not sampling:
            places += [("Table 2", name, name) for name in AUPRC[:2] if task == SONYC]
            places += [("Table 3", task, OFFICIAL.get(task, "accuracy"))]
        if kind != "teacher" and sampling:
            table, columns = ("Table 4", AUPRC) if task == SONYC else (f"As table 4: {task}", ("accuracy",))
            places += [(table, name, name) for name in columns]
        for table, column, name in places:
            if pd.notna(value := shown.get(name)):
                low, high = interval(level, name) or (None, None)
                row = {**made, "table": table, "column": column, "value": float(value), "low": low, "high": high}
                scope = f"{task}: " if table == "Table 3" else ""
                row["options"] = made["options"] | {f"{scope}{key}": item for key, item in _protocol(level).items()}
                if table not in ("Table 2", "Table 3"):
                    row["key"] = method and f"{method}-{size} {sampling}"
                yield {**row, "dimensions": size, "evaluated_with": str(scores.get("seed"))}


def _made(kind: str, scores: Mapping[str, Any], results: Row | None) -> Row:
    """Name of a system, and how it was made."""
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
        size = parameter_count(StudentConfig(**item)) if item else None
        return {"system": f"student {model}", "parameters": size}
    config, extract = results["config"], results["extract"]
    stages = [name for name in LEFT_OUT if config.get(name) and (name != "distill" or kind == "student")]
    options = {key: value for name in stages for key, value in _options(name, config[name]).items()}
    options["extract.source"] = "/".join(PurePath(str(config["extract"].get("source", ""))).parts[-3:])
    options |= {f"extract.{name}": str(extract.get(name)) for name in ("clips", "windows")}
    options["made by edgesea"] = str((results.get("versions") or {}).get("edgesea"))
    made = {"options": options, "seeds": str([config[name].get("seed") for name in stages])}
    made["sampling"] = (config.get("sample") or {}).get("method") or ""
    if kind == "reduced":
        return {**made, "system": f"reduced ({model})"}
    made["parameters"], student = results["distill"]["parameters"], config["distill"]
    key, dimensions = student["student"], scores["embedding_size"]
    named = [(name, student.get(name)) for name, usual in ARCHITECTURE.items() if student.get(name) != usual]
    changed = [f"{name} {value}" for name, value in named if value is not None]
    if key != f"sea-{dimensions}":
        changed.append(f"{dimensions} dimensions")
    if changed:  # not one of the paper's
        return {**made, "system": f"{key} with {', '.join(changed)}"}
    return {**made, "system": f"{STUDENTS[key]} ({key})", "key": key}


def _options(stage: str, options: Mapping[str, Any]) -> dict[str, str]:
    return {f"{stage}.{name}": str(value) for name, value in options.items() if name not in LEFT_OUT[stage]}


def _protocol(scores: Mapping[str, Any]) -> dict[str, str]:
    """All that decides how a system was evaluated, but for the seed."""
    names = ("classifier", "label_mode", "data", "window", "hop", "center", "clips")
    found = {**(scores.get("probe") or {}), **(scores.get("tagging") or {})}
    found |= {name: scores[name] for name in names if name in scores}
    if "accuracy_by_fold" in scores:
        found["folds"] = ", ".join(scores["accuracy_by_fold"])
    return {name: str(value) for name, value in {**found, **(scores.get("versions") or {})}.items()}
