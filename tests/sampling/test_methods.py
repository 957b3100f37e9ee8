"""Methods on one stratum; k-DPPs have a file of their own."""

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import combine_pvalues
from set_frequencies import set_p_value

from edgesea.sampling.methods import choose_kmeans, choose_loud, normalized, relevance
from edgesea.sampling.strata import StratumWindows

DRAWS = 12_000


def stratum(levels: Any, seconds: Any = 0.0, embeddings: np.ndarray | None = None) -> StratumWindows:
    n, row = len(levels), np.arange(len(levels), dtype=np.int32)
    x = np.zeros((n, 0)) if embeddings is None else embeddings
    return StratumWindows(0 * row, row, np.array(levels, np.float32), np.broadcast_to(seconds, n).astype(float), x)


def by_definition(weight: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """Add up the probabilities of all orders in which a set can be drawn."""

    def ordered(order: tuple[int, ...]) -> float:
        left, p = weight.sum(), 1.0
        for i in order:
            p, left = p * weight[i] / left, left - weight[i]
        return float(p)

    return {s: sum(map(ordered, permutations(s))) for s in combinations(range(len(weight)), k)}


@pytest.mark.parametrize("levels", [[5, 4, 3, 2, 1], [1, 1, 7, 8, 7], [3, 3, 3]])
def test_louder_windows_are_as_likely_as_their_ordered_draws(levels):
    windows, found = stratum(levels), []
    for k in range(1, len(levels)):
        expected = by_definition(relevance(windows), k)
        rng = np.random.default_rng(k)
        found.append(set_p_value((choose_loud(windows, k, rng, {})[0] for _ in range(DRAWS // 6)), expected))
    assert combine_pvalues(found).pvalue > 0.01
    assert min(found) > 0.01 / len(found)


def test_ranks_are_taken_within_two_hours_and_equal_levels_share_theirs():
    levels, seconds = [40, 50, 60, 70, 10, 30, 20, 1, 2], [0, 7199.9, 100, 5000, 7200, 14399, 86399, np.nan, np.nan]
    assert relevance(stratum(levels, seconds)).tolist() == [0.25, 0.5, 0.75, 1, 0.5, 1, 1, 0.5, 1]
    assert relevance(stratum([-30, -30, -30, -10])).tolist() == [0.5, 0.5, 0.5, 1]


@pytest.mark.parametrize(
    ("sizes", "k", "expected"),
    [
        ((1000, 50, 200, 12), 40, [10, 10, 10, 10]),
        ((500, 400, 5), 45, [20, 20, 5]),  # a small cluster is taken whole, and the others give more
    ],
)
def test_every_cluster_gives_equally_many(sizes, k, expected):
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = 20 * rng.standard_normal((len(sizes), 16))[label] + rng.standard_normal((len(label), 16))
    chosen, _ = choose_kmeans(stratum(label, embeddings=x), k, np.random.default_rng(0), {"clusters": len(sizes)})
    assert np.bincount(label[chosen]).tolist() == expected
    assert len(set(chosen.tolist())) == k


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x", [np.ones((30, 4)), np.repeat(np.eye(3), 10, axis=0), np.zeros((30, 1))])
def test_duplicates_leave_fewer_clusters(x):
    chosen, _ = choose_kmeans(stratum(np.zeros(30), embeddings=x), 12, np.random.default_rng(0), {"clusters": None})
    different = len(np.unique(x, axis=0))
    assert len(set(chosen.tolist())) == 12
    assert np.unique(x[chosen], axis=0, return_counts=True)[1].tolist() == [12 // different] * different


def test_rows_are_normalized_whatever_their_length():
    x = np.array([[0, 0], [3e-300, 4e-300], [3e200, 4e200], [-0.3, -0.4]])
    np.testing.assert_allclose(normalized(x), [[0, 0], [0.6, 0.8], [0.6, 0.8], [-0.6, -0.8]])
