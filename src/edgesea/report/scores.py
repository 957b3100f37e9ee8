"""The sections about the result: the three systems' scores, and what the student costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesea.models.student_config import StudentConfig, macs
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
from edgesea.report.protocol import level, protocol
from edgesea.report.run import RunFiles
from edgesea.report.summary import interval, shown_scores
from edgesea.report.task_plots import Confusion, class_plot, confusion_plot, fold_plot, is_numbered

MOST_FAILED, MOST_CONFUSED = 20, 10
INTERVALS = (
    "Small: 95\u00a0% confidence intervals, by bootstrap over the clips judged, or their recordings; training is not "
    "repeated."
)
COMPARED = ("teacher", "student")  # systems whose confusions are shown


@dataclass(frozen=True)
class Metric:
    """A score of a task: its key in the results, its name, whether it is shown in percent, and what it means."""

    key: str
    name: str
    in_percent: bool = False
    meaning: str = ""

    def show(self, value: float | None) -> str:
        """The score as text."""
        return percent(value, 1) if self.in_percent else decimal(value)

    def interval(self, scores: Mapping[str, Any]) -> str:
        """The confidence interval among a system's scores as text, without the unit; empty if there is none."""
        ends = interval(scores, self.key) or ()
        return "\u2013".join(decimal(end * self.best, 1 if self.in_percent else 3) for end in ends)

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
    Metric(
        "fold_accuracy",
        "fold accuracy",
        True,
        meaning="Fold accuracy: mean of the folds' accuracies, the official score of UrbanSound8K.",
    ),
    Metric("class_accuracy", "class accuracy", True, meaning="Class accuracy: mean of the classes' accuracies."),
    Metric(
        "micro_auprc",
        "micro AUPRC",
        meaning="AUPRC: area under the precision-recall curve; micro: of all classes together, macro: their mean.",
    ),
    Metric("macro_auprc", "macro AUPRC"),
    Metric("micro_f1", "micro F1"),
    Metric("lwlrap", "lwlrap", meaning="lwlrap: label-weighted label-ranking average precision."),
)
BY_CLASS = (Metric("accuracy_by_class", "accuracy", True), Metric("class_auprc", "AUPRC"))
BY_FOLD = Metric("accuracy_by_fold", "accuracy", True)


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
    first = next(iter(run.scores.values()))
    return f"{first.get('task', 'the task')}{f' ({level(first)})' if level(first) else ''}"


def result_section(run: RunFiles) -> Html:
    """The headline table and the student's costs."""
    return join([_systems(run), _student(run)])


def _systems(run: RunFiles) -> Html:
    scores = run.scores
    if not scores:
        return note("The run has no section evaluate in its configuration, so there are no scores of a task.")
    first = next(iter(scores.values()))
    metrics = [metric for metric in METRICS if metric.key in shown_scores(scores)]
    bounded = any(metric.interval(own) for metric in metrics for own in scores.values())
    caption = [
        protocol(first, (run.results["config"].get("evaluate") or {}).get("folds")),
        *(metric.meaning for metric in metrics if metric.meaning),
        *([INTERVALS] if bounded else []),
        "reduced: the teacher's embedding after the reduction, which is what the student is trained to reproduce.",
    ]
    parts: list[object] = [_score_table(scores, join(caption, " "), sizes=True)]
    coarse = {system: own["coarse"] for system, own in scores.items() if own.get("coarse")}
    if coarse:
        caption = ["The same predictions at the coarse level: a coarse tag is as likely as its likeliest fine tag."]
        parts.append(_score_table(coarse, join(caption), sizes=False))
    return join(parts)


def _score_table(scores: Mapping[str, Mapping[str, Any]], caption: Html, sizes: bool) -> Html:
    """Each system's scores with their intervals, and as shares of the teacher's."""
    metrics = [metric for metric in METRICS if metric.key in shown_scores(scores)]
    rows = []
    for system, own in scores.items():
        cells: list[object] = [_name(system), *([integer(own.get("embedding_size"))] if sizes else [])]
        for metric in metrics:
            value, reference = own.get(metric.key), scores.get("teacher", {}).get(metric.key)
            share = "" if system == "teacher" or value is None or not reference else _share(value, reference)
            below = [metric.interval(own), share and f"{share} of teacher"]
            cells.append(join([metric.show(value), *(element("small", line) for line in below if line)], ""))
        rows.append(cells)
    head = ["system", *(["embedding size"] if sizes else []), *(metric.name for metric in metrics)]
    return table(head, rows, caption=caption, class_="headline wide" if sizes else "headline")


def _name(system: str) -> Html:
    return element("span", system, class_=f"system {system}")


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
        items.append(("MACs per window", f"{decimal(macs(StudentConfig.from_dict(architecture)) / 1e6, 1)} M"))
    items += [("R2, validation", decimal(own.get("r2"))), ("cosine, validation", decimal(own.get("cosine")))]
    explained = (
        "The student. R2: share of its target's variance that it explains; cosine: mean cosine similarity with its "
        "target; both on the validation windows. MACs: multiply-accumulates of the network, without the spectrogram. "
        "int8: one byte per parameter."
    )
    return join([tiles(items), note(explained)])


def task_section(run: RunFiles) -> Html:
    """Scores by class and by fold, and which classes are confused."""
    scores = run.scores
    confusions = {system: found for system, own in scores.items() if (found := Confusion.read(own)) is not None}
    clips = next(iter(confusions.values())).clips if confusions else {}
    parts: list[object] = [_classes(scores, metric, clips) for metric in BY_CLASS]
    folds = _details(scores, BY_FOLD)
    if folds:
        plot = figure(fold_plot(folds, BY_FOLD.axis, BY_FOLD.best), "Accuracy by test fold.")
        parts.append(element("div", plot, _fold_table(folds), class_="pair"))
    parts += [_confusions(confusions), _chosen(scores)]
    failed = {name: reason for own in scores.values() for name, reason in (own.get("failed") or {}).items()}
    if failed:
        rows = list(failed.items())[:MOST_FAILED]
        caption = f"{integer(len(failed))} clips of the task could not be embedded; they count as wrong."
        parts.append(table(["clip", "reason"], rows, words=2, caption=caption))
    return join(part for part in parts if part)


def _classes(scores: Mapping[str, Mapping[str, Any]], metric: Metric, clips: Mapping[str, int]) -> Html:
    """A score by class; the numbers of clips stand beside the classes if they differ."""
    found = _details(scores, metric)
    if not found:
        return Html("")
    sizes = {count for count in clips.values() if count}
    caption = f"{metric.axis[0].upper()}{metric.axis[1:]} by class."
    if metric.key == "class_auprc":
        fine = any(own.get("label_mode") == "fine" for own in scores.values())
        caption = f"AUPRC {'of the fine tags of each class' if fine else 'by class'}."
        caption += " Without a bar: a class without a positive clip, or a score of 0."
    elif sizes:
        caption += " In brackets: clips of the class." if len(sizes) > 1 else f" Each has {integer(min(sizes))} clips."
    return figure(class_plot(found, metric.axis, metric.best, clips if len(sizes) > 1 else None), caption)


def _confusions(confusions: Mapping[str, Confusion]) -> Html:
    """The matrices of teacher and student, and the confusions that the student makes most often."""
    found = {system: confusions[system] for system in COMPARED if system in confusions}
    if not found:
        return Html("")
    caption = (
        "What the clips of each class (rows) were taken for (columns). The stronger the colour, the larger the share."
    )
    if is_numbered(found):
        caption += " Numbers are clips."
    if any(len(own.columns) > len(own.classes) for own in found.values()):
        caption += " The last column: clips that could not be embedded."
    parts: list[object] = [figure(confusion_plot(found), caption)]
    student, teacher = found.get("student"), found.get("teacher")
    pairs = student.most_frequent(MOST_CONFUSED) if student else []
    if pairs:
        theirs = {} if teacher is None else {pair[:2]: integer(pair[2]) for pair in teacher.most_frequent()}
        rows = [
            [name, other, integer(count), percent(share, 1), *([theirs.get((name, other), "0")] if teacher else [])]
            for name, other, count, share in pairs
        ]
        head = ["class", "taken for", "clips", "of the class", *(["clips, teacher"] if teacher else [])]
        parts.append(table(head, rows, words=2, caption="The student's most frequent confusions."))
    return join(parts)


def _chosen(scores: Mapping[str, Mapping[str, Any]]) -> Html:
    """The classifiers' parameters that a search chose, by test fold; folded."""
    chosen = {system: own["chosen"] for system, own in scores.items() if own.get("chosen")}
    folds = list(dict.fromkeys(fold for own in chosen.values() for fold in own))
    if not folds:
        return Html("")
    rows = [[fold, *(_parameters(own.get(fold) or {}) for own in chosen.values())] for fold in folds]
    listing = table(["test fold", *map(_name, chosen)], rows, words=1 + len(chosen))
    return element("details", element("summary", "Parameters of the classifier that were chosen in each fold"), listing)


def _parameters(own: Mapping[str, Any]) -> str:
    def show(value: Any) -> str:
        if isinstance(value, list):
            return " x ".join(map(show, value))
        return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)

    return ", ".join(f"{name} {show(value)}" for name, value in own.items()) or MISSING


def _details(scores: Mapping[str, Mapping[str, Any]], metric: Metric) -> dict[str, dict[str, float | None]]:
    """Each system's scores by class or fold, in the unit shown; empty if there are none."""
    return {
        system: {name: None if value is None else value * metric.best for name, value in own[metric.key].items()}
        for system, own in scores.items()
        if any(value is not None for value in (own.get(metric.key) or {}).values())
    }


def _fold_table(folds: Mapping[str, Mapping[str, float | None]]) -> Html:
    rows = []
    for system, own in folds.items():
        values = np.array([value for value in own.values() if value is not None], float)
        spread = decimal(values.std(ddof=1), 1) if len(values) > 1 else MISSING
        numbers = [decimal(value, 1) for value in (values.mean(), values.min(), values.max())]
        rows.append([_name(system), numbers[0], spread, *numbers[1:]])
    head = ["system", "mean", "std. dev.", "lowest", "highest"]
    return table(head, rows, caption="Accuracy (%) over the folds.")
