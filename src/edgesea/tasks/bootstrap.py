"""How far scores would vary with other clips: percentile bootstrap (Efron, 1979).

Clips are resampled, and the scores of each resample are computed once for all: scipy.stats.bootstrap takes one
statistic, and cannot leave a resample out in which it does not exist (the area of a tag without a positive clip).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgesea.errors import EdgeseaError

PATIENCE = 5.0  # seconds without a progress bar


def confidence_intervals(
    score: Callable[[NDArray[np.int64]], Mapping[str, float | None]],
    clips: int,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: NDArray[Any] | None = None,
) -> dict[str, tuple[float, float]]:
    """Percentile confidence intervals of scores.

    They tell how far the choice of test clips matters; not how far training does. They take clips for independent, or
    their groups.

    Parameters
    ----------
    score : callable
        Scores by name of some clips, given by their indices, (clips,) int64, in which a clip may occur several times.
        None or NaN where a score does not exist.
    clips : int
        How many there are.
    resamples : int
        How often as many clips are drawn with replacement.
    level : float
        Probability that an interval is to cover, in (0, 1).
    seed : int
        Of the draws.
    groups : ndarray, (clips,), optional
        What clips have in common, such as their recording: then whole groups are drawn, as many as there are.

    Returns
    -------
    dict of str to (float, float)
        Lower and upper end by name, from the resamples in which the score exists; without one that exists in none.

    Raises
    ------
    EdgeseaError
        If a number is out of range.
    """
    if clips < 1 or resamples < 1:
        raise EdgeseaError(
            f"confidence intervals: at least 1 clip and 1 resample are needed, not {clips} and {resamples}"
        )
    if not 0 < level < 1:
        raise EdgeseaError(f"confidence intervals: level must lie between 0 and 1, not {level!r}")
    rng = np.random.default_rng(seed)
    drawn = _drawing(clips, groups)
    found: dict[str, list[float]] = {}
    # disable=None: no bar where there is no terminal.
    for _ in tqdm(range(resamples), desc="bootstrap", unit=" resamples", delay=PATIENCE, disable=None, leave=False):
        for name, value in score(drawn(rng)).items():
            values = found.setdefault(name, [])
            if value is not None and not np.isnan(value):
                values.append(value)
    tail = (1 - level) / 2
    intervals = {}
    for name, values in found.items():
        if values:
            low, high = np.quantile(values, [tail, 1 - tail])
            intervals[name] = (float(low), float(high))
    return intervals


def _drawing(clips: int, groups: NDArray[Any] | None) -> Callable[[np.random.Generator], NDArray[np.int64]]:
    """What draws a resample of clips, or of whole groups of them."""
    if groups is None:
        return lambda rng: rng.integers(0, clips, clips)
    owner = np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    return lambda rng: np.concatenate([members[own] for own in rng.integers(0, len(members), len(members))])
