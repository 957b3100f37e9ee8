"""Windows of a table that a student is calibrated on, and others that its export is checked on."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesea.artifact import VERSIONS, digest
from edgesea.errors import EdgeseaError
from edgesea.models.student_config import StudentConfig
from edgesea.reduction.windows import Windows, find_windows
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table

Float32 = NDArray[np.float32]
LEAST = 16  # windows to calibrate on, and to check on


class Chosen(NamedTuple):
    """Windows (n, W) float32 at the student's rate."""

    calibrate: Float32
    check: Float32
    held_out: str  # where `check` comes from


def choose_windows(table: Table, subset: Subset | None, count: int, rate: int) -> Chosen:
    """Some windows of a subset, or of all for training; and as many for validation, or not chosen for calibration."""
    found = find_windows(table, subset)
    fitted, others = found["fitted"], found["validate"]
    if max(len(others), len(found["train"])) < LEAST:
        count = min(count, len(fitted) // 2)  # leave some of a small table to check on
    places = _spread(len(fitted), count)
    given = _audio(fitted, places, rate)
    if len(others) >= LEAST:
        return _checked(table, Chosen(given, _audio(others, _spread(len(others), count), rate), "validate"))
    rest = np.setdiff1d(np.arange(len(fitted)), places)
    left = [_audio(fitted, rest[_spread(len(rest), count)], rate)]
    left += [_audio(found["train"], _spread(len(found["train"]), count), rate)]
    return _checked(table, Chosen(given, np.concatenate(left)[-count:], "train, not used to calibrate"))


def _checked(table: Table, chosen: Chosen) -> Chosen:
    for use in ("calibrate", "check"):
        if (there := len(getattr(chosen, use))) < LEAST:
            found = f"{there} windows to {use} an export on, but {LEAST} are needed"
            raise EdgeseaError(f"{table.path}: {found}; choose a larger table")
    return chosen


def _spread(total: int, count: int) -> NDArray[np.int64]:
    """Numbers of at most `count` windows of `total`, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)) if total else np.arange(0)


def _audio(windows: Windows, chosen: NDArray[np.int64], rate: int) -> Float32:
    """The audio of some windows, whose numbers are ascending."""
    table = windows.table
    found = [np.zeros((0, table.framing.at(rate).window), np.float32)]
    for place, rows in windows.places(chosen):
        pcm, scales = table.audio(table.chunk(*place, ["clip", "start", "offset"]), rows, rate)
        found.append(pcm * scales)
    return np.concatenate(found)


def open_table(path: Path, config: StudentConfig, provenance: dict[str, Any], name: str, any_table: bool) -> Table:
    """A table that fits a student, and that it was trained on, if this is recorded and not waived by `any_table`."""
    table = Table(path)
    if table.framing.window != config.window:
        needed = f"{path}: windows of {table.framing.window} s, but {name} takes windows of {config.window} s"
        raise EdgeseaError(f"{needed}; extract the recordings again with that window")
    if table.sample_rate < config.sample_rate:
        raise EdgeseaError(
            f"{path}: audio of {table.sample_rate} Hz, but {name} takes {config.sample_rate} Hz;"
            f" extract the recordings again with sample_rate={config.sample_rate}"
        )
    trained = (provenance.get("table") or {}).get("manifest_sha256")
    also = (provenance.get("also") or {}).get("tables") or []
    here = digest({key: value for key, value in table.info.items() if key not in VERSIONS})
    if trained not in (None, table.info["manifest_sha256"]) and here not in also and not any_table:
        recorded = f"{trained[:12]}, this is {table.info['manifest_sha256'][:12]}"
        remedy = "give that table, or any_table=true to calibrate on other recordings"
        raise EdgeseaError(f"{path}: not a table that {name} was trained on (manifest {recorded}); {remedy}")
    return table
