"""``tables``: the tables of the SEA paper, from the runs, selections and evaluations that exist."""

from pathlib import Path
from typing import Any

import pandas as pd

from edgesea.errors import EdgeseaError
from edgesea.models.student_config import StudentConfig, parameter_count
from edgesea.report.data import Frame
from edgesea.report.pages import integer, write_page
from edgesea.report.scores import AUPRC, SONYC, STUDENTS, read_scores
from edgesea.table.sheet import Sheet

PUBLISHED = Path(__file__).with_name("published.csv")
SONYC_TITLE = "SONYC-UST (micro AUPRC)"
COLUMNS: dict[str, dict[str, str]] = {  # table -> column -> its title
    "Table 1": {"parameters_M": "parameters (M)", "size_MB": "weights (MB)", "activation_MB": "activation memory (MB)"},
    "Table 2": {"micro_auprc": "micro AUPRC", "macro_auprc": "macro AUPRC"},
    "Table 3": {"urbansound8k": "UrbanSound8K (%)", "esc50": "ESC-50 (%)", "esc10": "ESC-10 (%)", SONYC: SONYC_TITLE},
    "Table 4": dict(zip(AUPRC, ("micro AUPRC", "macro AUPRC", "macro AUPRC, 5 common classes"), strict=True)),
}
# Columns behind the name of a system; of other tables: behind the sampling and the system
SIZES = {"Table 1": ["input"], **{f"Table {number}": ["dimensions", "parameters"] for number in (2, 3)}}
SYSTEM = "(teacher|sea-(512|256|128|64))"
PLACES = (  # of a published figure: table, row and column
    f"1,{SYSTEM},(input|parameters_M|size_MB|activation_MB)|2,{SYSTEM},(avc_)?(micro|macro)_auprc|"
    rf"3,{SYSTEM},(urbansound8k|esc50|esc10|sonyc_ust)|4,(pca|student)-\d+ \w+,(micro_auprc|macro_auprc(_5_common)?)"
)
COMMANDS = {  # table and column -> what makes their scores
    ("Table 2", "micro_auprc"): "edgesea evaluate sonyc_ust DATA edgel3/sea-64 --out FILE, edgesea run sonyc_ust.yaml",
    ("Table 3", "urbansound8k"): "edgesea evaluate urbansound8k DATA RUN/student --out FILE, and likewise the teacher",
    ("Table 3", "esc50"): "edgesea evaluate esc50 DATA RUN/student --out FILE, and likewise the teacher",
    ("Table 4", "micro_auprc"): "edgesea select TABLE sonyc_ust DATA OUT",
}
# Options that are named below a table if all scores have them in common
SHARED = ("extract.source", "label_mode", "eval_split", "target_mode", "classifier", "folds", "clips", "hop", "edgesea")


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

    Raises
    ------
    EdgeseaError
        If a path is not a finished run, selection or evaluation, if none has scores, or a published figure has no
        place.
    """
    figures = read_published(PUBLISHED if published is None else Path(published))
    scores = read_scores(runs)
    have = {*zip(scores.table, scores.column, strict=True)}
    missing = [f"{place[0]}: {command}" for place, command in COMMANDS.items() if place not in have]
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
    text = Path(markdown).read_text("utf-8")
    return {"markdown": markdown, "html": html, "scores": len(scores), "missing": missing, "text": text}


def read_published(path: Path) -> Frame:
    """Published figures: table, row, column and value."""
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
        config = StudentConfig.named(key, head="relu_max")
        parameters, activations = parameter_count(config), config.n_mels * config.frames() * config.filters[0]
        values = {"parameters_M": parameters / 1e6, "size_MB": parameters * 4e-6, "activation_MB": activations * 4e-6}
        system = {"key": key, "system": f"{name} ({key})", "input": f"{config.n_mels}x{config.frames()}", "options": {}}
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
