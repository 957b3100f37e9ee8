"""Plot of a model selection: score against dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgesea.report.html import Html
from edgesea.report.svg import (
    FITTED,
    GROUPS,
    INK,
    VARIABLES,
    WIDTH,
    drawing,
    inline,
    label,
    legend_above,
    plain_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgesea.report.selection import Selection, Trial

COLOURS = (*GROUPS, FITTED)  # of the methods of sampling
LOOKS = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # of the methods of reduction, in one panel
MOST_LINES = 6  # more are told apart better in a panel for each method of reduction
COLUMNS = 3
ASIDE, ABREAST = 0.09, 0.5  # distance of points of one size, and at most of the first and the last, in octaves


def selection_plot(selection: "Selection") -> Html:
    """Score of each trial against its dimensions: a line for each reduction, a colour for each sampling.

    With many lines, each reduction has a panel of its own. The teacher's score is a dashed line; the winner is ringed.
    """
    trials = [trial for trial in selection.trials if trial.score is not None]
    if not trials:
        return Html("")
    reductions = list(dict.fromkeys(trial.reduction for trial in trials))
    samplings = list(dict.fromkeys(trial.sampling for trial in trials))
    lines = list(dict.fromkeys((trial.reduction, trial.sampling) for trial in trials))
    split = len(lines) > MOST_LINES and len(reductions) > 1
    columns = (2 if len(reductions) in (2, 4) else COLUMNS) if split else 1
    rows = -(-len(reductions) // columns) if split else 1
    with drawing("selection", WIDTH, 3.0 * rows + 1.0 if split else 4.4) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        abreast = samplings if split else lines
        aside = min(ASIDE, ABREAST / len(abreast))
        for number, (reduction, sampling) in enumerate(lines):
            panel, colour = reductions.index(reduction), COLOURS[samplings.index(sampling) % len(COLOURS)]
            place = (samplings.index(sampling) if split else number) - (len(abreast) - 1) / 2
            own = [trial for trial in trials if (trial.reduction, trial.sampling) == (reduction, sampling)]
            look = LOOKS[0 if split else panel % len(LOOKS)]
            _line(panels[panel if split else 0], own, selection, colour, look, 2.0 ** (aside * place))
        for number, axes in enumerate(panels):
            if split and number >= len(reductions):
                axes.remove()
                continue
            _dress(axes, selection, trials)
            axes.set_title(label(reductions[number]) if split else "")
            axes.set_ylabel(selection.metric.axis if number % columns == 0 else "")
            below = number + columns
            axes.set_xlabel("dimensions" if not split or below >= len(reductions) else "")
            axes.tick_params(labelbottom=not split or below >= len(reductions))
        _legend(panels[0], selection, samplings, [] if split or len(reductions) == 1 else reductions)
        legend_above(figure, panels[0])
        return inline(figure, f"{selection.metric.axis} against the dimensions of the reduced embedding")


def _line(
    axes: "Axes", trials: "Sequence[Trial]", selection: "Selection", colour: str, look: tuple[str, str], beside: float
) -> None:
    """The trials of one sampling and reduction, drawn at `beside` times their size."""
    unit, (style, marker) = selection.metric.best, look
    best: dict[int, float] = {}
    for trial in trials:
        score, x = (trial.score or 0.0) * unit, trial.dimensions * beside
        best[trial.dimensions] = max(score, best.get(trial.dimensions, score))
        for error, width in ((trial.standard_error, 0.8), (trial.score_std, 2.6)):
            if error is not None:
                axes.errorbar(x, score, error * unit, fmt="none", ecolor=colour, elinewidth=width, alpha=0.55)
        axes.plot(x, score, marker, color=colour, markersize=4.5, markeredgewidth=0)
        if trial is selection.winner:
            axes.plot(x, score, "o", markersize=12, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)
    sizes = sorted(best)
    axes.plot([size * beside for size in sizes], [best[size] for size in sizes], style, color=colour, linewidth=1.2)


def _dress(axes: "Axes", selection: "Selection", trials: "Sequence[Trial]") -> None:
    """Scales, ticks at the sizes tried, and the teacher's line."""
    sizes = sorted({trial.dimensions for trial in trials})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes if len(sizes) <= 10 else sizes[:: -(-len(sizes) // 10)])
    plain_numbers(axes.xaxis)
    axes.set_xlim(sizes[0] / 2**0.6, sizes[-1] * 2**0.6)
    if selection.reference is not None:
        level = selection.reference * selection.metric.best
        axes.axhline(level, color=VARIABLES["teacher"], linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)


def _legend(axes: "Axes", selection: "Selection", samplings: Sequence[str], reductions: Sequence[str]) -> None:
    """Entries without data: colours of samplings, looks of reductions (in one panel), the teacher, the winner."""
    for place, sampling in enumerate(samplings):
        axes.plot([], [], "o-", color=COLOURS[place % len(COLOURS)], markersize=4.5, label=label(sampling, 16))
    for place, reduction in enumerate(reductions):
        style, marker = LOOKS[place % len(LOOKS)]
        axes.plot([], [], style, marker=marker, color=INK, markersize=4, linewidth=1.2, label=label(reduction, 16))
    if selection.reference is not None:
        name = "teacher" if selection.reference_size is None else f"teacher, {selection.reference_size} dimensions"
        axes.plot([], [], linestyle=(0, (5, 3)), color=VARIABLES["teacher"], linewidth=1.2, label=name)
    if selection.winner is not None and selection.winner.score is not None:
        (ring,) = axes.plot([], [], "o", markersize=9, label="chosen")
        ring.set(markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)
