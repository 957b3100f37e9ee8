"""SONYC-UST (Cartwright et al., 2020): urban sound tagging with the eight coarse tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.tasks.classifier import Classifier, tag_probabilities
from edgesea.tasks.metrics import tagging_scores

ANNOTATIONS, TAXONOMY = "annotations.csv", "dcase-ust-taxonomy.yaml"
VERIFIED = 0  # annotator_id of the team's agreed annotation; volunteers are positive, single team members negative


@dataclass(frozen=True)
class SonycUst:
    """A data set in the layout of SONYC-UST.

    Attributes
    ----------
    paths : list of Path
        The clips.
    tags : list of str
        The coarse tags, as ``1_engine``.
    labels : ndarray, (N, K) int
        1 where a tag is present: by the verified annotation where there is one, else if any volunteer heard it
        (minority vote).
    splits : ndarray of str, (N,)
        train, validate or test.
    verified : ndarray of bool, (N,)
        Whether the labels are verified.
    """

    paths: list[Path]
    tags: list[str]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    verified: NDArray[np.bool_]

    @classmethod
    def load(cls, data: Path) -> "SonycUst":
        """Read ``annotations.csv``, ``dcase-ust-taxonomy.yaml`` and ``audio/`` below `data`.

        Raises
        ------
        EdgeseaError
            If they are missing, or a column is.
        """
        for name in (ANNOTATIONS, TAXONOMY):
            if not (data / name).is_file():
                raise EdgeseaError(f"{data / name}: no such file; the task sonyc_ust needs it, and audio/ beside it")
        try:
            taxonomy = yaml.safe_load((data / TAXONOMY).read_text("utf-8"))
            tags = [f"{number}_{name}" for number, name in taxonomy["coarse"].items()]
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise EdgeseaError(f"{data / TAXONOMY}: not the taxonomy of SONYC-UST: {error}") from error
        columns = [f"{tag}_presence" for tag in tags]
        rows = pd.read_csv(data / ANNOTATIONS)
        missing = {"split", "audio_filename", "annotator_id", *columns} - set(rows.columns)
        if missing:
            raise EdgeseaError(f"{data / ANNOTATIONS}: no column {', '.join(sorted(missing))}")
        names, splits, labels, verified = [], [], [], []
        for group, clip in rows.groupby("audio_filename", sort=True):
            agreed = clip[clip["annotator_id"] == VERIFIED]
            voters = agreed if len(agreed) else clip[clip["annotator_id"] > 0]
            values = voters[columns].to_numpy()
            if not len(values) or (values < 0).any():  # -1: not given
                continue
            names.append(str(group))
            splits.append(str(clip["split"].iloc[0]))
            labels.append((values > 0).any(0).astype(np.int64))
            verified.append(len(agreed) > 0)
        if not names:
            raise EdgeseaError(f"{data / ANNOTATIONS}: no clip with coarse labels")
        paths = [data / "audio" / name for name in names]
        return cls(paths, tags, np.array(labels), np.array(splits), np.array(verified))

    def score(
        self,
        features: NDArray[np.floating],
        usable: NDArray[np.bool_],
        classifier: Classifier,
        folds: Sequence[int] | None,
        seed: int,
        hidden: Sequence[int] = (128,),
    ) -> dict[str, Any]:
        """Scores of a multi-label network on the verified validation clips, trained on the training clips.

        Parameters
        ----------
        features : ndarray, (N, D)
            One row a clip.
        usable : ndarray of bool, (N,)
            False for clips that could not be embedded: they are not trained on; in validation their scores are 0.
        classifier : {"mlp"}
            Only ``mlp``: the tags need a multi-label network.
        folds : None
            The data set has no folds.
        seed : int
            Seed of the network.
        hidden : sequence of int
            Sizes of its hidden layers.

        Returns
        -------
        dict
            micro_auprc, macro_auprc, micro_f1, class_auprc, and the numbers of training and validation clips.
        """
        if folds:
            raise EdgeseaError("the task sonyc_ust has a fixed split and no folds")
        if classifier != "mlp":
            raise EdgeseaError("the task sonyc_ust needs the classifier mlp")
        train = (self.splits == "train") & usable
        judged = (self.splits == "validate") & self.verified
        if not train.any() or not judged.any():
            raise EdgeseaError("the annotations need clips of the split train, and verified ones of the split validate")
        test = judged & usable
        scores = np.zeros((len(self.paths), len(self.tags)))
        if test.any():
            scores[test] = tag_probabilities(features[train], self.labels[train], features[test], seed, hidden)
        result = tagging_scores(self.labels[judged], scores[judged], self.tags)
        return {**result, "train_clips": int(train.sum()), "clips": int(judged.sum())}
