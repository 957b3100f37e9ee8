"""``tables``: the tables of the SEA paper, from the runs, selections and evaluations that exist."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesea.artifact import atomic_path, check_file
from edgesea.errors import EdgeseaError
from edgesea.report.selection import EVERYTHING
from edgesea.report.tables_data import Record, read_records
from edgesea.report.tables_page import Entry, Place, Sheet, count, to_html, to_markdown
from edgesea.report.tables_published import AUPRC, OUT_OF_DOMAIN, Published, read_published
from edgesea.report.tables_systems import STUDENTS, TEACHER
from edgesea.sampling.methods import METHODS

log = logging.getLogger(__name__)

TITLE = "Tables of the SEA paper"
ABOUT = (
    'Scores of our own, laid out as in Srivastava et al., "Specialized embedding approximation for edge intelligence: '
    'a case study in urban sound classification", ICASSP 2021.'
)
PAPERS_TEACHER = "openl3/"  # of other teachers, the paper has no figures
SONYC = "sonyc_ust"
MEAN_OF_FOLDS = "urbansound8k"  # whose authors ask for it; the folds of the others are of equal size
RECORDINGS = "the recordings that the judged clips were cut from, or the clips where those are not known"
SHARED = (
    "label_mode", "eval_split", "target_mode", "classifier", "features", "data", "folds", "clips", "hop", "center",
    "edgesea",
)  # fmt: skip
HEAD = ("system", "dimensions", "parameters")


def tables(runs: list[Path], *, out: Path = Path("tables"), published: Path | None = None) -> dict[str, Any]:
    """Print the tables of the SEA paper from what has been run: teacher and students, out of domain, sampling.

    Scores that were made or judged in different ways, or by different versions of edgesea or of the libraries, are
    never averaged: they get rows of their own, with the options in which they differ. Runs that differ in their seeds
    only give a mean and a range.

    Parameters
    ----------
    runs : list of Path
        Run directories, folders of `edgesea select`, and JSON files of `edgesea evaluate --out`.
    out : Path
        Where to write the tables: OUT.md and OUT.html.
    published : Path, optional
        CSV file of the paper's figures, to stand beside ours, with the columns table (2, 3, 4), row, column and value
        (0 ... 1). Rows of 2 and 3: teacher, sea-512, sea-256, sea-128, sea-64 (the paper's Student 0 to 3); columns of
        2: micro_auprc, macro_auprc, of 3: urbansound8k (mean of the folds), esc50, esc10. Rows of 4: the methods of
        `edgesea sample`; columns: reduced-64 or student-64, with any number of dimensions.

    Returns
    -------
    dict
        markdown, html: the files; text: the Markdown; scores: how many were read; missing: what is, and the commands;
        left_out: scores that could not be shown, and why.

    Raises
    ------
    EdgeseaError
        If a path is no finished run, selection or evaluation, if none has scores, or a published figure has no place.
    """
    figures = None if published is None else read_published(Path(published))
    records = read_records(runs)
    sheets = [_table_2(records, figures), _table_3(records, figures), *_table_4(records, figures)]
    missing = [f"{sheet.heading}: {text}" for sheet in sheets for text in sheet.missing]
    left_out = [f"{sheet.heading}: {text}" for sheet in sheets for text in sheet.left_out]
    for line in left_out:
        log.warning("not shown: %s", line)
    if not records:
        names = ", ".join(map(str, runs)) or "no runs given"
        raise EdgeseaError("\n  ".join([f"{names}: no scores for any table. To make them:", *missing]))
    markdown, page = (_beside(Path(out), suffix) for suffix in (".md", ".html"))
    check_file(markdown)
    text = to_markdown(TITLE, ABOUT, sheets)
    for path, content in ((markdown, text), (page, to_html(TITLE, ABOUT, sheets))):
        with atomic_path(path) as temporary:
            temporary.write_text(content, "utf-8")
    told = {"scores": len(records), "missing": missing, "left_out": left_out}
    return {"markdown": str(markdown), "html": str(page), **told, "text": text}


def _beside(out: Path, suffix: str) -> Path:
    name = out.name.removesuffix(".md").removesuffix(".html")
    if not name:
        raise EdgeseaError(f"out: {out} has no name of a file; as --out tables")
    return out.with_name(name + suffix)


def _figures(published: Published | None, table: str) -> dict[tuple[str, str], float]:
    return {(row, column): value for (own, row, column), value in (published or {}).items() if own == table}


def _metrics(record: Record) -> dict[str, tuple[str, ...]]:
    """The tables that a score belongs in, each with the metrics of which it shows those that there are.

    Every score belongs in one. A reduction belongs among the samplings, unless it is not known how it was made.
    """
    sonyc, found = record.task == SONYC, {}
    if record.system != "reduced" or not record.sampling:
        accuracy = "fold_accuracy" if record.task == MEAN_OF_FOLDS else "accuracy"
        found["Table 2" if sonyc else "Table 3"] = tuple(AUPRC) if sonyc else (accuracy,)
    if record.system != TEACHER and record.sampling:
        found["Table 4" if sonyc else f"As table 4: {record.task}"] = ("micro_auprc",) if sonyc else ("accuracy",)
    return found


def _belonging(records: Sequence[Record], heading: str) -> tuple[list[Record], tuple[str, ...]]:
    """The scores that a table shows, and what is said of those that it cannot show."""
    own = [(record, _metrics(record)[heading]) for record in records if heading in _metrics(record)]
    shown = [record for record, metrics in own if not record.scores.keys().isdisjoint(metrics)]
    left_out = (
        f"{record.name} of {record.source}: no {' or '.join(metrics)} (it has {', '.join(record.scores) or 'no score'}"
        "); if an earlier edgesea made it, evaluate again"
        for record, metrics in own
        if record.scores.keys().isdisjoint(metrics)
    )
    return shown, tuple(dict.fromkeys(left_out))


def _order(record: Record) -> tuple[Any, ...]:
    """The teacher, reductions of it, Student 0 to 3 (each before its published weights), and others."""
    if record.system != "student":
        return (0, int(record.system != TEACHER), -record.dimensions if record.system != TEACHER else 0)
    place = list(STUDENTS).index(record.key) if record.key else len(STUDENTS)
    return (1, place, "published" in record.name, -record.dimensions)


def _places(records: Sequence[Record], published: Mapping[tuple[str, str], float]) -> list[Place]:
    """Rows of the paper's teacher and students, whether or not there are scores."""
    places = [
        Place((f"{name} ({key})", key.removeprefix("sea-"), ""), (1, index, False), key)
        for index, (key, name) in enumerate(STUDENTS.items())
    ]
    shown = any(record.system == TEACHER for record in records)
    if not shown or any(row == TEACHER for row, _ in published):
        places.append(Place((TEACHER, "", ""), (0, 0, 0), TEACHER))
    return places


def _entry(record: Record, column: str, metric: str, *, scope: str = "", name: str = "") -> Entry:
    """A score in a table of systems; `scope` stands before the names of options of the protocol."""
    made = {**record.recipe, **({"sample.method": record.sampling} if record.sampling else {})}
    known = record.key and (record.system != TEACHER or record.name.startswith(f"{TEACHER} ({PAPERS_TEACHER}"))
    return Entry(
        row=(name or record.name, count(record.dimensions), count(record.parameters)),
        order=_order(record),
        column=column,
        value=record.scores[metric],
        confidence=record.confidence.get(metric),
        options={**made, **{f"{scope}{option}": value for option, value in record.protocol.items()}},
        seeds=record.seeds,
        judged_with=record.judged_with,
        published=record.key if known and not name else None,
    )


def _table_2(records: Sequence[Record], published: Published | None) -> Sheet:
    own, left_out = _belonging(records, "Table 2")
    entries = [_entry(record, metric, metric) for record in own for metric in AUPRC if metric in record.scores]
    figures = _figures(published, "2")
    present = {record.key for record in own}
    missing = []
    if TEACHER not in present:
        missing.append("the teacher: any edgesea run with evaluate.task sonyc_ust")
    if lacking := [key for key in STUDENTS if key not in present]:
        names, size = ", ".join(f"{STUDENTS[key]} ({key})" for key in lacking), lacking[-1].removeprefix("sea-")
        missing.append(
            f"{names}: edgesea run examples/sonyc_ust.yaml, with distill.student {lacking[-1]} and reduce.size {size}; "
            f"with published weights: edgesea evaluate sonyc_ust DATA edgel3/{lacking[-1]} --out FILE.json"
        )
    return Sheet(
        heading="Table 2",
        about="SONYC-UST: area under the precision-recall curve.",
        head=HEAD,
        columns=AUPRC,
        entries=entries,
        places=_places(own, figures),
        published=figures,
        beside=published is not None,
        shared=SHARED,
        missing=tuple(missing),
        left_out=left_out,
    )


def _table_3(records: Sequence[Record], published: Published | None) -> Sheet:
    own, left_out = _belonging(records, "Table 3")
    figures = _figures(published, "3")
    tasks = [
        *dict.fromkeys(
            ["urbansound8k", "esc50", *sorted({*(column for _, column in figures), *(one.task for one in own)})]
        )
    ]
    entries = []
    for record in own:
        name = f"{record.name}, in domain" if record.in_domain else ""
        (metric,) = _metrics(record)["Table 3"]
        entries.append(_entry(record, record.task, metric, scope=f"{record.task}: ", name=name))
    present = {record.task for record in own}
    missing = tuple(
        f"{OUT_OF_DOMAIN[task]}: edgesea evaluate {task} DATA RUN/student --out FILE.json, and likewise the "
        "teacher and edgel3/sea-64"
        for task in ("urbansound8k", "esc50")
        if task not in present and not (task == "esc50" and "esc10" in present)
    )
    about = "Accuracy (%) on other data sets than the students were distilled for: of UrbanSound8K the mean of the "
    about += "folds' accuracies, as its authors ask; of the others the share of all clips."
    if any(record.in_domain for record in own):
        about += (
            ' "In domain": the student was distilled from clips of the data set itself, so the score belongs elsewhere.'
        )
    return Sheet(
        heading="Table 3",
        about=about,
        head=HEAD,
        columns={task: OUT_OF_DOMAIN.get(task, task) for task in tasks},
        entries=entries,
        places=_places(own, figures),
        published=figures,
        beside=published is not None,
        in_percent=True,
        shared=tuple(f"{task}: {name}" for task in tasks for name in SHARED),
        resampled=RECORDINGS,
        missing=missing,
        left_out=left_out,
    )


def _table_4(records: Sequence[Record], published: Published | None) -> list[Sheet]:
    """Sampling x dimensions on SONYC-UST, as the paper has it, and on whatever other task there are scores of."""
    headings = {heading: record.task for record in records for heading in _metrics(record)}
    others = sorted(task for heading, task in headings.items() if heading.startswith("As table 4"))
    figures = _figures(published, "4")
    sheets = [_sampling_table("Table 4", SONYC, "micro_auprc", records, figures, published is not None)]
    return sheets + [_sampling_table(f"As table 4: {task}", task, "accuracy", records, {}, False) for task in others]


def _sampling_table(
    heading: str,
    task: str,
    metric: str,
    records: Sequence[Record],
    figures: Mapping[tuple[str, str], float],
    beside: bool,
) -> Sheet:
    own, left_out = _belonging(records, heading)
    methods = [*METHODS, EVERYTHING]
    entries = []
    for record in own:
        options = {**record.recipe, **record.protocol}
        if record.system == "student":
            options["student"] = "as in the paper" if record.key else record.name
        entries.append(
            Entry(
                row=(record.sampling, record.system),
                order=(methods.index(record.sampling) if record.sampling in methods else len(methods), record.system),
                column=str(record.dimensions),
                value=record.scores[metric],
                confidence=record.confidence.get(metric),
                options=options,
                seeds=record.seeds,
                judged_with=record.judged_with,
                published=f"{record.sampling} {record.system}" if record.system == "reduced" or record.key else None,
            )
        )
    rows = {row: row.split() for row, _ in figures}
    places = [Place((name, system), (methods.index(name), system), row) for row, (name, system) in rows.items()]
    sizes = sorted({int(entry.column) for entry in entries} | {int(size) for _, size in figures})
    missing = "reductions: edgesea select TABLE sonyc_ust DATA OUT; reductions and students: edgesea run "
    missing += "examples/sonyc_ust.yaml, with each sample.method and reduce.size"
    complete = task != SONYC or {record.system for record in own} == {"reduced", "student"}
    shown = "micro AUPRC" if metric == "micro_auprc" else "accuracy (%), the share of all clips,"
    return Sheet(
        heading=heading,
        about=f"{shown} by sampling and dimensions: of the reduced teacher, and of the student that approximates it.",
        head=("sampling", "system"),
        columns={str(size): f"{size} dimensions" for size in sizes},
        entries=entries,
        places=places,
        published=figures,
        beside=beside,
        in_percent=metric == "accuracy",
        shared=(*SHARED, "judged by", "reduce.method"),
        resampled="the judged clips" if task == SONYC else RECORDINGS,
        missing=() if complete else (missing,),
        left_out=left_out,
        words=2,
    )
