"""Pages from the templates of this folder: one file each, without scripts and without anything from the network."""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

from edgesea.artifact import atomic_path
from edgesea.report.data import DETAILS, METRICS, Metric
from edgesea.report.summary import interval, shown_scores

MISSING = "\u2013"


class _Environment(Environment):
    """Keys that a file lacks are none, e.g. those that an older edgesea did not write; unknown variables are errors."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        found = super().getattr(obj, attribute)
        return None if isinstance(found, Undefined) and isinstance(obj, dict) else found


def write_page(path: Path, template: str, **content: Any) -> str:
    """Render a template and write it atomically; returns the file's name. What is Markdown has a name in .md."""
    html = _environment().get_template(f"{template}.jinja").render(content)
    with atomic_path(path) as temporary:
        temporary.write_text(html, "utf-8", "replace")  # odd bytes of file names become ?
    return str(path)


@cache
def _environment() -> Environment:
    from edgesea.report import plots

    environment = _Environment(
        loader=PackageLoader("edgesea.report"),
        autoescape=lambda name: "md" not in str(name),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: MISSING if value is None else value,
    )
    formats = (integer, decimal, percent, audio, show, show_interval, markdown)
    environment.filters |= {item.__name__: item for item in formats}
    environment.filters["basename"] = lambda path: PurePath(path).name
    environment.globals |= {
        "DETAILS": DETAILS,
        "MISSING": MISSING,
        "plots": plots,
        "shown_metrics": lambda scores: [METRICS[name] for name in shown_scores(scores)],
        "style": files(__package__).joinpath("style.css").read_text("utf-8"),
    }
    return environment


def markdown(value: Any) -> str:
    """Text for a cell of a table in Markdown."""
    clean = " ".join(str(value).encode("utf-8", "replace").decode("utf-8").split())
    return re.sub(r"([\\|<*`])", r"\\\1", clean)


def integer(value: Any) -> str:
    """Digits in groups of three, e.g. ``12 345``."""
    return MISSING if value is None else f"{int(float(value)):,}".replace(",", "\u202f")


def decimal(value: Any, digits: int = 3) -> str:
    """A number with so many digits after the point."""
    return MISSING if value is None or value != value else f"{float(value):.{digits}f}".replace("-", "\u2212")


def percent(value: Any, digits: int = 0) -> str:
    """A share, e.g. ``12 %``."""
    return MISSING if value is None or value != value else f"{decimal(100 * float(value), digits)}\u00a0%"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def audio(seconds: float | None) -> str:
    """Length of audio in hours or minutes."""
    if seconds is None:
        return MISSING
    return f"{decimal(seconds / 3600, 1)} h" if seconds >= 3600 else f"{decimal(seconds / 60, 1)} min"


def show(metric: Metric, value: Any, unit: bool = True) -> str:
    """A score, with or without its unit."""
    if not metric.percent:
        return decimal(value)
    return percent(value, 1) if unit else percent(value, 1).removesuffix("\u00a0%")


def show_interval(metric: Metric, scores: dict[str, Any]) -> str:
    """The confidence interval of a score among those of a system; empty if it has none."""
    return "\u2013".join(show(metric, end, unit=False) for end in interval(scores, metric.key) or ())
