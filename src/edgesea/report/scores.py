"""Scores for the paper's tables, read from runs, selections and evaluations, with all options that decide them."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.models.student_config import StudentConfig, parameter_count
from edgesea.report.data import (
    EVERYTHING,
    RESULTS,
    SELECTION,
    SYSTEMS,
    Frame,
    optional_json,
    read_results,
    read_selection,
)
from edgesea.report.summary import interval

log = logging.getLogger(__name__)

SONYC = "sonyc_ust"
STUDENTS = {f"sea-{512 >> number}": f"Student {number}" for number in range(4)}
COMMON = ("engine", "human-voice", "alert-signal", "machinery-impact", "non-machinery-impact")
OFFICIAL = {SONYC: "micro_auprc", "urbansound8k": "fold_accuracy"}  # scores of table 3; of other tasks the accuracy
ARCHITECTURE = {"filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "fmax": None}
LEFT_OUT = {  # options that do not decide a score, or are shown otherwise: as a row, a column or by their seeds
    "extract": ("source", "root", "weights", "columns", "workers", "device", "batch_size", "part_clips", "max_skipped"),
    "sample": ("seed", "workers", "method", "table", "candidates", "frames", "mean_core"),
    "reduce": ("seed", "workers", "size", "input_size", "output_size", "windows", "kept", "provenance"),
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
        try:
            found = list(read(path))
        except EdgeseaError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise EdgeseaError(
                f"{path}: damaged, or of another version of edgesea ({reason}); make it again"
            ) from error
        if not found:
            log.warning("%s: no score that belongs in a table; evaluate again", path)
        rows += found
    return pd.DataFrame(rows)


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
    metric, found = read_selection(folder).metric.key, read_json(folder / SELECTION)
    plan: Row = optional_json(folder / "plan.json")
    protocol = {
        **(plan.get("framing") or {}),
        **(plan.get("tagging") or {}),
        "data": f"clips {str(plan.get('clips'))[:8]}",
    }
    for name in ("num_hidden_layers", "hidden_layer_size"):  # chosen by the score
        protocol.pop(name, None)
    protocol |= {name: plan[name] for name in ("folds", "hold_out", "edgesea") if name in plan}
    made = {"table": str(plan.get("table"))[:8], "extract.teacher": (plan.get("teacher") or {}).get("id", "?")}
    for trial in found["trials"]:
        sample = trial.get("sample") or {"method": EVERYTHING}
        known = {
            "system": f"reduced, best of {len(trial.get('scores') or ()) or '?'} classifiers of edgesea select",
            "sampling": sample["method"],
            "options": {**made, **_options("sample", sample), **_options("reduce", trial["reduce"])},
        }
        scores = {"task": found["task"], "embedding_size": trial["dimensions"], "tagging": protocol}
        seeds = trial.get("by_seed") or {"?": trial["score"]}
        for seed, score in seeds.items() if trial["score"] is not None else ():
            yield from _rows("reduced", {**scores, metric: score}, None, {**known, "seeds": seed})


def _rows(kind: str, scores: Mapping[str, Any], results: Row | None, known: Row | None = None) -> Iterator[Row]:
    """A row for each table and column that a system's scores belong in; `results`: of the run that made it."""
    made: Row = {"key": "", "order": "1", "parameters": None, "sampling": "", "options": {}, "seeds": ""}
    made |= known or _made(kind, scores, results)
    names = (scores.get("confusion") or {}).get("classes") or scores.get("accuracy_by_class") or ()
    task, size = str(scores["task"]), int(scores["embedding_size"])
    if task == "esc50" and len(names) not in (0, 50):
        task = "esc10" if len(names) == 10 else f"esc50, {len(names)} classes"
    in_domain = results is not None and _in_domain(results["config"]["extract"], scores.get("data"))
    coarse = scores.get("coarse")
    for level in [scores, {**scores, **coarse, "label_mode": "coarse, by fine tags"}] if coarse else [scores]:
        areas: Any = [(level.get("class_auprc") or {}).get(name) for name in COMMON]
        common = {"macro_auprc_5_common": None if None in areas else sum(areas) / len(areas)}
        for table, column, metric in _places(kind, task, made["sampling"]):
            if (value := {**common, **level}.get(metric)) is None:
                continue
            low, high = interval(level, metric) or (None, None)
            row = {"table": table, "column": column, "value": float(value), "low": low, "high": high}
            row |= {**made, "dimensions": size, "evaluated_with": str(scores.get("seed"))}
            scope = f"{task}: " if table == "Table 3" else ""
            row["options"] = made["options"] | {f"{scope}{name}": item for name, item in _protocol(level).items()}
            if table not in ("Table 2", "Table 3"):
                row["order"] = f"{size:06d} {made['sampling']} {kind}"
                if kind == "reduced":
                    row["key"] = f"{made['options'].get('reduce.method')}-{size} {made['sampling']}"
                elif made["key"]:  # one of the paper's
                    row |= {"key": f"student-{size} {made['sampling']}", "system": "student"}
            elif table == "Table 3" and in_domain and task != SONYC and kind != "teacher":
                row |= {"system": f"{made['system']}, in domain", "key": ""}
            yield row


def _places(kind: str, task: str, sampling: str) -> Iterator[tuple[str, str, str]]:
    """Tables, columns and metrics that scores belong in; a reduction belongs among the samplings, if its is known."""
    if kind != "reduced" or not sampling:
        if task == SONYC:
            yield from (("Table 2", metric, metric) for metric in ("micro_auprc", "macro_auprc"))
        yield "Table 3", task, OFFICIAL.get(task, "accuracy")
    if kind != "teacher" and sampling:
        metrics = ("micro_auprc", "macro_auprc", "macro_auprc_5_common") if task == SONYC else ("accuracy",)
        yield from (("Table 4" if task == SONYC else f"As table 4: {task}", metric, metric) for metric in metrics)


def _made(kind: str, scores: Mapping[str, Any], results: Row | None) -> Row:
    """Name of a system, and how it was made."""
    model = str(scores["model"])
    if kind == "teacher":
        return {"system": f"teacher ({model})", "key": "L3" if model.startswith("openl3/") else "", "order": "0"}
    if kind == "student" and results is None:
        number = STUDENTS.get(model.removeprefix("edgel3/"), "") if model.startswith("edgel3/") else ""
        if not number:  # nothing records how it was made
            item = optional_json(Path(model) / "config.json").get("architecture")
            parameters = parameter_count(StudentConfig.from_dict(item)) if item else None
            return {"system": f"student {model}", "order": "3", "parameters": parameters}
        parameters = parameter_count(StudentConfig.named(model.removeprefix("edgel3/"), head="relu_max"))
        names = {"system": f"{number} ({model}, published weights)", "key": number, "order": f"2 {number} published"}
        return {**names, "parameters": parameters}
    if results is None:
        return {"system": f"reduced ({model})", **_reduction(Path(str(scores["reduction"])))}
    config, extract = results["config"], results["extract"]
    stages = [name for name in LEFT_OUT if config.get(name) and (name != "distill" or kind == "student")]
    options = {key: value for name in stages for key, value in _options(name, config[name]).items()}
    options["extract.source"] = "/".join(PurePath(str(config["extract"].get("source", ""))).parts[-3:])
    options |= {f"extract.{name}": str(extract.get(name)) for name in ("clips", "windows")}
    options["made by edgesea"] = str((results.get("versions") or {}).get("edgesea"))
    made = {
        "system": f"reduced ({model})",
        "sampling": str((config.get("sample") or {}).get("method") or ""),
        "options": options,
        "seeds": str([config[name].get("seed") for name in stages]),
    }
    if kind == "reduced":
        return made
    student = config["distill"]
    name, number = str(student["student"]), STUDENTS.get(str(student["student"]), "?")
    changed = [
        f"{key} {_text(student[key])}" for key, usual in ARCHITECTURE.items() if student.get(key) not in (None, usual)
    ]
    if f"sea-{scores['embedding_size']}" != name:
        changed.append(f"{scores['embedding_size']} dimensions")
    made |= {"system": f"{number} ({name})", "key": number, "order": f"2 {number}"}
    if changed:  # not one of the paper's
        made |= {"system": f"{name} with {', '.join(changed)}", "key": "", "order": "3"}
    return made | {"parameters": results["distill"].get("parameters")}


def _reduction(folder: Path) -> Row:
    """A reduction outside a run, described by its file; without it, only its folder is known."""
    info = optional_json(folder / "reduction.json")
    provenance = info.get("provenance") or {}
    if "subset" not in provenance:
        return {"options": {"reduction": str(folder)}}
    subset = provenance["subset"] or {"method": EVERYTHING, "table": provenance.get("table")}
    phi = {key: value for key, value in info.items() if not key.startswith(("explained_", "feature_", "different_"))}
    options = {"table": str(subset.get("table"))[:8], **_options("sample", subset), **_options("reduce", phi)}
    seeds = str([subset.get("seed"), info.get("seed")])
    return {"sampling": subset["method"], "options": options, "seeds": seeds}


def _options(stage: str, options: Mapping[str, Any]) -> dict[str, str]:
    return {f"{stage}.{name}": _text(value) for name, value in options.items() if name not in LEFT_OUT[stage]}


def _protocol(scores: Mapping[str, Any]) -> dict[str, str]:
    """All that decides how a system was evaluated, but for the seed."""
    names = ("classifier", "label_mode", "data", "window", "hop", "center", "clips")
    found = {**(scores.get("probe") or {}), **(scores.get("tagging") or {})}
    found |= {name: scores[name] for name in names if name in scores}
    if "accuracy_by_fold" in scores:
        found["folds"] = list(scores["accuracy_by_fold"])
    return {name: _text(value) for name, value in {**found, **(scores.get("versions") or {})}.items()}


def _in_domain(extract: Mapping[str, Any], data: str | None) -> bool:
    """Whether a run took its clips from the data set: from below it, or from a folder that holds it."""
    if data is None:
        return False
    source, target = Path(extract["source"]).resolve(), Path(data).resolve()
    if source.suffix in (".csv", ".parquet"):  # a manifest may lie above a data set that it does not list
        return any(Path(item).resolve().is_relative_to(target) for item in (source, extract.get("root")) if item)
    return source.is_relative_to(target) or target.is_relative_to(source)


def _text(value: Any) -> str:
    """The value of an option as tables show it."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value)) or "none"
    return "none" if value is None else "yes" if value is True else "no" if value is False else str(value)
