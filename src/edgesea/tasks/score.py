"""``score``: the official scores of a file of predictions, whoever made it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError

if TYPE_CHECKING:
    from edgesea.tasks.metrics import Ties
    from edgesea.tasks.sonyc_ust import Level

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
        Split whose verified clips are scored: those whose labels are all given.
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
    place = Path(predictions).parent if data is None else Path(data)
    truth = place if place.is_file() else place / "annotations.csv"
    if not truth.is_file():
        raise EdgeseaError(f"{truth}: no such file; give the folder of SONYC-UST, or its annotations, as --data")
    taxonomy = truth.parent / "dcase-ust-taxonomy.yaml"
    result = {"ties": ties, **score_file(Path(predictions), truth, taxonomy, split, split_path, ties, resamples)}
    if out is not None:
        write_json(Path(out), result)
    return result


def score_file(
    predictions: Path,
    annotations: Path,
    taxonomy: Path,
    split: str = "validate",
    split_path: Path | None = None,
    ties: "Ties" = "threshold",
    resamples: int = 0,
    levels: "Sequence[Level] | None" = None,
) -> dict[str, Any]:
    """The scores of `score` by level: of those given, or else as far as they are predicted and labels are given."""
    from edgesea.tasks.annotations import read_ground_truth, read_taxonomy
    from edgesea.tasks.csv_table import some
    from edgesea.tasks.sonyc_ust import level_scores, read_predictions

    tags = read_taxonomy(taxonomy)
    truth = read_ground_truth(annotations, tags, split, split_path)
    predicted = read_predictions(predictions, tags, levels)
    result: dict[str, Any] = {}
    for level, scores in predicted.items():
        labels = truth.coarse if level == "coarse" else truth.fine
        complete = (labels >= 0).all(1)
        if not complete.all():
            log.warning("%s: %d clips without all %s labels are left out", annotations, (~complete).sum(), level)
        if not complete.any():
            continue
        scores, clips = scores.drop(truth.clips[~complete], errors="ignore"), truth.clips[complete].tolist()
        wrong = {"missing": sorted(set(clips) - set(scores.index)), "too many": sorted(set(scores.index) - set(clips))}
        if any(wrong.values()):
            found = "; ".join(f"{len(names)} are {what}: {some(names)}" for what, names in wrong.items() if names)
            raise EdgeseaError(
                f"{predictions}: needs exactly the {len(clips)} verified clips of {annotations}; {found}"
            )
        result[level] = level_scores(level, labels[complete], scores.loc[clips].to_numpy(), tags, resamples, ties)
    if not result:
        raise EdgeseaError(f"{annotations}: no clip has labels of what {predictions} predicts: {', '.join(predicted)}")
    return result
