"""The sections about data, training and provenance: each takes what was read of a run and returns HTML."""

import hashlib
from pathlib import Path

import yaml

from edgesea.report.data import TableSummary, level_unit
from edgesea.report.data_plots import frames_plot, level_plot
from edgesea.report.html import MISSING, Html, decimal, element, figure, integer, join, note, percent, table, tiles
from edgesea.report.model_plots import dimension_plot, training_plot
from edgesea.report.reduction import subset_sentence
from edgesea.report.run import REDUCTION, STUDENT, RunFiles
from edgesea.report.svg import is_wide

MOST_SKIPPED = 20


def data_section(run: RunFiles, counts: TableSummary | None) -> Html:
    """Clips, windows, sensors, levels, the subset, and what was skipped."""
    extract, sample = run.stage("extract"), run.stage("sample")
    hop = run.results["config"].get("extract", {}).get("hop")
    windows = extract.get("windows")
    items: list[tuple[object, object]] = [("clips", integer(extract.get("clips"))), ("windows", integer(windows))]
    if hop and windows is not None:
        items.append(("audio", _hours(windows, hop)))
    if counts is not None:
        items += [("sensors", integer(len(counts.sensors) or None)), ("days", integer(len(counts.days) or None))]
    items += [
        ("subset windows", integer(sample.get("windows"))),
        ("skipped clips", integer(extract.get("skipped"))),
    ]
    parts: list[object] = [tiles(items)]
    if counts is None:
        parts.append(note("The table is no longer in the run directory, so that nothing is shown of its windows."))
    else:
        parts.append(_data_plots(run, counts, _splits(counts, hop)))
    return join([*parts, _skipped(run)])


def _hours(windows: int, hop: float) -> str:
    seconds = windows * hop
    return f"{decimal(seconds / 3600, 1)} h" if seconds >= 3600 else f"{decimal(seconds / 60, 1)} min"


def _splits(counts: TableSummary, hop: float | None) -> Html:
    total = counts.windows.total()
    rows = [
        [split, integer(counts.clips[split]), integer(n), percent(n / total, 1), _hours(n, hop) if hop else MISSING]
        for split, n in sorted(counts.windows.items())
    ]
    return table(["split", "clips", "windows", "share", "audio"], rows)


def _data_plots(run: RunFiles, counts: TableSummary, splits: Html) -> Html:
    """The table of the splits with the plots, arranged by how much room the last one takes."""
    chosen = run.subset is not None
    frames = frames_plot(counts, chosen)
    levels = "Levels of the windows, each in percent of its own set."
    if run.subset is not None:
        levels = f"{levels} {subset_sentence(run.subset.info, len(run.subset))}"
    where = "Where the windows of the subset come from." if chosen else "Where the windows come from."
    level_figure, frames_figure = figure(level_plot(counts, level_unit(run.table)), levels), figure(frames, where)
    if frames and not is_wide(frames):
        return join([splits, element("div", level_figure, frames_figure, class_="pair")])
    missing = (
        "" if frames else note("The table does not know sensors and times, so the subset cannot be shown by them.")
    )
    return join([element("div", level_figure, splits, class_="pair"), frames_figure, missing])


def _skipped(run: RunFiles) -> Html:
    if not run.skipped:
        return Html("")
    count = len(run.skipped)
    more = f" The first {MOST_SKIPPED}; all are in table/skipped.csv." if count > MOST_SKIPPED else ""
    listing = table(["clip", "reason"], run.skipped[:MOST_SKIPPED], words=2, class_="wide")
    caption = note(f"{integer(count)} clips could not be used.{more}")
    return join([element("h3", "Skipped clips"), caption, listing])


def training_section(run: RunFiles) -> Html:
    """The course of the training, and the fit of each dimension."""
    own = run.stage("distill")
    if not own:
        return Html("")
    parts: list[object] = []
    if run.history:
        keep = run.student.get("provenance", {}).get("training", {}).get("keep", "best")
        kept = run.history[-1] if keep == "last" else min(run.history, key=lambda row: row["val_mse"])
        caption = (
            f"{integer(own.get('epochs'))} epochs. The dashed line is the epoch whose weights were kept ({keep}): "
            f"epoch {int(kept['epoch'])}."
        )
        parts.append(figure(training_plot(run.history, int(kept["epoch"])), caption))
    else:
        parts.append(note("student/metrics.csv is no longer in the run directory."))
    r2 = own.get("r2_per_dimension") or []
    good = sum(value is not None and value > 0.5 for value in r2)
    caption = (
        "R2 of each dimension on the validation windows, by decreasing variance of the target; "
        f"it exceeds 0.5 in {good} of {len(r2)} dimensions."
    )
    parts.append(figure(dimension_plot(r2), caption))
    return join(parts)


def provenance_section(run: RunFiles) -> Html:
    """Configuration, versions, times and hashes."""
    seconds = run.results.get("seconds", {})
    times = table(["stage", "time"], [[name, _duration(value)] for name, value in seconds.items()])
    versions = table(["package", "version"], list(run.results.get("versions", {}).items()), words=2)
    config = [
        element("pre", yaml.safe_dump({name: options}, sort_keys=False, allow_unicode=True))
        for name, options in run.results["config"].items()
    ]
    parts = [
        element(
            "div",
            element("div", element("h3", "Time"), times),
            element("div", element("h3", "Versions"), versions),
            class_="pair",
        ),
        element("h3", "Weights"),
        table(["file", "sha256"], [[name, element("code", value)] for name, value in _digests(run)], words=2),
        element("h3", "Configuration"),
        element("div", *config, class_="columns"),
    ]
    return join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _digests(run: RunFiles) -> list[tuple[str, str]]:
    rows = []
    if run.table is not None:
        teacher = run.table.info["teacher"]
        rows.append((f"teacher {teacher['id']}", teacher.get("sha256") or "none, or not known"))
    for name in (f"{REDUCTION}/reduction.safetensors", f"{STUDENT}/model.safetensors"):
        path = run.folder / name
        if path.is_file():
            rows.append((name, _sha256(path)))
    if run.table is not None:
        rows.append(("table (clips, sizes, splits)", str(run.table.info.get("manifest_sha256", MISSING))))
    return rows


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
