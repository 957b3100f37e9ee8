"""Plots of the student: its training and its dimensions."""

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
    legend_above,
    plain_numbers,
    whole_numbers,
)

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
