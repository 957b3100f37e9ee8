"""The sections about the result: the three systems' scores, and what the student costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    tiles,
)
from edgesea.report.model_plots import class_plot, fold_plot
from edgesea.report.run import RunFiles

MOST_FAILED = 20
TASKS = {
    "esc50": "accuracy over the official folds, each tested with a classifier trained on all others",
    "sonyc_ust": "coarse tags of the verified validation clips, with a classifier trained on the training clips",
}


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


METRICS = (
    Metric("accuracy", "accuracy", True),
    Metric("micro_auprc", "micro AUPRC"),
    Metric("macro_auprc", "macro AUPRC"),
    Metric("micro_f1", "micro F1"),
)
BY_CLASS = (Metric("accuracy_by_class", "accuracy", True), Metric("class_auprc", "AUPRC"))
BY_FOLD = Metric("accuracy_by_fold", "accuracy", True)


def macs(architecture: Mapping[str, Any]) -> int:
    """Multiply-accumulates of a student for one window: its convolutions and its head, without the spectrogram.

    Parameters
    ----------
    architecture : mapping
        As in a student's ``config.json``.

    Returns
    -------
    int
    """
    samples = round(architecture["window"] * architecture["sample_rate"])
    height, width = architecture["n_mels"], -(-samples // architecture["hop_length"])
    total, channels = 0, 1
    for block, filters in enumerate(architecture["filters"]):
        if block:
            height, width = height // 2, width // 2
        total += 9 * height * width * filters * (channels + filters)
        channels = filters
    head = 2 * channels * architecture["embedding_size"] if architecture["head"] == "linear" else 0
    return int(total + head)


def summary(run: RunFiles) -> Html:
    """The run in two sentences."""
    extract, distill = run.stage("extract"), run.stage("distill")
    teacher = run.results["config"].get("extract", {}).get("teacher", "?")
    size = run.stage("reduce").get("output_size")
    parameters = distill.get("parameters")
    windows = (extract.get("windows_by_split") or {}).get("train", extract.get("windows"))
    made = f"A student of {integer(parameters)} parameters that approximates the teacher "
    trained = f", reduced to {size} dimensions, trained on {integer(windows)} windows. "
    parts: list[object] = [made, element("code", teacher), trained]
    for metric in METRICS:
        scores = {system: own.get(metric.key) for system, own in run.scores.items()}
        if scores.get("teacher") and scores.get("student") is not None:
            shown = f"{metric.show(scores['student'])} of {metric.show(scores['teacher'])}"
            parts += [
                "It keeps ",
                element("strong", _share(scores["student"], scores["teacher"])),
                " of the teacher's ",
            ]
            return join([*parts, f"{metric.name} on {_task(run)} ({shown})."], "")
    r2 = f"It explains {percent(distill.get('r2'), 1)} of the variance of its target on the validation windows."
    return join([*parts, r2], "")


def _share(score: float | None, of: float | None) -> str:
    return MISSING if score is None or not of else percent(score / of)


def _task(run: RunFiles) -> str:
    return str(next(iter(run.scores.values())).get("task", "the task"))


def result_section(run: RunFiles) -> Html:
    """The headline table and the student's costs."""
    return join([_systems(run), _student(run)])


def _systems(run: RunFiles) -> Html:
    scores = run.scores
    if not scores:
        return note("The run has no section evaluate in its configuration, so there are no scores of a task.")
    metrics = [metric for metric in METRICS if any(metric.key in own for own in scores.values())]
    rows = []
    for system, own in scores.items():
        cells: list[object] = [element("span", system, class_=f"system {system}"), integer(own.get("embedding_size"))]
        for metric in metrics:
            value, reference = own.get(metric.key), scores.get("teacher", {}).get(metric.key)
            share = element("small", f"{_share(value, reference)} of teacher") if system != "teacher" else ""
            cells.append(join([metric.show(value), share], ""))
        rows.append(cells)
    first = next(iter(scores.values()))
    what = TASKS.get(str(first.get("task")), "scores of the task")
    caption = (
        f"Task {_task(run)}: {what} ({first.get('classifier')} on the mean embedding of a clip; "
        f"{integer(first.get('clips'))} clips scored). reduced: the teacher's embedding after the reduction, "
        "which is what the student is trained to reproduce."
    )
    head = ["system", "embedding size", *(metric.name for metric in metrics)]
    return table(head, rows, caption=caption, class_="headline wide")


def _student(run: RunFiles) -> Html:
    own = run.stage("distill")
    if not own:
        return Html("")
    parameters, architecture = own.get("parameters"), run.student.get("architecture")
    items: list[tuple[object, object]] = [("parameters", integer(parameters))]
    if parameters is not None:
        items += [
            ("weights, float32", f"{decimal(parameters * 4 / 1024, 1)} KiB"),
            ("weights, int8", f"{decimal(parameters / 1024, 1)} KiB"),
        ]
    if architecture:
        items.append(("MACs per window", f"{decimal(macs(architecture) / 1e6, 1)} M"))
    items += [("R2, validation", decimal(own.get("r2"))), ("cosine, validation", decimal(own.get("cosine")))]
    explained = (
        "The student. R2: share of its target's variance that it explains; cosine: mean cosine similarity with its "
        "target; both on the validation windows. MACs: multiply-accumulates of the network, without the spectrogram. "
        "int8: one byte per parameter."
    )
    return join([tiles(items), note(explained)])


def task_section(run: RunFiles) -> Html:
    """Scores by class and by fold."""
    scores = run.scores
    parts: list[object] = []
    for metric in BY_CLASS:
        found = _details(scores, metric)
        if found:
            plot = class_plot(found, metric.axis, metric.best)
            undefined = (
                " Without a bar: a class without a positive clip, or a score of 0."
                if metric.key == "class_auprc"
                else ""
            )
            parts.append(figure(plot, f"{metric.axis[0].upper()}{metric.axis[1:]} by class.{undefined}"))
    folds = _details(scores, BY_FOLD)
    if folds:
        plot = figure(fold_plot(folds, BY_FOLD.axis, BY_FOLD.best), "Accuracy by test fold.")
        parts.append(element("div", plot, _fold_table(folds), class_="pair"))
    failed = {name: reason for own in scores.values() for name, reason in (own.get("failed") or {}).items()}
    if failed:
        rows = list(failed.items())[:MOST_FAILED]
        caption = f"{integer(len(failed))} clips of the task could not be embedded; they count as wrong."
        parts.append(table(["clip", "reason"], rows, words=2, caption=caption))
    return join(parts)


def _details(scores: Mapping[str, Mapping[str, Any]], metric: Metric) -> dict[str, dict[str, float | None]]:
    """Each system's scores by class or fold, in the unit shown; empty if there are none."""
    return {
        system: {name: None if value is None else value * metric.best for name, value in own[metric.key].items()}
        for system, own in scores.items()
        if own.get(metric.key)
    }


def _fold_table(folds: Mapping[str, Mapping[str, float | None]]) -> Html:
    rows = []
    for system, own in folds.items():
        values = np.array(list(own.values()), float)
        spread = decimal(values.std(ddof=1), 1) if len(values) > 1 else MISSING
        name = element("span", system, class_=f"system {system}")
        rows.append([name, decimal(values.mean(), 1), spread, decimal(values.min(), 1), decimal(values.max(), 1)])
    head = ["system", "mean", "std. dev.", "lowest", "highest"]
    return table(head, rows, caption="Accuracy (%) over the folds.")
