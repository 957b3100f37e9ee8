"""What people heard in the clips of SONYC-UST: its table of annotations (v1 and v2), gathered clip by clip.

Each row of the table is what one annotator noted of a clip. ``annotator_id`` is 0 for what the team agreed on (a
verified clip has such a row), positive for volunteers, negative for single members of the team, who are not counted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.table.manifest import SPLITS
from edgesea.tasks.bags import CONTEXT
from edgesea.tasks.rows import CLIP, Rows, read_rows, some
from edgesea.tasks.taxonomy import Taxonomy, check_tag_columns

ANNOTATOR, SPLIT, SENSOR = "annotator_id", "split", "sensor_id"
PRESENCE, PROXIMITY = "_presence", "_proximity"
VERIFIED = 0  # annotator_id
NOT_GIVEN = -1
NEAR_OR_FAR = {"near": 1, "far": -1}
RANGES = dict(zip(CONTEXT, ((-90, 90), (-180, 180), (0, 23), (0, 6), (1, 53)), strict=True))

Owner = NDArray[np.intp]  # the clip of each row of the table


@dataclass(frozen=True)
class Annotations:
    """Annotations with one row for each of N clips, sorted by name.

    Attributes
    ----------
    clips : ndarray of str, (N,)
        Their files' names.
    splits : ndarray of str, (N,)
        train, validate or test; empty for a clip that other splits leave out.
    verified : ndarray of bool, (N,)
        Whether the labels are those that the team agreed on.
    coarse, fine : ndarray, (N, C) and (N, F) int8
        1 where a tag is present, 0 where not, -1 where it is not known. Fine tags include the incomplete ones.
    sensors : ndarray of str, (N,), optional
        Their sensors.
    proximity : ndarray, (N, P, 2) float32, optional
        For each complete fine tag (1, 0) if more volunteers heard it near than far, (0, 1) if more far, else (0, 0).
    context : ndarray, (N, 5) float64, optional
        The columns `bags.CONTEXT`; NaN where empty.
    """

    clips: NDArray[np.str_]
    splits: NDArray[np.str_]
    verified: NDArray[np.bool_]
    coarse: NDArray[np.int8]
    fine: NDArray[np.int8]
    sensors: NDArray[np.str_] | None = None
    proximity: NDArray[np.float32] | None = None
    context: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, clips: NDArray[np.integer] | NDArray[np.bool_]) -> "Annotations":
        """Those of some clips, by index or by a mask."""
        return Annotations(
            self.clips[clips],
            self.splits[clips],
            self.verified[clips],
            self.coarse[clips],
            self.fine[clips],
            None if self.sensors is None else self.sensors[clips],
            None if self.proximity is None else self.proximity[clips],
            None if self.context is None else self.context[clips],
        )


def read_annotations(path: Path, taxonomy: Taxonomy, split_path: Path | None = None) -> Annotations:
    """Read ``annotations.csv``.

    The voters on a clip are its verified rows if it has any, else its volunteers. A tag is present if one voter noted
    it (minority vote; Cartwright et al., 2019), absent if none did, not known if no voter said either.

    Parameters
    ----------
    path : Path
        The table. It may lack all fine or all coarse tags, sensors, proximities, and columns of the context.
    taxonomy : Taxonomy
        The tags.
    split_path : Path, optional
        CSV file with other splits than the table's: columns split, and audio_filename or sensor_id. The clips that it
        does not name are in no split.

    Raises
    ------
    EdgeseaError
        If a file cannot be read, a column is missing, a tag is not in the taxonomy, a value is not what it may be, a
        clip has two splits or sensors, or `split_path` names clips or sensors that are not there.
    """
    rows = read_rows(path)
    rows.require([CLIP, ANNOTATOR] if split_path else [CLIP, ANNOTATOR, SPLIT])
    return _gathered(rows, taxonomy, _annotators(rows), None, split_path)


def read_ground_truth(
    path: Path, taxonomy: Taxonomy, split: str = "validate", split_path: Path | None = None
) -> Annotations:
    """Read the labels that predictions are compared with.

    Parameters
    ----------
    path : Path
        A table of annotations, of which the verified clips of the split are taken, or a table without annotators: it
        has one row for each clip, which counts as verified, and may have splits.
    taxonomy : Taxonomy
        The tags.
    split : {"train", "validate", "test"}
        Which clips.
    split_path : Path, optional
        As of `read_annotations`.

    Raises
    ------
    EdgeseaError
        As `read_annotations`; or if no clip is left, or a clip has several rows without annotators.
    """
    if split not in SPLITS:
        raise EdgeseaError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rows = read_rows(path)
    if ANNOTATOR in rows.columns:
        rows.require([CLIP] if split_path else [CLIP, SPLIT])
        every = _gathered(rows, taxonomy, _annotators(rows), None, split_path)
    else:
        rows.distinct_clips()
        own = None if SPLIT in rows.columns else split
        every = _gathered(rows, taxonomy, np.full(len(rows.lines), VERIFIED), own, split_path)
    judged = every.verified & (every.splits == split)
    if not judged.any():
        counts = [f"{name} {int((every.verified & (every.splits == name)).sum())}" for name in SPLITS]
        raise EdgeseaError(f"{path}: no verified clip in the split {split}; verified clips: {', '.join(counts)}")
    return every.take(judged)


def _gathered(
    rows: Rows,
    taxonomy: Taxonomy,
    annotators: NDArray[np.int64],
    split: str | None = None,
    split_path: Path | None = None,
) -> Annotations:
    """Gather the rows of each clip; splits are `split` for all clips, those of `split_path`, or the table's."""
    check_tag_columns(rows.path, rows.columns, taxonomy, PRESENCE)
    if not any(tag + PRESENCE in rows.columns for tag in (*taxonomy.coarse, *taxonomy.fine)):
        raise EdgeseaError(f"{rows.path}: no column of a tag, as {taxonomy.coarse[0]}{PRESENCE}")
    clips, first, owner = np.unique(rows.clips(), return_index=True, return_inverse=True)
    verified = np.zeros(len(clips), bool)
    verified[owner[annotators == VERIFIED]] = True
    votes = np.where(verified[owner], annotators == VERIFIED, annotators > VERIFIED)
    sensors = _agreed(rows, SENSOR, clips, first, owner) if SENSOR in rows.columns else None
    if split_path:
        splits = _other_splits(split_path, rows.path, clips, sensors)
    elif split:
        splits = np.full(len(clips), split)
    else:
        _check_splits(rows)
        splits = _agreed(rows, SPLIT, clips, first, owner)
    return Annotations(
        clips,
        splits,
        verified,
        _minority_vote(_presence(rows, taxonomy.coarse), votes, owner, len(clips)),
        _minority_vote(_presence(rows, taxonomy.fine), votes, owner, len(clips)),
        sensors,
        _proximity(rows, taxonomy, annotators > VERIFIED, owner, len(clips)),
        _context(rows, first),
    )


def _annotators(rows: Rows) -> NDArray[np.int64]:
    values = rows.numbers([ANNOTATOR])
    rows.refuse(~(np.abs(values) < 2**53) | (values != np.floor(values)), [ANNOTATOR], "an integer")
    return values[:, 0].astype(np.int64)


def _presence(rows: Rows, tags: tuple[str, ...]) -> NDArray[np.int8]:
    """What each row says of each tag, (R, tags); -1 throughout if the table has none of them."""
    names = [tag + PRESENCE for tag in tags]
    if not any(name in rows.columns for name in names):
        return np.full((len(rows.lines), len(tags)), NOT_GIVEN, np.int8)
    rows.require(names)
    values = rows.numbers(names)
    rows.refuse(~np.isin(values, (NOT_GIVEN, 0, 1)), names, "-1 (not given), 0 or 1")
    return values.astype(np.int8)


def _minority_vote(values: NDArray[np.int8], votes: NDArray[np.bool_], owner: Owner, clips: int) -> NDArray[np.int8]:
    """Labels of the clips, (clips, tags), from those rows of `values`, (R, tags), that vote.

    Since one voter is enough, and any vote counts more than none, it is the greatest value.
    """
    labels = np.full((clips, values.shape[1]), NOT_GIVEN, np.int8)
    np.maximum.at(labels, owner[votes], values[votes])
    return labels


def _proximity(
    rows: Rows, taxonomy: Taxonomy, volunteers: NDArray[np.bool_], owner: Owner, clips: int
) -> NDArray[np.float32] | None:
    names = [tag + PROXIMITY for tag in taxonomy.complete]
    if not any(name in rows.columns for name in names):
        return None
    rows.require(names)
    balance = np.zeros((clips, len(names)))
    for column, name in enumerate(names):
        worth = {text: NEAR_OR_FAR.get(text.strip(), 0) for text in set(rows.columns[name])}
        heard = np.array([worth[text] for text in rows.columns[name]])
        balance[:, column] = np.bincount(owner, heard * volunteers, clips)
    return np.stack([balance > 0, balance < 0], axis=2).astype(np.float32)


def _context(rows: Rows, first: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Where and when each clip was recorded, by its first row."""
    if not all(name in rows.columns for name in CONTEXT):
        return None
    values = rows.numbers(CONTEXT)
    given = np.column_stack([rows.text(name) != "" for name in CONTEXT])
    rows.refuse(given & ~np.isfinite(values), CONTEXT, "a number, or empty")
    for column, (name, (low, high)) in enumerate(RANGES.items()):
        outside = given[:, [column]] & ~((values[:, [column]] >= low) & (values[:, [column]] <= high))
        rows.refuse(outside, [name], f"from {low} to {high}")
    return values[first]


def _agreed(rows: Rows, name: str, clips: NDArray[np.str_], first: NDArray[np.intp], owner: Owner) -> NDArray[np.str_]:
    """The value of a column for each clip, the same in all its rows."""
    values = rows.text(name)
    other = np.flatnonzero(values != values[first][owner])
    if len(other):
        pairs = {clips[owner[row]]: f"has '{values[first[owner[row]]]}' and '{values[row]}'" for row in other}
        found = [f"{clip} {pair}" for clip, pair in pairs.items()]
        raise EdgeseaError(f"{rows.path}: each must have one {name}, but {some(found, '; ')}")
    return values[first]


def _check_splits(rows: Rows) -> None:
    rows.refuse(~np.isin(rows.text(SPLIT), SPLITS)[:, None], [SPLIT], f"one of {', '.join(SPLITS)}")


def _other_splits(
    path: Path, annotations: Path, clips: NDArray[np.str_], sensors: NDArray[np.str_] | None
) -> NDArray[np.str_]:
    """The split of each clip by a file that names clips or sensors."""
    rows = read_rows(path)
    name = CLIP if CLIP in rows.columns else SENSOR
    if name not in rows.columns:
        raise EdgeseaError(f"{path}: no column {CLIP} or {SENSOR}; it has {some(list(rows.columns))}")
    rows.require([SPLIT])
    _check_splits(rows)
    own = clips if name == CLIP else sensors
    if own is None:
        raise EdgeseaError(f"{path}: gives splits by {SENSOR}, which {annotations} lacks; name clips instead")
    keys, first, owner = np.unique(rows.text(name), return_index=True, return_inverse=True)
    if unknown := np.setdiff1d(keys, own).tolist():
        raise EdgeseaError(f"{path}: {name} that {annotations} does not have: {some(unknown)}")
    split = dict(zip(keys.tolist(), _agreed(rows, SPLIT, keys, first, owner).tolist(), strict=True))
    return np.array([split.get(key, "") for key in own.tolist()])
