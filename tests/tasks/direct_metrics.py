"""The scores of DCASE 2020 task 5 straight from their definition: a confusion at every threshold, row by row.

This is the reference of the tests and the opponent of benchmarks/tagging_metrics.py. It works as the challenge's own
script does: it thresholds anew for every threshold, counts with scikit-learn's confusion matrix (fine tags: with
Boolean arrays), and for micro looks up each class's row in its data frame at each threshold.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import auc, confusion_matrix

from edgesea.tasks.annotations import Taxonomy

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
    precision = (counts["TP"] / np.maximum(counts["TP"] + counts["FP"], 0.5)).tolist()
    recall = (counts["TP"] / np.maximum(counts["TP"] + counts["FN"], 0.5)).tolist()
    order = np.argsort(recall, kind="stable")
    if ties == "published":  # numpy's introsort
        order = np.argsort(np.array(recall, np.longdouble))
    return float(auc([0.0, *(recall[i] for i in order), 1.0], [1.0, *(precision[i] for i in order), 0.0]))


def scores_of(tables: list[pd.DataFrame], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By order of ties: micro, macro and class scores from the classes' tables."""
    pooled = pooled_table(tables)
    half = pooled[pooled["threshold"] >= 0.5].iloc[-1]
    f1 = 0.0
    if half["TP"]:
        f1 = 2 / ((half["TP"] + half["FP"]) / half["TP"] + (half["TP"] + half["FN"]) / half["TP"])
    found = {}
    for ties in ("threshold", "published"):
        areas = {
            name: area(one, ties) if one["TP"].iloc[0] + one["FN"].iloc[0] > 0 else None
            for name, one in zip(names, tables, strict=True)
        }
        known = [value for value in areas.values() if value is not None]
        found[ties] = {
            "micro_auprc": area(pooled, ties, rising=True) if known else None,
            "micro_f1": f1,
            "macro_auprc": sum(known) / len(known) if known else None,
            "class_auprc": areas,
        }
    return found


def direct_tagging_scores(labels: np.ndarray, scores: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """By order of ties: what `edgesea.tasks.metrics.tagging_scores` gives but for lwlrap."""
    tables = []
    for k in range(len(names)):
        truth, own = labels[:, k] == 1, scores[:, k]
        tables.append(table(own, lambda t, truth=truth, own=own: coarse_confusion(truth, own, t)))
    return scores_of(tables, names)


def direct_fine_scores(labels: np.ndarray, scores: np.ndarray, taxonomy: Taxonomy) -> dict[str, dict[str, Any]]:
    """By order of ties: what `edgesea.tasks.metrics.fine_scores` gives but for lwlrap."""
    tables = []
    for number in range(len(taxonomy.coarse)):
        own = [k for k in range(len(taxonomy.fine)) if taxonomy.parent[k] == number]
        complete = [k for k in own if not taxonomy.incomplete[k]]
        incomplete = [k for k in own if taxonomy.incomplete[k]]
        vague, vague_scores = np.zeros(len(labels), bool), np.zeros(len(labels))
        if incomplete:
            vague, vague_scores = labels[:, incomplete[0]] == 1, scores[:, incomplete[0]]
        arrays = labels[:, complete] == 1, scores[:, complete], vague, vague_scores
        tables.append(table(arrays[1], lambda t, arrays=arrays: fine_confusion(*arrays, t)))
    return scores_of(tables, taxonomy.names)
