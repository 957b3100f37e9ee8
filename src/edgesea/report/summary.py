"""The result of a run as a table for the terminal."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DRAFT = "experiment.yaml"
SYSTEMS, INT8 = ("teacher", "reduced", "student"), "int8"
SCORES = ("accuracy", "fold_accuracy", "class_accuracy", "micro_auprc", "macro_auprc", "micro_f1", "lwlrap")
WEIGHTS = ("flash_float32", "flash_int8")  # which earlier runs have not
MEANS = ("fold_accuracy", "class_accuracy")  # the accuracy itself, if folds or classes are of equal size


def summary(results: Mapping[str, Any], out: Path) -> str:
    """Lines for a terminal: scores of teacher, reduced and student, the student's fit and size, and where things are.

    `results` is what ``results.json`` holds, `out` the run directory.
    """
    systems, fitted, exported = systems_of(results), results["distill"], results.get("export") or {}
    r2, weights = fitted["r2"], (f"{fitted[key] / 1024:.0f} KiB {key[6:]}" for key in WEIGHTS if key in fitted)
    facts = {
        "R2 (validation clips)": "-" if r2 is None else f"{r2:.3f}",
        "student's parameters": f"{fitted['parameters']:,} ({', '.join(weights)})",
        **({"multiplications": f"{fitted['macs'] / 1e6:.1f} million a window"} if "macs" in fitted else {}),
        "student": out / "student",
        **({"export": f"{out / 'export'} ({exported_sizes(exported)})"} if exported else {}),
        **({"to edit and run again": out / DRAFT} if (out / DRAFT).is_file() else {}),
        "scores": out / "results.json",
        "report": out / "report.html",
    }
    names = shown_scores(systems)
    lines = [_table(systems, names), ""] if names else []
    return "\n".join([*lines, *(f"{name:24}{value}" for name, value in facts.items())])


def systems_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of each system of a run; of the student also in int8, if it was exported so."""
    systems = results.get("evaluate") or {}
    found = {system: systems[system] for system in SYSTEMS if system in systems}
    return found | ({INT8: scores} if (scores := (results.get("export") or {}).get("scores")) else {})


def exported_sizes(exported: Mapping[str, Any]) -> str:
    sizes = [f"{exported[key] / 1024:.0f} KiB {name}" for key, name in (("flash", "flash"), ("ram", "RAM"))]
    return ", ".join([*sizes, f"cosine to the student {exported['agreement']['cosine']:.4f}"])


def _table(systems: Mapping[str, Mapping[str, Any]], names: list[str]) -> str:
    """The scores, with the confidence interval of the student's first score behind it."""
    from pandas import DataFrame

    scores = [[item.get(name) for name in names] for item in systems.values()]
    frame = DataFrame(scores, list(systems), names, dtype=float)
    frame.insert(0, "dimensions", [item["embedding_size"] for item in systems.values()])
    if ends := interval(systems.get("student", {}), names[0]):
        bounds = f"({ends[0]:.2f}-{ends[1]:.2f})"
        frame.insert(2, "", [bounds if system == "student" else "" for system in systems])
    return frame.rename_axis(columns="system").to_string(col_space=12, na_rep="-", float_format="{:.3f}".format)


def shown_scores(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the scores that systems have, in order, without means that equal the accuracy."""
    values = {name: np.array([scores.get(name) for scores in systems.values()], float) for name in SCORES}
    same = [name for name in MEANS if np.allclose(values[name], values["accuracy"], 1e-9, 0, equal_nan=True)]
    return [name for name in SCORES if name not in same and any(name in scores for scores in systems.values())]


def interval(scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % confidence interval of a score among those of a system; None if it has none."""
    low, high = (scores.get("confidence") or {}).get(name) or (None, None)
    return None if low is None or high is None or math.isnan(low + high) else (low, high)
