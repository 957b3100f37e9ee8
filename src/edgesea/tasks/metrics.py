"""Scores of multi-label tagging.

Conventions
-----------
* Labels are 0 or 1, predictions are scores in [0, 1]; both have shape (clips, tags).
* The precision-recall curve of DCASE 2020 task 5 (SONYC-UST) has one point for each distinct score of at least 0.01,
  used as a threshold (``score >= threshold`` is positive), and one for the threshold 1, by decreasing threshold. Where
  nothing is predicted, precision counts as 0. The curve begins at (recall 0, precision 1), ends at (1, 0), and its area
  is that of the trapezoids.
* The challenge's own script orders points of equal recall by an unstable sort; here they stay in the order of
  decreasing threshold. That is the only difference.
* *Micro*: all (clip, tag) pairs are pooled. *Macro*: the mean of the tags' own areas; a tag without a positive clip has
  no area and is left out.
"""

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float64 = NDArray[np.float64]
MIN_THRESHOLD = 0.01


def validate(labels: NDArray[np.number], scores: NDArray[np.floating]) -> None:
    """Raise EdgeseaError unless labels (N, K) are 0 or 1 and scores (N, K) lie in [0, 1]."""
    if labels.shape != scores.shape or labels.ndim != 2 or not labels.size:
        raise EdgeseaError(f"labels {labels.shape} and scores {scores.shape} must have the same shape (clips, tags)")
    if not np.isin(labels, (0, 1)).all():
        raise EdgeseaError("labels must be 0 or 1")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise EdgeseaError("scores must lie in [0, 1]")


def precision_recall_curve(
    labels: NDArray[np.number], scores: NDArray[np.floating]
) -> tuple[Float64, Float64, Float64]:
    """Precision-recall curve of one binary problem, by the convention above, without its two end points.

    Parameters
    ----------
    labels, scores : ndarray, (N,)
        0 or 1; scores in [0, 1].

    Returns
    -------
    precision, recall, threshold : ndarray, (M,) float64
        By decreasing threshold.
    """
    order = np.argsort(-scores, kind="stable")
    descending = np.asarray(scores, np.float64)[order]
    hits = np.r_[0.0, np.cumsum(labels[order], dtype=np.float64)]
    threshold = np.unique(np.r_[descending[descending >= MIN_THRESHOLD], 1.0])[::-1]
    predicted = np.searchsorted(-descending, -threshold, side="right")
    precision = hits[predicted] / np.maximum(predicted, 1)
    recall = hits[predicted] / max(hits[-1], 1.0)
    return precision, recall, threshold


def auprc(labels: NDArray[np.number], scores: NDArray[np.floating]) -> float:
    """Area under the precision-recall curve of labels (N,) and scores (N,); NaN if there is no positive label."""
    if not np.any(labels):
        return float("nan")
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.trapezoid(np.r_[1.0, precision, 0.0], np.r_[0.0, recall, 1.0]))


def tagging_scores(labels: NDArray[np.number], scores: NDArray[np.floating], names: list[str]) -> dict[str, object]:
    """Micro and macro AUPRC, micro F1 at 0.5 and each tag's AUPRC.

    Parameters
    ----------
    labels, scores : ndarray, (N, K)
        0 or 1; scores in [0, 1].
    names : list of str
        The K tags.

    Returns
    -------
    dict
        micro_auprc, macro_auprc, micro_f1, class_auprc (by name; None for a tag without positives).

    Raises
    ------
    EdgeseaError
        If shapes or values are not as stated.
    """
    validate(labels, scores)
    classes = np.array([auprc(labels[:, k], scores[:, k]) for k in range(len(names))])
    predicted = scores >= 0.5
    agreed = float(np.count_nonzero(predicted & (labels == 1)))
    total = float(np.count_nonzero(predicted) + np.count_nonzero(labels == 1))
    return {
        "micro_auprc": auprc(labels.reshape(-1), scores.reshape(-1)),
        "macro_auprc": float(np.nanmean(classes)) if not np.isnan(classes).all() else float("nan"),
        "micro_f1": 2.0 * agreed / total if total else 0.0,
        "class_auprc": {
            name: None if np.isnan(value) else float(value) for name, value in zip(names, classes, strict=True)
        },
    }
