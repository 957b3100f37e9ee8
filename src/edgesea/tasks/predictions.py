"""Tables of predictions, in the layout of DCASE's urban sound tagging challenge.

A table of predictions has a row for each clip and the columns ``audio_filename``, every fine tag (the incomplete ones
too), every coarse tag; values are probabilities.
"""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import atomic_path
from edgesea.errors import EdgeseaError
from edgesea.tasks.rows import CLIP, Rows, read_rows, some
from edgesea.tasks.taxonomy import Taxonomy, check_tag_columns

Level = Literal["coarse", "fine"]
log = logging.getLogger(__name__)


def read_predictions(path: Path, taxonomy: Taxonomy, level: Level) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Read the scores of one level.

    Parameters
    ----------
    path : Path
        Columns other than tags are ignored, and so are the values of the other level.
    taxonomy : Taxonomy
        The tags.
    level : {"coarse", "fine"}
        Which tags' scores to read. Incomplete fine tags may lack a column; then their scores are 0, as in the
        challenge's own evaluation.

    Returns
    -------
    clips : ndarray of str, (N,)
        In the order of the file.
    scores : ndarray, (N, C) or (N, F) float64
        In [0, 1].

    Raises
    ------
    EdgeseaError
        If the file cannot be read; a column is missing, or is of a tag that the taxonomy does not have; a clip has
        several rows; or a score is no number in [0, 1].
    """
    rows = read_rows(path)
    return rows.distinct_clips(), _scores(rows, taxonomy, level)


def _scores(rows: Rows, taxonomy: Taxonomy, level: Level) -> NDArray[np.float64]:
    check_tag_columns(rows.path, rows.columns, taxonomy)
    tags = taxonomy.coarse if level == "coarse" else taxonomy.fine
    optional = set(taxonomy.fine) - set(taxonomy.complete)
    present = [tag for tag in tags if tag in rows.columns or tag not in optional]
    rows.require(present)
    if absent := [tag for tag in tags if tag not in present]:
        log.warning("%s: no column %s; their scores are taken to be 0", rows.path, some(absent))
    read = rows.numbers(present)
    rows.refuse(~((read >= 0) & (read <= 1)), present, "a number from 0 to 1")
    scores = np.zeros((len(read), len(tags)))
    scores[:, [tags.index(tag) for tag in present]] = read
    return scores


def read_levels(path: Path, taxonomy: Taxonomy) -> tuple[NDArray[np.str_], dict[Level, NDArray[np.float64]]]:
    """Read the scores of the levels that a table predicts: it has columns of them, in which not all is 0.

    A classifier of coarse tags leaves zeros in the columns of fine ones.

    Returns
    -------
    clips : ndarray of str, (N,)
        In the order of the file.
    scores : dict
        By level, as of `read_predictions`.

    Raises
    ------
    EdgeseaError
        As `read_predictions`; or if no level is predicted.
    """
    rows = read_rows(path)
    levels: dict[Level, tuple[str, ...]] = {"coarse": taxonomy.coarse, "fine": taxonomy.complete}
    predicted = [level for level, tags in levels.items() if any(tag in rows.columns for tag in tags)]
    scores = {level: _scores(rows, taxonomy, level) for level in predicted}
    found = {level: own for level, own in scores.items() if own.any()}
    if not found:
        raise EdgeseaError(f"{path}: no tag of {', '.join(taxonomy.coarse[:2])}, ... has a column with scores above 0")
    return rows.distinct_clips(), found


def matching(
    predicted: NDArray[np.str_], true: NDArray[np.str_], path_of_predictions: Path, path_of_truth: Path
) -> NDArray[np.int64]:
    """Where each clip of the ground truth is among those predicted.

    Parameters
    ----------
    predicted, true : ndarray of str, (N,)
        Clips, each once.
    path_of_predictions, path_of_truth : Path
        Where they are from, for the message.

    Returns
    -------
    ndarray, (N,) int64
        ``predicted[indices]`` equals `true`.

    Raises
    ------
    EdgeseaError
        If a clip is in one of them only.
    """
    missing, extra = np.setdiff1d(true, predicted), np.setdiff1d(predicted, true)
    wrong = []
    if len(missing):
        wrong.append(
            f"{len(missing)} of the {len(true)} clips to be judged of {path_of_truth} are missing: {some(missing)}"
        )
    if len(extra):
        wrong.append(f"{len(extra)} clips are not among those to be judged of {path_of_truth}: {some(extra)}")
    if wrong:
        raise EdgeseaError(
            f"{path_of_predictions}: {'; '.join(wrong)}; it needs exactly the clips to be judged, the verified ones of "
            "the split"
        )
    order = np.argsort(predicted)
    return order[np.searchsorted(predicted, true, sorter=order)].astype(np.int64)


def write_predictions(
    path: Path, taxonomy: Taxonomy, clips: Sequence[str] | NDArray[np.str_], scores: NDArray[np.floating], level: Level
) -> None:
    """Write a table of predictions; what `read_predictions` reads from it are the same scores to the last bit.

    Parameters
    ----------
    path : Path
        The file, which is replaced if it is there.
    taxonomy : Taxonomy
        The tags.
    clips : sequence of str, (N,)
        Each once.
    scores : ndarray, (N, C) or (N, complete fine tags)
        In [0, 1]. Of fine tags: incomplete ones get 0, coarse ones the highest score of their fine tags. Of coarse
        tags: all fine ones get 0.
    level : {"coarse", "fine"}
        Whose scores these are.

    Raises
    ------
    EdgeseaError
        If a score is not in [0, 1], or clips and scores do not fit together.
    """
    width = len(taxonomy.coarse if level == "coarse" else taxonomy.complete)
    values = np.asarray(scores, np.float64)
    if values.shape != (len(clips), width):
        raise EdgeseaError(
            f"{path}: scores must be ({len(clips)}, {width}), clips and {level} tags, not {values.shape}"
        )
    if len(set(map(str, clips))) < len(clips):
        raise EdgeseaError(f"{path}: a clip must have one row of scores, and some have several")
    if len(wrong := values[~((values >= 0) & (values <= 1))]):
        raise EdgeseaError(f"{path}: scores must lie in [0, 1], and {len(wrong)} do not; the first is {wrong[0]}")
    fine, coarse = np.zeros((len(clips), len(taxonomy.fine))), values
    if level == "fine":
        fine, coarse = taxonomy.every_score(values)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([CLIP, *taxonomy.fine, *taxonomy.coarse])
        for clip, row in zip(clips, np.hstack([fine, coarse]).tolist(), strict=True):
            writer.writerow([str(clip), *row])
