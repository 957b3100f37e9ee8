"""A linear layer that makes scores of tags of the embedding of a window, for programs that send tags."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from edgesea.audio.framing import Framing
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, window_of
from edgesea.tasks.evaluate import load_task
from edgesea.tasks.features import window_embeddings
from edgesea.tasks.folds import FoldTask
from edgesea.tasks.options import ProbeOptions, TaggingOptions

Tags = tuple[list[str], NDArray[np.float32], NDArray[np.float32]]  # names, weights (K, D), bias (K,)


def learn_tags(model: EmbeddingModel, task: str, data: Path, hop: float = 0.5) -> Tags:
    """Logistic regression on the windows of all clips of a task with folds, or of the training clips of sonyc_ust.

    A score is the logit of a tag; of classes, which exclude each other, the softmax of all scores is the probability.
    """
    source = load_task(task, data, ProbeOptions(), TaggingOptions(), None)
    bags, failed = window_embeddings(lambda: model, source.paths, Framing(window_of(model), hop), 64, None, None)
    if failed:
        (path, reason), *others = failed.items()
        raise EdgeseaError(f"{path}: {reason} (and {len(others)} more clips); complete the data set, or leave tags out")
    scaler = StandardScaler()
    if isinstance(source, FoldTask):
        names, classes = np.unique(source.labels, return_inverse=True)
        layers = [_fitted(scaler.fit_transform(bags.rows), classes[bags.owner])]
        if len(names) == 2:  # one layer says how much rather the second
            layers = [(share * layers[0][0], share * layers[0][1]) for share in (-0.5, 0.5)]
    else:
        clips = np.flatnonzero(source.annotations.splits == "train")
        bags, targets = bags.take(clips), source.targets().take(clips)
        rows, names, layers = scaler.fit_transform(bags.rows), np.array(source.taxonomy.names), []
        for labels, given in zip(targets.labels.T, targets.given.T, strict=True):
            there = given[bags.owner]
            layers.append(_fitted(rows[there], labels[bags.owner][there]))
    weights, bias = (np.concatenate(parts) for parts in zip(*layers, strict=True))
    weights = weights / scaler.scale_
    return names.tolist(), weights.astype(np.float32), (bias - weights @ scaler.mean_).astype(np.float32)


def _fitted(rows: NDArray[Any], classes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (K, D) and bias (K,); (1, D) and (1,) of two classes. Of one class alone, they are zero."""
    if len(np.unique(classes)) < 2:
        return np.zeros((1, rows.shape[1])), np.zeros(1)
    model = LogisticRegression(max_iter=5000).fit(rows, classes)
    return model.coef_, model.intercept_
