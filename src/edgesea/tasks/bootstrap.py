"""How far scores would vary with other clips: percentile bootstrap (Efron, 1979).

Clips are resampled, and the scores of each resample are computed once for all: scipy.stats.bootstrap takes one
statistic, and cannot leave a resample out in which it does not exist (the area of a tag without a positive clip).
"""

from collections.abc import Callable, Mapping

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
) -> dict[str, tuple[float, float]]:
    """Percentile confidence intervals of scores.

    They tell how far the choice of test clips matters; not how far training does. They take clips for independent: of
    clips that come in groups, such as those of one recording, they are too narrow.

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
    found: dict[str, list[float]] = {}
    # disable=None: no bar where there is no terminal.
    for _ in tqdm(range(resamples), desc="bootstrap", unit=" resamples", delay=PATIENCE, disable=None, leave=False):
        for name, value in score(rng.integers(0, clips, clips)).items():
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
