from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import combine_pvalues, rankdata
from set_frequencies import set_p_value

from edgesea.errors import EdgeseaError
from edgesea.sampling.spl import choose_spl, relevance

DRAWS = 12_000


def by_definition(weight: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """Add up the probabilities of all orders in which a set can be drawn."""

    def ordered(order: tuple[int, ...]) -> float:
        left, p = weight.sum(), 1.0
        for i in order:
            p, left = p * weight[i] / left, left - weight[i]
        return float(p)

    return {s: sum(map(ordered, permutations(s))) for s in combinations(range(len(weight)), k)}


@pytest.mark.parametrize(
    "weight",
    [[1, 0.8, 0.6, 0.4, 0.2], [1, 1, 0.1, 0.01, 0.5], [0.3, 0, 0.9, 0, 0.1], [0.5, 0.5, 0.5], [3e-300, 1e-300]],
)
def test_sets_are_as_likely_as_their_ordered_draws(weight: list[float]) -> None:
    weights, found = np.array(weight), []
    for k in range(1, np.count_nonzero(weights)):
        expected = by_definition(weights, k)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            found.append(set_p_value((choose_spl(weights, k, rng) for _ in range(DRAWS // 3)), expected))
    assert combine_pvalues(found).pvalue > 0.01
    assert min(found) > 0.01 / len(found)


def test_wrong_samplers_would_be_found_out() -> None:
    weights, rng = np.array([1, 0.8, 0.6, 0.4, 0.2]), np.random.default_rng(0)
    expected = by_definition(weights, 2)
    uniform = [rng.choice(5, 2, replace=False) for _ in range(DRAWS)]
    # A tempting mistake: the set of k windows with probability proportional to the product of their weights.
    product = {s: weights[list(s)].prod() for s in expected}
    pairs, p = list(product), np.array(list(product.values()))
    jointly = [pairs[i] for i in rng.choice(len(pairs), DRAWS, p=p / p.sum())]
    for wrong in (uniform, jointly):
        assert set_p_value(wrong, expected) < 1e-6


def test_ranks_are_taken_within_two_hours() -> None:
    levels = np.array([40, 50, 60, 70, 10, 30, 20], float)
    seconds = np.array([0, 7199.9, 100, 5000, 7200, 14399, 86399])
    assert relevance(levels, seconds).tolist() == [0.25, 0.5, 0.75, 1, 0.5, 1, 1]


def test_equal_levels_share_their_mean_rank() -> None:
    rng = np.random.default_rng(0)
    levels, seconds = rng.integers(40, 60, 500).astype(np.float32), rng.uniform(0, 86400, 500)
    found = relevance(levels, seconds)
    for slot in range(12):
        members = seconds // 7200 == slot
        np.testing.assert_allclose(found[members], rankdata(levels[members]) / members.sum(), rtol=1e-15)
    assert found.min() > 0
    assert found.max() <= 1
    assert relevance(np.full(4, -30.0), np.zeros(4)).tolist() == [0.625] * 4


def test_louder_windows_are_drawn_more_often() -> None:
    rng = np.random.default_rng(0)
    levels, seconds = rng.normal(60, 8, 400), rng.uniform(0, 86400, 400)
    weight = relevance(levels, seconds)
    counts = sum(np.bincount(choose_spl(weight, 40, rng), minlength=400) for _ in range(400))
    assert np.corrcoef(counts, weight)[0, 1] > 0.9


def test_the_draw_is_sorted_seeded_and_whole_where_it_must_be() -> None:
    weight = np.linspace(0, 1, 50)
    one, two = (choose_spl(weight, 20, np.random.default_rng(5)) for _ in range(2))
    assert one.tolist() == two.tolist() == sorted(set(one.tolist()))
    assert one.dtype == np.int64
    assert choose_spl(weight, 49, np.random.default_rng(0)).tolist() == list(range(1, 50))
    assert choose_spl(weight, 0, np.random.default_rng(0)).tolist() == []
    assert choose_spl(np.zeros(0), 0, np.random.default_rng(0)).tolist() == []
    assert relevance(np.zeros(0), np.zeros(0)).tolist() == []


@pytest.mark.parametrize(
    ("weight", "k", "message"),
    [
        ([1, 1], 3, "cannot choose k = 3 of 2 windows"),
        ([1, 0, 1], 3, "only 2 of 3 have a relevance above 0; lower k to 2"),
        ([1, -1], 1, "relevance must be finite and at least 0; 1 of 2 are not, the first is -1.0 at row 1"),
        ([1, np.nan], 1, "relevance must be finite"),
    ],
)
def test_bad_relevance_is_named(weight: list[float], k: int, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        choose_spl(np.array(weight, float), k, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("levels", "seconds", "message"),
    [
        ([50, np.nan], [0, 1], "levels must be finite; 1 of 2 are not, the first is nan at row 1"),
        ([50, 60], [0, 86400], r"seconds_of_day must be finite and in \[0, 86400\); .* 86400.0 at row 1"),
        ([50, 60], [0, np.nan], "seconds_of_day must be finite"),
        ([50, 60], [0], r"seconds_of_day must have the shape \(2,\)"),
    ],
)
def test_bad_levels_and_times_are_named(levels: list[float], seconds: list[float], message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        relevance(np.array(levels, float), np.array(seconds, float))
