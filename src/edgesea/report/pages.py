"""Pages from the templates of this folder: one file each, without scripts and without anything from the network."""

import re
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

from edgesea.artifact import atomic_path, read_json
from edgesea.models.base import file_digest
from edgesea.models.cost import sizes
from edgesea.models.student_config import StudentConfig
from edgesea.reduction.base import REDUCTION_FILE, Reduction, load_reduction
from edgesea.reduction.windows import load_reduction_of
from edgesea.report import data, plots
from edgesea.report.data import SELECTION, Counts, Metric, optional_csv, optional_json
from edgesea.report.summary import SYSTEMS, interval, shown_scores, systems_of
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table

MISSING = "\u2013"
TEXT = {"dtype": str, "encoding_errors": "replace", "keep_default_na": False}  # of a list of skipped clips


def write_report(folder: Path, table: Path | None) -> str:
    """The page of a run, a reduction or a selection."""
    if (folder / REDUCTION_FILE).is_file():
        kind, content = "reduction", _reduction(folder, table)
    elif (folder / SELECTION).is_file():
        kind, content = "selection", data.read_selection(folder)
    else:
        kind, content = "run", _run(folder)
    return write_page(folder / "report.html", kind, title=folder.resolve().name, **content)


def write_page(path: Path, template: str, **content: Any) -> str:
    """Render a template and write it atomically; returns the file's name. What is Markdown has a name in .md."""
    html = _environment().get_template(f"{template}.jinja").render(content)
    with atomic_path(path) as temporary:
        temporary.write_text(html, "utf-8", "replace")  # odd bytes of file names become ?
    return str(path)


def _run(folder: Path) -> dict[str, Any]:
    """Of a run; artifacts of stages may have been deleted from it to save space."""
    results, student = data.read_results(folder), optional_json(folder / "student" / "config.json")
    scores, trained = systems_of(results), student.get("provenance", {}).get("training", {})
    table = Table(folder / "table") if (folder / "table" / "table.json").is_file() else None
    subset = Subset.load(folder / "subset.parquet") if (folder / "subset.parquet").is_file() else None
    counts = data.summarise(table, subset) if table else None
    history, epoch = optional_csv(folder / "student" / "metrics.csv", dtype=float), None
    if len(history):
        chosen = (
            history.index[-1] if trained.get("keep") == "last" else history.get("val_loss", history.val_mse).idxmin()
        )
        epoch = int(history.epoch[chosen])
    weights = sorted(folder.glob("*/*.safetensors"))  # of the reduction and of the student
    listed = [optional_csv(folder / "evaluate" / f"{system}.skipped.csv", **TEXT) for system in SYSTEMS]
    reduction = {**(results.get("reduce") or {}), **optional_json(folder / "reduction" / REDUCTION_FILE)}
    fitted = (folder / "reduction" / REDUCTION_FILE).is_file()
    phi = load_reduction(folder / "reduction") if counts and fitted else None
    return {
        "results": results,
        "scores": scores,
        "coarse": {system: item["coarse"] for system, item in scores.items() if item.get("coarse")},
        "sizes": sizes(StudentConfig(**student["architecture"])) if student else {},
        "table": table,
        "subset": subset,
        "counts": counts,
        "skipped": optional_csv(folder / "table" / "skipped.csv", **TEXT),
        "left_out": pd.concat(listed).drop_duplicates(),
        "history": history,
        "keep": trained.get("keep", "best"),  # the rule by which the student's weights were chosen
        "epoch": epoch,
        **_preserved(reduction, phi, counts),
        **data.details(scores),
        "digests": {str(path.relative_to(folder)): file_digest(path) for path in weights},
    }


def _reduction(folder: Path, table: Path | None) -> dict[str, Any]:
    info, beside = read_json(folder / REDUCTION_FILE), folder.resolve().parent / "table"
    if table is None and (beside / "table.json").is_file():
        table = beside
    if table is None:
        return _preserved(info, None, None)
    source = Table(table)
    return _preserved(info, load_reduction_of(folder, source), data.summarise(source, None))


def _preserved(info: dict[str, Any], phi: Reduction | None, counts: Counts | None) -> dict[str, Any]:
    """What a reduction preserves, and a sample of windows for the map."""
    total = np.cumsum(info.get("explained_variance_ratio") or [])
    needed = [(share, 1 + int(np.searchsorted(total, share - 1e-9))) for share in (0.5, 0.8, 0.9, 0.95, 0.99)]
    return {
        "info": info,
        "needed": [(share, count) for share, count in needed if count <= len(total)],
        "sample": data.sample_windows(counts, phi) if counts and phi and phi.output_size > 1 else None,
        "unit": counts.table.info.get("level", {}).get("unit", "dB") if counts else "dB",
    }


class _Environment(Environment):
    """Keys that a file lacks are none, e.g. those that an older edgesea did not write; unknown variables are errors."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = super().getattr(obj, attribute)
        return None if isinstance(found, Undefined) and isinstance(obj, dict) else found


@cache
def _environment() -> Environment:
    environment = _Environment(
        loader=PackageLoader("edgesea.report"),
        autoescape=lambda name: "md" not in str(name),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: MISSING if value is None else value,
    )
    formats = (integer, decimal, percent, duration, score, score_interval, markdown, data.label)
    environment.filters |= {item.__name__: item for item in formats}
    environment.filters["basename"] = lambda path: PurePath(path).name
    environment.filters["yaml"] = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
    environment.globals |= {
        "MISSING": MISSING,
        "plots": plots,
        "most_confused": data.most_confused,
        "shown_metrics": lambda scores: [data.metric(name) for name in shown_scores(scores)],
        "style": Path(__file__).with_name("style.css").read_text("utf-8"),
    }
    return environment


def markdown(value: Any) -> str:
    clean = " ".join(str(value).encode("utf-8", "replace").decode("utf-8").split())
    return re.sub(r"([\\|<*`])", r"\\\1", clean)


def integer(value: Any) -> str:
    """Digits in groups of three, e.g. ``12 345``."""
    return MISSING if value is None else f"{int(float(value)):,}".replace(",", "\u202f")


def decimal(value: Any, digits: int = 3) -> str:
    return MISSING if value is None or value != value else f"{float(value):.{digits}f}".replace("-", "\u2212")


def percent(value: Any, digits: int = 0) -> str:
    return MISSING if value is None or value != value else f"{decimal(100 * float(value), digits)}\u00a0%"


def duration(seconds: float | None) -> str:
    if seconds is None or seconds != seconds:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def score(value: Any, metric: Metric, unit: bool = True) -> str:
    """A score, with or without its unit."""
    shown = decimal(value) if metric.best == 1 else percent(value, 1)
    return shown if unit else shown.removesuffix("\u00a0%")


def score_interval(scores: dict[str, Any], metric: Metric) -> str:
    """The confidence interval of a score among those of a system; empty if it has none."""
    return "\u2013".join(score(end, metric, unit=False) for end in interval(scores, metric.key) or ())
