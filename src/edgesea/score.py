"""``score``: the official scores of a file of predictions, whoever made it."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.files import write_json


def score(
    predictions: Path,
    *,
    data: Path | None = None,
    split: Literal["validate", "test"] = "validate",
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
        Split whose verified clips are judged.
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
        coarse and fine (as far as labels are given): micro_auprc, macro_auprc, micro_f1, lwlrap, class_auprc,
        confidence; clips.

    Raises
    ------
    EdgeseaError
        If a file is unusable, or predictions and annotations are not of the same clips.
    """
    from edgesea.tasks.annotations import read_ground_truth
    from edgesea.tasks.predictions import Level, matching, predicted_levels, read_predictions
    from edgesea.tasks.sonyc_ust import ANNOTATIONS, TAXONOMY, level_scores
    from edgesea.tasks.taxonomy import read_taxonomy

    predictions = Path(predictions)
    place = predictions.parent if data is None else Path(data)
    truth_path = place if place.is_file() else place / ANNOTATIONS
    if not truth_path.is_file():
        raise EdgeseaError(f"{truth_path}: no such file; give the folder of SONYC-UST, or its annotations, as --data")
    taxonomy = read_taxonomy(truth_path.parent / TAXONOMY)
    truth = read_ground_truth(truth_path, taxonomy, split)
    labels = {"coarse": truth.coarse, "fine": truth.fine}
    levels = [level for level in predicted_levels(predictions, taxonomy) if not (labels[level] < 0).any()]
    if not levels:
        given = " and ".join(level for level in labels if not (labels[level] < 0).any()) or "neither coarse nor fine"
        raise EdgeseaError(f"{predictions}: no tags to score; in {truth_path} {given} labels of all clips are given")
    found: dict[Level, NDArray[np.float64]] = {}
    for level in levels:
        clips, scores = read_predictions(predictions, taxonomy, level)
        found[level] = scores[matching(clips, truth.clips, predictions, truth_path)]
    scored = level_scores(truth, taxonomy, found, resamples, ties)
    result: dict[str, Any] = {level: scored[level] for level in scored} | {"ties": ties, "clips": len(truth)}
    if out is not None:
        write_json(Path(out), result)
    return result
