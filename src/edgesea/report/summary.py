"""The result of a run as a table for the terminal."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCORES = ("accuracy", "fold_accuracy", "class_accuracy", "micro_auprc", "macro_auprc", "micro_f1", "lwlrap")
MEANS = ("fold_accuracy", "class_accuracy")  # the accuracy itself, if folds or classes are of equal size
ARTIFACTS = (
    ("student", "student"),
    ("scores", "results.json"),
    ("report", "report.html"),
)
BOUNDED = "student"  # the system whose confidence interval is shown


def summary(results: Mapping[str, Any], out: Path) -> str:
    """Scores of teacher, reduced and student, what the student explains, its size, and where everything is.

    Parameters
    ----------
    results : mapping
        As written to ``results.json``.
    out : Path
        The run directory.

    Returns
    -------
    str
        Lines for a terminal.
    """
    systems = results.get("evaluate", {})
    lines = _scores(systems, shown_scores(systems))
    fitted = results["distill"]
    parameters = fitted["parameters"]
    size = f"{parameters * 4 / 1024:.0f} KiB float32, {parameters / 1024:.0f} KiB int8"
    facts = [
        ("R2 (validation clips)", _number(fitted["r2"])),
        ("student's parameters", f"{parameters:,} ({size})"),
        *((name, str(out / path)) for name, path in ARTIFACTS),
    ]
    lines += [f"{name:24}{value}" for name, value in facts]
    return "\n".join(lines)


def shown_scores(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the scores that systems have, in order, but for means that are the accuracy itself."""

    def same(name: str) -> bool:
        return all(_equal(scores.get(name), scores.get("accuracy")) for scores in systems.values())

    found = [name for name in SCORES if any(name in scores for scores in systems.values())]
    return [name for name in found if name not in MEANS or not same(name)]


def _equal(value: float | None, other: float | None) -> bool:
    return value == other or (value is not None and other is not None and math.isclose(value, other))


def _scores(systems: Mapping[str, Mapping[str, Any]], names: list[str]) -> list[str]:
    """A table, with the confidence interval of the student's first score behind it."""
    if not names:
        return []
    ends = interval(systems.get(BOUNDED, {}), names[0])
    bounds = "" if ends is None else f" ({ends[0]:.2f}-{ends[1]:.2f})"

    def row(first: str, size: str, values: list[str], behind: str = "") -> str:
        cells = [value.rjust(max(len(name), 5) + 2) for name, value in zip(names, values, strict=True)]
        cells[0] += behind.ljust(len(bounds))
        return "".join([first.ljust(10), size.rjust(12), *cells]).rstrip()

    lines = [row("system", "dimensions", names)]
    for system, scores in systems.items():
        values = [_number(scores.get(name)) for name in names]
        lines.append(row(system, str(scores["embedding_size"]), values, bounds if system == BOUNDED else ""))
    return [*lines, ""]


def interval(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % confidence interval of a score among those of a system; None if it has none."""
    low, high = (scores.get("confidence") or {}).get(name) or (None, None)
    return None if low is None or high is None or math.isnan(low + high) else (low, high)


def _number(value: float | None) -> str:
    """A score; it has no value where, say, the target does not vary."""
    return "-" if value is None else f"{value:.3f}"
