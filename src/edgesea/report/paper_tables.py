"""``tables``: the tables of the SEA paper, from the runs, selections and evaluations that exist."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import yaml

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.export.profile import of_student
from edgesea.models import is_teacher
from edgesea.models.student_config import StudentConfig, parameter_count
from edgesea.report.data import EVERYTHING, RESULTS, SELECTION, Frame, damaged, optional_json, read_results
from edgesea.report.pages import integer, write_page
from edgesea.report.summary import SYSTEMS, interval
from edgesea.table.sheet import Sheet

log = logging.getLogger(__name__)
SONYC = "sonyc_ust"
STUDENTS = {f"sea-{512 >> number}": f"Student {number}" for number in range(4)}
COMMON = ("engine", "human-voice", "alert-signal", "machinery-impact", "non-machinery-impact")
AUPRC = ("micro_auprc", "macro_auprc", "macro_auprc_5_common")
OFFICIAL = {SONYC: "micro_auprc", "urbansound8k": "fold_accuracy"}  # scores of table 3; of other tasks the accuracy
ARCHITECTURE = {"sample_rate": 8000, "filters": None, "n_mels": 64, "n_fft": 1024, "hop_length": 160, "fmax": None}
PROTOCOL = ("classifier", "label_mode", "data", "window", "hop", "center", "clips")  # of what stands with scores
LEFT_OUT = {  # options that do not decide a score, or are shown otherwise: as a row, a column or by their seeds
    "extract": ("source", "root", "weights", "columns", "workers", "device", "batch_size", "part_clips", "max_skipped"),
    "sample": ("seed", "workers", "method"),
    "reduce": ("seed", "workers", "size"),
    "distill": ("seed", "student", "device", "devices", "save_every", *ARCHITECTURE),
}
PUBLISHED = Path(__file__).with_name("published.csv")
PAPER = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text("utf-8"))
COLUMNS: dict[str, dict[str, str]] = PAPER["columns"]  # table -> column -> its title
# Columns behind the name of a system; of other tables: behind the sampling and the system
SIZES = {"Table 1": ["input"], **{f"Table {number}": ["dimensions", "parameters"] for number in (2, 3)}}
SYSTEM = "(teacher|sea-(512|256|128|64))"
PLACES = (  # of a published figure: table, row and column
    f"1,{SYSTEM},(input|parameters_M|size_MB|activation_MB)|2,{SYSTEM},(avc_)?(micro|macro)_auprc|"
    rf"3,{SYSTEM},(urbansound8k|esc50|esc10|sonyc_ust)|4,(pca|student)-\d+ \w+,(micro_auprc|macro_auprc(_5_common)?)"
)
# Options that are named below a table if all scores have them in common
SHARED = ("extract.source", "label_mode", "eval_split", "target_mode", "classifier", "folds", "clips", "hop", "edgesea")
Row = dict[str, Any]
# teacher, reduced or student; its scores with their protocol; its name and how it was made
System = tuple[str, Row, Row]


def tables(runs: list[Path], *, out: Path = Path("tables"), published: Path | None = None) -> dict[str, Any]:
    """Print the tables of the SEA paper from what has been run, beside the published figures.

    Scores that were made or evaluated in different ways, or by different versions of edgesea or of the libraries, are
    never averaged: they get rows of their own, and the options in which they differ are columns. Runs that differ in
    their seeds only give a mean and a range.

    Parameters
    ----------
    runs : list of Path
        Run directories, folders of `edgesea select`, and JSON files of `edgesea evaluate --out`.
    out : Path
        Where to write the tables: OUT.md and OUT.html.
    published : Path, optional
        CSV file of other published figures, with the columns table (1 to 4), row, column and value (scores: 0 ... 1);
        default: those of the paper. Rows of 1 to 3: teacher, sea-512, sea-256, sea-128, sea-64 (the paper's L3 and
        Student 0 to 3); columns of 2: micro_auprc, macro_auprc, of 3: urbansound8k (mean of the folds), esc50, esc10.
        Rows of 4: the methods of `edgesea sample`; columns: reduced-64 or student-64, with any number of dimensions.

    Returns
    -------
    dict
        markdown, html: the files; text: the Markdown; scores: how many were read; missing: the commands that make what
        is missing.

    EdgeseaError: a path is not a finished run, selection or evaluation, none has scores, or a published figure has no
    place.
    """
    figures = read_published(PUBLISHED if published is None else Path(published))
    scores = read_scores(runs)
    have = {*zip(scores.table, scores.column, strict=True)}
    missing = [f"{table}: {command}" for table, column, command in PAPER["commands"] if (table, column) not in have]
    if not have:
        names = ", ".join(map(str, runs)) or "no runs given"
        raise EdgeseaError("\n  ".join([f"{names}: no scores for any table. Make them with", *missing]))
    scores = pd.concat([_models(), scores], ignore_index=True)
    headings = sorted({*scores.table, *COLUMNS}, key=lambda name: (len(name), name))
    sheets = [_sheet(heading, scores[scores.table == heading], figures) for heading in headings]
    source = "Srivastava et al., ICASSP 2021" if published is None else f"as given in {Path(published).name}"
    content = {"title": "Tables of the SEA paper", "sheets": sheets, "source": source, "missing": missing}
    name = str(out).removesuffix(".md").removesuffix(".html")
    html = write_page(Path(f"{name}.html"), "tables", **content)
    markdown = write_page(Path(f"{name}.md"), "tables.md", **content)
    files = {"markdown": markdown, "html": html, "text": Path(markdown).read_text("utf-8")}
    return {**files, "scores": len(scores), "missing": missing}


def read_published(path: Path) -> Frame:
    names = ["table", "row", "column", "value"]
    frame: Frame = Sheet.read(path, names).rows[names]
    by_size = frame.column.str.extract(r"^(reduced|student)-([1-9]\d*)$").replace("reduced", "pca")  # in table 4
    frame["row"] = (by_size[0] + "-" + by_size[1] + " " + frame.row).fillna(frame.row)
    frame["column"] = frame.column.where(by_size[0].isna(), "micro_auprc")
    frame.loc[(frame.table == "2") & (frame.row == "teacher"), "column"] = "avc_" + frame.column  # as it was trained
    place = frame.table + "," + frame.row + "," + frame.column
    value = pd.to_numeric(frame.value, errors="coerce").where(frame.table != "1", 1)  # table 1 has no scores
    valid = place.str.fullmatch(PLACES) & ~place.duplicated() & value.between(0, 1)
    if not valid.all():
        where = f"{path}, line {valid.idxmin()}: {', '.join(frame.loc[valid.idxmin()])}"
        raise EdgeseaError(f"{where}: not in the paper's tables, given twice, or a value that is not in 0 ... 1")
    return frame.assign(table="Table " + frame.table)


def _models() -> Frame:
    """What table 1 shows of the four students: parameters, weights and the largest activation, in float32."""
    rows = []
    for key, name in STUDENTS.items():
        found = of_student(StudentConfig.named(key, head="relu_max"))
        values = {
            "parameters_M": found.parameters / 1e6,
            "size_MB": found.stored_float32 / 1e6,
            "activation_MB": 4e-6 * found.largest_activation,
        }
        system = {"key": key, "system": f"{name} ({key})", "input": f"{found.bands}x{found.frames}", "options": {}}
        rows += [{**system, "column": column, "value": value} for column, value in values.items()]
    return pd.DataFrame(rows).assign(table="Table 1", rank=2)


def _sheet(heading: str, scores: Frame, published: Frame) -> dict[str, Any]:
    """A table ready to be written: a row for each system and combination of options that differ."""
    words, sizes = (["system"], SIZES[heading]) if heading in SIZES else (["sampling", "system"], ["dimensions"])
    titles = COLUMNS.get(heading, {})
    titles = titles | {name: f"{name} (%)" for name in scores.column.unique() if name not in titles}
    options: Frame = pd.DataFrame(list(scores.options), scores.index)
    cells = [scores[name] for name in (*words, *sizes, "column")]
    # Values that differ anywhere, or that are known of some scores of a cell only: unknown is not equal
    partly = options.groupby(cells, dropna=False).nunique(dropna=False).max() > 1
    differ = [name for name, item in options.items() if item.nunique() > 1 or partly[name]]
    index = ["key", "rank", *words, *differ, *sizes]
    frame = scores.join(options[differ].fillna(""))
    # The same score may have been read twice, e.g. that of a teacher which several runs share.
    frame = frame.drop_duplicates([*index, "column", "value", "seeds", "evaluated_with"])
    groups = frame.groupby([*index, "column"], sort=False, dropna=False)
    texts = [(*names, _cell(group, titles[names[-1]])) for names, group in groups]
    ours: Frame = pd.DataFrame(texts, columns=[*index, "column", "text"])
    ours = ours.pivot(index=index, columns="column", values="text").reset_index()
    beside = published[published.table == heading].pivot(index="row", columns="column", values="value")
    absent = pd.DataFrame([_published_row(key) for key in beside.index.difference(ours.key)])
    rows = pd.concat([ours, absent]).join(beside.add_prefix("published "), on="key")
    if "input" in beside:
        rows["input"] = rows.input.fillna(rows["published input"])
    rows = rows.sort_values(["dimensions", "sampling", "rank"] if "sampling" in words else ["rank", "system", *sizes])
    columns = {name: name for name in (*words, *differ, *sizes)}  # and their titles
    for name, title in titles.items():
        figures = [item for item in (f"avc_{name}", name) if item in beside]
        if figures or name in ours:
            columns[name] = title
        for item in figures:
            method = "" if heading != "Table 2" else "SEA, " if item == name else "AVC, "
            columns[f"published {item}"] = f"published ({method}{heading})"
            rows[f"published {item}"] = [_number(value, title) for value in rows[f"published {item}"]]
    rows[sizes] = rows[sizes].map(lambda size: size if isinstance(size, str) or pd.isna(size) else integer(size))
    shown = rows.reindex(columns=list(columns)).astype(object).fillna("").to_numpy().tolist()
    known = options.drop(columns=differ).items()
    same = [f"{name} {item.dropna().iloc[0]}" for name, item in known if name.split(": ")[-1] in SHARED]
    sheet = {"heading": heading, "head": list(columns.values()), "rows": shown, "words": len(words + differ)}
    return {**sheet, "same": same, "differ": differ}


def _published_row(key: str) -> dict[str, Any]:
    """What names a row of which there are published figures only."""
    name, _, sampling = key.partition(" ")
    kind, _, size = name.partition("-")
    system = {"teacher": "teacher (L3)", "pca": "reduced", "sea": f"{STUDENTS.get(key)} ({key})"}.get(kind, kind)
    row = {"key": key, "rank": {"teacher": 0, "pca": 1}.get(kind, 2), "sampling": sampling, "system": system}
    return {**row, "dimensions": float(size or "nan")}


def _number(value: Any, title: str) -> str:
    digits, factor = (1, 100) if "(%)" in title else (2, 1) if "(M" in title else (3, 1)
    return "" if pd.isna(value) else f"{factor * float(value):.{digits}f}"


def _cell(scores: Frame, title: str) -> str:
    """One score with its interval; of several, their mean, range and number."""
    mean = _number(scores.value.mean(), title)
    if len(scores) > 1:
        low, high = (_number(end, title) for end in (scores.value.min(), scores.value.max()))
        return f"{mean} ({low} to {high}, {len(scores)} runs)"
    low, high = (_number(scores[end].iloc[0], title) for end in ("low", "high"))
    return f"{mean} [{low}, {high}]" if low else mean


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
    for kind, scores in (results.get("evaluate") or {}).items():
        if kind in SYSTEMS:
            yield kind, scores, _made(kind, scores, results)


def _of_evaluation(path: Path) -> Iterator[System]:
    """Of a JSON file; how a student or a reduction that lies in a run was made is read from the run."""
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
    usual = ARCHITECTURE.items()
    changed = [f"{name} {student[name]}" for name, value in usual if student.get(name) not in (value, None)]
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
