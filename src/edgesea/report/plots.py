"""The figures of the pages: plain matplotlib, as SVG elements to be placed in a page."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgesea.report.data import Counts, Frame, Metric, label, metric, natural

COLOURS = {"teacher": "#004488", "reduced": "#ddaa33", "student": "#bb5566", "int8": "#777777"}  # as in style.css
GREY, INK = "#8a93a1", "#1c2330"
GROUPS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Tol's bright scheme, for all eyes
STYLE = Path(__file__).with_name("style.mplstyle")  # no mathematics: a class may be called $x$; browsers draw the text


def svg(draw: Callable[..., None], size: tuple[float, float], *arguments: Any) -> Markup:
    """An SVG element of so many inches, drawn by a function of this module, whose docstring describes it."""
    salt = {"svg.hashsalt": draw.__name__}  # keeps the ids of the figures of a page apart
    with matplotlib.style.context(["default", STYLE, salt]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of the font used for measuring
        figure, out = Figure(figsize=size, layout="constrained"), StringIO()
        draw(figure, *arguments)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    _, tag, rest = out.getvalue().partition("<svg ")
    return Markup(f'{tag}role="img" aria-label="{escape(draw.__doc__ or "")}" {rest}')


def _legend(figure: Figure, axes: Any) -> None:
    """A legend above everything, where it covers nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=7)


def levels(figure: Figure, counts: Counts, unit: str) -> None:
    """Histogram of the levels of the windows of the table and of the subset."""
    axes: Any = figure.subplots()
    low, high = (int(level) for level in counts.levels.index[[0, -1]])
    width = max(1, -(-(high - low + 1) // 60))  # dB in a bin
    edges = np.arange(low, high + width + 1, width)
    looks = {"table": {"fill": True, "color": "#c9cdd4"}, "subset": {"color": "#cc7711", "linewidth": 1.8}}
    for name, item in counts.levels.items():
        if item.any():
            axes.stairs(*np.histogram(item.index, edges, weights=100 * item / item.sum()), label=name, **looks[name])
    axes.set(xlabel=f"level of a window ({unit})", ylabel=f"windows (% in {width} dB)", ylim=(0, None))
    _legend(figure, axes)


def strata(figure: Figure, what: str, grid: Frame, period: str) -> None:
    """Windows by sensor and time."""
    figure.set_figheight(max(2.0, 1.3 + 0.17 * len(grid)))
    axes = figure.subplots()
    image = axes.imshow(grid.to_numpy(float), cmap="cividis", vmin=0, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(grid)), [label(name or "?", 16) for name in grid.index])
    step = -(-grid.shape[1] // 10)
    axes.set_xticks(range(0, grid.shape[1], step), [day or "?" for day in grid.columns[::step]], rotation=90)
    axes.set(xlabel=period, ylabel="sensor")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=what, aspect=30, ticks=MaxNLocator(integer=True))


def windows_map(figure: Figure, sample: Frame, unit: str) -> None:
    """Windows by their first two reduced dimensions, coloured by group and by level."""
    kind = next((kind for kind in ("label", "sensor", "split") if sample[kind].any()), "split")
    by_group, by_level = figure.subplots(1, 2, sharex=True, sharey=True)
    look: dict[str, Any] = {"s": 9, "alpha": 0.7, "linewidths": 0}
    frequent = sample[kind].value_counts().index[: 2 * len(GROUPS)]
    others = sample[~sample[kind].isin(frequent)]
    by_group.scatter(others.x, others.y, color=GREY, label="others" if len(others) else None, **look)
    for place, name in enumerate(sorted(frequent, key=natural)):
        item, colour, marker = sample[sample[kind] == name], GROUPS[place % len(GROUPS)], "o^"[place // len(GROUPS)]
        by_group.scatter(item.x, item.y, color=colour, marker=marker, label=label(name or "unknown", 14), **look)
    low, high = sample.level.quantile([0.01, 0.99]).fillna(0)
    dots = by_level.scatter(sample.x, sample.y, c=sample.level, vmin=low, vmax=high, **look)
    figure.colorbar(dots, ax=by_level, aspect=30, label=f"level ({unit})")
    by_group.set(title=f"by {kind}", xlabel="reduced dimension 1", ylabel="reduced dimension 2")
    by_level.set(title="by level", xlabel="reduced dimension 1")
    _legend(figure, by_group)


def training(figure: Figure, history: Frame, epoch: int) -> None:
    """Loss, R2 and learning rate by epoch, with the epoch whose weights became the student."""
    mse, r2, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    look = {"marker": "o" if len(history) <= 30 else "", "markersize": 3.5}
    mse.plot(history.epoch, history.train_mse, color=GREY, label="training", **look)
    mse.plot(history.epoch, history.val_mse, color=COLOURS["student"], label="validation", **look)
    mse.set(ylabel="mean squared error", ylim=(0, None))
    r2.plot(history.epoch, history.val_r2, color=COLOURS["student"], **look)
    r2.set(ylabel="R2", ylim=(np.clip(np.nanmin([0.0, *history.val_r2]), -1, 0), 1))  # R2 has no lower end
    rate.step(history.epoch, history.lr, where="mid", color=INK, linewidth=1.2)
    rate.set(ylabel="learning rate", yscale="log")
    rate.yaxis.set_major_formatter("{x:g}")
    for axes in (mse, r2, rate):
        axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle="--", label="weights chosen")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    _legend(figure, mse)


def dimensions(figure: Figure, r2: Sequence[float | None]) -> None:
    """R2 of each dimension of the student's embedding."""
    axes, values = figure.subplots(), np.nan_to_num(np.clip(np.array(r2, float), -1, 1))
    axes.bar(np.arange(1, len(values) + 1), values, 0.8 if len(values) <= 128 else 1, color=COLOURS["student"])
    axes.set(xlabel="dimension of the embedding", ylabel="R2", xlim=(0.3, len(values) + 0.7))
    axes.set_ylim(min(0.0, 1.05 * values.min()), 1)
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def bars(figure: Figure, scores: Frame, key: str, sizes: Any) -> None:
    """Scores of each class or test fold, one bar for each system."""
    shown, columns = metric(key), -(-len(scores) // 26)
    rows = -(-len(scores) // columns)
    figure.set_figheight(0.8 + rows * (0.42 if rows <= 12 else 0.34))
    panels = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
    for number, axes in enumerate(panels):
        part = shown.best * scores.iloc[number * rows : (number + 1) * rows]
        clips = ["" if sizes is None or name not in sizes else f" ({sizes[name]})" for name in part.index]
        part.index = [f"{label(name)}{count}" for name, count in zip(part.index, clips, strict=True)]
        part.plot.barh(ax=axes, width=0.75, color=COLOURS, legend=False)
        axes.set(xlabel=shown.axis, ylabel="", xlim=(0, shown.best), ylim=(rows - 0.5, -0.5))
        axes.grid(visible=False, axis="y")
    _legend(figure, panels[0])


def confusions(figure: Figure, systems: Mapping[str, Frame]) -> None:
    """Confusion matrices side by side; colours are shares of the class, numbers clips."""
    size = max(item.shape[1] for item in systems.values())
    figure.set_figheight(min(5.4, 2.2 + 0.45 * size))
    panels = figure.subplots(1, len(systems), squeeze=False)[0]
    for axes, (system, counts) in zip(panels, systems.items(), strict=True):
        shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        axes.imshow(shares, LinearSegmentedColormap.from_list(system, ["#ffffff", COLOURS[system]]), vmin=0, vmax=1)
        if size <= 60:
            axes.set_xticks(range(counts.shape[1]), [label(name, 22) for name in counts.columns], rotation=90)
            axes.set_yticks(range(len(counts)), [label(name, 22) for name in counts.index])
        for (row, column), clips in np.ndenumerate(counts if size <= 20 else ()):
            colour = "#ffffff" if shares.iat[row, column] > 0.5 else INK
            axes.text(column, row, str(clips or ""), ha="center", va="center", fontsize=7, color=colour)
        axes.set(title=system, xlabel="predicted", ylabel="class")
        axes.tick_params(labelsize=7 if size <= 30 else 4.5)
        axes.grid(visible=False)


def selection(figure: Figure, trials: Frame, shown: Metric, chosen: Any, reference: Mapping[str, Any]) -> None:
    """Score of each trial against its dimensions: a panel for each reduction, a colour for each sampling."""
    trials = trials.sort_index()  # panels and colours in the order of the search, not of the scores
    trials[["score", "standard_error", "score_std"]] *= shown.best
    reductions, samplings, sizes = trials.reduction.unique(), trials.sampling.unique(), sorted({*trials.dimensions})
    columns = min(len(reductions), 2 if len(reductions) == 4 else 3)
    rows = -(-len(reductions) // columns)
    figure.set_figheight(3.0 * rows + 1.2)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    ring = {"marker": "o", "linestyle": "", "markerfacecolor": "none", "markeredgecolor": INK}
    for axes in panels[len(reductions) :]:
        axes.remove()
    for axes, reduction in zip(panels, reductions, strict=False):
        for place, sampling in enumerate(samplings):
            item = trials[(trials.reduction == reduction) & (trials.sampling == sampling)]
            colour = (*GROUPS, GREY)[place % 7]
            x = item.dimensions * 2 ** (0.08 * (place - (len(samplings) - 1) / 2))  # side by side, so that all are seen
            axes.plot(item.score.groupby(x).max(), color=colour, linewidth=1.2, label=label(sampling, 16))
            dots = {"fmt": "o", "markersize": 4.5, "color": colour, "ecolor": (colour, 0.55)}
            for errors, width in ((item.standard_error, 0.8), (item.score_std, 2.6)):
                axes.errorbar(x, item.score, errors, elinewidth=width, **dots)
            if chosen.name in item.index:
                axes.plot(x[chosen.name], item.score[chosen.name], markersize=12, **ring)
        if reference:
            name = f"teacher, {reference['dimensions']} dimensions"
            axes.axhline(reference["score"] * shown.best, color=COLOURS["teacher"], linestyle="--", label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes[:: -(-len(sizes) // 10)])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(title=label(reduction), xlim=(sizes[0] / 1.5, sizes[-1] * 1.5), xlabel="dimensions")
    figure.supylabel(shown.axis)
    panels[0].plot([], [], markersize=9, label="chosen", **ring)
    _legend(figure, panels[0])
