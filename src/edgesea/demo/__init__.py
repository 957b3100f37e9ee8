"""``demo``: the whole pipeline on a synthetic city, offline, in minutes."""

from pathlib import Path
from typing import Any

from edgesea.pipeline import checked_sections, run_stages
from edgesea.tasks.options import TaggingOptions, check_seed

# A hundred clips are too few to hold some of them out for early stopping.
TAGGING = {"batch_size": 16, "l2_reg": 1e-3, "num_epochs": 50, "patience": 0}


def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> dict[str, Any]:
    """Make a synthetic city and specialise a student for it: all stages, no network, a few minutes.

    The teacher is `spectral` (hand-crafted statistics, no weights); the task is urban sound tagging in the layout of
    SONYC-UST. The same command resumes an interrupted one.

    Parameters
    ----------
    out : Path
        Run directory; the recordings go to the folder OUT-city beside it.
    seed : int
        Seed of the city and of all stages.

    Returns
    -------
    dict
        As `edgesea run`. EdgeseaError: `out` holds something else.
    """
    check_seed(seed, TaggingOptions().members)
    from edgesea.demo.city import make_city

    city = make_city(Path(f"{Path(out)}-city"), annotated=0.8, seed=seed)
    options: dict[str, dict[str, Any]] = {
        "extract": {"source": city / "manifest.csv", "teacher": "spectral", "hop": 1.0, "part_clips": 64},
        "sample": {"size": 2000, "seed": seed},
        "reduce": {"method": "pca", "size": 32},
        "distill": {"student": "edge-3", "epochs": 16, "lr": 5e-3, "seed": seed},
        "evaluate": {"task": "sonyc_ust", "data": city, "hop": 1.0, "seed": seed, "tagging": TAGGING},
    }
    return run_stages(checked_sections(options, "demo"), Path(out))
