"""Synthetic clips of rare tags, or of rare sets of tags: SMOTE for clips with several tags.

Conventions
-----------
* MLSMOTE is that of Charte, Rivera, del Jesus & Herrera, "MLSMOTE: approaching imbalanced multilabel learning through
  synthetic instance generation", Knowledge-Based Systems 89 (2015), with labels by its *Ranking*. Label-set SMOTE is
  the alternative of SONYC's classifiers of sensor embeddings: each distinct set of tags is a class.
* The imbalance ratio of a tag (or set of tags) is the count of the commonest one divided by its count. One without any
  clip has no ratio and gets nothing.
* A tag or set is rare if its ratio is above the threshold: the mean or a percentile of the ratios of the given clips.
  No more is made for it when its ratio, with the synthetic clips, has come down to the threshold.
* Seeds and neighbours are given clips. In each iteration a clip is a seed at most once for a tag or set, in random
  order. Tags are taken in their order, so clips made for one count for the next.
* A synthetic clip lies on the segment between seed and neighbour, at a point drawn uniformly. (The paper draws another
  number for each dimension, which gives any point of the box around the segment.)
* Where there are fewer neighbours than asked for, there are fewer; where there is none, the clip is not a seed.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Mixtures(NamedTuple):
    """How to make S synthetic clips of given ones: weight * x[seed] + (1 - weight) * x[neighbor]."""

    seed: Int64  # (S,)
    neighbor: Int64  # (S,)
    weight: NDArray[np.float64]  # (S,), in [0, 1)
    labels: Float32  # (S, K), 0 or 1


def imbalance_threshold(counts: Int64, threshold: str) -> float:
    """The ratio above which a tag, or a set of tags, is rare, of the counts of clips; infinity if all are 0."""
    if not counts.any():
        return float("inf")
    ratios = counts.max() / counts[counts > 0]
    return float(ratios.mean() if threshold == "mean" else np.percentile(ratios, int(threshold.split("_")[1])))


def mlsmote(
    rows: Float32, labels: Bool, *, iterations: int = 1, threshold: str = "mean", rng: np.random.Generator, k: int = 5
) -> Mixtures:
    """MLSMOTE: synthetic clips of rare tags, of the features (N, D) and labels (N, K) of clips.

    For each rare tag, each clip with the tag is a seed. Its neighbours are the k nearest of the other clips with the
    tag (Euclidean); one of them, at random, is the other end of the segment. The synthetic clip has the tags that at
    least half of the seed and all its neighbours have, and therefore the rare one. A tag of a single clip gets none.
    """
    counts = labels.sum(0)
    limit = imbalance_threshold(counts, threshold)
    parts = [Mixtures._make([*np.zeros((3, 0), np.int64), np.zeros((0, labels.shape[1]), np.float32)])]
    for _, tag in product(range(iterations), range(labels.shape[1])):
        bag = np.flatnonzero(labels[:, tag])
        if len(bag) < 2 or counts.max() / counts[tag] <= limit:
            continue
        seed = rng.permutation(bag)
        around = _nearest(rows, seed, bag, k)
        votes = labels[around].sum(1) + labels[seed]
        made = (2 * votes >= around.shape[1] + 1).astype(np.float32)
        after = counts + np.cumsum(made, axis=0, dtype=np.int64)
        enough = np.flatnonzero(after.max(1) / after[:, tag] <= limit)
        used = int(enough[0]) + 1 if len(enough) else len(seed)
        neighbor, weight = _one_of(around, rng), rng.random(len(seed))
        parts.append(Mixtures(seed[:used], neighbor[:used], weight[:used], made[:used]))
        counts = after[used - 1]
    return Mixtures._make(map(np.concatenate, zip(*parts, strict=True)))


def label_set_smote(
    rows: Float32, labels: Bool, *, iterations: int = 1, threshold: str = "mean", rng: np.random.Generator, k: int = 5
) -> Mixtures:
    """Label-set SMOTE: synthetic clips of rare sets of tags, of the features (N, D) and labels (N, K) of clips.

    For each rare set, each clip with no tag outside it is a seed. Of the other clips, those whose tags together with
    the seed's are exactly the set can be its neighbours; one of the k nearest (Euclidean), at random, is the other end
    of the segment. The synthetic clip has the tags of the set. A clip without such neighbours is not a seed: a set of a
    single clip gets something only if there are clips with fewer of its tags, or with none.
    """
    sets, owner, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    most, limit = counts.max(initial=0), imbalance_threshold(counts, threshold)
    parts = [Mixtures._make([*np.zeros((3, 0), np.int64), np.zeros((0, labels.shape[1]), np.float32)])]
    for _, target in product(range(iterations), range(len(sets))):
        missing = int(np.argmax(most / np.arange(counts[target], most + 1) <= limit))
        if not missing:
            continue
        inside = np.flatnonzero(~(sets & ~sets[target]).any(1))
        # For each set that can be a seed's, the clips that complete it to the target; a seed does not count.
        pools = {own: np.isin(owner, inside[((sets[inside] | sets[own]) == sets[target]).all(1)]) for own in inside}
        usable = [own for own, pool in pools.items() if pool.sum() > (own == target)]
        seeds = rng.permutation(np.flatnonzero(np.isin(owner, usable)))[:missing]
        for own in np.unique(owner[seeds]):
            seed = seeds[owner[seeds] == own]
            neighbor = _one_of(_nearest(rows, seed, np.flatnonzero(pools[own]), k), rng)
            made = np.tile(sets[target].astype(np.float32), (len(seed), 1))
            parts.append(Mixtures(seed, neighbor, rng.random(len(seed)), made))
        counts[target] += len(seeds)
    return Mixtures._make(map(np.concatenate, zip(*parts, strict=True)))


def _nearest(rows: Float32, seeds: Int64, pool: Int64, k: int) -> Int64:
    """The k nearest other clips of a pool (all, if it has fewer) for seeds that are all in the pool, or all not."""
    inside = bool(np.isin(seeds[:1], pool).all())
    search = NearestNeighbors(n_neighbors=min(k + inside, len(pool)), algorithm="brute").fit(rows[pool])
    found: Int64 = pool[search.kneighbors(rows[seeds], return_distance=False)]
    if inside:
        own = found == seeds[:, None]
        own[~own.any(1), -1] = True  # more than k clips are equal to the seed, which is not among those found
        found = found[~own].reshape(len(seeds), -1)
    return found


def _one_of(around: Int64, rng: np.random.Generator) -> Int64:
    return np.asarray(around[np.arange(len(around)), rng.integers(around.shape[1], size=len(around))])
