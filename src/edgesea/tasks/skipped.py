"""Clips of a task that are missing or unusable: which they are, how many may be, and what they must not leave empty."""

import logging
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgesea.audio.io import AudioFile, checked_share
from edgesea.errors import EdgeseaError, say
from edgesea.table.sheet import some, write_skipped

if TYPE_CHECKING:
    from edgesea.tasks.folds import FoldTask
    from edgesea.tasks.sonyc_ust import SonycUst

Skipped = Mapping[Path, str]  # clips, and why they cannot be used
Task: TypeAlias = "FoldTask | SonycUst"


def listing_of(out: Path | None) -> Path | None:
    """The list of clips that scores lack: beside the file of scores, or the folder of a run or a selection."""
    if out is None:
        return None
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.stem if place.suffix == '.json' else place.name}.skipped.csv")


def check_share(text: str, count: int, total: int, max_skipped: float) -> None:
    """EdgeseaError, which begins with `text`, if `count` of `total` clips are more than `max_skipped` allows."""
    if count / total > checked_share("max_skipped", max_skipped):
        enough = math.ceil(1000 * count / total) / 1000
        raise EdgeseaError(f"{text}; complete them, or allow it with max_skipped={enough:g} (now {max_skipped:g})")


def check_openable(task: Task, data: Path, max_skipped: float, listing: Path | None, workers: int | None) -> None:
    """Before any model is loaded or trained: `check_skipped` with the clips that cannot even be opened."""
    check_share("", 0, len(task.paths), max_skipped)

    def problem(path: Path) -> str:
        try:
            with AudioFile(path):
                return ""
        except (EdgeseaError, OSError) as error:
            return str(error).removeprefix(f"{path}: ")

    with ThreadPoolExecutor(workers) as pool:
        found = dict(zip(task.paths, pool.map(problem, task.paths), strict=True))
    check_skipped(task, data, {path: reason for path, reason in found.items() if reason}, max_skipped, listing)


def check_skipped(task: Task, data: Path, skipped: Skipped, max_skipped: float, listing: Path | None) -> None:
    """List the skipped clips in the file `listing`, and say once how many they are.

    EdgeseaError if they are more than the share `max_skipped`, or leave something empty.
    """
    if not skipped:
        if listing is not None:
            listing.unlink(missing_ok=True)  # of an earlier call
        return
    rows = [(path.relative_to(data).as_posix(), reason) for path, reason in skipped.items()]
    where = "out=FILE lists them all"
    if listing is not None:
        try:
            write_skipped(listing, rows)
            where = f"all are in {listing}"
        except OSError as error:
            where = f"{listing} cannot be written: {error.strerror}"
    count, total = len(skipped), len(task.paths)
    text = f"{data}: {count} of {total} clips are missing or unusable (first: {': '.join(rows[0])}; {where})"
    if count == total:
        raise EdgeseaError(f"{text}; no clip is left, and recordings are looked for in {task.paths[0].parent}")
    if empty := task.emptied(np.array([path not in skipped for path in task.paths])):
        remedy = "complete the data set, or delete the rows of these clips from its table"
        raise EdgeseaError(f"{text}, so nothing is left of {some(empty)}; {remedy}")
    check_share(text, count, total, max_skipped)
    say(f"{data}: {count} of {total} clips are missing or unusable; scores are those of the others", logging.WARNING)
