"""``sample``: choose the windows that the reduction is fitted on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import k_dpp

if TYPE_CHECKING:
    import numpy as np

    from edgesea.sampling.frames import Candidates, Int64

__all__ = ["k_dpp", "sample"]


def _methods() -> "dict[str, Callable[[Candidates, int, np.random.Generator], Int64]]":
    from edgesea.sampling.random import choose_random

    return {"random": choose_random}


def sample(
    table: Path,
    out: Path,
    *,
    method: Literal["random"] = "random",
    size: int = 10000,
    frame: Literal["day", "none"] = "day",
    split: Literal["train", "validate", "test", "all"] = "train",
    seed: int = 0,
) -> dict[str, Any]:
    """Choose the windows of a table that the reduction will be fitted on.

    Parameters
    ----------
    table : Path
        Folder of a table.
    out : Path
        The subset, a Parquet file.
    method : {"random"}
        random: uniform, without replacement.
    size : int
        Number of windows; all, if the table has fewer.
    frame : {"day", "none"}
        Choose equally many from each sensor and day (or from each sensor), where the table knows them.
    split : {"train", "validate", "test", "all"}
        Which windows may be chosen.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    dict
        windows chosen, candidates, frames.

    Raises
    ------
    EdgeseaError
        If there is no table, or it has no windows in this split.
    """
    import numpy as np

    from edgesea.sampling.frames import candidates
    from edgesea.sampling.subset import Subset, table_key
    from edgesea.table.reader import Table

    if size < 1:
        raise EdgeseaError(f"size must be at least 1, not {size}")
    source = Table(table)
    found = candidates(source, None if split == "all" else split, frame)
    if not len(found.part):
        raise EdgeseaError(f"{table}: no windows in split {split!r}; it has {source.counts}")
    chosen = _methods()[method](found, min(size, len(found.part)), np.random.default_rng(seed))
    options = {"method": method, "size": size, "frame": frame, "split": split, "seed": seed}
    info = {**options, "table": table_key(source.info), "candidates": len(found.part)}
    Subset(found.part[chosen], found.window[chosen], info).save(Path(out))
    return {"subset": str(out), "windows": len(chosen), "candidates": len(found.part), "frames": len(found.names)}
