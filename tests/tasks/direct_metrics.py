"""The scores of DCASE 2020 task 5 straight from their definition: a confusion at every threshold, row by row.

This is the reference of the tests and the opponent of the benchmark. It works as the challenge's own
script does: it thresholds and counts anew for every threshold, and for micro looks up each class's row in its data
frame at each threshold.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import auc


def table(truth: np.ndarray, scores: np.ndarray, incomplete: np.ndarray) -> pd.DataFrame:
    """Counts of one class at its thresholds, the highest first."""
    vague, vague_scores = truth[:, incomplete].any(1), scores[:, incomplete].max(1, initial=0)
    truth, scores, rows = truth[:, ~incomplete], scores[:, ~incomplete], []
    for threshold in sorted({*scores[scores >= 0.01].tolist(), 1.0}, reverse=True):
        predicted, vaguely = scores >= threshold, vague_scores >= threshold
        anything, met = predicted.any(1) | vaguely, (truth & predicted).any(1)
        tp = (truth & predicted).sum() + (vague & anything & ~met).sum()
        fp = (~truth & predicted & ~vague[:, None]).sum()
        fp += (~vague & ~truth.any(1) & vaguely & ~predicted.all(1)).sum()
        fn = (truth & ~predicted).sum() + (vague & ~truth.any(1) & ~anything).sum()
        rows.append((threshold, tp, fp, fn))
    return pd.DataFrame(rows, columns=["threshold", "TP", "FP", "FN"])


def area(counts: pd.DataFrame, ties: str, rising: bool = False) -> float:
    """Area under the curve of a table of counts."""
    tp, fp, fn = counts[:: -1 if ties == "published" and rising else 1][["TP", "FP", "FN"]].to_numpy().T
    precision, recall = tp / np.maximum(tp + fp, 0.5), tp / np.maximum(tp + fn, 0.5)
    introsort = ties == "published"
    order = np.argsort(recall.astype(np.longdouble)) if introsort else np.argsort(recall, kind="stable")
    return float(auc([0.0, *recall[order], 1.0], [1.0, *precision[order], 0.0]))


def direct_scores(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str], parent: Any = None, incomplete: Any = None
) -> dict[str, dict[str, Any]]:
    """By order of ties: what `edgesea.tasks.metrics.tagging_scores` gives but for lwlrap."""
    parent = np.arange(len(names)) if parent is None else parent
    incomplete = np.zeros(len(parent), bool) if incomplete is None else incomplete
    columns = [parent == number for number in range(len(names))]
    tables = [table(labels[:, own] == 1, scores[:, own], incomplete[own]) for own in columns]
    rows = []
    for threshold in sorted({value for one in tables for value in one["threshold"]}, reverse=True):
        own = [one[one["threshold"] >= threshold].iloc[-1] for one in tables]
        rows.append((threshold, *(sum(int(row[name]) for row in own) for name in ("TP", "FP", "FN"))))
    pooled = pd.DataFrame(rows, columns=["threshold", "TP", "FP", "FN"])
    half = pooled[pooled["threshold"] >= 0.5].iloc[-1]
    f1 = 2 * half["TP"] / (2 * half["TP"] + half["FP"] + half["FN"]) if half["TP"] else 0.0
    found = {}
    for ties in ("threshold", "published"):
        areas = [area(one, ties) if one["TP"].iloc[0] + one["FN"].iloc[0] else None for one in tables]
        known = [value for value in areas if value is not None]
        overall = (area(pooled, ties, rising=True), sum(known) / len(known)) if known else (None, None)
        found[ties] = dict(zip(("micro_auprc", "macro_auprc"), overall, strict=True)) | {"micro_f1": f1}
        found[ties]["class_auprc"] = dict(zip(names, areas, strict=True))
    return found
