"""Which plan a folder for a table belongs to."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from edgesea.artifact import PLAN_FILE, claim, read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.table.schema import CLIPS, SKIPPED_FILE, TABLE_FILE, WINDOWS


def claim_table(out: Path, plan: dict[str, Any]) -> None:
    """Make a folder for a table, or make sure that it holds this one, as `edgesea.artifact.claim` does.

    If a former call ended before a single clip was stored, what it left is removed, and its plan does not bind: what
    it failed for may have been an option, or files that have been mended since.

    Raises
    ------
    EdgeseaError
        If the folder holds another table, or something else.
    """
    if (out / PLAN_FILE).exists() and not _has_clips(out):
        for kind in (CLIPS, WINDOWS):
            for path in (out / kind).glob("part-*.parquet"):
                path.unlink(missing_ok=True)
        (out / SKIPPED_FILE).unlink(missing_ok=True)
        if read_json(out / PLAN_FILE) != plan:
            write_json(out / PLAN_FILE, plan)
    claim(out, plan, "table")


def _has_clips(out: Path) -> bool:
    """Whether anything of a table is there that is worth keeping."""
    if (out / TABLE_FILE).exists():
        return True
    try:
        return any(pq.read_metadata(path).num_rows for path in sorted((out / CLIPS).glob("part-*.parquet")))
    except (OSError, ValueError):  # damaged: there were some
        return True


def check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Make sure that no other call has claimed the folder for a plan of its own since.

    Raises
    ------
    EdgeseaError
        If one has, while nothing was stored yet.
    """
    if (out / PLAN_FILE).exists() and read_json(out / PLAN_FILE) != plan:
        raise EdgeseaError(
            f"{out}: another command has begun a table of other input or options here; choose another folder"
        )
