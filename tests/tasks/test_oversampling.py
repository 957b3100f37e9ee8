from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from edgesea.tasks.oversampling import Mixtures, imbalance_threshold, label_set_smote, mlsmote

Bool = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
METHODS: list[Callable[..., Mixtures]] = [mlsmote, label_set_smote]


def matrix(*rows: str) -> Bool:
    """Labels from rows like ``1.1``."""
    return np.array([[letter == "1" for letter in row] for row in rows])


def run(method: Callable[..., Mixtures], labels: Bool, features: Any = None, seed: int = 0, **options: Any) -> Mixtures:
    """By default of features whose neighbours are those nearest in order; clips further on lie further apart."""
    rows = np.arange(len(labels))[:, None] ** 1.01 if features is None else features
    return method(np.asarray(rows, np.float32), labels, rng=np.random.default_rng(seed), **options)


def pairs(made: Mixtures) -> list[tuple[int, int]]:
    return list(zip(made.seed.tolist(), made.neighbor.tolist(), strict=True))


def test_thresholds_are_the_mean_or_a_percentile_of_the_ratios_of_tags_that_occur():
    counts = np.array([30, 0, 15, 10, 3])  # ratios 1, none, 2, 3, 10
    assert imbalance_threshold(counts, "mean") == 4.0
    assert imbalance_threshold(counts, "percentile_50") == 2.5
    assert imbalance_threshold(counts, "percentile_25") == pytest.approx(1.75)  # between ranks 0 and 1 at 3/4
    assert imbalance_threshold(np.zeros(3, int), "mean") == np.inf


@pytest.mark.parametrize("method", METHODS)
def test_further_iterations_add_clips_until_the_ratio_is_at_the_threshold(method):
    labels = matrix(*["1.."] * 40, *[".1."] * 40, *["..1"] * 2)  # ratios 1, 1, 20, mean 7.3; 40/6 is below, 40/5 not
    made = [run(method, labels, iterations=iterations) for iterations in (1, 2, 3)]
    assert [len(some.seed) for some in made] == [2, 4, 4]
    assert sorted(made[1].seed.tolist()) == [80, 80, 81, 81]


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_is_never_its_own_neighbour_even_among_equal_clips(method):
    made = run(method, matrix(*["1."] * 60, *[".1"] * 30), np.zeros((90, 3)), threshold="percentile_1")
    assert len(made.seed) == 30
    assert (made.seed != made.neighbor).all()


def test_a_rare_set_is_completed_by_clips_whose_tags_make_it_up():
    # sets: {} 4, {a} 4, {b} 2, {a, b} 1, {c} 4; ratios 1, 1, 2, 4, 1, mean 1.8: {b} lacks 1 (4/3), {a, b} lacks 2
    labels = matrix("...", "...", "...", "...", "1..", "1..", "1..", "1..", ".1.", ".1.", "11.", *["..1"] * 4)
    partners = {
        ".1.": {(8, 9), (9, 8)} | {pair for i in range(4) for j in (8, 9) for pair in ((i, j), (j, i))},
        "11.": {pair for i in range(10) for pair in ((i, 10), (10, i))}
        | {pair for i in range(4, 8) for j in (8, 9) for pair in ((i, j), (j, i))},
    }
    seen: dict[str, set[tuple[int, int]]] = {name: set() for name in partners}
    for seed in range(300):
        made = run(label_set_smote, labels, seed=seed, k=20)
        names = ["".join("1" if tag else "." for tag in row) for row in made.labels]
        assert sorted(names) == [".1.", "11.", "11."]
        for name, pair in zip(names, pairs(made), strict=True):
            seen[name].add(pair)
    assert seen == partners  # nothing else, and everything comes up


def test_a_set_that_nothing_completes_gets_nothing():
    labels = matrix(*["1.."] * 8, ".11")  # no clip has fewer of the tags of {b, c}
    assert len(run(label_set_smote, labels).seed) == 0
    made = run(label_set_smote, matrix(*["1.."] * 8, ".11", ".1.", "..1"), threshold="percentile_1")
    assert {tuple(row) for row in made.labels.tolist()} == {(0, 1, 1)}


def follow(made: Mixtures, features: Floats, labels: Bool, iterations: int, threshold: str, k: int) -> int:
    """Take one step of the algorithm after the other; only what is random comes from the result."""
    counts, place = labels.sum(0).astype(int), 0
    limit = imbalance_threshold(counts, threshold)
    for _ in range(iterations):
        for tag in range(labels.shape[1]):
            bag = np.flatnonzero(labels[:, tag]).tolist()
            left = set(bag) if len(bag) > 1 else set()
            while left and max(counts) / counts[tag] > limit:
                seed, other = pairs(made)[place]
                left.remove(seed)
                rest = [clip for clip in bag if clip != seed]
                nearest = [rest[index] for index in np.argsort(cdist(features[[seed]], features[rest])[0])[:k]]
                assert other in nearest
                np.testing.assert_array_equal(made.labels[place], labels[[seed, *nearest]].mean(0) >= 0.5)
                counts, place = counts + made.labels[place].astype(int), place + 1
    return place


def test_it_agrees_with_one_clip_at_a_time():
    """On a few clips, with tags from common to absent."""
    made_some = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        clips, tags = rng.integers(1, 31), rng.integers(1, 6)
        features = rng.standard_normal((clips, rng.integers(1, 4))).astype(np.float32)
        labels = rng.random((clips, tags)) < rng.random(tags) ** 2
        threshold = str(rng.choice(["mean", "percentile_1", "percentile_50", "percentile_90"]))
        options = {"iterations": int(rng.integers(1, 4)), "threshold": threshold, "k": int(rng.integers(1, 7))}
        made = run(mlsmote, labels, features, **options)
        assert ((made.weight >= 0) & (made.weight < 1)).all()
        assert follow(made, features, labels, **options) == len(made.seed)
        made_some += len(made.seed) > 0
    assert made_some > 30
