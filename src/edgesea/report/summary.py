"""The result of a run as a table for the terminal."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SYSTEMS = ("teacher", "reduced", "student")
SCORES = ("accuracy", "fold_accuracy", "class_accuracy", "micro_auprc", "macro_auprc", "micro_f1", "lwlrap")
MEANS = ("fold_accuracy", "class_accuracy")  # the accuracy itself, if folds or classes are of equal size


def summary(results: Mapping[str, Any], out: Path) -> str:
    """Lines for a terminal: scores of teacher, reduced and student, the student's fit and size, and where things are.

    `results` is what ``results.json`` holds, `out` the run directory.
    """
    systems, fitted = results.get("evaluate") or {}, results["distill"]
    parameters = fitted["parameters"]
    size = f"{parameters * 4 / 1024:.0f} KiB float32, {parameters / 1024:.0f} KiB int8"
    facts = [
        ("R2 (validation clips)", _number(fitted["r2"])),
        ("student's parameters", f"{parameters:,} ({size})"),
        *((name, str(out / file)) for name, file in (("student", "student"), ("scores", "results.json"))),
        ("report", str(out / "report.html")),
    ]
    names = shown_scores(systems)
    lines = [*_table(systems, names), ""] if names else []
    return "\n".join([*lines, *(f"{name:24}{value}" for name, value in facts)])


def _table(systems: Mapping[str, Mapping[str, Any]], names: list[str]) -> list[str]:
    """The scores, with the confidence interval of the student's first score behind it."""
    ends = interval(systems.get("student", {}), names[0])
    bounds = f" ({ends[0]:.2f}-{ends[1]:.2f})" if ends else ""
    rows = [["system", "dimensions", *names]]
    for system, scores in systems.items():
        rows.append([system, str(scores["embedding_size"]), *(_number(scores.get(name)) for name in names)])
    lines = []
    for system, size, *values in rows:
        cells = [value.rjust(max(len(name), 5) + 2) for name, value in zip(names, values, strict=True)]
        cells[0] += (bounds if system == "student" else "").ljust(len(bounds))
        lines.append("".join([system.ljust(10), size.rjust(12), *cells]).rstrip())
    return lines


def shown_scores(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the scores that systems have, in order, without means that equal the accuracy."""

    def same(name: str) -> bool:
        pairs = [(scores.get(name), scores.get("accuracy")) for scores in systems.values()]
        return all(one == two or (one is not None and two is not None and math.isclose(one, two)) for one, two in pairs)

    found = [name for name in SCORES if any(name in scores for scores in systems.values())]
    return [name for name in found if name not in MEANS or not same(name)]


def interval(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % confidence interval of a score among those of a system; None if it has none."""
    low, high = (scores.get("confidence") or {}).get(name) or (None, None)
    return None if low is None or high is None or math.isnan(low + high) else (low, high)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
