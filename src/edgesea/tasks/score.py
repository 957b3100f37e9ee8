"""``score``: the official scores of a file of predictions, whoever made it."""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)


def score(
    predictions: Path,
    *,
    data: Path | None = None,
    split: Literal["validate", "test"] = "validate",
    split_path: Path | None = None,
    ties: Literal["threshold", "published"] = "threshold",
    resamples: int = 1000,
    out: Path | None = None,
) -> dict[str, Any]:
    """Score predictions of SONYC-UST in the challenge's layout, ours or another system's.

    Parameters
    ----------
    predictions : Path
        CSV file: audio_filename, and a column of probabilities for each tag.
    data : Path, optional
        The data set's folder (annotations.csv, dcase-ust-taxonomy.yaml), or a CSV file of annotations with the taxonomy
        beside it: the published annotations, or a table with one row per clip. Default: the predictions' folder.
    split : {"validate", "test"}
        Split whose verified clips are judged: those whose labels are all given.
    split_path : Path, optional
        CSV file with other splits, as of `edgesea evaluate --tagging.split_path`.
    ties : {"threshold", "published"}
        Order of points of equal recall. threshold: by decreasing threshold, the well-defined curve. published: as the
        challenge's own script left them, with which published figures are met.
    resamples : int
        Bootstrap resamples of the clips for 95 % confidence intervals; 0: none.
    out : Path, optional
        JSON file for the scores.

    Returns
    -------
    dict
        coarse and fine (as far as they are predicted and labels are given): micro_auprc, macro_auprc, micro_f1, lwlrap,
        class_auprc, confidence, clips.

    Raises
    ------
    EdgeseaError
        If a file is unusable, or predictions and annotations are not of the same clips.
    """
    from edgesea.tasks.annotations import read_ground_truth
    from edgesea.tasks.predictions import matching, read_levels
    from edgesea.tasks.sonyc_ust import ANNOTATIONS, TAXONOMY, level_scores
    from edgesea.tasks.taxonomy import read_taxonomy

    predictions = Path(predictions)
    place = predictions.parent if data is None else Path(data)
    truth_path = place if place.is_file() else place / ANNOTATIONS
    if not truth_path.is_file():
        raise EdgeseaError(f"{truth_path}: no such file; give the folder of SONYC-UST, or its annotations, as --data")
    taxonomy = read_taxonomy(truth_path.parent / TAXONOMY)
    truth = read_ground_truth(truth_path, taxonomy, split, split_path)
    clips, predicted = read_levels(predictions, taxonomy)
    result: dict[str, Any] = {"ties": ties}
    for level, scores in predicted.items():
        labels = truth.coarse if level == "coarse" else truth.fine
        judged = (labels >= 0).all(1)
        if not judged.any():
            log.warning("%s: no clip has all %s labels; these scores are not judged", truth_path, level)
            continue
        if not judged.all():
            log.warning("%s: %d clips without all %s labels are left out", truth_path, (~judged).sum(), level)
        kept = np.flatnonzero(~np.isin(clips, truth.clips[~judged]))
        order = kept[matching(clips[kept], truth.clips[judged], predictions, truth_path)]
        result[level] = level_scores(level, labels[judged], scores[order], taxonomy, resamples, ties)
    if "coarse" not in result and "fine" not in result:
        raise EdgeseaError(f"{truth_path}: no clip has labels of what {predictions} predicts: {', '.join(predicted)}")
    if out is not None:
        write_json(Path(out), result)
    return result
