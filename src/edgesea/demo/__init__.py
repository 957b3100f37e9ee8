"""``demo``: the whole pipeline on a synthetic city, offline, in minutes."""

import logging
from pathlib import Path
from typing import Any

from edgesea.artifact import read_json, versions, write_json
from edgesea.errors import EdgeseaError
from edgesea.pipeline import checked_sections, run_stages

log = logging.getLogger(__name__)

CITY = "city"
ANNOTATED = 0.8  # share of the clips with labels
CITY_FILE = "city.json"
# A hundred clips are too few to keep some of them for early stopping.
TAGGING = {"batch_size": 16, "l2_reg": 1e-3, "num_epochs": 50, "patience": 0}


def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> dict[str, Any]:
    """Make a synthetic city and specialise a student for it: all stages, no network, a few minutes.

    The teacher is `spectral` (hand-crafted statistics, no weights); the task is urban sound tagging in the layout of
    SONYC-UST. Killed, it goes on where it was.

    Parameters
    ----------
    out : Path
        Run directory; the recordings go to the folder OUT-city beside it.
    seed : int
        Seed of the city and of all stages.

    Returns
    -------
    dict
        As `edgesea run`.

    Raises
    ------
    EdgeseaError
        If `out` holds something else.
    """
    folder = Path(out)
    city = _city(folder.with_name(folder.name + "-" + CITY), seed)
    options: dict[str, dict[str, Any]] = {
        "extract": {"source": city / "manifest.csv", "teacher": "spectral", "hop": 1.0, "part_clips": 64},
        "sample": {"size": 2000, "seed": seed},
        "reduce": {"method": "pca", "size": 32},
        "distill": {
            "student": "sea-64",
            "filters": [16, 32, 64, 64],
            "epochs": 12,
            "lr": 3e-3,
            "schedule": "onecycle",
            "precision": "auto",
            "seed": seed,
        },
        "evaluate": {"task": "sonyc_ust", "data": city, "hop": 1.0, "seed": seed, "tagging": TAGGING},
    }
    return run_stages(checked_sections(options, "demo"), folder)


def _city(folder: Path, seed: int) -> Path:
    """Make the city, unless it is there already."""
    from edgesea.demo.city import make_city

    stamp = folder / CITY_FILE
    wanted = {"seed": seed, "annotated": ANNOTATED, "edgesea": versions()["edgesea"]}
    if stamp.exists():
        if read_json(stamp) != wanted:
            raise EdgeseaError(f"{folder}: holds another city; choose another folder or delete it")
        return folder
    make_city(folder, annotated=ANNOTATED, seed=seed)
    write_json(stamp, wanted)
    return folder
