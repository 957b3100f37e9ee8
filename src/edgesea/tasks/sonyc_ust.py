"""SONYC-UST (Cartwright et al., 2019 and 2020): urban sound tagging at two levels."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.tasks.annotations import Annotations, read_annotations
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.bootstrap import confidence_intervals
from edgesea.tasks.metrics import Ties, fine_scores, tagging_scores
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.predictions import Level, write_predictions
from edgesea.tasks.tagger import check_needs, tag_probabilities
from edgesea.tasks.taxonomy import Taxonomy, read_taxonomy

ANNOTATIONS, TAXONOMY = "annotations.csv", "dcase-ust-taxonomy.yaml"
log = logging.getLogger(__name__)

SCORES = ("micro_auprc", "macro_auprc", "micro_f1", "lwlrap")


@dataclass(frozen=True)
class SonycUst:
    """A data set in the layout of SONYC-UST: the clips that are trained on, and those that are judged or monitored.

    Attributes
    ----------
    folder : Path
        Where it lies.
    taxonomy : Taxonomy
        Its tags.
    annotations : Annotations
        Of its N clips, sorted by name: the training clips with labels, and the verified ones of the other splits that
        the options need.
    options : TaggingOptions
        What is learned and how it is judged.
    """

    folder: Path
    taxonomy: Taxonomy
    annotations: Annotations
    options: TaggingOptions
    name = "sonyc_ust"

    @classmethod
    def load(cls, data: Path, options: TaggingOptions) -> "SonycUst":
        """Read ``annotations.csv`` and ``dcase-ust-taxonomy.yaml`` below `data`; the clips lie in ``audio/``.

        Raises
        ------
        EdgeseaError
            If a file is missing or unusable, or there is nothing to train on or to judge by.
        """
        for name in (ANNOTATIONS, TAXONOMY):
            if not (data / name).is_file():
                raise EdgeseaError(f"{data / name}: no such file; the task sonyc_ust needs it, and audio/ beside it")
        taxonomy = read_taxonomy(data / TAXONOMY)
        annotations = read_annotations(data / ANNOTATIONS, taxonomy, options.split_path)
        wanted = {options.eval_split, *(["validate"] if options.monitor == "validate" else [])}
        fine = options.label_mode == "fine"
        labels = annotations.fine if fine else annotations.coarse
        train = (annotations.splits == "train") & (labels >= 0).any(1)
        verified = np.isin(annotations.splits, sorted(wanted)) & annotations.verified
        judged = verified & (labels >= 0).all(1)
        if 0 < judged.sum() < verified.sum():
            count = int(verified.sum() - judged.sum())
            log.warning("%s: %d verified clips without all %s labels are left out", data, count, options.label_mode)
        splits = np.where(train | judged, annotations.splits, "")
        if not (splits == "train").any() or any(not (splits == name).any() for name in wanted):
            raise EdgeseaError(
                f"{data / ANNOTATIONS}: needs clips of the split train with {options.label_mode} labels, and verified "
                f"ones of the split {' and '.join(sorted(wanted))}"
            )
        task = cls(data, taxonomy, annotations.take(splits != ""), options)
        check_needs(task.targets(), task.annotations.context, options)
        return task

    @property
    def paths(self) -> list[Path]:
        """The clips."""
        return [self.folder / "audio" / name for name in self.annotations.clips]

    def _split(self, name: str) -> NDArray[np.bool_]:
        return np.asarray(self.annotations.splits == name)

    def targets(self) -> Targets:
        """What is to be learned of each clip.

        Where the incomplete tag of a coarse class was noted, its fine tags are taken as not given.
        """
        own, taxonomy = self.annotations, self.taxonomy
        if self.options.label_mode == "coarse":
            labels, given = own.coarse, own.coarse >= 0
        else:
            uncertain = np.zeros(own.coarse.shape, bool)
            uncertain[:, taxonomy.parent[taxonomy.incomplete]] = own.fine[:, taxonomy.incomplete] == 1
            complete = ~taxonomy.incomplete
            labels = own.fine[:, complete]
            given = (labels >= 0) & ~uncertain[:, taxonomy.parent[complete]]
        sensors = None if own.sensors is None else np.unique(own.sensors, return_inverse=True)[1]
        return Targets((labels > 0).astype(np.float32), given, sensors, own.proximity)

    def score(
        self,
        bags: Bags,
        seed: int,
        *,
        hidden: tuple[int, ...] | None = None,
        resamples: int = 0,
        predictions: Path | None = None,
    ) -> dict[str, Any]:
        """Train on the training clips, and score on the verified clips of the split that is judged.

        Parameters
        ----------
        bags : Bags
            Embeddings of the N clips. Those that could not be embedded are not trained on; judged, their scores are 0.
        seed : int
            Seed of the first network.
        hidden : tuple of int, optional
            Sizes of the hidden layers, instead of those of the options.
        resamples : int
            Bootstrap resamples for confidence intervals; 0: none.
        predictions : Path, optional
            CSV file for the scores of the judged clips, in the challenge's layout.

        Returns
        -------
        dict
            label_mode, micro_auprc, macro_auprc, micro_f1, lwlrap, class_auprc, confidence, and the numbers of training
            and judged clips; of fine tags also the scores at the coarse level, as coarse.

        Raises
        ------
        EdgeseaError
            If no training clip or no judged clip could be embedded, or an option lacks what it needs.
        """
        options = self.options
        if hidden is not None:
            size = hidden[0] if hidden else options.hidden_layer_size
            options = replace(options, num_hidden_layers=len(hidden), hidden_layer_size=size)
        bags, targets = replace(bags, context=self.annotations.context), self.targets()
        train = np.flatnonzero(self._split("train") & bags.usable)
        judged, monitored = np.flatnonzero(self._split(options.eval_split)), np.flatnonzero(self._split("validate"))
        for own, what in ((train, "training"), (judged[bags.usable[judged]], "judged")):
            if not len(own):
                raise EdgeseaError(f"{self.folder}: no {what} clip could be embedded")
        watched = (bags.take(monitored), targets.take(monitored)) if options.monitor == "validate" else None
        scores = tag_probabilities(bags.take(train), targets.take(train), bags.take(judged), options, seed, watched)
        if predictions is not None:
            clips = self.annotations.clips[judged]
            write_predictions(predictions, self.taxonomy, clips, scores, options.label_mode)
        return {
            "label_mode": options.label_mode,
            **self._scored(judged, scores, resamples),
            "train_clips": len(train),
        }

    def _scored(self, judged: NDArray[np.int64], scores: NDArray[np.float64], resamples: int) -> dict[str, Any]:
        """Scores of judged clips; of a fine classifier also at the coarse level, for the clips with such labels."""
        truth, taxonomy = self.annotations.take(judged), self.taxonomy
        if self.options.label_mode == "coarse":
            return level_scores("coarse", truth.coarse, scores, taxonomy, resamples)
        fine, coarse = taxonomy.every_score(scores)
        found = level_scores("fine", truth.fine, fine, taxonomy, resamples)
        given = (truth.coarse >= 0).all(1)
        if not given.any():
            return found
        return {**found, "coarse": level_scores("coarse", truth.coarse[given], coarse[given], taxonomy, resamples)}


def level_scores(
    level: Level,
    labels: NDArray[np.integer],
    scores: NDArray[np.float64],
    taxonomy: Taxonomy,
    resamples: int,
    ties: Ties = "threshold",
) -> dict[str, Any]:
    """Scores of clips at one level.

    Parameters
    ----------
    level : {"coarse", "fine"}
        Of the tags.
    labels, scores : ndarray, (N, C) or (N, F)
        0 or 1; scores in [0, 1].
    taxonomy : Taxonomy
        The tags.
    resamples : int
        Bootstrap resamples for confidence intervals; 0: none.
    ties : {"threshold", "published"}
        See `edgesea.tasks.metrics`.

    Returns
    -------
    dict
        What `tagging_scores` or `fine_scores` gives; confidence: 95 % intervals; clips.
    """

    def scored(clips: NDArray[np.integer]) -> dict[str, Any]:
        if level == "coarse":
            return tagging_scores(labels[clips], scores[clips], taxonomy.names, ties)
        return fine_scores(labels[clips], scores[clips], taxonomy, ties)

    def overall(clips: NDArray[np.integer]) -> dict[str, float | None]:
        result = scored(clips)
        return {name: result[name] for name in SCORES}

    found = scored(np.arange(len(labels)))
    if resamples:
        found["confidence"] = confidence_intervals(overall, len(labels), resamples)
    return {**found, "clips": len(labels)}
