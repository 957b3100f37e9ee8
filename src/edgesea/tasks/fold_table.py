"""Tables of data sets with official folds.

The folds of a published data set keep the clips that were cut from one recording together. Tables that do not (edited,
merged or shuffled ones) are refused: a probe would be tested on recordings that it knows.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.rows import Rows, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where a data set with folds has what.

    Attributes
    ----------
    task : str
        Name of the task.
    table : str
        CSV file with one row a clip, below the data set's folder.
    audio : str
        File of a clip, with its ``{file}`` name and its ``{fold}``.
    file, fold, label, recording : str
        Columns: name of the file, fold (1, 2, ...), class, and the recording that the clip was cut from; the last one
        may be missing.
    """

    task: str
    table: str
    audio: str
    file: str
    fold: str
    label: str
    recording: str


def read_folds(data: Path, layout: Layout) -> FoldTask:
    """Read a data set with folds.

    Parameters
    ----------
    data : Path
        Its folder.
    layout : Layout
        What is where in it.

    Raises
    ------
    EdgeseaError
        If the table is missing, a column or a value is, a file is listed twice, or clips of one recording are in
        several folds.
    """
    path = data / layout.table
    if not path.is_file():
        raise EdgeseaError(
            f"{path}: no such file; the task {layout.task} needs {layout.table} and "
            f"{layout.audio.partition('/')[0]}/ below its data folder"
        )
    rows = read_rows(path)
    rows.require([layout.file, layout.fold, layout.label])
    files, labels = rows.text(layout.file), rows.text(layout.label)
    for name, values in ((layout.file, files), (layout.label, labels)):
        rows.refuse((values == "")[:, None], [name], "given")
    numbers = rows.numbers([layout.fold])
    rows.refuse(
        ~((numbers >= 1) & (numbers < 1e9) & (np.floor(numbers) == numbers)), [layout.fold], "a whole number from 1"
    )
    folds = numbers[:, 0].astype(np.int64)
    if repeated := [group for group in _grouped(files).values() if len(group) > 1]:
        places = _places(rows, repeated, folds)
        raise EdgeseaError(f"{path}: {files[repeated[0][0]]} is listed more than once: {places}; keep one of them")
    recordings = _recordings(rows, folds, layout)
    paths = [data / layout.audio.format(file=file, fold=fold) for file, fold in zip(files, folds, strict=True)]
    return FoldTask(layout.task, paths, labels, folds, recordings)


def _grouped(values: NDArray[np.str_]) -> Mapping[str, list[int]]:
    """The rows of each value that is not empty."""
    found = defaultdict(list)
    for row, value in enumerate(values.tolist()):
        if value:
            found[value].append(row)
    return found


def _places(rows: Rows, groups: Sequence[Sequence[int]], folds: NDArray[np.int64]) -> str:
    """Folds and lines of the first group, and how many groups more there are."""
    lines: dict[int, list[int]] = defaultdict(list)
    for row in groups[0]:
        lines[int(folds[row])].append(int(rows.lines[row]))
    places = [
        f"fold {fold} (line {', '.join(map(str, own[:5]))}{', ...' * (len(own) > 5)})" for fold, own in lines.items()
    ]
    return ", ".join(places) + (f"; and {len(groups) - 1} more like it" if len(groups) > 1 else "")


def _recordings(rows: Rows, folds: NDArray[np.int64], layout: Layout) -> NDArray[np.str_] | None:
    """The recordings, if all are known; refuse folds that share one, as far as it is known."""
    names = rows.text(layout.recording) if layout.recording in rows.columns else np.full(len(folds), "")
    unknown = int((names == "").sum())
    if unknown:
        log.info(
            "%s: %d of %d clips have no %s: it is not checked whether their recordings are in one fold only",
            rows.path, unknown, len(names), layout.recording,
        )  # fmt: skip
    leaks = [group for group in _grouped(names).values() if len({int(folds[row]) for row in group}) > 1]
    if leaks:
        raise EdgeseaError(
            f"{rows.path}: clips of the recording {names[leaks[0][0]]} ({layout.recording}) are in several folds: "
            f"{_places(rows, leaks, folds)}; a probe would be tested on recordings that it was trained on: use the "
            "published table, or put each recording into one fold"
        )
    return None if unknown else names
