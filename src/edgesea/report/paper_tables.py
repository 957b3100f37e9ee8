"""``tables``: the tables of the SEA paper, from the runs, selections and evaluations that exist."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from edgesea.artifact import check_file
from edgesea.errors import EdgeseaError
from edgesea.report.data import Frame
from edgesea.report.pages import integer, write_page
from edgesea.report.scores import SONYC, STUDENTS, read_scores

Figures = dict[tuple[str, str, str], str]  # table, row and column, as the paper calls them -> value
PUBLISHED = Path(__file__).with_name("published.csv")
COLUMNS = {  # table -> column of ours -> its title, and the columns of published figures that stand beside it
    "1": {
        "parameters_M": ("parameters (M)", ["parameters_M"]),
        "size_MB": ("weights (MB)", ["size_MB"]),
        "activation_MB": ("activation memory (MB)", ["activation_MB"]),
    },
    "2": {
        "micro_auprc": ("micro AUPRC", ["avc_micro_auprc", "sea_micro_auprc"]),
        "macro_auprc": ("macro AUPRC", ["avc_macro_auprc", "sea_macro_auprc"]),
    },
    "3": {
        "urbansound8k": ("UrbanSound8K (%)", ["urbansound8k_accuracy"]),
        "esc50": ("ESC-50 (%)", ["esc50_accuracy"]),
        "esc10": ("ESC-10 (%)", ["esc10_accuracy"]),
        SONYC: ("SONYC-UST (micro AUPRC)", ["sonyc_ust_micro_auprc"]),
    },
    "4": {
        "micro_auprc": ("micro AUPRC", ["micro_auprc"]),
        "macro_auprc": ("macro AUPRC", ["macro_auprc"]),
        "macro_auprc_5_common": ("macro AUPRC, 5 common classes", ["macro_auprc_5_common"]),
    },
}
WORDS = {"1": ["system"], "2": ["system"], "3": ["system"]}  # what names a row, of other tables sampling and system
NUMBERS = {"1": ["input"], "2": ["dimensions", "parameters"], "3": ["dimensions", "parameters"]}
COMMANDS = {  # table and column -> what makes their scores
    ("Table 2", "micro_auprc"): "edgesea evaluate sonyc_ust DATA edgel3/sea-64 --out FILE, edgesea run sonyc_ust.yaml",
    ("Table 3", "urbansound8k"): "edgesea evaluate urbansound8k DATA RUN/student --out FILE, and likewise the teacher",
    ("Table 3", "esc50"): "edgesea evaluate esc50 DATA RUN/student --out FILE, and likewise the teacher",
    ("Table 4", "micro_auprc"): "edgesea select TABLE sonyc_ust DATA OUT",
}
SHARED = ("label_mode", "eval_split", "target_mode", "classifier", "features", "folds", "clips", "hop", "edgesea")


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
    source = "Srivastava et al., ICASSP 2021" if published is None else f"as given in {Path(published).name}"
    scores = read_scores(runs)
    name = Path(out).name.removesuffix(".md").removesuffix(".html")
    if not name:
        raise EdgeseaError(f"out: {out} does not name a file, e.g. --out tables")
    have = set() if scores.empty else {*zip(scores.table, scores.column, strict=True)}
    missing = [f"{place[0]}: {command}" for place, command in COMMANDS.items() if place not in have]
    if scores.empty:
        names = ", ".join(map(str, runs)) or "no runs given"
        raise EdgeseaError("\n  ".join([f"{names}: no scores for any table. Make them with", *missing]))
    scores = pd.concat([_models(), scores], ignore_index=True)
    headings = [f"Table {number}" for number in COLUMNS]
    headings += sorted({*scores.table} - {*headings})
    sheets = [_sheet(heading, scores[scores.table == heading], figures) for heading in headings]
    markdown, html = (Path(out).with_name(name + suffix) for suffix in (".md", ".html"))
    check_file(markdown)
    content = {"title": "Tables of the SEA paper", "sheets": sheets, "source": source, "missing": missing}
    write_page(html, "tables", **content)
    write_page(markdown, "tables.md", **content)
    return {
        "markdown": str(markdown),
        "html": str(html),
        "scores": len(scores),
        "missing": missing,
        "text": markdown.read_text("utf-8"),
    }


def read_published(path: Path) -> Figures:
    """Published figures by table, row and column, all as they are called in the paper."""
    needed = ["table", "row", "column", "value"]
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise EdgeseaError(f"{path}: not a readable CSV file: {error}") from error
    if absent := [name for name in needed if name not in frame]:
        raise EdgeseaError(f"{path}: no column {', '.join(absent)}; needed: {', '.join(needed)}")
    found: Figures = {}
    for line, values in enumerate(frame[needed].itertuples(index=False), start=2):
        table, row, column, value = (item.strip() for item in values)
        place = _place(table, row, column)
        if place is None or place in found:
            reason = "given twice" if place else "no such place in the paper's tables"
            raise EdgeseaError(f"{path}, line {line}: table {table}, row {row}, column {column}: {reason}")
        if column != "input" and not (re.fullmatch(r"\d*\.?\d+", value) and (table == "1" or float(value) <= 1)):
            raise EdgeseaError(f"{path}, line {line}: value must be a number in 0 ... 1, e.g. 0.725, not {value!r}")
        found[place] = value
    return found


def _place(table: str, row: str, column: str) -> tuple[str, str, str] | None:
    """Table, row and column as the paper calls them (files may use edgesea's names); None if there is no such place."""
    if made := re.fullmatch(r"(reduced|student)-([1-9]\d*)", column):
        row, column = f"{made[1].replace('reduced', 'pca')}-{made[2]} {row}", "micro_auprc"
    if table != "4":
        row = {"teacher": "L3", **STUDENTS}.get(row, row)
    if table == "2" and column in COLUMNS["2"]:
        column = f"{'avc' if row == 'L3' else 'sea'}_{column}"
    if table == "3" and column in COLUMNS["3"]:
        column = f"{column}_accuracy"
    columns = [item for _, beside in COLUMNS.get(table, {}).values() for item in beside] + ["input"] * (table == "1")
    rows = r"(pca|student)-\d+ \w+" if table == "4" else "L3|Student [0-3]"
    return (table, row, column) if column in columns and re.fullmatch(rows, row) else None


def _models() -> Frame:
    """What table 1 shows of the four students: parameters, weights and the largest activation, in float32."""
    from edgesea.models.student_config import StudentConfig, parameter_count

    rows = []
    for kind, name in STUDENTS.items():
        config = StudentConfig.named(kind, head="relu_max")
        parameters, activations = parameter_count(config), config.n_mels * config.frames() * config.filters[0]
        values = {"parameters_M": parameters / 1e6, "size_MB": parameters * 4e-6, "activation_MB": activations * 4e-6}
        system = {"table": "Table 1", "system": f"{name} ({kind})", "key": name, "order": f"2 {name}", "options": {}}
        system["input"] = f"{config.n_mels}x{config.frames()}"
        rows += [{**system, "column": column, "value": value} for column, value in values.items()]
    return pd.DataFrame(rows)


def _sheet(heading: str, scores: Frame, figures: Figures) -> dict[str, Any]:
    """A table ready to be written: a row for each system and combination of options that differ."""
    number = heading.removeprefix("Table ")
    given = COLUMNS.get(number, {"accuracy": ("accuracy (%)", [])})
    words, sizes = WORDS.get(number, ["sampling", "system"]), NUMBERS.get(number, ["dimensions"])
    options: Frame = pd.DataFrame(list(scores.options), scores.index)
    cells = [scores[name] for name in (*words, *sizes, "column")]
    differ = [  # values that differ anywhere, or that are known of some scores of a cell only: unknown is not equal
        name
        for name, item in options.items()
        if item.nunique() > 1 or item.groupby(cells, dropna=False).nunique(dropna=False).max() > 1
    ]
    index = ["order", "key", *words, *differ, *sizes]
    frame = scores.join(options[differ])
    frame[index] = frame[index].astype(object).where(frame[index].notna(), "")
    # The same score may have been read twice, e.g. that of a teacher which several runs share.
    frame = frame.drop_duplicates([*index, "column", "value", "seeds", "evaluated_with"])
    titles = {name: title for name, (title, _) in given.items()}
    titles |= {name: f"{name} (%)" for name in frame.column.unique() if name not in titles}
    rows: dict[tuple[Any, ...], dict[str, str]] = {}
    for (*names, column), group in frame.groupby([*index, "column"], sort=False):
        rows.setdefault(tuple(names), {})[column] = _cell(group, titles[column])
    present = {key for _, key, *_ in rows}
    for row in dict.fromkeys(row for table, row, _ in figures if table == number and row not in present):
        known = _published_row(row, figures.get((number, row, "input"), ""))
        rows[tuple(known.get(name, "") for name in index)] = {}
    columns: list[tuple[str, str]] = []  # title, and key in the cells of a row
    for name, title in titles.items():
        beside = [
            item for item in given.get(name, ("", []))[1] if any(place[::2] == (number, item) for place in figures)
        ]
        if beside or name in set(frame.column):
            columns += [(title, name)]
        for item in beside:
            method = f"{item[:3].upper()}, " if number == "2" else ""
            columns += [(f"published ({method}Table {number})", f"*{item}")]
            for (_, key, *_), texts in rows.items():
                if (number, key, item) in figures:
                    texts[f"*{item}"] = _number(float(figures[number, key, item]), title)
    same = options.drop(columns=differ).items()
    return {
        "heading": heading,
        "head": [*words, *differ, *sizes, *(title for title, _ in columns)],
        "rows": [
            [
                *(item if isinstance(item, str) else integer(item) for item in names),
                *(texts.get(key, "") for _, key in columns),
            ]
            for (_, _, *names), texts in sorted(rows.items(), key=lambda row: [str(name) for name in row[0]])
        ],
        "words": len(words) + len(differ),
        "same": [f"{name} {item.dropna().iloc[0]}" for name, item in same if name.split(": ")[-1] in SHARED],
        "differ": differ,
        "cells": " ".join(text for texts in rows.values() for text in texts.values()),
    }


def _published_row(row: str, spectrogram: str) -> dict[str, Any]:
    """The cells that name a row of which there are published figures only."""
    known: dict[str, Any] = {"key": row, "input": spectrogram}
    if row == "L3":
        return {**known, "order": "0", "system": "teacher (L3)"}
    for kind, name in STUDENTS.items():
        if row == name:
            return {**known, "order": f"2 {row}", "system": f"{row} ({kind})", "dimensions": int(kind[4:])}
    method, size, sampling = re.split("[- ]", row)
    system = "student" if method == "student" else "reduced"
    order = f"{int(size):06d} {sampling} {system}"
    return {**known, "order": order, "sampling": sampling, "system": system, "dimensions": int(size)}


def _number(value: float, title: str) -> str:
    return f"{100 * value:.1f}" if "(%)" in title else f"{value:.2f}" if "(M" in title else f"{value:.3f}"


def _cell(scores: Frame, title: str) -> str:
    """One score with its interval; of several, their mean, range and number."""
    values = scores.value
    mean, low, high = (_number(item, title) for item in (values.mean(), values.min(), values.max()))
    if len(values) > 1:
        return f"{mean} ({low} to {high}, {len(values)} runs)"
    ends = [_number(item, title) for item in (scores.low.iloc[0], scores.high.iloc[0]) if pd.notna(item)]
    return f"{mean} [{', '.join(ends)}]" if ends else mean
