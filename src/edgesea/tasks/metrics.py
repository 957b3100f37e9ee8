"""Scores of tagging (several tags a clip) and of classification (one class a clip).

Conventions
-----------
* Labels are 0 or 1, predictions are scores in [0, 1]; both have shape (clips, tags).
* The precision-recall curve is that of DCASE 2020 task 5 (SONYC-UST; Cartwright et al., 2020). A class has a point for
  each distinct score of at least 0.01 of its tags, used as a threshold (``score >= threshold`` is positive), and one
  for the threshold 1. Where nothing is predicted, precision is 0. The curve begins at (recall 0, precision 1) and ends
  at (1, 0); its area (AUPRC) is that of the trapezoids.
* *Fine tags* are scored by coarse class. A class has complete tags and maybe an incomplete one (X: the coarse class is
  certain, the fine tag is not), whose scores are no thresholds. In each clip, complete tags count one by one, but for
  false positives where X is true. Beyond these, a clip is a true positive if X is true and something of the class is
  predicted, but no true complete tag; a false negative if X is the only true tag and nothing is predicted; a false
  positive if no tag is true and X is predicted, but not all complete tags are.
* *Micro*: at each threshold of any class, the classes' counts are added, of each at its smallest own threshold that is
  not below. F1 is that of the smallest such threshold of at least 0.5. *Macro*: the mean of the classes' areas.
* A class without a positive clip has no area: None, and the mean leaves it out. The challenge's script counts it as 0.
* Recall never falls as the threshold does, but it may stay. ``ties="threshold"``: such points are in the order of
  decreasing threshold, the well-defined curve. ``ties="published"``: they are in the order in which the challenge's
  script left them, which sorted by recall with numpy's introsort, an unstable sort: per class from the list by
  decreasing threshold, for micro from the list by increasing threshold. This meets the published scores to rounding.
  From numpy 1.25 (2.0) on, that script gives other areas on processors with AVX-512 (AVX2), where numpy sorts anew.
* lwlrap (label-weighted label-ranking average precision; Ellis and Fonseca, 2019): the mean, over all positive labels,
  of the precision among the tags ranked at least as high in the clip. Of equal scores the later tag ranks higher, as in
  the reference implementation. Of fine tags the complete ones are ranked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.tasks.taxonomy import Taxonomy, read_taxonomy

Float64 = NDArray[np.float64]
Labels = NDArray[np.number] | NDArray[np.bool_]
Ties = Literal["threshold", "published"]
MIN_THRESHOLD = 0.01
# How the introsort of the published scores orders twenty equal values.
INTROSORT = (0, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 18, 19)


class Counts(NamedTuple):
    """Hits and errors at M thresholds, the highest first.

    Attributes
    ----------
    threshold : ndarray, (M,) float64
    true_positives, false_positives, false_negatives : ndarray, (M,) int64
    """

    threshold: Float64
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]


def validate(labels: Labels, scores: NDArray[np.floating]) -> None:
    """Raise EdgeseaError unless labels (N, K) are 0 or 1 and scores (N, K) lie in [0, 1]."""
    if labels.shape != scores.shape or labels.ndim != 2 or not labels.size:
        raise EdgeseaError(f"labels {labels.shape} and scores {scores.shape} must have the same shape (clips, tags)")
    if not ((labels == 0) | (labels == 1)).all():
        raise EdgeseaError("labels must be 0 or 1; leave out clips whose labels are not given")
    if not (scores.min() >= 0 and scores.max() <= 1):  # false of NaN
        raise EdgeseaError("scores must lie in [0, 1]")


def confusion_counts(
    labels: Labels,
    scores: NDArray[np.floating],
    incomplete: Labels | None = None,
    incomplete_scores: NDArray[np.floating] | None = None,
) -> Counts:
    """Hits and errors of one class at its own thresholds.

    Every count is the number of clips or tags that are predicted at a threshold, or a difference of two such numbers:
    one sort each, however many thresholds there are.

    Parameters
    ----------
    labels, scores : ndarray, (N, K)
        Of its complete tags; a coarse class is its only one.
    incomplete, incomplete_scores : ndarray, (N,), optional
        Of its incomplete tag.

    Returns
    -------
    Counts
    """
    true, own = labels == 1, np.asarray(scores, np.float64)
    threshold = np.unique(np.append(own[own >= MIN_THRESHOLD], 1.0))[::-1]

    def reached(values: Float64) -> NDArray[np.int64]:
        """How many of the values are predicted at each threshold."""
        return values.size - np.searchsorted(np.sort(values, axis=None), threshold)

    hits = reached(own[true])
    missed = np.count_nonzero(true) - hits
    if incomplete is None or incomplete_scores is None:
        return Counts(threshold, hits, reached(own[~true]), missed)
    vague, vague_scores = incomplete == 1, np.asarray(incomplete_scores, np.float64)
    only, nothing = vague & ~true.any(1), ~vague & ~true.any(1)
    any_tag = np.maximum(own.max(1, initial=0), vague_scores)  # the threshold up to which any tag is predicted
    true_tag = np.where(true, own, -1).max(1, initial=-1)
    all_tags = own.min(1, initial=1)
    hits = hits + reached(any_tag[vague]) - reached(true_tag[vague])
    missed = missed + np.count_nonzero(only) - reached(any_tag[only])
    wrong = reached(own[~true & ~vague[:, None]])
    wrong = wrong + reached(vague_scores[nothing]) - reached(np.minimum(vague_scores, all_tags)[nothing])
    return Counts(threshold, hits, wrong, missed)


def pool(classes: Sequence[Counts]) -> Counts:
    """Sum the counts of classes, at all their thresholds; see *Micro* above."""
    threshold = np.concatenate([counts.threshold for counts in classes])
    order = np.argsort(threshold)[::-1]
    threshold = threshold[order]
    last = np.append(threshold[1:] != threshold[:-1], True)  # by then all classes have taken the step to a threshold
    summed = []
    for field in range(1, len(Counts._fields)):
        steps = np.concatenate([np.diff(counts[field], prepend=0) for counts in classes])
        summed.append(np.cumsum(steps[order])[last])
    return Counts(threshold[last], *summed)


def precision_recall(counts: Counts) -> tuple[Float64, Float64]:
    """Precision and recall, (M,) each, by decreasing threshold; 0 where they are 0 / 0."""
    _, hits, wrong, missed = counts
    return hits / np.maximum(hits + wrong, 1), hits / np.maximum(hits + missed, 1)


def _area(counts: Counts, ties: Ties, rising: bool = False) -> float | None:
    """Area under the curve of some counts, which the challenge lists by `rising` threshold; None without positives."""
    if not counts.true_positives[0] + counts.false_negatives[0]:
        return None
    precision, recall = precision_recall(counts)
    if ties == "published":
        step = -1 if rising else 1
        order = _introsort(recall[::step])
        precision, recall = precision[::step][order], recall[::step][order]
    precision, recall = np.r_[1.0, precision, 0.0], np.r_[0.0, recall, 1.0]
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def _introsort(values: Float64) -> NDArray[np.intp]:
    """Argsort as numpy did when the challenge's scores were published.

    Only of common types has numpy a newer sort: it keeps the introsort for extended precision. Raises EdgeseaError with
    a numpy that does not.
    """
    if tuple(np.argsort(np.zeros(len(INTROSORT), np.longdouble)).tolist()) != INTROSORT:
        raise EdgeseaError(f"ties='published': numpy {np.__version__} has no introsort; use ties='threshold'")
    return np.argsort(values.astype(np.longdouble))


def auprc(labels: Labels, scores: NDArray[np.floating], ties: Ties = "threshold") -> float | None:
    """Area under the precision-recall curve of labels (N,) and scores (N,); None if there is no positive label."""
    return _area(confusion_counts(labels[:, None], scores[:, None]), ties)


def tagging_scores(
    labels: Labels, scores: NDArray[np.floating], names: Sequence[str], ties: Ties = "threshold"
) -> dict[str, Any]:
    """Scores of tags that are classes of their own, such as the coarse ones of SONYC-UST.

    Parameters
    ----------
    labels, scores : ndarray, (N, K)
        0 or 1; scores in [0, 1].
    names : sequence of str
        The K tags.
    ties : {"threshold", "published"}
        Order of points of equal recall.

    Returns
    -------
    dict
        micro_auprc, micro_f1, macro_auprc, class_auprc (by name), lwlrap. A score without a positive label is None, F1
        without a hit is 0.

    Raises
    ------
    EdgeseaError
        If shapes or values are not as stated.
    """
    validate(labels, scores)
    classes = [confusion_counts(labels[:, [tag]], scores[:, [tag]]) for tag in range(labels.shape[1])]
    return {**_class_scores(classes, names, ties), "lwlrap": lwlrap(labels, scores)[0]}


def fine_scores(
    labels: Labels, scores: NDArray[np.floating], taxonomy: Taxonomy, ties: Ties = "threshold"
) -> dict[str, Any]:
    """Scores of fine tags, by coarse class.

    Parameters
    ----------
    labels, scores : ndarray, (N, F)
        Of all fine tags of the taxonomy, the incomplete ones too: 0 or 1; scores in [0, 1].
    taxonomy : Taxonomy
        Which tags belong to which coarse class, and which are incomplete.
    ties : {"threshold", "published"}
        Order of points of equal recall.

    Returns
    -------
    dict
        As of `tagging_scores`; class_auprc by coarse class.

    Raises
    ------
    EdgeseaError
        If shapes or values are not as stated.
    """
    validate(labels, scores)
    if labels.shape[1] != len(taxonomy.fine):
        raise EdgeseaError(f"labels have {labels.shape[1]} columns, where the taxonomy has {len(taxonomy.fine)} tags")
    classes = []
    for number in range(len(taxonomy.coarse)):
        own = taxonomy.parent == number
        complete, vague = own & ~taxonomy.incomplete, own & taxonomy.incomplete
        columns = labels[:, complete], scores[:, complete]
        if vague.any():
            classes.append(confusion_counts(*columns, labels[:, vague].max(1), scores[:, vague].max(1)))
        else:
            classes.append(confusion_counts(*columns))
    ranked = lwlrap(labels[:, ~taxonomy.incomplete], scores[:, ~taxonomy.incomplete])[0]
    return {**_class_scores(classes, taxonomy.names, ties), "lwlrap": ranked}


def _class_scores(classes: Sequence[Counts], names: Sequence[str], ties: Ties) -> dict[str, Any]:
    """Micro, macro and class scores of the classes' counts."""
    areas = {name: _area(counts, ties) for name, counts in zip(names, classes, strict=True)}
    known = [area for area in areas.values() if area is not None]
    pooled = pool(classes)
    half = np.flatnonzero(pooled.threshold >= 0.5)[-1]
    hits, errors = pooled.true_positives[half], pooled.false_positives[half] + pooled.false_negatives[half]
    return {
        "micro_auprc": _area(pooled, ties, rising=True),
        "micro_f1": float(2 * hits / (2 * hits + errors)) if hits else 0.0,
        "macro_auprc": float(np.mean(known)) if known else None,
        "class_auprc": areas,
    }


def lwlrap(labels: Labels, scores: NDArray[np.floating]) -> tuple[float | None, Float64]:
    """Label-weighted label-ranking average precision.

    Parameters
    ----------
    labels, scores : ndarray, (N, K)
        0 or 1; any scores.

    Returns
    -------
    overall : float or None
        Over all positive labels; None if there is none.
    by_tag : ndarray, (K,) float64
        Over those of each tag; NaN if it has none. Weighted with their numbers, its mean is `overall`.
    """
    true = labels == 1
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    found = np.cumsum(np.take_along_axis(true, order, 1), 1)
    precision = np.empty(true.shape)
    np.put_along_axis(precision, order, found / np.arange(1, true.shape[1] + 1), 1)
    total, positives = np.sum(precision, 0, where=true), np.count_nonzero(true, 0)
    by_tag = np.divide(total, positives, out=np.full(len(total), np.nan), where=positives > 0)
    return (float(total.sum() / positives.sum()) if positives.any() else None), by_tag


def accuracy(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Share of clips whose predicted class is theirs; labels and predictions (N,) of any type."""
    return float(np.mean(_agreement(labels, predicted)))


def class_accuracy(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the classes in labels (N,) of the share of their clips that are recognised (balanced accuracy)."""
    own = np.unique(labels, return_inverse=True)[1]
    return float(np.mean(np.bincount(own, _agreement(labels, predicted)) / np.bincount(own)))


def _agreement(labels: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.bool_]:
    if labels.shape != predicted.shape or labels.ndim != 1 or not labels.size:
        raise EdgeseaError(f"labels {labels.shape} and predictions {predicted.shape} must have the same shape (clips,)")
    return np.asarray(labels == predicted)


def sonyc_ust_scores(
    predictions_csv: str | Path,
    annotations_csv: str | Path,
    taxonomy_yaml: str | Path,
    mode: Literal["coarse", "fine"] = "coarse",
    *,
    split: str = "validate",
    ties: Ties = "threshold",
) -> dict[str, Any]:
    """Scores of a file of predictions, as the challenge's script gives them.

    Parameters
    ----------
    predictions_csv : str or Path
        audio_filename, and a column of scores for each tag.
    annotations_csv : str or Path
        The published annotations, or a ground truth with one row a clip.
    taxonomy_yaml : str or Path
        ``dcase-ust-taxonomy.yaml``.
    mode : {"coarse", "fine"}
        Level of the tags.
    split : str
        Split of the published annotations whose verified clips are judged.
    ties : {"threshold", "published"}
        Order of points of equal recall.

    Returns
    -------
    dict
        micro_auprc, micro_f1, macro_auprc, class_auprc (by coarse class, as ``engine``), lwlrap.

    Raises
    ------
    EdgeseaError
        If a file is unusable, the clips are not the same, or labels of this level are not given.
    """
    from edgesea.tasks.annotations import read_ground_truth
    from edgesea.tasks.predictions import matching, read_predictions

    if mode not in ("coarse", "fine"):
        raise EdgeseaError(f"mode must be coarse or fine, not {mode!r}")
    predicted, annotated, taxonomy = Path(predictions_csv), Path(annotations_csv), read_taxonomy(Path(taxonomy_yaml))
    truth = read_ground_truth(annotated, taxonomy, split)
    clips, scores = read_predictions(predicted, taxonomy, mode)
    scores = scores[matching(clips, truth.clips, predicted, annotated)]
    labels = truth.coarse if mode == "coarse" else truth.fine
    missing = np.flatnonzero((labels < 0).any(1))
    if len(missing):
        raise EdgeseaError(
            f"{annotated}: the {mode} labels of {len(missing)} of {len(labels)} clips are not given "
            f"({truth.clips[missing[0]]} is the first); choose a file that has them, or the other mode"
        )
    if mode == "coarse":
        return tagging_scores(labels, scores, taxonomy.names, ties)
    return fine_scores(labels, scores, taxonomy, ties)
