"""The tags of SONYC-UST (v1 and v2), and what people heard in its clips, gathered clip by clip.

Each row of the table of annotations is what one annotator heard in a clip. ``annotator_id`` is 0 for what the team
agreed on (a verified clip has such a row), positive for volunteers, negative for single members of the team, who are
not counted.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError, explained
from edgesea.table.manifest import SPLITS
from edgesea.table.sheet import Sheet, some
from edgesea.tasks.features import CONTEXT

CLIP, ANNOTATOR, SPLIT, SENSOR = "audio_filename", "annotator_id", "split", "sensor_id"
NAMES = (CLIP, ANNOTATOR, SPLIT, SENSOR, *CONTEXT)
PRESENCE, PROXIMITY = "_presence", "_proximity"
VERIFIED = 0  # annotator_id
NOT_GIVEN = -1
LEAST, MOST = (-90, -180, 0, 0, 1), (90, 180, 23, 6, 53)  # of each value of `CONTEXT`
INCOMPLETE = "X"  # the fine id of a tag whose coarse class is certain and whose fine one is not


@dataclass(frozen=True)
class Taxonomy:
    """C coarse tags and the F fine tags below them."""

    coarse: tuple[str, ...]  # such as 1_engine
    fine: tuple[str, ...]  # such as 1-1_small-sounding-engine; also the incomplete ones: 1-X_engine-of-uncertain-size
    parent: NDArray[np.int64]  # (F,) the coarse tag of each fine tag, as its index
    incomplete: NDArray[np.bool_]  # (F,)

    @property
    def names(self) -> tuple[str, ...]:
        """The coarse tags without their numbers, such as ``engine``: scores are named by them."""
        return tuple(tag.partition("_")[2] for tag in self.coarse)

    @property
    def complete(self) -> tuple[str, ...]:
        """The fine tags that are not incomplete: what a classifier learns."""
        return tuple(tag for tag, incomplete in zip(self.fine, self.incomplete, strict=True) if not incomplete)

    def check_columns(self, table: Sheet, suffix: str = "") -> None:
        """Refuse columns such as ``1_engine`` or ``1-X_...`` with `suffix` that are not of tags in the taxonomy.

        Scores or labels of another taxonomy would be left out unnoticed.
        """
        known = {tag + suffix for tag in (*self.coarse, *self.fine)}
        tag = re.compile(rf"\d+(-[\dX]+)?_.+{suffix}")
        if unknown := [name for name in table.rows if tag.fullmatch(str(name)) and name not in known]:
            raise EdgeseaError(f"{table.path}: {some(unknown)}: not in the taxonomy; is it of this data set?")
        known.update(NAMES, (tag + PROXIMITY for tag in self.fine if suffix))
        used = [str(name) for name in table.rows if name in known]
        for name in used:
            table.find(name)  # EdgeseaError if it is there twice
        table.report(used)


def read_taxonomy(path: Path) -> Taxonomy:
    with explained(f"{path}: not the taxonomy of SONYC-UST"):
        content = yaml.safe_load(path.read_text("utf-8"))
        coarse = {str(number): f"{number}_{name}" for number, name in content["coarse"].items()}
        rows = [
            (f"{number}-{code}_{name}", list(coarse).index(str(number)), str(code) == INCOMPLETE)
            for number, tags in content["fine"].items()
            for code, name in tags.items()
        ]
        fine, parent, incomplete = zip(*rows, strict=True)
    taxonomy = Taxonomy(tuple(coarse.values()), fine, np.array(parent, np.int64), np.array(incomplete, bool))
    # Scores are stored by name: of two coarse tags of one name, one would be lost.
    if len({*parent}) < len(coarse) or any(len({*tags}) < len(tags) for tags in (taxonomy.names, fine)):
        raise EdgeseaError(f"{path}: each coarse tag of SONYC-UST has fine tags, and each tag a name of its own")
    return taxonomy


@dataclass(frozen=True)
class Annotations:
    """Annotations with one row for each of N clips, sorted by name."""

    clips: NDArray[np.str_]  # (N,) file names
    splits: NDArray[np.str_]  # (N,) train, validate, test; empty for a clip that a file of splits leaves out
    verified: NDArray[np.bool_]  # (N,) whether the labels are those that the team agreed on
    coarse: NDArray[np.int8]  # (N, C) 1 where a tag is present, 0 where not, -1 where it is not known
    fine: NDArray[np.int8]  # (N, F) likewise, also of incomplete tags
    sensors: NDArray[np.str_] | None = None  # (N,)
    proximity: NDArray[np.float32] | None = None  # (N, complete tags, 2) (1, 0): more volunteers say near; (0, 1): far
    context: NDArray[np.float64] | None = None  # (N, 5) the columns `CONTEXT`; NaN where empty

    def take(self, clips: NDArray[np.integer] | NDArray[np.bool_]) -> "Annotations":
        return replace(self, **{name: column[clips] for name, column in vars(self).items() if column is not None})


def read_ground_truth(
    path: Path, taxonomy: Taxonomy, split: str = "validate", split_path: Path | None = None
) -> Annotations:
    """Read the labels that predictions are compared with: those of the verified clips of a split.

    A table without annotators has one row for each clip, which is verified, and of this split if it has no splits.
    """
    table = Sheet.read(path, [CLIP], NAMES)
    if ANNOTATOR not in table.rows:
        table.check(~table.rows[CLIP].duplicated(keep=False), f"listed once, because there is no {ANNOTATOR}")
        added = {ANNOTATOR: str(VERIFIED), SPLIT: table.rows.get(SPLIT, split)}
        table = Sheet(path, table.rows.assign(**added))
    every = read_annotations(path, taxonomy, split_path, table)
    wanted = every.verified & (every.splits == split)
    if not wanted.any():
        raise EdgeseaError(f"{path}: no verified clip in the split {split!r}")
    return every.take(wanted)


def read_annotations(
    path: Path, taxonomy: Taxonomy, split_path: Path | None = None, table: Sheet | None = None
) -> Annotations:
    """Read a table of annotations, which may lack sensors, proximities, context, and all fine or all coarse tags.

    The voters on a clip are its verified rows if it has any, else its volunteers. A tag is present if one voter heard
    it (minority vote; Cartwright et al., 2019), absent if none did, not known if no voter said either. `split_path` is
    a CSV file with other splits: columns split, and audio_filename or sensor_id. `table` is what `path` holds.
    """
    table = table or Sheet.read(path, (), NAMES)
    table.require([CLIP, ANNOTATOR] if split_path else [CLIP, ANNOTATOR, SPLIT])
    taxonomy.check_columns(table, PRESENCE)
    clip, annotator = table.rows[CLIP], table.numbers([ANNOTATOR])
    table.check(clip != "", "the name of a clip")
    table.check((annotator.abs() < 2**53) & (annotator % 1 == 0), "an integer")
    agreed, volunteer = annotator[ANNOTATOR] == VERIFIED, annotator[ANNOTATOR] > VERIFIED
    verified = agreed.groupby(clip).any()
    clips = verified.index.to_numpy(str)
    sensors = _unique(table, SENSOR, CLIP).to_numpy(str) if SENSOR in table.rows else None
    splits = _other_splits(split_path, clips, sensors) if split_path else _unique(table, SPLIT, CLIP).to_numpy(str)
    proximity, context = None, None
    names = [tag + PROXIMITY for tag in taxonomy.complete]
    if table.has(names):
        sides = (table.rows[names] == "near").astype(int) - (table.rows[names] == "far")
        balance = sides[volunteer].groupby(clip).sum().reindex(clips, fill_value=0).to_numpy()
        proximity = np.stack([balance > 0, balance < 0], axis=2).astype(np.float32)
    if all(name in table.rows for name in CONTEXT):
        values, empty = table.numbers(CONTEXT), table.rows[list(CONTEXT)] == ""
        wanted = f"a number ({', '.join(CONTEXT)}: from {LEAST} to {MOST}), or empty"
        table.check((values >= LEAST) & (values <= MOST) | empty, wanted)
        context = values.groupby(clip).first().to_numpy()
    voter, labels = agreed | (volunteer & ~clip.map(verified)), []
    for tags in (taxonomy.coarse, taxonomy.fine):
        names = [tag + PRESENCE for tag in tags]
        values = table.numbers(names if table.has(names) else ())
        table.check(values.isin((NOT_GIVEN, 0, 1)), "-1 (not given), 0 or 1")
        greatest = values[voter].groupby(clip).max()  # any vote counts more than none
        labels.append(greatest.reindex(index=clips, columns=names, fill_value=NOT_GIVEN).to_numpy(np.int8))
    coarse, fine = labels
    return Annotations(clips, splits, verified.to_numpy(), coarse, fine, sensors, proximity, context)


def _unique(table: Sheet, name: str, key: str) -> "pd.Series[str]":
    """The value of a column for each value of `key`, the same in all its rows."""
    if name == SPLIT:
        table.check(table.rows[SPLIT].isin(SPLITS), f"one of {', '.join(SPLITS)}")
    groups = table.rows[name].groupby(table.rows[key])
    table.check(table.rows[name] == groups.transform("first"), f"the same in all rows of one {key}")
    return groups.first()


def _other_splits(path: Path, clips: NDArray[np.str_], sensors: NDArray[np.str_] | None) -> NDArray[np.str_]:
    """The split of each clip by a file that names clips or sensors; empty if it names neither."""
    table = Sheet.read(path, [SPLIT], [CLIP, SENSOR])
    key, keys = (CLIP, clips) if CLIP in table.rows else (SENSOR, sensors)
    table.require([key])
    if keys is None:
        raise EdgeseaError(f"{path}: gives splits by {SENSOR}, which the annotations lack; name clips instead")
    table.check(table.rows[key].isin(keys), f"a {key} of the annotations")
    return _unique(table, SPLIT, key).reindex(keys, fill_value="").to_numpy(str)
