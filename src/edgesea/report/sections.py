"""The sections of the report: each takes what was read of a run and returns HTML."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgesea.report.data import TableSummary, WindowSample
from edgesea.report.data_plots import frames_plot, level_plot, map_plot, variance_plot
from edgesea.report.html import (
    MISSING,
    Html,
    decimal,
    element,
    figure,
    integer,
    join,
    note,
    percent,
    table,
    text,
    tiles,
)
from edgesea.report.model_plots import class_plot, dimension_plot, fold_plot, training_plot
from edgesea.report.run import REDUCTION, STUDENT, RunFiles

MOST_SKIPPED = 20
SPLITS = ("train", "validate", "test")


@dataclass(frozen=True)
class Metric:
    """A score of a task: its key in the results, its name, and whether it is shown in percent."""

    key: str
    name: str
    in_percent: bool = False

    def show(self, value: float | None) -> str:
        """The score as text."""
        return percent(value, 1) if self.in_percent else decimal(value)

    @property
    def best(self) -> float:
        """The highest score, in the unit shown."""
        return 100.0 if self.in_percent else 1.0

    @property
    def axis(self) -> str:
        """Name with unit."""
        return f"{self.name} (%)" if self.in_percent else self.name

    def by(self, scores: dict[str, dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
        """A detail of each system's scores, in the unit shown."""
        return {
            system: {name: None if value is None else value * self.best for name, value in own.get(key, {}).items()}
            for system, own in scores.items()
        }


METRICS = (
    Metric("accuracy", "accuracy", True),
    Metric("micro_auprc", "micro AUPRC"),
    Metric("macro_auprc", "macro AUPRC"),
    Metric("micro_f1", "micro F1"),
)
# Key of the scores by class, and what they are.
BY_CLASS = {"accuracy_by_class": METRICS[0], "class_auprc": Metric("class_auprc", "AUPRC")}


def metrics_of(run: RunFiles) -> list[Metric]:
    """The scores that the run's task has."""
    return [metric for metric in METRICS if any(metric.key in own for own in run.scores.values())]
