"""``spl``: louder windows more often, where loud means loud for the time of day."""

from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.sampling.checks import Float64, Floating, finite_column, subset_size

DAY = 86400  # seconds
SLOT = 7200  # seconds: levels are compared with those of the same two hours


def relevance(levels: Floating, seconds_of_day: Floating) -> Float64:
    """Rank levels within two-hour slots of the day.

    Parameters
    ----------
    levels : ndarray, (n,) float
        Levels in dB, of the windows of one frame (e.g. one sensor's day).
    seconds_of_day : ndarray, (n,) float
        Local time at which each window starts, in seconds after midnight, in [0, 86400).

    Returns
    -------
    ndarray, (n,) float64
        Rank in the slot (1: the quietest; the mean of their ranks for equal levels) divided by the number of windows
        in the slot: in (0, 1], and 1 for a window that is alone in its slot.

    Raises
    ------
    EdgeseaError
        If a level or time is missing (NaN), or a time is out of range.
    """
    level = finite_column(levels, "levels", len(levels), low=-np.inf)
    seconds = finite_column(seconds_of_day, "seconds_of_day", len(level), low=0.0, high=DAY)
    slot = (seconds // SLOT).astype(np.int64)
    result = np.zeros(len(level))
    for each in np.unique(slot):
        members = slot == each
        # Equal levels stand next to each other in the order: `last` is how many are not louder, and a group of
        # `count` equal ones has the ranks last - count + 1 ... last.
        _, group, count = np.unique(level[members], return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        result[members] = (last - (count - 1) / 2)[group] / members.sum()
    return result


def choose_spl(relevance: Floating, k: SupportsIndex, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw k windows one after the other, each with probability proportional to its relevance among those left.

    Give every window an exponential waiting time with its relevance as the rate. The first one to occur is window i
    with probability relevance_i / sum, and the exponential distribution forgets: after it, the others race as if they
    had just started. So the k shortest times are exactly these draws, at the cost of one sort (Efraimidis &
    Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters, 2006).

    Parameters
    ----------
    relevance : ndarray, (n,) float
        At least 0; a window with 0 is never drawn.
    k : int
        How many windows; 0 gives the empty set.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray, (k,) int64
        Row numbers, sorted.

    Raises
    ------
    EdgeseaError
        If k is larger than the number of windows with a relevance above 0, or a relevance is negative or not finite.
    """
    weight = finite_column(relevance, "relevance", len(relevance), low=0.0)
    size = subset_size(k, len(weight))
    possible = np.flatnonzero(weight)
    if size > len(possible):
        raise EdgeseaError(
            f"cannot choose k = {size} windows: only {len(possible)} of {len(weight)} have a relevance above 0; "
            f"lower k to {len(possible)}"
        )
    # In logarithms, where a tiny relevance does not make the waiting time infinite.
    waiting = np.log(rng.standard_exponential(len(possible))) - np.log(weight[possible])
    return np.sort(possible[np.argsort(waiting)[:size]])
