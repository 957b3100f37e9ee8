"""Plots of the data: levels, and where the subset comes from."""

from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesea.report.data import Frame, TableSummary, natural
from edgesea.report.html import Html
from edgesea.report.svg import FITTED, VARIABLES, WIDTH, drawing, inline, label, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SENSORS, MOST_DAYS, MOST_NUMBERS = 40, 42, 160


def level_plot(summary: TableSummary, unit: str) -> Html:
    """Histogram of the levels of all windows and of the subset, each in percent of its windows."""
    if not summary.levels:
        return Html("")
    first, last = min(summary.levels), max(summary.levels)
    width = max(1, -(-(last - first + 1) // 60))  # dB in a bin
    edges = np.arange(first, last + width + 1, width)
    with drawing("levels", WIDTH / 2, 2.9) as figure:
        axes = figure.subplots()
        shares = _shares(summary.levels, edges)
        axes.stairs(shares, edges, fill=True, color=FITTED, alpha=0.45, label="table")
        if summary.chosen_levels:
            chosen = _shares(summary.chosen_levels, edges)
            axes.stairs(chosen, edges, color=VARIABLES["reduced"], linewidth=1.8, label="subset")
        axes.set(xlabel=f"level of a window ({unit})", ylabel=f"windows (% in {width} dB)", ylim=(0, None))
        axes.grid(visible=False, axis="x")
        legend_above(figure, axes)
        return inline(figure, "Histogram of the levels of the windows of the table and of the subset")


def _shares(levels: Counter[int], edges: "np.typing.NDArray[np.int64]") -> "np.typing.NDArray[np.float64]":
    counts, _ = np.histogram(list(levels), edges, weights=list(levels.values()))
    return np.asarray(100.0 * counts / levels.total())


def frames_plot(summary: TableSummary, chosen: bool) -> Html:
    """Windows by sensor and day (`chosen`: of the subset, else of the table), as far as these are known."""
    which = int(chosen)
    if len(summary.sensors) > 1 and len(summary.days) > 1:
        return _frame_map(summary, which)
    known, axis = (summary.sensors, 0) if len(summary.sensors) > 1 else (summary.days, 1)
    if len(known) < 2:
        return Html("")
    totals: Counter[str] = Counter()
    for frame, counts in summary.frames.items():
        totals[frame[axis]] += counts[which]
    names = known if axis else sorted((name for name, _ in totals.most_common(MOST_SENSORS)), key=natural)
    with drawing("frames", WIDTH / 2, 2.9) as figure:
        axes = figure.subplots()
        axes.bar(range(len(names)), [totals[name] for name in names], color=VARIABLES["reduced"], width=0.8)
        step = -(-len(names) // 16)
        axes.set_xticks(range(0, len(names), step), [label(name or "?", 12) for name in names[::step]], rotation=90)
        axes.set(xlabel=("sensor", "day")[axis], ylabel="windows in the subset" if chosen else "windows")
        axes.grid(visible=False, axis="x")
        return inline(figure, f"Windows by {('sensor', 'day')[axis]}")


def _frame_map(summary: TableSummary, which: int) -> Html:
    """Sensors x days, coloured by the number of windows."""
    from matplotlib.ticker import MaxNLocator

    by_sensor: Counter[str] = Counter()
    for (sensor, _), counts in summary.frames.items():
        by_sensor[sensor] += counts[0]
    sensors = sorted((name for name, _ in by_sensor.most_common(MOST_SENSORS)), key=natural)
    periods, unit = _periods(summary.frames)
    columns = sorted(set(periods.values()))
    grid = np.full((len(sensors), len(columns)), np.nan)
    places = {name: row for row, name in enumerate(sensors)}
    for (sensor, day), counts in summary.frames.items():
        if sensor in places:
            cell = places[sensor], columns.index(periods[day])
            grid[cell] = np.nansum([grid[cell], counts[which]])
    width = WIDTH if max(grid.shape) > 12 else WIDTH / 2
    with drawing("frames", width, max(2.9, 1.3 + 0.17 * len(sensors))) as figure:
        axes = figure.subplots()
        mesh = axes.pcolormesh(np.ma.masked_invalid(grid), cmap="cividis", vmin=0, linewidth=0)
        axes.set_yticks(np.arange(len(sensors)) + 0.5, [label(name or "?", 16) for name in sensors])
        step = -(-len(columns) // 14)
        ticks = np.arange(0, len(columns), step)
        axes.set_xticks(ticks + 0.5, [columns[i] or "?" for i in ticks], rotation=90 if len(columns) > 4 else 0)
        axes.set(xlabel=unit, ylabel="sensor")
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        if grid.size <= MOST_NUMBERS:
            _write_numbers(axes, grid)
        bar = figure.colorbar(mesh, ax=axes, label="windows in the subset" if which else "windows", aspect=30, pad=0.02)
        bar.locator = MaxNLocator(nbins=5, integer=True)
        bar.outline.set_visible(False)
        return inline(figure, "Number of windows of each sensor and day")


def _write_numbers(axes: "Axes", grid: "np.typing.NDArray[np.float64]") -> None:
    largest = np.nanmax(grid)
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "#000000" if value > 0.6 * largest else "#ffffff"
            axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7)


def _periods(frames: dict[Frame, Any]) -> tuple[dict[str, str], str]:
    """Days, ISO weeks, months or years: the finest of which there are at most `MOST_DAYS`."""
    days = {day for _, day in frames}

    def week(day: str) -> str:
        year, number, _ = date.fromisoformat(day).isocalendar()
        return f"{year}-W{number:02d}"

    names: dict[str, Callable[[str], str]] = {
        "day": str,
        "week": week,
        "month": lambda day: day[:7],
        "year": lambda day: day[:4],
    }
    for unit, name in names.items():
        periods = {day: name(day) if day else "" for day in days}
        if len(set(periods.values())) <= MOST_DAYS or unit == "year":
            return periods, unit
    raise AssertionError
