"""The result of a run as a table for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCORES = ("accuracy", "micro_auprc", "macro_auprc", "micro_f1")
ARTIFACTS = (
    ("student", "student"),
    ("scores", "results.json"),
    ("report", "report.html"),
)


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
    lines: list[str] = []
    systems = results.get("evaluate", {})
    names = [name for name in SCORES if any(name in scores for scores in systems.values())]
    if names:
        lines.append("".join(["system".ljust(10), "dimensions".rjust(12), *(name.rjust(14) for name in names)]))
        for system, scores in systems.items():
            values = "".join(_number(scores.get(name)).rjust(14) for name in names)
            lines.append(f"{system:10}{scores['embedding_size']:12d}{values}")
        lines.append("")
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


def _number(value: float | None) -> str:
    """A score; it has no value where, say, the target does not vary."""
    return "-" if value is None else f"{value:.3f}"
