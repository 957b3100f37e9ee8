"""Synthetic clips of rare tags, or of rare sets of tags: SMOTE for clips with several tags.

Conventions
-----------
* MLSMOTE is that of Charte, Rivera, del Jesus & Herrera, "MLSMOTE: approaching imbalanced multilabel learning through
  synthetic instance generation", Knowledge-Based Systems 89 (2015), with labels by its *Ranking*. Label-set SMOTE is
  what SONYC's classifiers of sensor embeddings offer beside it: each distinct set of tags is a class.
* The *imbalance ratio* of a tag is the count of the commonest tag by its own (IRLbl of the paper); that of a set of
  tags is the count of the commonest set, which may be the empty one, by its own. A tag without any clip has none: it
  has no part in the threshold, and nothing is made for it.
* A tag or set is rare if its ratio is above the threshold: the mean of all ratios (MeanIR), or a percentile of them,
  interpolated linearly. The threshold is that of the given clips throughout, as in the paper. The ratios are those of
  given and synthetic clips together: no more is made for a tag or set whose ratio has come down to the threshold.
* Seeds and neighbours are given clips, never synthetic ones. In each iteration a given clip is a seed at most once for
  a tag or set; seeds are taken in random order, because there may be more of them than are needed, and clips that are
  sorted by name are sorted by sensor. Tags are taken in their order, so those made for one count for the next.
* A synthetic clip lies on the segment between seed and neighbour, at a point drawn uniformly. (The paper draws another
  number for each dimension, which gives any point of the box around the segment.)
* Where there are fewer neighbours than asked for, there are fewer; where there is none, the clip is no seed. Neighbours
  at equal distances are taken in the order of the clips.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.neighbors import Nearest
from edgesea.tasks.options import percentile_of

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
BLOCK = 1024  # seeds whose neighbours are searched together; those beyond what was needed are thrown away


@dataclass(frozen=True)
class Synthetic:
    """How to make S synthetic clips of given ones: weight * x[seed] + (1 - weight) * x[neighbor].

    Attributes
    ----------
    seed, neighbor : ndarray, (S,) int64
        The given clips.
    weight : ndarray, (S,) float64
        In [0, 1).
    labels : ndarray, (S, K) float32
        0 or 1.
    """

    seed: Int64
    neighbor: Int64
    weight: Float64
    labels: Float32

    def __len__(self) -> int:
        return len(self.seed)


def imbalance_ratios(counts: NDArray[np.number]) -> Float64:
    """Ratio of the largest count to each; NaN for a count of 0.

    Parameters
    ----------
    counts : ndarray, (K,)
        Clips of each tag, or of each set of tags.

    Returns
    -------
    ndarray, (K,) float64
    """
    own = np.where(counts > 0, counts, np.nan).astype(np.float64)
    return np.asarray(np.max(counts, initial=0) / own)


def imbalance_threshold(ratios: Float64, threshold: str) -> float:
    """The ratio above which a tag is rare.

    Parameters
    ----------
    ratios : ndarray, (K,) float64
        See `imbalance_ratios`; NaN are left out.
    threshold : str
        ``mean``, or ``percentile_1`` ... ``percentile_99``.

    Returns
    -------
    float
        Infinity where there is no ratio: nothing is rare.

    Raises
    ------
    EdgeseaError
        If `threshold` is none of these.
    """
    percentile = percentile_of(threshold)
    if threshold != "mean" and percentile is None:
        raise EdgeseaError(f"threshold must be mean or percentile_1 ... percentile_99, not {threshold!r}")
    present = ratios[~np.isnan(ratios)]
    if not len(present):
        return float("inf")
    return float(present.mean() if percentile is None else np.percentile(present, percentile))


def mlsmote(
    features: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    *,
    iterations: int = 1,
    threshold: str = "mean",
    rng: np.random.Generator,
    neighbors: int = 5,
) -> Synthetic:
    """MLSMOTE: synthetic clips of rare tags.

    For each rare tag, each clip with the tag is a seed. Its neighbours are the nearest of the other clips with the tag
    (Euclidean); one of them, at random, is the other end of the segment. The synthetic clip has the tags that at least
    half of the seed and all its neighbours have, and therefore the rare one. A tag of a single clip gets none.

    Where rare tags occur together with common ones, these become commoner with them, and the mean ratio may rise
    instead, with each iteration more.

    Parameters
    ----------
    features : ndarray, (N, D) float
        One row a clip; finite. Distances are those of its single precision.
    labels : ndarray, (N, K)
        0 or 1.
    iterations : int
        Passes over the tags.
    threshold : str
        Imbalance ratio above which a tag is rare: ``mean``, or ``percentile_1`` ... ``percentile_99`` of all ratios.
    rng : Generator
        Source of randomness.
    neighbors : int
        Neighbours of a seed.

    Returns
    -------
    Synthetic
        In the order in which they were made.

    Raises
    ------
    EdgeseaError
        If shapes or values are not as stated.
    """
    rows, present = _checked(features, labels, iterations, neighbors)
    counts = present.sum(0)
    limit = imbalance_threshold(imbalance_ratios(counts), threshold)
    parts = []
    for _ in range(iterations):
        for tag in range(present.shape[1]):
            bag = np.flatnonzero(present[:, tag])
            if len(bag) < 2 or counts.max() / counts[tag] <= limit:
                continue
            nearest = Nearest(rows[bag], min(neighbors + 1, len(bag)))
            order = rng.permutation(len(bag))
            for first in range(0, len(bag), BLOCK):
                block = _tag_block(rows, present, bag, order[first : first + BLOCK], nearest, rng)
                after = counts + np.cumsum(block.labels, axis=0, dtype=np.int64)
                enough = np.flatnonzero(after.max(1) / after[:, tag] <= limit)
                used = int(enough[0]) + 1 if len(enough) else len(block)
                parts.append(_first(block, used))
                counts = after[used - 1]
                if len(enough):
                    break
    return _joined(parts, present.shape[1])


def _tag_block(
    rows: Float32, present: Bool, bag: Int64, chosen: Int64, nearest: Nearest, rng: np.random.Generator
) -> Synthetic:
    """One synthetic clip for each of some clips of a bag, by their places in it; `nearest` searches the bag."""
    around = bag[_others(nearest.find(rows[bag[chosen]])[1], chosen)]
    seed = bag[chosen]
    votes = present[around].sum(1) + present[seed]
    labels = (2 * votes >= around.shape[1] + 1).astype(np.float32)
    return Synthetic(seed, _one_of(around, rng), rng.random(len(seed)), labels)


def label_set_smote(
    features: NDArray[np.floating[Any]],
    labels: NDArray[Any],
    *,
    iterations: int = 1,
    threshold: str = "mean",
    rng: np.random.Generator,
    neighbors: int = 5,
) -> Synthetic:
    """Label-set SMOTE: synthetic clips of rare sets of tags.

    For each rare set, each clip with no tag outside it is a seed. Of the other clips, those whose tags together with
    the seed's are exactly the set can be its neighbours; one of the nearest (Euclidean), at random, is the other end of
    the segment. The synthetic clip has the tags of the set. A clip without such neighbours is no seed: a set of a
    single clip gets something only if there are clips with fewer of its tags, or with none.

    What is made for one set changes the ratio of no other: none grows beyond the commonest.

    Parameters
    ----------
    features : ndarray, (N, D) float
        One row a clip; finite. Distances are those of its single precision.
    labels : ndarray, (N, K)
        0 or 1.
    iterations : int
        Passes over the sets.
    threshold : str
        Imbalance ratio above which a set is rare: ``mean``, or ``percentile_1`` ... ``percentile_99`` of all ratios.
    rng : Generator
        Source of randomness.
    neighbors : int
        Neighbours of a seed.

    Returns
    -------
    Synthetic
        Set by set in each iteration.

    Raises
    ------
    EdgeseaError
        If shapes or values are not as stated.
    """
    rows, present = _checked(features, labels, iterations, neighbors)
    sets, owner, given = np.unique(present, axis=0, return_inverse=True, return_counts=True)
    counts, most = given.copy(), int(given.max(initial=0))
    limit = imbalance_threshold(imbalance_ratios(given), threshold)
    parts = []
    for _ in range(iterations):
        for target in range(len(sets)):
            wanted = _missing(int(counts[target]), most, limit)
            if not wanted:
                continue
            pools = _pools(sets, owner, target)
            seeds = rng.permutation(np.flatnonzero(np.isin(owner, list(pools))))[:wanted]
            for own in np.unique(owner[seeds]):
                group = seeds[owner[seeds] == own]
                neighbor = _reference(rows, group, pools[int(own)], neighbors, rng)
                made = np.tile(sets[target].astype(np.float32), (len(group), 1))
                parts.append(Synthetic(group, neighbor, rng.random(len(group)), made))
            counts[target] += len(seeds)
    return _joined(parts, present.shape[1])


def _missing(count: int, most: int, limit: float) -> int:
    """How many clips a set lacks until most / count <= limit.

    The ratio itself decides, as rounded: most / limit could come out a little above a whole number.
    """
    needed = np.arange(count, most + 1)
    return int(np.argmax(most / needed <= limit)) if most / count > limit else 0


def _pools(sets: Bool, owner: Int64, target: int) -> dict[int, Int64]:
    """For each set that can be a seed's, the clips that complete it to the target; without sets that have none."""
    inside = np.flatnonzero(~(sets & ~sets[target]).any(1))
    pools = {}
    for own in inside.tolist():
        partners = inside[((sets[inside] | sets[own]) == sets[target]).all(1)]
        pool = np.flatnonzero(np.isin(owner, partners))
        if len(pool) > (own == target):  # the target's own clips complete themselves, and a seed is no neighbour
            pools[own] = pool
    return pools


def _reference(rows: Float32, seeds: Int64, pool: Int64, neighbors: int, rng: np.random.Generator) -> Int64:
    """For each seed one of its nearest in the pool, at random; seeds are all in the pool, or all not."""
    inside = bool(np.isin(seeds[:1], pool).all())
    found = Nearest(rows[pool], min(neighbors + inside, len(pool))).find(rows[seeds])[1]
    if inside:
        found = _others(found, np.searchsorted(pool, seeds))
    return _one_of(pool[found], rng)


def _others(found: Int64, own: Int64) -> Int64:
    """The neighbours, (b, k + 1) -> (b, k), without the point itself; without the last where it is not among them.

    It is missing where more than k points are equal to it.
    """
    is_own = found == own[:, None]
    is_own[~is_own.any(1), -1] = True
    others: Int64 = found[~is_own].reshape(len(found), found.shape[1] - 1)
    return others


def _one_of(around: Int64, rng: np.random.Generator) -> Int64:
    """One of each row's, at random."""
    chosen: Int64 = around[np.arange(len(around)), rng.integers(around.shape[1], size=len(around))]
    return chosen


def _first(made: Synthetic, count: int) -> Synthetic:
    return Synthetic(made.seed[:count], made.neighbor[:count], made.weight[:count], made.labels[:count])


def _joined(parts: Iterable[Synthetic], tags: int) -> Synthetic:
    none = np.zeros(0, np.int64)
    parts = [Synthetic(none, none, np.zeros(0), np.zeros((0, tags), np.float32)), *parts]
    return Synthetic(
        np.concatenate([part.seed for part in parts]),
        np.concatenate([part.neighbor for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def _checked(
    features: NDArray[np.floating[Any]], labels: NDArray[Any], iterations: int, neighbors: int
) -> tuple[Float32, Bool]:
    """Features in single precision and labels as truth values, if all is as it should be."""
    for name, value in (("iterations", iterations), ("neighbors", neighbors)):
        if value < 1:
            raise EdgeseaError(f"oversampling: {name} must be at least 1, not {value}")
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise EdgeseaError(
            f"oversampling: features {features.shape} and labels {labels.shape} must have the shapes (clips, "
            "dimensions) and (clips, tags)"
        )
    if not np.isin(labels, (0, 1)).all():
        raise EdgeseaError("oversampling: labels must be 0 or 1; leave out clips whose tags are not known")
    rows = np.ascontiguousarray(features, np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(rows).all(1))):
        raise EdgeseaError(
            f"oversampling: {len(bad)} of {len(rows)} clips have NaN or infinite features, the first is clip {bad[0]}; "
            "leave them out"
        )
    return rows, labels.astype(bool)
