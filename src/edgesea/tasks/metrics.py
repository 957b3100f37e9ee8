"""Scores of tagging (several tags a clip), and confidence intervals of any scores.

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
* *Micro*: at each threshold of any class, the classes' counts are added, each at the smallest of its thresholds that
  is not below. F1 is that of the smallest such threshold of at least 0.5. *Macro*: the mean of the classes' areas.
* A class without a positive clip has no area: None, and the mean leaves it out. The challenge's script counts it as 0.
* Recall never falls as the threshold does, but it may stay. ``ties="threshold"``: such points are in the order of
  decreasing threshold, the well-defined curve. ``ties="published"``: they are in the order in which the challenge's
  script left them, which sorted by recall with numpy's introsort, an unstable sort: per class from the list by
  decreasing threshold, for micro from the list by increasing threshold. This meets the published scores to rounding.
  From numpy 1.25 (2.0) on, that script gives other areas on processors with AVX-512 (AVX2), where numpy sorts anew.
* lwlrap (label-weighted label-ranking average precision; Ellis and Fonseca, 2019): the mean, over all positive labels,
  of the precision among the tags ranked at least as high in the clip. Of fine tags the complete ones are ranked. Of
  equal scores the later tag ranks higher, as in the reference implementation with up to 16 tags; more, such as the 23
  fine ones, it sorts by the introsort above, whose order of equal scores ``ties="published"`` gives.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float64 = NDArray[np.float64]
Labels = NDArray[np.number] | NDArray[np.bool_]
Ties = Literal["threshold", "published"]
Counts = tuple[Float64, NDArray[np.int64]]  # M thresholds, the highest first; hits, false alarms and misses (3, M)
INTROSORT = [0, *range(17, 0, -1), 18, 19]  # how it orders twenty equal values


def confusion_counts(
    labels: Labels,
    scores: NDArray[np.floating],
    incomplete: Labels | None = None,
    incomplete_scores: NDArray[np.floating] | None = None,
) -> Counts:
    """Hits and errors of a class at its thresholds, from its complete tags (N, K) and maybe an incomplete one (N,).

    Every count is the number of clips or tags that are predicted at a threshold, or a difference of two such numbers:
    one sort each, however many thresholds there are.
    """
    true, scores = labels == 1, np.asarray(scores, np.float64)
    threshold = np.unique(np.append(scores[scores >= 0.01], 1.0))[::-1]

    def reached(values: Float64) -> NDArray[np.int64]:
        """How many of the values are predicted at each threshold."""
        return values.size - np.searchsorted(np.sort(values, axis=None), threshold)

    hits = reached(scores[true])
    missed = np.count_nonzero(true) - hits
    if incomplete is None or incomplete_scores is None:
        return threshold, np.array([hits, reached(scores[~true]), missed])
    vague, vague_scores = incomplete == 1, np.asarray(incomplete_scores, np.float64)
    only, nothing = vague & ~true.any(1), ~vague & ~true.any(1)
    any_tag = np.maximum(scores.max(1, initial=0), vague_scores)  # the threshold up to which any tag is predicted
    true_tag = np.where(true, scores, -1).max(1, initial=-1)
    all_tags = scores.min(1, initial=1)
    hits = hits + reached(any_tag[vague]) - reached(true_tag[vague])
    missed = missed + np.count_nonzero(only) - reached(any_tag[only])
    wrong = reached(scores[~true & ~vague[:, None]])
    wrong = wrong + reached(vague_scores[nothing]) - reached(np.minimum(vague_scores, all_tags)[nothing])
    return threshold, np.array([hits, wrong, missed])


def pool(classes: Sequence[Counts]) -> Counts:
    """Sum the counts of classes, at all their thresholds; see *Micro* above."""
    threshold = np.concatenate([one for one, _ in classes])
    order = np.argsort(threshold)[::-1]
    threshold = threshold[order]
    last = np.append(threshold[1:] != threshold[:-1], True)  # by then all classes have taken the step to a threshold
    summed = np.empty((3, np.count_nonzero(last)), np.int64)
    for row in range(3):
        steps = np.concatenate([np.diff(counts[row], prepend=0) for _, counts in classes])
        summed[row] = np.cumsum(steps[order])[last]
    return threshold[last], summed


def _order(values: NDArray[Any], ties: Ties) -> NDArray[np.int64]:
    """Indices that sort values, along the last axis; `published` with the introsort that is left for long doubles."""
    if ties == "threshold":
        return np.argsort(values, kind="stable")
    if np.argsort(np.zeros(len(INTROSORT), np.longdouble)).tolist() != INTROSORT:
        raise EdgeseaError(f"ties='published': numpy {np.__version__} has no introsort; use ties='threshold'")
    return np.argsort(values.astype(np.longdouble))


def _area(counts: Counts, ties: Ties, rising: bool = False) -> float | None:
    """Area under the curve of some counts, which the challenge lists by `rising` threshold; None without positives."""
    hits, wrong, missed = counts[1]
    if not hits[0] + missed[0]:
        return None
    precision, recall = hits / np.maximum(hits + wrong, 1), hits / np.maximum(hits + missed, 1)
    if ties == "published":
        step = -1 if rising else 1
        order = _order(recall[::step], ties)
        precision, recall = precision[::step][order], recall[::step][order]
    precision, recall = np.r_[1.0, precision, 0.0], np.r_[0.0, recall, 1.0]
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def tagging_scores(
    labels: Labels,
    scores: NDArray[np.floating],
    names: Sequence[str],
    ties: Ties = "threshold",
    parent: NDArray[np.integer] | None = None,
    incomplete: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Scores of tags that are the classes `names`, as the coarse ones of SONYC-UST are, or belong to these.

    Labels (N, K) are 0 or 1, scores (N, K) in [0, 1]. `parent` (K,) is the class of each tag, as its index, and
    `incomplete` (K,) says whether it is an incomplete one. Returns micro_auprc, micro_f1, macro_auprc, class_auprc (by
    name) and lwlrap. A score without a positive label is None, F1 without a hit is 0.
    """
    parent = np.arange(len(names)) if parent is None else parent
    incomplete = np.zeros(len(parent), bool) if incomplete is None else incomplete
    classes = []
    for number in range(len(names)):
        complete, vague = (parent == number) & ~incomplete, (parent == number) & incomplete
        unsure = (labels[:, vague].max(1), scores[:, vague].max(1)) if vague.any() else ()
        classes.append(confusion_counts(labels[:, complete], scores[:, complete], *unsure))
    areas = {name: _area(counts, ties) for name, counts in zip(names, classes, strict=True)}
    known = [area for area in areas.values() if area is not None]
    threshold, counts = pooled = pool(classes)
    hits, *errors = counts[:, np.flatnonzero(threshold >= 0.5)[-1]]
    ranked = ~incomplete if incomplete.any() else slice(None)  # a view of all columns costs nothing
    return {
        "micro_auprc": _area(pooled, ties, rising=True),
        "micro_f1": float(2 * hits / (2 * hits + sum(errors))) if hits else 0.0,
        "macro_auprc": float(np.mean(known)) if known else None,
        "class_auprc": areas,
        "lwlrap": lwlrap(labels[:, ranked], scores[:, ranked], ties),
    }


def lwlrap(labels: Labels, scores: NDArray[np.floating], ties: Ties = "threshold") -> float | None:
    """Label-weighted label-ranking average precision of labels (N, K) by any scores (N, K); None without labels."""
    true = labels == 1
    order = _order(scores, ties)[:, ::-1]
    found = np.cumsum(np.take_along_axis(true, order, 1), 1)
    precision = np.empty(true.shape)
    np.put_along_axis(precision, order, found / np.arange(1, true.shape[1] + 1), 1)
    return float(np.sum(precision, 0, where=true).sum() / true.sum()) if true.any() else None


def confidence_intervals(
    score: Callable[[NDArray[np.int64]], Mapping[str, float | None]],
    clips: int,
    resamples: int = 1000,
    seed: int = 0,
    groups: NDArray[Any] | None = None,
) -> dict[str, list[float]]:
    """95 % confidence intervals of scores: percentile bootstrap (Efron, 1979).

    They say how much the choice of test clips matters, not how much training does. `score` gives the scores by name of
    clips (n,), of which one may occur several times; None or NaN where a score does not exist. What clips have in
    common, such as their recording, is in `groups` (clips,): then whole groups are drawn, as many as there are.

    Returns the lower and upper end by name, from the resamples in which the score exists, of scores that exist in any.
    Empty if there is only one clip or group.
    """
    names, owner = np.unique(np.arange(clips) if groups is None else groups, return_inverse=True)
    if (count := len(names)) < 2:
        return {}
    rng = np.random.default_rng(seed)
    times = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples))
    found = pd.DataFrame([score(np.repeat(np.arange(clips), drawn[owner])) for drawn in times], dtype=float)
    ends: dict[Any, list[float]] = found.quantile([0.025, 0.975]).dropna(axis=1).to_dict("list")
    return ends
