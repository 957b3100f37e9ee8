"""Plots of the student: its training, its dimensions, and how the three systems do the task."""

from collections.abc import Mapping, Sequence

import numpy as np

from edgesea.report.html import Html
from edgesea.report.svg import (
    FITTED,
    INK,
    MUTED,
    VARIABLES,
    WIDTH,
    drawing,
    inline,
    label,
    legend_above,
    plain_numbers,
    whole_numbers,
)

MOST_ROWS = 26  # classes in a column
LOWEST_R2 = -1.0  # R2 has no lower end; bars are cut here


def training_plot(history: Sequence[Mapping[str, float]], kept: int) -> Html:
    """MSE, R2 and learning rate by epoch, with the epoch whose weights were kept.

    Parameters
    ----------
    history : sequence of mapping
        Rows of ``metrics.csv``: epoch, lr, train_mse, val_mse, val_r2.
    kept : int
        Epoch whose weights are the student.
    """
    if not history:
        return Html("")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) <= 30 else ""
    style = {"marker": marker, "markersize": 3.5}
    colour = VARIABLES["student"]
    with drawing("training", WIDTH, 3.0) as figure:
        mse, r2, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
        mse.plot(epochs, [row["train_mse"] for row in history], color=FITTED, label="training", **style)
        mse.plot(epochs, [row["val_mse"] for row in history], color=colour, label="validation", **style)
        mse.set(ylabel="mean squared error", ylim=(0, None))
        r2.plot(epochs, [row["val_r2"] for row in history], color=colour, label="validation", **style)
        lowest = min([0.0, *(row["val_r2"] for row in history if np.isfinite(row["val_r2"]))])
        r2.set(ylabel="R2", ylim=(max(LOWEST_R2, lowest), 1.0))
        rate.step(epochs, [row["lr"] for row in history], where="mid", color=INK, linewidth=1.2)
        rate.set(ylabel="learning rate", yscale="log")
        plain_numbers(rate.yaxis)
        for axes in (mse, r2, rate):
            axes.axvline(kept, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), label="weights kept")
            axes.set(xlabel="epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
            whole_numbers(axes.xaxis)
        legend_above(figure, mse)
        return inline(figure, f"Errors, R2 and learning rate by epoch; the weights of epoch {kept} were kept")


def dimension_plot(r2: Sequence[float | None]) -> Html:
    """R2 of each dimension of the student on the validation windows."""
    values = np.array([np.nan if value is None else value for value in r2], float)
    if not len(values) or np.isnan(values).all():
        return Html("")
    shown = np.clip(values, LOWEST_R2, 1.0)
    with drawing("dimensions", WIDTH, 2.6) as figure:
        axes = figure.subplots()
        gap = 0.8 if len(values) <= 128 else 1.0
        axes.bar(np.arange(1, len(values) + 1), shown, gap, color=VARIABLES["student"], linewidth=0)
        axes.axhline(0.0, color=MUTED, linewidth=0.8)
        axes.set(xlabel="dimension of the embedding", ylabel="R2", xlim=(0.3, len(values) + 0.7))
        axes.set_ylim(min(0.0, 1.05 * float(np.nanmin(shown))), 1.0)
        axes.grid(visible=False, axis="x")
        whole_numbers(axes.xaxis)
        return inline(figure, "R2 of each dimension of the student's embedding")


def class_plot(scores: Mapping[str, Mapping[str, float | None]], metric: str, best: float) -> Html:
    """Scores by class, one bar for each system.

    Parameters
    ----------
    scores : mapping of system to mapping of class to score
        None: the class has no score.
    metric : str
        Name of the score, with its unit.
    best : float
        The highest possible score: the end of the axis.
    """
    names = list(next(iter(scores.values())))
    columns = -(-len(names) // MOST_ROWS)
    rows = -(-len(names) // columns)
    thickness = 0.8 / len(scores)
    with drawing("classes", WIDTH, 0.8 + rows * (0.42 if rows <= 12 else 0.34)) as figure:
        panels = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
        for index, axes in enumerate(panels):
            part = names[index * rows : (index + 1) * rows]
            for number, (system, own) in enumerate(scores.items()):
                places = np.arange(len(part)) + (number - (len(scores) - 1) / 2) * thickness
                axes.barh(places, _heights(own, part), 0.9 * thickness, color=VARIABLES[system], label=system)
            axes.set_yticks(range(len(part)), [label(name) for name in part])
            axes.set(xlabel=metric, xlim=(0, best), ylim=(rows - 0.5, -0.5))
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        legend_above(figure, panels[0])
        return inline(figure, f"{metric} of each class for {', '.join(scores)}")


def _heights(scores: Mapping[str, float | None], names: Sequence[str]) -> list[float]:
    """Lengths of bars; no bar where there is no score."""
    values = (scores.get(name) for name in names)
    return [np.nan if value is None else value for value in values]


def fold_plot(scores: Mapping[str, Mapping[str, float | None]], metric: str, best: float) -> Html:
    """Scores by fold, one bar for each system; parameters as those of `class_plot`."""
    folds = list(next(iter(scores.values())))
    thickness = 0.8 / len(scores)
    with drawing("folds", WIDTH / 2, 2.9) as figure:
        axes = figure.subplots()
        for number, (system, own) in enumerate(scores.items()):
            places = np.arange(len(folds)) + (number - (len(scores) - 1) / 2) * thickness
            axes.bar(places, _heights(own, folds), 0.9 * thickness, color=VARIABLES[system], label=system)
        axes.set_xticks(range(len(folds)), [label(fold) for fold in folds])
        axes.set(xlabel="test fold", ylabel=metric, ylim=(0, best))
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="x", length=0)
        legend_above(figure, axes)
        return inline(figure, f"{metric} by fold for {', '.join(scores)}")
