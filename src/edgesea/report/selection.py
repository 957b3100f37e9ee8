"""The page of a model selection: which sampling, reduction and size of the embedding give which score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.report.html import Html, decimal, element, figure, integer, join, percent, table
from edgesea.report.scores import METRICS, Metric
from edgesea.report.selection_plot import selection_plot
from edgesea.report.svg import label

EVERYTHING = "all windows"  # the sampling of a reduction that was fitted on the whole table
KEPT = (("trustworthiness", "trust."), ("knn_overlap", "neighbours kept"), ("distance_correlation", "dist. corr."))


@dataclass(frozen=True)
class Trial:
    """One trial of a selection.

    Attributes
    ----------
    sample, reduce : dict
        Options, with the method.
    classifier : dict
        Options.
    dimensions : int
        Of the reduced embedding.
    score, score_std, standard_error : float or None
        The score; its standard deviation over seeds; its standard error, for the number of clips in the task.
    seconds : float or None
        Time it took.
    kept : dict
        What `edgesea.reduction.kept` measured; may be empty.
    complete : bool
        Whether it was run with all seeds; one that was not is never chosen.
    """

    sample: dict[str, Any]
    reduce: dict[str, Any]
    classifier: dict[str, Any]
    dimensions: int
    score: float | None
    score_std: float | None
    standard_error: float | None
    seconds: float | None
    kept: dict[str, Any]
    complete: bool = True

    @property
    def sampling(self) -> str:
        """Name of the method that chose the subset."""
        return str(self.sample.get("method", EVERYTHING))

    @property
    def reduction(self) -> str:
        """Name of the method of reduction."""
        return str(self.reduce.get("method", "?"))


@dataclass(frozen=True)
class Selection:
    """``select.json``.

    Attributes
    ----------
    task, metric : str
        What was scored, and how.
    trials : list of Trial
        In the order they were made.
    winner : Trial or None
        The one chosen.
    reference, reference_size : float and int, or None
        Score and dimensions of the unreduced teacher.
    """

    task: str
    metric: Metric
    trials: list[Trial]
    winner: Trial | None
    reference: float | None
    reference_size: int | None


def read_selection(path: Path) -> Selection:
    """Read ``select.json``.

    Raises
    ------
    EdgeseaError
        If it is missing, or a value is missing or of another kind.
    """
    if not path.is_file():
        raise EdgeseaError(f"{path}: no such file; make one: edgesea select")
    found = read_json(path)
    try:
        trials = [_trial(own) for own in found["trials"]]
        metric = next((own for own in METRICS if own.key == found["metric"]), None)
        reference, winner = found.get("reference") or {}, found.get("winner")
        return Selection(
            task=str(found["task"]),
            metric=metric or Metric(str(found["metric"]), str(found["metric"]).replace("_", " ")),
            trials=trials,
            winner=None if winner is None else trials[int(winner)],
            reference=_number(reference.get("score")),
            reference_size=reference.get("dimensions"),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EdgeseaError(
            f"{path}: not what `edgesea select` writes ({type(error).__name__}: {error}); select again"
        ) from error


def _trial(own: Mapping[str, Any]) -> Trial:
    return Trial(
        sample=dict(own.get("sample") or {}),
        reduce=dict(own["reduce"]),
        classifier=dict(own.get("classifier") or {}),
        dimensions=int(own["dimensions"]),
        score=_number(own["score"]),
        score_std=_number(own.get("score_std")),
        standard_error=_number(own.get("standard_error")),
        seconds=_number(own.get("seconds")),
        kept=dict(own.get("kept") or {}),
        complete=bool(own.get("complete", True)),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def selection_summary(selection: Selection) -> Html:
    """The winner in two sentences."""
    metric, winner, count = selection.metric, selection.winner, len(selection.trials)
    if winner is None or winner.score is None:
        return Html(f"{integer(count)} trials, none of which was chosen.")
    parts: list[object] = [
        f"Chosen among {integer(count)} trials on {selection.task}: ",
        element("strong", f"{winner.reduction}, {winner.dimensions} dimensions, {winner.sampling}"),
        f" with {metric.name} {metric.show(winner.score)}{_plus_minus(metric, winner)}",
    ]
    if selection.reference is not None:
        of = f" with {integer(selection.reference_size)} dimensions" if selection.reference_size else ""
        parts.append(f"; the unreduced teacher{of} has {metric.show(selection.reference)}")
    return join([*parts, ". ", _ties(selection, winner)], "")


def _ties(selection: Selection, winner: Trial) -> str:
    """How sure the choice is: trials that the winner's standard error does not tell from it."""
    if winner.standard_error is None or winner.score is None:
        return ""
    lowest = winner.score - winner.standard_error
    rivals = [own for own in selection.trials if own.complete and own is not winner]
    ties = [own for own in rivals if own.score is not None and own.score >= lowest]
    if not ties:
        return "No other trial is within its standard error."
    smallest = min(ties, key=lambda own: own.dimensions)
    verb = "trial is" if len(ties) == 1 else "trials are"
    return (
        f"{integer(len(ties))} other {verb} within its standard error; the smallest of them has "
        f"{smallest.dimensions} dimensions ({smallest.reduction}, {smallest.sampling})."
    )


def _plus_minus(metric: Metric, trial: Trial) -> str:
    error = trial.standard_error
    return "" if error is None else f"\u00a0±\u00a0{_spread(metric, error)}"


def _spread(metric: Metric, value: float | None) -> str:
    """A standard deviation or error in the unit of the score, without the unit."""
    return decimal(None if value is None else value * metric.best, 1 if metric.in_percent else 3)


def selection_sections(selection: Selection) -> list[tuple[str, Html]]:
    """The plot and the table of all trials."""
    if not selection.trials:
        return []
    caption = [f"Score of each trial on {selection.task} against the dimensions of the reduced embedding."]
    if _some(selection.trials, "standard_error"):
        caption.append("Thin bars: standard error, for the number of clips in the task.")
    if _some(selection.trials, "score_std"):
        caption.append("Thick bars: standard deviation over seeds.")
    caption.append("Lines join the best trial of each size. Points of a size stand side by side, so that all are seen.")
    return [
        ("Scores", figure(selection_plot(selection), " ".join(caption))),
        ("Trials", _trials(selection)),
    ]


def _some(trials: Sequence[Trial], name: str) -> bool:
    return any(getattr(trial, name) is not None for trial in trials)


def _trials(selection: Selection) -> Html:
    """All trials, by score; columns that nothing is known of are left out."""
    metric, trials = selection.metric, selection.trials
    order = sorted(trials, key=lambda own: (not own.complete, own.score is None, -(own.score or 0.0), own.dimensions))
    options = {name: differing([getattr(own, name) for own in trials]) for name in ("sample", "classifier")}
    options["reduce"] = differing([own.reduce for own in trials], but=["size"])  # the dimensions
    head: list[object] = ["", "sampling", "reduction"]
    head += ["classifier"] if options["classifier"] else []
    words = len(head)
    head += ["dimensions", metric.name]
    spreads = [
        (name, title)
        for name, title in (("standard_error", "std. error"), ("score_std", "over seeds"))
        if _some(trials, name)
    ]
    kept = [(key, title) for key, title in KEPT if any(own.kept.get(key) is not None for own in trials)]
    head += [title for _, title in spreads]
    head += ["of teacher"] if selection.reference else []
    head += [title for _, title in kept] + ["time"]
    rows = []
    for rank, own in enumerate(order, 1):
        won = own is selection.winner
        name = join([own.sampling, _small(own.sample, options["sample"])], "")
        cells: list[object] = [f"{rank}\u00a0★" if won else integer(rank) if own.complete else "\u2013", name]
        cells.append(join([own.reduction, _small(own.reduce, options["reduce"])], ""))
        cells += [_listed(own.classifier, options["classifier"])] if options["classifier"] else []
        score = metric.show(own.score)
        cells += [integer(own.dimensions), element("strong", score) if won else score]
        cells += [_spread(metric, getattr(own, name)) for name, _ in spreads]
        if selection.reference:
            cells.append(percent(None if own.score is None else own.score / selection.reference))
        cells += [percent(own.kept.get(key)) if key == "knn_overlap" else decimal(own.kept.get(key)) for key, _ in kept]
        rows.append([*cells, "" if own.seconds is None else f"{decimal(own.seconds, 1)} s"])
    caption = (
        "By score; ★: chosen. A trial that was chosen by its score is likely to have had luck with these clips, too: "
        "expect a little less on others."
    )
    if not all(own.complete for own in trials):
        caption += " \u2013: not all seeds could be run, so it could not be chosen."
    return table(head, rows, words=words, caption=caption, class_="trials wide")


def differing(options: Sequence[Mapping[str, Any]], but: Sequence[str] = ()) -> list[str]:
    """Names of options that differ between trials of the same method, but for those that have a column of their own."""
    values: dict[tuple[str, Any], set[str]] = {}
    for own in options:
        for name in own:
            values.setdefault((name, own.get("method")), set()).add(repr(own[name]))
    different = [name for (name, _), found in values.items() if len(found) > 1 and name not in ("method", *but)]
    return list(dict.fromkeys(different))


def _small(own: Mapping[str, Any], names: Sequence[str]) -> Html:
    listed = _listed(own, names)
    return element("small", f" {listed}") if listed else Html("")


def _listed(own: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {label(own[name])}" for name in names if own.get(name) is not None)
