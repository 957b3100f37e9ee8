"""Plots of how the systems do the task: by class, by fold, and which classes they take for which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgesea.report.html import Html, integer
from edgesea.report.svg import INK, LINE, VARIABLES, WIDTH, drawing, inline, label, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 26  # classes in a column of bars
MOST_NAMED = 60  # classes of a confusion matrix whose names can be read
SHADES = 20  # of a cell
OPACITY, BEHIND_NUMBERS = (0.2, 1.0), (0.1, 0.55)  # of the faintest and the strongest; numbers must be readable on it
PANEL = 3.9  # inches of one of two matrices, without the names of the classes
NAME = 22  # letters of a class beside a matrix
SMALL, DIGIT = 7.0, 4.5  # points: size of small text, and width of a digit of it


@dataclass(frozen=True)
class Confusion:
    """How many clips of each class were taken for which.

    Attributes
    ----------
    classes : list of str
        The R true classes.
    columns : list of str
        The C predicted ones: the same, and maybe one for clips that could not be embedded.
    counts : ndarray, (R, C) int64
        Clips.
    """

    classes: list[str]
    columns: list[str]
    counts: NDArray[np.int64]

    @classmethod
    def read(cls, scores: Mapping[str, Any]) -> "Confusion | None":
        """Of a system's scores; None if they have none."""
        found = scores.get("confusion")
        if not found or not found["counts"]:
            return None
        counts = np.array(found["counts"], np.int64)
        columns = found.get("columns", found["classes"])
        return cls(found["classes"][: counts.shape[0]], columns[: counts.shape[1]], counts)

    @property
    def clips(self) -> dict[str, int]:
        """Clips of each true class."""
        return dict(zip(self.classes, self.counts.sum(1).tolist(), strict=True))

    @property
    def shares(self) -> NDArray[np.float64]:
        """Counts as shares of their rows; 0 where a class has no clip."""
        return np.asarray(self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1))

    def most_frequent(self, most: int | None = None) -> list[tuple[str, str, int, float]]:
        """The pairs of classes that are confused most often: the true one, the other, clips, share of the true one's.

        Of equally many clips, those that are a larger share of their class come first.
        """
        size = len(self.classes)
        wrong = self.counts[:, :size] * ~np.eye(size, dtype=bool)
        rows, columns = np.nonzero(wrong)
        pairs = sorted(
            zip(rows.tolist(), columns.tolist(), strict=True),
            key=lambda pair: (-wrong[pair], -self.shares[pair], pair),
        )
        return [
            (self.classes[row], self.classes[column], int(wrong[row, column]), float(self.shares[row, column]))
            for row, column in pairs[:most]
        ]


def class_plot(
    scores: Mapping[str, Mapping[str, float | None]], metric: str, best: float, clips: Mapping[str, int] | None = None
) -> Html:
    """Scores by class, one bar for each system.

    Parameters
    ----------
    scores : mapping of system to mapping of class to score
        None: the class has no score.
    metric : str
        Name of the score, with its unit.
    best : float
        The highest possible score: the end of the axis.
    clips : mapping of class to int, optional
        Clips of each class, to be shown beside its name.
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
            shown = [
                f"{label(name)} ({integer(clips[name])})" if clips and name in clips else label(name) for name in part
            ]
            axes.set_yticks(range(len(part)), shown)
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


def confusion_plot(confusions: Mapping[str, Confusion]) -> Html:
    """Confusion matrices side by side: rows are true classes, columns those predicted, colours shares of the row.

    Parameters
    ----------
    confusions : mapping of system to Confusion
        Of the same classes. Numbers of clips are written where they fit, names where they can be read.
    """
    rows = max((own.classes for own in confusions.values()), key=len)
    columns = max((own.columns for own in confusions.values()), key=len)
    pitch, numbered = _pitch(columns), is_numbered(confusions)
    named = max(len(rows), len(columns)) <= MOST_NAMED
    height = min(max(pitch / 72, 0.13 if named else 0.0), 0.42)
    with drawing("confusion", WIDTH, 1.6 + height * len(rows) + (0.8 if pitch < SMALL + 1.5 else 0.0)) as figure:
        panels = figure.subplots(1, max(2, len(confusions)), sharex=True, sharey=True)
        for axes in panels[len(confusions) :]:
            axes.remove()
        for axes, (system, own) in zip(panels, confusions.items(), strict=False):
            _cells(axes, own.shares, VARIABLES[system], BEHIND_NUMBERS if numbered else OPACITY)
            if numbered:
                _write_counts(axes, own.counts)
            _name_columns(axes, columns if named else [], pitch)
            axes.set(title=system, xlabel="taken for", xlim=(0, len(columns)), ylim=(len(rows), 0))
            axes.spines[:].set(visible=True, color=LINE)
        panels[0].set_yticks(
            np.arange(len(rows)) + 0.5 if named else [], [label(n, NAME) for n in rows] if named else []
        )
        panels[0].set_ylabel("class")
        most = [f"{name} taken for {other}: {count}" for name, other, count, _ in own.most_frequent(3)]
        told = f"; most frequent confusions of the {system}: {', '.join(most)}" if most else ""
        return inline(figure, f"Confusion matrices of {' and '.join(confusions)}{told}")


def is_numbered(confusions: Mapping[str, Confusion]) -> bool:
    """Whether the numbers of clips fit into the cells of `confusion_plot`."""
    largest = max(int(own.counts.max()) for own in confusions.values())
    return all(_pitch(own.columns) >= DIGIT * len(integer(largest)) + 2 for own in confusions.values())


def _pitch(columns: Sequence[str]) -> float:
    """Points from one column of a matrix to the next."""
    return 72 * PANEL / len(columns)


def _cells(axes: "Axes", shares: NDArray[np.float64], colour: str, opacity: tuple[float, float]) -> None:
    """A cell for each share that is not 0. Those of a shade are one path: a file of thousands would be slow to show."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    shades = np.ceil(SHADES * shares - 1e-9).astype(int)
    axes.grid(visible=False)
    for shade in np.unique(shades[shades > 0]):
        cells = np.argwhere(shades == shade)
        path = Path((cells[:, None, ::-1] + corners).reshape(-1, 2), codes * len(cells))
        alpha = float(np.interp(shade, (1, SHADES), opacity))
        axes.add_patch(PathPatch(path, facecolor=colour, alpha=alpha, linewidth=0))


def _write_counts(axes: "Axes", counts: NDArray[np.int64]) -> None:
    for row, column in np.argwhere(counts > 0):
        shown = integer(counts[row, column])
        axes.text(column + 0.5, row + 0.5, shown, ha="center", va="center", color=INK, fontsize=SMALL)


def _name_columns(axes: "Axes", names: Sequence[str], pitch: float) -> None:
    """Names of the columns; where they stand too close, every other one above the matrix; lines lead to them."""
    shown = [label(name, NAME) for name in names]
    places = np.arange(len(names)) + 0.5
    axes.tick_params(length=0)
    if pitch >= SMALL + 1.5:
        upright = any(DIGIT * len(name) > pitch for name in shown)
        axes.set_xticks(places, shown, rotation=90 if upright else 0)
        return
    axes.set_xticks(places[::2], shown[::2], rotation=90)
    axes.set_xticks(places[1::2], shown[1::2], rotation=90, minor=True)
    axes.tick_params(axis="x", which="minor", length=0, labeltop=True, labelbottom=False)
    axes.tick_params(axis="both", which="both", labelsize=SMALL)
    axes.grid(visible=True, which="both", axis="both", alpha=0.5)
