"""SONYC-UST (Cartwright et al., 2019 and 2020): urban sound tagging at two levels.

A table of predictions is in the layout of DCASE's urban sound tagging challenge: a row for each clip, the columns
``audio_filename``, every fine tag (the incomplete ones too) and every coarse tag, with probabilities.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgesea.artifact import atomic_path
from edgesea.errors import EdgeseaError
from edgesea.table.sheet import Sheet, some
from edgesea.tasks.annotations import CLIP, Annotations, Taxonomy, read_annotations, read_taxonomy
from edgesea.tasks.features import Bags, Float64, Targets
from edgesea.tasks.metrics import Ties, confidence_intervals, tagging_scores
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.skipped import check_share

Level = Literal["coarse", "fine"]
Predictions = dict[Level, pd.DataFrame]  # by level the scores, with clips as the index and tags as columns
ANNOTATIONS, TAXONOMY = "annotations.csv", "dcase-ust-taxonomy.yaml"
SCORES = ("micro_auprc", "macro_auprc", "micro_f1", "lwlrap")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SonycUst:
    """A data set in the layout of SONYC-UST."""

    folder: Path
    taxonomy: Taxonomy
    annotations: Annotations  # of the N clips that the options need: labelled training clips, verified other ones
    options: TaggingOptions  # what is learned, and what is tested
    name = "sonyc_ust"

    @classmethod
    def load(cls, data: Path, options: TaggingOptions) -> "SonycUst":
        """Read ``annotations.csv`` and ``dcase-ust-taxonomy.yaml`` below `data`; the clips are in ``audio/``."""
        if missing := [data / name for name in (ANNOTATIONS, TAXONOMY) if not (data / name).is_file()]:
            raise EdgeseaError(f"{missing[0]}: not found; it must be beside {ANNOTATIONS}, {TAXONOMY} and audio/")
        taxonomy = read_taxonomy(data / TAXONOMY)
        annotations = read_annotations(data / ANNOTATIONS, taxonomy, options.split_path)
        wanted = {options.eval_split, *(["validate"] if options.monitor == "validate" else [])}
        labels = getattr(annotations, options.label_mode)
        train = (annotations.splits == "train") & (labels >= 0).any(1)
        verified = np.isin(annotations.splits, sorted(wanted)) & annotations.verified
        complete = verified & (labels >= 0).all(1)
        if 0 < complete.sum() < verified.sum():
            count = int(verified.sum() - complete.sum())
            log.warning("%s: %d verified clips without all %s labels are left out", data, count, options.label_mode)
        splits = np.where(train | complete, annotations.splits, "")
        if absent := sorted({"train", *wanted} - {*splits}):
            what = f"split {' and '.join(absent)} with {options.label_mode} labels"
            raise EdgeseaError(f"{data / ANNOTATIONS}: no clips of the {what}; to be tested they must be verified")
        for name, column, needed in (
            ("context", "context", "latitude, longitude, hour, day and week"),
            ("sensor_factor", "sensors", "sensor_id"),
            ("proximity_factor", "proximity", "..._proximity"),
        ):
            if getattr(options, name) and getattr(annotations, column) is None:
                raise EdgeseaError(f"tagging: {name} needs the columns {needed} in {data / ANNOTATIONS}; leave it out")
        return cls(data, taxonomy, annotations.take(splits != ""), options)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / "audio" / name for name in self.annotations.clips]

    def emptied(self, usable: NDArray[np.bool_]) -> list[str]:
        """Splits of which no clip is `usable`, and tags of which no clip of a split is."""
        mode, splits, left = self.options.label_mode, self.annotations.splits, self.annotations.take(usable)
        gone = [f"split {split}" for split in sorted({*splits} - {*left.splits})]
        for split in sorted({*left.splits}):
            labels = (getattr(one, mode)[one.splits == split] for one in (self.annotations, left))
            gone += [f"{tag} in the split {split}" for tag in _lost(getattr(self.taxonomy, mode), *labels)]
        return gone

    def targets(self) -> Targets:
        """What is to be learned of each clip.

        Where the incomplete tag of a coarse class was heard, its fine tags are taken as not given.
        """
        labelled, taxonomy = self.annotations, self.taxonomy
        if self.options.label_mode == "coarse":
            labels, given = labelled.coarse, labelled.coarse >= 0
        else:
            uncertain = np.zeros(labelled.coarse.shape, bool)
            uncertain[:, taxonomy.parent[taxonomy.incomplete]] = labelled.fine[:, taxonomy.incomplete] == 1
            complete = ~taxonomy.incomplete
            labels = labelled.fine[:, complete]
            given = (labels >= 0) & ~uncertain[:, taxonomy.parent[complete]]
        sensors = None if labelled.sensors is None else np.unique(labelled.sensors, return_inverse=True)[1]
        return Targets((labels > 0).astype(np.float32), given, sensors, labelled.proximity)

    def score(self, bags: Bags, seed: int, *, resamples: int = 0, predictions: Path | None = None) -> dict[str, Any]:
        """Train on the training clips, and score on the verified clips of the test split.

        Clips that could not be embedded are left out. `predictions` is a CSV file for the scores of the test clips: of
        coarse tags those of all fine ones are 0; of fine ones those of incomplete tags are 0, and a coarse tag has the
        highest score below it. Returns label_mode, `score_levels` and train_clips; of fine tags also the scores at the
        coarse level, as coarse.
        """
        from edgesea.tasks.tagger import tag_probabilities

        mode, splits = self.options.label_mode, self.annotations.splits
        bags = bags.averaged() if self.options.target_mode == "clip" else bags
        bags, targets = replace(bags, context=self.annotations.context), self.targets()
        train, test, monitored = (
            np.flatnonzero((splits == split) & bags.usable) for split in ("train", self.options.eval_split, "validate")
        )
        watched = (bags.take(monitored), targets.take(monitored)) if self.options.monitor == "validate" else None
        learned = bags.take(train), targets.take(train)
        scores = tag_probabilities(*learned, bags.take(test), self.options, seed, watched)
        truth, taxonomy = self.annotations.take(test), self.taxonomy
        fine = np.zeros((len(test), len(taxonomy.fine)))
        if mode == "fine":
            fine[:, ~taxonomy.incomplete] = scores
            scores = np.stack([fine[:, taxonomy.parent == tag].max(1) for tag in range(len(taxonomy.coarse))], 1)
        values: dict[Level, Float64] = {"fine": fine, "coarse": scores}
        predicted = {level: pd.DataFrame(values[level], truth.clips, getattr(taxonomy, level)) for level in values}
        if predictions is not None:
            write_predictions(predictions, predicted)
        if mode == "coarse":
            del predicted["fine"]
        found = score_levels(self.folder, predicted, truth, taxonomy, "threshold", resamples)
        return {"label_mode": mode, **found.pop(mode), **found, "train_clips": len(train)}


def _lost(tags: Sequence[str], labels: NDArray[np.integer], left: NDArray[np.integer]) -> list[str]:
    """The tags, as ``tag 1_engine``, that clips with the `labels` (N, K) have, but none of those `left` (M, K)."""
    lost = (labels == 1).any(0) & ~(left == 1).any(0)
    return [f"tag {tag}" for tag, gone in zip(tags, lost, strict=True) if gone]


def level_scores(
    level: Level, labels: NDArray[np.integer], scores: Float64, taxonomy: Taxonomy, ties: Ties, resamples: int
) -> dict[str, Any]:
    """Scores of clips at one level, 95 % intervals (confidence) if there are resamples, and the number of clips."""
    classes = (taxonomy.names, ties, *((taxonomy.parent, taxonomy.incomplete) if level == "fine" else ()))

    def overall(clips: NDArray[np.integer]) -> dict[str, float | None]:
        result = tagging_scores(labels[clips], scores[clips], *classes)
        return {name: result[name] for name in SCORES}

    found = tagging_scores(labels, scores, *classes)
    if resamples:
        found["confidence"] = confidence_intervals(overall, len(labels), resamples)
    return {**found, "clips": len(labels)}


def score_levels(
    path: Path, predicted: Predictions, truth: Annotations, taxonomy: Taxonomy, ties: Ties, resamples: int,
    max_skipped: float = 0.0,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Scores of predictions, which `path` holds, by level, as far as labels are given.

    At most the share `max_skipped` of the clips may lack predictions, and some clip of each tag must have them.
    """
    result: dict[str, dict[str, Any]] = {}
    for level, scores in predicted.items():
        labels = getattr(truth, level)
        complete = (labels >= 0).all(1)
        if not complete.any():
            continue
        if extra := sorted({*scores.index} - {*truth.clips}):
            raise EdgeseaError(f"{path}: {some(extra)}: not among the verified clips of the annotations")
        there = np.isin(truth.clips, scores.index)
        lacking, scored = truth.clips[complete & ~there], complete & there
        text = f"{path}: {len(lacking)} of {complete.sum()} verified clips have no {level} scores ({some(lacking)})"
        if gone := _lost(getattr(taxonomy, level), labels[complete], labels[scored]):
            raise EdgeseaError(f"{text}, so nothing is left of {some(gone)}; complete them")
        check_share(text, len(lacking), int(complete.sum()), max_skipped)
        if len(lacking):
            log.warning("%s; the scores are those of the others", text)
        values = scores.loc[truth.clips[scored].tolist()].to_numpy()
        found = level_scores(level, labels[scored], values, taxonomy, ties, resamples)
        result[level] = found | ({"skipped": len(lacking)} if len(lacking) else {})
    if not result:
        raise EdgeseaError(f"{path}: no scores above 0 of tags whose labels are given")
    return result


def read_predictions(path: Path, taxonomy: Taxonomy) -> Predictions:
    """Read a table of predictions, at the levels that have any above 0: a classifier of coarse tags writes no others.

    Incomplete fine tags may lack a column; then their scores are 0, as in the challenge's own evaluation.
    """
    table = Sheet.read(path, [CLIP])
    clip = table.rows[CLIP]
    table.check((clip != "") & ~clip.duplicated(keep=False), "the name of a clip, listed once")
    taxonomy.check_columns(table)
    found: Predictions = {}
    levels: dict[Level, tuple[str, ...]] = {"coarse": taxonomy.coarse, "fine": taxonomy.complete}
    for level, needed in levels.items():
        tags = getattr(taxonomy, level) if table.has(needed) else ()
        scores = table.numbers([tag for tag in tags if tag in table.rows])
        table.check((scores >= 0) & (scores <= 1), "a number from 0 to 1")
        if scores.to_numpy().any():
            found[level] = scores.reindex(columns=tags, fill_value=0.0).set_index(clip)
    return found


def write_predictions(path: Path, predicted: Predictions) -> None:
    """Write a table of predictions of all tags; what is read from it are the same scores to the last bit."""
    with atomic_path(path) as temporary:
        pd.concat(predicted.values(), axis=1).to_csv(temporary, index_label=CLIP, lineterminator="\n")
