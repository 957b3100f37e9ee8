from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from conftest import peak_memory
from scipy.stats import combine_pvalues
from set_frequencies import set_p_value

from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import KDPP, greedy_map_dpp, k_dpp

SEEDS = range(3)
DRAWS = 2500


def features(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows of different lengths and directions, the leading ones of which dominate."""
    return np.random.default_rng(seed).standard_normal((n, d)) / np.sqrt(1 + np.arange(d))


def kernel(x: np.ndarray, quality: np.ndarray | None = None, ridge: float = 0.0) -> np.ndarray:
    q = np.ones(len(x)) if quality is None else quality
    return q[:, None] * (x @ x.T) * q + ridge * np.eye(len(x))


def by_enumeration(l_matrix: np.ndarray, k: int) -> Mapping[tuple[int, ...], float]:
    """The definition: det(L_S) over the sum of all."""
    minors = {s: float(np.linalg.det(l_matrix[np.ix_(s, s)])) for s in combinations(range(len(l_matrix)), k)}
    total = sum(minors.values())
    return {s: max(minor / total, 0.0) for s, minor in minors.items()}


CASES: dict[str, tuple[np.ndarray, int, dict[str, Any]]] = {
    "low rank": (features(10, 4), 3, {}),
    "k = rank": (features(9, 3), 3, {}),
    "rank < d": (features(10, 3) @ features(3, 6, 1), 2, {}),
    "n < d": (features(7, 11), 4, {}),
    "n = d": (features(7, 7), 3, {}),
    "ridge": (features(9, 4), 3, {"ridge": 0.5}),
    "ridge, k > rank": (features(9, 2), 5, {"ridge": 0.3}),
    "small ridge, k > rank": (features(9, 2), 4, {"ridge": 1e-7}),
    "ridge, n < d": (features(6, 8), 4, {"ridge": 1.0}),
    "ridge, n < d, k > rank": (features(8, 2) @ features(2, 12, 1), 4, {"ridge": 0.2}),
    "quality": (features(9, 5), 3, {"quality": np.linspace(0.2, 1.5, 9)}),
    "quality 0": (features(9, 5), 3, {"quality": np.repeat([0.0, 1.0, 2.0], 3)}),
    "quality and ridge": (features(8, 3), 4, {"quality": np.linspace(0, 2, 8), "ridge": 0.1}),
    "duplicates": (np.repeat(features(5, 4), 2, axis=0), 3, {}),
    "duplicates and ridge": (np.repeat(features(4, 4), 2, axis=0), 4, {"ridge": 0.2}),
    "constant and ridge": (np.ones((8, 3)), 3, {"ridge": 0.5}),
    "zero and ridge": (np.zeros((7, 3)), 3, {"ridge": 2.0}),
    **{f"{k} of 6, {d}-D": (features(6, d), k, {"ridge": 0.2}) for k in (0, 1, 5, 6) for d in (3, 8)},
}


def test_sets_are_as_likely_as_their_determinants():
    found, uniform = {}, {}
    for case, (x, k, options) in CASES.items():
        process, expected = KDPP(x, k, **options), by_enumeration(kernel(x, **options), k)
        found[case] = [
            set_p_value((process.sample(rng) for _ in range(DRAWS)), expected)
            for rng in map(np.random.default_rng, SEEDS)
        ]
        possible = [s for s, p in expected.items() if p > 1e-12]
        if np.ptp([expected[s] for s in possible]) > 1e-9:
            drawn = np.random.default_rng(0).choice(len(possible), DRAWS)
            uniform[case] = set_p_value((possible[i] for i in drawn), expected)
    # An exact sampler has one p in a hundred below 0.01, so 0.01 is for all of them together.
    assert {case: p for case, p in found.items() if combine_pvalues(p).pvalue < 0.01 / len(CASES)} == {}
    assert combine_pvalues([p for each in found.values() for p in each]).pvalue > 0.01
    # The test has the power to find a wrong sampler.
    assert {case: p for case, p in uniform.items() if p > 1e-6} == {}
    assert len(uniform) > 15


def marginals(l_matrix: np.ndarray, k: int) -> np.ndarray:
    """P(i in S) from the eigenvectors of the whole n x n kernel, without any of the shortcuts of the sampler."""
    values, vectors = np.linalg.eigh(l_matrix)
    values /= values.max()

    def sums(some: np.ndarray) -> np.ndarray:
        e = np.eye(1, k + 1)[0]
        for value in some:
            e[1:] += value * e[:-1]
        return e

    total = sums(values)[k]
    weight = [value * sums(np.delete(values, i))[k - 1] / total for i, value in enumerate(values)]
    return np.square(vectors) @ np.array(weight)


@pytest.mark.parametrize(("d", "k", "ridge"), [(20, 12, 0.0), (5, 12, 0.02), (250, 30, 0.0)])
def test_marginals_of_a_larger_set(d, k, ridge):
    n, draws, rng = 200, 2000, np.random.default_rng(0)
    x, quality = features(n, d), rng.uniform(0.3, 1, n)
    share = marginals(kernel(x, quality, ridge), k)
    assert share.sum() == pytest.approx(k)
    process = KDPP(x, k, quality=quality, ridge=ridge)

    counts = sum(np.bincount(process.sample(rng), minlength=n) for _ in range(draws))
    z = (counts - draws * share) / np.sqrt(draws * share * (1 - share))
    assert np.abs(z).max() < 4
    assert 0.7 < np.square(z).mean() < 1.3


def one_draw(x: np.ndarray, k: int, **options: Any) -> np.ndarray:
    return k_dpp(x, k, **options, rng=np.random.default_rng(0))


@pytest.mark.parametrize("choose", [one_draw, greedy_map_dpp])
@pytest.mark.parametrize(("k", "ridge"), [(5, 0.0), (8, 0.05)])
def test_neither_rotations_nor_zeros_nor_units_matter(choose, k, ridge):
    x = features(80, 6)
    turned = x @ np.linalg.qr(features(6, 6, 1))[0]
    padded = np.concatenate([turned, np.zeros((80, 100))], axis=1)  # n < d: another path
    expected = choose(x, k, ridge=ridge).tolist()
    for y, scale in ((turned, 1), (padded, 1), (x * 1e-140, 1e-140), (x * 1e140, 1e140)):
        assert choose(y, k, ridge=ridge * scale * scale).tolist() == expected


def test_a_day_of_windows_fits_in_little_memory():
    x = features(20_000, 512).astype(np.float32)
    chosen, peak = peak_memory(lambda: one_draw(x, 91, ridge=0.1))
    assert len(set(chosen.tolist())) == 91
    assert peak < 3 * x.size * 8  # 246 MB; the n x n kernel would be 3.2 GB


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("d", [6, 30])
def test_greedy_choices_are_those_of_brute_force(d, ridge):
    for seed in range(10):
        x, quality = features(20, d, seed), np.random.default_rng(seed).uniform(0.2, 1, 20)
        l_matrix = kernel(x, quality, ridge)
        expected: list[int] = []
        for _ in range(6):
            rest = [i for i in range(20) if i not in expected]
            expected.append(max(rest, key=lambda i: np.linalg.det(l_matrix[np.ix_([*expected, i], [*expected, i])])))
        assert greedy_map_dpp(x, 6, quality=quality, ridge=ridge).tolist() == expected
        assert greedy_map_dpp(x, 3, quality=quality, ridge=ridge).tolist() == expected[:3]


@pytest.mark.parametrize("choose", [one_draw, greedy_map_dpp])
@pytest.mark.parametrize(
    ("x", "k", "options", "named"),
    [
        (features(9, 3), 4, {}, "4 .* 3"),
        (np.ones((9, 3)), 2, {}, "2 .* 1"),
        (features(9, 3), 10, {"ridge": 1.0}, "9.*10"),
        (np.where(np.eye(9, 3), np.nan, features(9, 3)), 2, {}, "3 rows"),
        (np.full((9, 3), -np.inf), 2, {}, "9 rows"),
        (features(9, 3), 2, {"quality": 0.5 - np.eye(9)[7]}, "quality"),
        (features(9, 3), 2, {"ridge": -0.1}, "-0.1"),
        (features(9, 3), 2, {"ridge": np.nan}, "nan"),
    ],
)
def test_bad_input(choose, x, k, options, named):
    with pytest.raises(EdgeseaError, match=named):
        choose(x, k, **options)


def test_a_ridge_chooses_all_and_nothing_is_chosen_from_anything():
    for ridge in (0.1, 1e-9, 1e-300):
        assert sorted(greedy_map_dpp(features(300, 8), 300, ridge=ridge)) == list(range(300))
    for x in (features(5, 3), features(3, 5), np.zeros((0, 4)), np.zeros((4, 0))):
        for ridge in (0.0, 1.0):
            assert one_draw(x, 0, ridge=ridge).tolist() == greedy_map_dpp(x, 0, ridge=ridge).tolist() == []
    assert one_draw(np.zeros((4, 0)), 4, ridge=1.0).tolist() == [0, 1, 2, 3]
