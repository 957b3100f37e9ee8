"""The scores of DCASE 2020 task 5 straight from their definition: a confusion at every threshold, row by row.

This is the reference of the tests and the opponent of benchmarks/tagging_metrics.py. It works as the challenge's own
script does: it thresholds anew for every threshold, counts with scikit-learn's confusion matrix (fine tags: with
Boolean arrays), and for micro looks up each class's row in its data frame at each threshold.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import auc, confusion_matrix

Confusion = Callable[[float], tuple[int, int, int]]


def coarse_confusion(truth: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """TP, FP and FN of one tag."""
    (_, fp), (fn, tp) = confusion_matrix(truth, scores >= threshold, labels=[False, True])
    return int(tp), int(fp), int(fn)


def fine_confusion(
    truth: np.ndarray, scores: np.ndarray, vague: np.ndarray, vague_scores: np.ndarray, threshold: float
) -> tuple[int, int, int]:
    """TP, FP and FN of the fine tags of one coarse class: complete (N, K) and incomplete (N,)."""
    predicted, vaguely = scores >= threshold, vague_scores >= threshold
    tp = (truth & predicted).sum()
    fp = (~truth & predicted & ~vague[:, None]).sum()
    fn = (truth & ~predicted).sum()
    anything = predicted.any(axis=1) | vaguely
    tp += (vague & anything & ~(truth & predicted).any(axis=1)).sum()
    fp += (~vague & ~truth.any(axis=1) & vaguely & ~predicted.all(axis=1)).sum()
    fn += (vague & ~truth.any(axis=1) & ~anything).sum()
    return int(tp), int(fp), int(fn)


def table(scores: np.ndarray, confusion: Confusion) -> pd.DataFrame:
    """Counts of one class at its thresholds, the highest first."""
    thresholds = sorted({*scores[scores >= 0.01].tolist(), 1.0}, reverse=True)
    rows = [(threshold, *confusion(threshold)) for threshold in thresholds]
    return pd.DataFrame(rows, columns=["threshold", "TP", "FP", "FN"])


def pooled_table(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Summed counts at the thresholds of all classes, the highest first."""
    rows = []
    for threshold in sorted({value for one in tables for value in one["threshold"]}, reverse=True):
        own = [one[one["threshold"] >= threshold].iloc[-1] for one in tables]
        rows.append((threshold, *(sum(int(row[name]) for row in own) for name in ("TP", "FP", "FN"))))
    return pd.DataFrame(rows, columns=["threshold", "TP", "FP", "FN"])


def area(counts: pd.DataFrame, ties: str, rising: bool = False) -> float:
    """Area under the curve of a table of counts."""
    if ties == "published" and rising:
        counts = counts[::-1]
    precision = (counts["TP"] / np.maximum(counts["TP"] + counts["FP"], 0.5)).to_numpy()
    recall = (counts["TP"] / np.maximum(counts["TP"] + counts["FN"], 0.5)).to_numpy()
    introsort = ties == "published"
    order = np.argsort(recall.astype(np.longdouble)) if introsort else np.argsort(recall, kind="stable")
    return float(auc([0.0, *recall[order], 1.0], [1.0, *precision[order], 0.0]))


def direct_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    parent: np.ndarray | None = None,
    incomplete: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """By order of ties: what `edgesea.tasks.metrics.tagging_scores` gives but for lwlrap."""
    tables, truth = [], labels == 1
    for number in range(len(names)):
        if parent is None or incomplete is None:
            own, confusion = scores[:, number], partial(coarse_confusion, truth[:, number], scores[:, number])
        else:
            complete, vague = (np.flatnonzero((parent == number) & (incomplete == which)) for which in (False, True))
            own, nothing = scores[:, complete], (np.zeros(len(labels), bool), np.zeros(len(labels)))
            unsure = (truth[:, vague[0]], scores[:, vague[0]]) if len(vague) else nothing
            confusion = partial(fine_confusion, truth[:, complete], own, *unsure)
        tables.append(table(own, confusion))
    pooled = pooled_table(tables)
    half = pooled[pooled["threshold"] >= 0.5].iloc[-1]
    f1 = 2 * half["TP"] / (2 * half["TP"] + half["FP"] + half["FN"]) if half["TP"] else 0.0
    found = {}
    for ties in ("threshold", "published"):
        positive = [one["TP"].iloc[0] + one["FN"].iloc[0] > 0 for one in tables]
        areas = [area(one, ties) if some else None for one, some in zip(tables, positive, strict=True)]
        known = [value for value in areas if value is not None]
        found[ties] = {
            "micro_auprc": area(pooled, ties, rising=True) if known else None,
            "micro_f1": f1,
            "macro_auprc": sum(known) / len(known) if known else None,
            "class_auprc": dict(zip(names, areas, strict=True)),
        }
    return found
