"""``random``: uniform in each frame, without replacement."""

import numpy as np

from edgesea.sampling.frames import Candidates, Int64, quotas


def choose_random(candidates: Candidates, size: int, rng: np.random.Generator) -> Int64:
    """Choose `size` candidates, equally many from each frame as far as their sizes allow.

    Parameters
    ----------
    candidates : Candidates
        What there is to choose from.
    size : int
        How many; at most the number of candidates.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray, (size,) int64
        Indices of the chosen candidates, sorted.
    """
    order = np.argsort(candidates.frame, kind="stable")
    sizes = np.bincount(candidates.frame, minlength=len(candidates.names)).astype(np.int64)
    groups = np.split(order, np.cumsum(sizes)[:-1]) if len(sizes) else []
    wanted = quotas(sizes, size)
    chosen = [rng.choice(group, k, replace=False) for group, k in zip(groups, wanted, strict=True) if k]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
