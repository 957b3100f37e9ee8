"""Plots of a reduction: the variance in its dimensions, the neighbours it keeps, and a map of the windows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgesea.report.data import WindowSample, natural
from edgesea.report.html import Html
from edgesea.report.svg import (
    FITTED,
    GROUPS,
    MUTED,
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
    from matplotlib.figure import Figure

MARKERS = "o^"  # groups beyond the colours repeat them with the next marker
MOST_GROUPS = len(GROUPS) * len(MARKERS)
OTHERS = "others"


def variance_plot(ratios: Sequence[float], size: int, sample: WindowSample | None, validate: float | None) -> Html:
    """Cumulative explained variance against the number of dimensions, with the chosen size marked.

    Parameters
    ----------
    ratios : sequence of float
        Share of the variance of each component on the windows fitted; at least `size`.
    size : int
        Dimensions kept.
    sample : WindowSample or None
        With the curve on validation windows.
    validate : float or None
        Share kept on all validation windows.
    """
    kept = np.cumsum(ratios) * 100.0
    if not len(kept):
        return Html("")
    colour = VARIABLES["reduced"]
    with drawing("variance", WIDTH / 2, 3.4) as figure:
        axes = figure.subplots()
        axes.plot(np.arange(1, len(kept) + 1), kept, color=FITTED, label="windows fitted on")
        if sample is not None and sample.validation is not None:
            curve = sample.validation * 100.0
            axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, linewidth=1.8, label="validation")
        axes.axvline(size, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot([size], [kept[size - 1]], "o", color=FITTED, markersize=5)
        if validate is not None:
            axes.plot([size], [100.0 * validate], "o", color=colour, markersize=5)
        right = size < 0.3 * len(kept)
        text = f"{size} dimensions: {kept[size - 1]:.1f} %"
        axes.annotate(
            text, (size, 4), (5 if right else -5, 0), textcoords="offset points", ha="left" if right else "right"
        )
        axes.set_xscale("log", base=2)
        plain_numbers(axes.xaxis)
        axes.set(xlabel="dimensions", ylabel="variance explained (%)", ylim=(0, 102), xlim=(1, max(2, len(kept))))
        legend_above(figure, axes)
        return inline(figure, f"Cumulative explained variance; {text}")


def overlap_plot(curve: Sequence[Mapping[str, float]]) -> Html:
    """Share of the nearest neighbours that the reduction keeps, against their number, with what chance gives.

    Parameters
    ----------
    curve : sequence of mapping
        ``knn_overlap_curve`` of `edgesea.reduction.kept`: neighbors, overlap, chance.
    """
    if not curve:
        return Html("")
    neighbors = [point["neighbors"] for point in curve]
    with drawing("overlap", WIDTH / 2, 3.4) as figure:
        axes = figure.subplots()
        for key, name, colour, style in (
            ("overlap", "reduced", VARIABLES["reduced"], "o-"),
            ("chance", "chance", MUTED, "--"),
        ):
            shares = [100.0 * point[key] for point in curve]
            axes.plot(neighbors, shares, style, color=colour, markersize=5, label=name)
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set_xticks(neighbors)
        axes.set(xlabel="nearest neighbours", ylabel="kept (%)", ylim=(0, 102))
        legend_above(figure, axes)
        return inline(figure, "Share of the nearest neighbours that the reduction keeps, against their number")


def map_plot(sample: WindowSample, unit: str) -> Html:
    """First two reduced dimensions of a sample of windows, coloured by group and by level.

    The groups are the labels, if there are any, else the sensors, else the splits.
    """
    if not len(sample.points):
        return Html("")
    groups = {"label": sample.labels, "sensor": sample.sensors, "split": sample.splits}
    kind = next((kind for kind, names in groups.items() if any(names)), "split")
    names = groups[kind]
    grouped = len(set(names)) > 1
    with drawing("map", WIDTH, 4.2) as figure:
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        if grouped:
            _by_group(panels[0], sample, names, kind)
            legend_above(figure, panels[0])
        else:
            panels[0].remove()
        _by_level(figure, panels[1], sample, unit)
        for axes in panels:
            axes.set(xlabel="reduced dimension 1")
            axes.margins(0.03)
        panels[0 if grouped else 1].set_ylabel("reduced dimension 2")
        panels[1].tick_params(labelleft=True)
        return inline(figure, f"Windows by their first two reduced dimensions, coloured by {kind} and by level")


def _by_group(axes: "Axes", sample: WindowSample, names: list[str], kind: str) -> None:
    frequent = [name for name, _ in Counter(names).most_common(MOST_GROUPS + 1)]
    if len(frequent) > MOST_GROUPS:
        frequent = frequent[: MOST_GROUPS - 1]
    shown = sorted(frequent, key=natural)
    looks = {name: (GROUPS[i % len(GROUPS)], MARKERS[i // len(GROUPS)]) for i, name in enumerate(shown)}
    order = sorted(range(len(names)), key=lambda i: names[i] in looks)  # the others below
    for marker in MARKERS:
        drawn = [i for i in order if looks.get(names[i], (FITTED, MARKERS[0]))[1] == marker]
        colours = [looks.get(names[i], (FITTED, marker))[0] for i in drawn]
        x, y = sample.points[drawn].T
        axes.scatter(x, y, c=colours, marker=marker, s=_dot(marker), alpha=0.65, linewidths=0)
    entries = [(*looks[name], label(name or "unknown", 14)) for name in shown]
    if len(set(names)) > len(shown):
        entries.append((FITTED, MARKERS[0], OTHERS))
    for colour, marker, text in entries:
        axes.scatter([], [], color=colour, marker=marker, s=2.5 * _dot(marker), linewidths=0, label=text)
    axes.set_title(f"by {kind}")


def _dot(marker: str) -> int:
    """Size of a marker in a crowd: shapes with corners need more room to be told from dots."""
    return 7 if marker == "o" else 11


def _by_level(figure: "Figure", axes: "Axes", sample: WindowSample, unit: str) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.ticker import MaxNLocator

    known = sample.level[np.isfinite(sample.level)]
    low, high = np.percentile(known, (1, 99)) if len(known) else (0.0, 0.0)
    bounds = MaxNLocator(nbins=8).tick_values(low, high if high > low else low + 1.0)
    # Neither end of the map may vanish in a white or a black page.
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.15, 0.92, len(bounds) - 1)))
    norm = BoundaryNorm(bounds, len(bounds) - 1)
    x, y = sample.points.T
    dots = axes.scatter(x, y, c=sample.level, s=7, cmap=colours, norm=norm, alpha=0.8, linewidths=0)
    bar = figure.colorbar(dots, ax=axes, aspect=30, pad=0.02, label=f"level ({unit})")
    bar.outline.set_visible(False)
    axes.set_title("by level")
