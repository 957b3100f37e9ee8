"""What the rows of a shard say of their clips besides audio and embedding: sensor, time, split, level, label."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.table.manifest import COLUMNS, SPLITS, ClipEntry, hash_split

CONDITION = "validate"  # name of the data set that decides which rows validate, beside those of `ROW_COLUMNS`
ROW_COLUMNS = tuple(name for name in COLUMNS if name != "path")


def split_rule(validate: float | str) -> tuple[float, str | None, str]:
    """Share of the rows that validate, or the data set and the value that decide it.

    Parameters
    ----------
    validate : float or str
        A share, or a condition as ``fold=5``.

    Raises
    ------
    EdgeseaError
        If it is neither.
    """
    if isinstance(validate, str) and "=" in validate:
        name, value = (part.strip() for part in validate.split("=", 1))
        return 0.0, name, value
    try:
        share = float(validate)
    except ValueError:
        raise EdgeseaError(f"validate: {validate!r} is neither a share nor a condition data_set=value") from None
    if not 0 <= share < 1:
        raise EdgeseaError(f"validate: the share must lie in [0, 1), not {share}")
    return share, None, ""


def row_entry(clip: str, path: Path, values: Mapping[str, Any], validate: float | str) -> ClipEntry:
    """The clip that a row is.

    Parameters
    ----------
    clip : str
        Its name, which begins with that of the shard: a shard below a folder `train`, `validate` or `test` belongs to
        that split, unless the row or a condition says otherwise.
    path : Path
        The shard.
    values : mapping
        By the names of `ROW_COLUMNS` and `CONDITION`, what the data sets hold in this row: text, numbers, for `level`
        also several readings (dB) evenly spaced in the window, for `time` ISO 8601 or seconds since 1970 (UTC).
    validate : float or str
        See `split_rule`.

    Raises
    ------
    EdgeseaError
        If a value is not what it should be.
    """
    share, _, wanted = split_rule(validate)
    folder = clip.split("/", 1)[0] if "/" in clip else ""
    split = _text(values.get("split"))
    if not split and CONDITION in values:
        split = "validate" if _text(values[CONDITION]) == wanted else "train"
    split = split or (folder if folder in SPLITS else hash_split(clip, share))
    if split not in SPLITS:
        raise EdgeseaError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return ClipEntry(
        clip=clip,
        path=path,
        sensor=_text(values.get("sensor")) or None,
        time=_time(values.get("time")),
        split=split,
        level=_levels(values["level"]) if "level" in values else None,
        label=_text(values.get("label")) or None,
    )


def _text(value: Any) -> str:
    """As text; "" for NaN and for what is not there."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else str(int(value)) if float(value).is_integer() else str(value)
    return "" if value is None else str(value).strip()


def _time(value: Any) -> str | None:
    text = _text(value)
    if not text:
        return None
    try:
        if isinstance(value, int | float | np.integer | np.floating):
            return datetime.fromtimestamp(float(value), UTC).isoformat()
        datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise EdgeseaError(f"time {text!r} is neither ISO 8601 nor seconds since 1970") from None
    return text


def _levels(value: Any) -> tuple[float, ...]:
    try:
        readings = np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        readings = np.zeros(0)
    if not len(readings) or not np.isfinite(readings).all():
        raise EdgeseaError(f"level {value!r} is no number")
    return tuple(readings.tolist())
