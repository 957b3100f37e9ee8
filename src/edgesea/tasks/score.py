"""``score``: the official scores of a file of predictions, whoever made it."""

from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import write_json
from edgesea.errors import EdgeseaError


def score(
    predictions: Path,
    *,
    data: Path | None = None,
    split: Literal["validate", "test"] = "validate",
    split_path: Path | None = None,
    ties: Literal["threshold", "published"] = "threshold",
    resamples: int = 1000,
    out: Path | None = None,
    max_skipped: float = 0.0,
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
        challenge's own script left them, with which published figures are met. Also of tags of equal scores in lwlrap:
        threshold: the later one ranks higher; published: as the sort of its reference implementation left them.
    resamples : int
        Bootstrap resamples of the clips for 95 % confidence intervals; 0: none.
    out : Path, optional
        JSON file for the scores.
    max_skipped : float
        Largest share of the clips that may lack predictions; the scores are those of the others.

    Returns
    -------
    dict
        coarse and fine (as far as they are predicted and labels are given): micro_auprc, macro_auprc, micro_f1, lwlrap,
        class_auprc, confidence, clips, and, if some lack predictions, skipped.

    EdgeseaError: a file is unusable, predictions are of other clips than the annotations or lack too many, or a tag of
    which there are clips has none with predictions.
    """
    from edgesea.tasks.annotations import read_ground_truth, read_taxonomy
    from edgesea.tasks.sonyc_ust import read_predictions, score_levels

    path = Path(predictions)
    place = path.parent if data is None else Path(data)
    annotations = place if place.is_file() else place / "annotations.csv"
    if not annotations.is_file():
        raise EdgeseaError(f"{annotations}: not found; --data is the folder of SONYC-UST or a table with its taxonomy")
    taxonomy = read_taxonomy(annotations.parent / "dcase-ust-taxonomy.yaml")
    truth = read_ground_truth(annotations, taxonomy, split, split_path)
    predicted = read_predictions(path, taxonomy)
    scores = score_levels(path, predicted, truth, taxonomy, ties, resamples, max_skipped)
    result: dict[str, Any] = {"ties": ties, **scores}
    if out is not None:
        write_json(Path(out), result)
    return result
