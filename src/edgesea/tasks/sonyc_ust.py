"""SONYC-UST (Cartwright et al., 2019 and 2020): urban sound tagging at two levels."""

from collections.abc import Mapping
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
from edgesea.tasks.taxonomy import Taxonomy, read_taxonomy

ANNOTATIONS, TAXONOMY = "annotations.csv", "dcase-ust-taxonomy.yaml"
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
        judged = np.isin(annotations.splits, sorted(wanted)) & annotations.verified & (labels >= 0).all(1)
        splits = np.where(train | judged, annotations.splits, "")
        if not (splits == "train").any() or any(not (splits == name).any() for name in wanted):
            raise EdgeseaError(
                f"{data / ANNOTATIONS}: needs clips of the split train with {options.label_mode} labels, and verified "
                f"ones of the split {' and '.join(sorted(wanted))}"
            )
        return cls(data, taxonomy, annotations.take(np.flatnonzero(splits != "")), options)

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
        """
        from edgesea.tasks.tagger import tag_probabilities

        options = self.options
        if hidden is not None:
            size = hidden[0] if hidden else options.hidden_layer_size
            options = replace(options, num_hidden_layers=len(hidden), hidden_layer_size=size)
        bags, targets = replace(bags, context=self.annotations.context), self.targets()
        train = np.flatnonzero(self._split("train") & bags.usable)
        judged, monitored = np.flatnonzero(self._split(options.eval_split)), np.flatnonzero(self._split("validate"))
        if not len(train):
            raise EdgeseaError(f"{self.folder}: no training clip could be embedded")
        watched = (bags.take(monitored), targets.take(monitored)) if options.monitor == "validate" else None
        scores = tag_probabilities(bags.take(train), targets.take(train), bags.take(judged), options, seed, watched)
        if predictions is not None:
            clips = self.annotations.clips[judged]
            write_predictions(predictions, self.taxonomy, clips, scores, options.label_mode)
        found = self._scored(judged, scores, resamples)
        return {
            "label_mode": options.label_mode,
            **found[options.label_mode],
            **({"coarse": found["coarse"]} if options.label_mode == "fine" and "coarse" in found else {}),
            "train_clips": len(train),
            "clips": len(judged),
        }

    def _scored(
        self, judged: NDArray[np.int64], scores: NDArray[np.float64], resamples: int
    ) -> dict[Level, dict[str, Any]]:
        """Scores of judged clips at each level that the tags learned have."""
        truth = self.annotations.take(judged)
        if self.options.label_mode == "coarse":
            return level_scores(truth, self.taxonomy, {"coarse": scores}, resamples)
        complete = ~self.taxonomy.incomplete
        every = np.zeros(truth.fine.shape)
        every[:, complete] = scores
        coarse = np.zeros(truth.coarse.shape)
        np.maximum.at(coarse.T, self.taxonomy.parent[complete], scores.T)
        return level_scores(truth, self.taxonomy, {"fine": every, "coarse": coarse}, resamples)


def level_scores(
    truth: Annotations,
    taxonomy: Taxonomy,
    scores: Mapping[Level, NDArray[np.float64]],
    resamples: int,
    ties: Ties = "threshold",
) -> dict[Level, dict[str, Any]]:
    """Scores of clips at each level at which their labels are all given.

    Parameters
    ----------
    truth : Annotations
        Of N clips.
    taxonomy : Taxonomy
        Their tags.
    scores : mapping of str to ndarray
        By level: coarse (N, C), fine (N, F).
    resamples : int
        Bootstrap resamples for confidence intervals; 0: none.
    ties : {"threshold", "published"}
        See `edgesea.tasks.metrics`.

    Returns
    -------
    dict of str to dict
        By level: what `tagging_scores` or `fine_scores` gives, and confidence: 95 % intervals.
    """

    def scored(level: Level, clips: NDArray[np.integer]) -> dict[str, Any]:
        own = scores[level][clips]
        if level == "coarse":
            return tagging_scores(truth.coarse[clips], own, taxonomy.names, ties)
        return fine_scores(truth.fine[clips], own, taxonomy, ties)

    found: dict[Level, dict[str, Any]] = {}
    for level in scores:
        if not len(truth.clips) or ((truth.coarse if level == "coarse" else truth.fine) < 0).any():
            continue
        found[level] = scored(level, np.arange(len(truth.clips)))
        if resamples:

            def chosen(clips: NDArray[np.integer], level: Level = level) -> dict[str, float | None]:
                result = scored(level, clips)
                return {name: result[name] for name in SCORES}

            found[level]["confidence"] = confidence_intervals(chosen, len(truth.clips), resamples)
    return found
