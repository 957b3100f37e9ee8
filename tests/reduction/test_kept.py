"""What a reduction keeps, against direct implementations of the definitions and against scikit-learn."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from edgesea.errors import EdgeseaError
from edgesea.reduction import kept as module
from edgesea.reduction.kept import kept
from edgesea.reduction.pca import PCA

Float32 = NDArray[np.float32]
SIZE = 12


class Phi:
    """A reduction that is any function of rows."""

    def __init__(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._function = function

    def transform(self, rows: NDArray[Any]) -> Float32:
        return np.asarray(self._function(rows), np.float32)


def measure(function: Callable[[NDArray[Any]], NDArray[Any]], inside: Float32, outside: Float32, **more: int) -> Any:
    return kept(Phi(function), inside, outside, **more)  # type: ignore[arg-type]


def windows(count: int, seed: int, size: int = SIZE) -> Float32:
    """Correlated dimensions of unequal scale and mean."""
    mixing = np.random.default_rng(99).standard_normal((size, size)) * np.linspace(0.1, 3, size)
    return (np.random.default_rng(seed).standard_normal((count, size)) @ mixing + np.arange(size)).astype(np.float32)


def standardised(inside: Float32, rows: Float32) -> Float32:
    wide = inside.astype(np.float64)
    return ((rows - wide.mean(0)) / wide.std(0)).astype(np.float32)


def noise(size: int, seed: int = 5) -> Callable[[NDArray[Any]], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return lambda rows: rng.standard_normal((len(rows), size))


def test_the_identity_keeps_everything() -> None:
    inside, outside = windows(200, 0), windows(150, 1)
    outside[20:60] = outside[20]  # equal windows: ties must not count against it
    result = measure(lambda rows: standardised(inside, rows), inside, outside)
    assert (result["trustworthiness"], result["continuity"], result["knn_overlap"]) == (1.0, 1.0, 1.0)
    assert [point["overlap"] for point in result["knn_overlap_curve"]] == [1.0] * 5
    for name in ("explained_variance", "distance_correlation", "distance_rank_correlation"):
        assert result[name] == pytest.approx(1.0, abs=1e-12)


def test_moving_rotating_and_scaling_keep_everything() -> None:
    inside, outside = windows(300, 0), windows(150, 1)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((SIZE, SIZE)))[0]
    result = measure(lambda rows: 4.0 * standardised(inside, rows).astype(float) @ rotation + 2, inside, outside)
    assert result["trustworthiness"] > 0.999999
    assert result["knn_overlap"] > 0.999
    for name in ("explained_variance", "distance_correlation", "distance_rank_correlation"):
        assert result[name] == pytest.approx(1.0, abs=1e-6)


def test_noise_keeps_what_chance_gives() -> None:
    result = measure(noise(8), windows(2000, 0), windows(1200, 1))
    assert -0.03 < result["explained_variance"] < 0.001
    for point in result["knn_overlap_curve"]:
        # At random, the count of shared neighbours has about the variance of a Poisson one.
        pairs = 1200 * point["neighbors"]
        assert abs(point["overlap"] - point["chance"]) < 5 * np.sqrt(point["chance"] / pairs)
        assert point["chance"] == point["neighbors"] / 1199
    for name in ("trustworthiness", "continuity"):
        assert result[name] == pytest.approx(0.5, abs=0.02)
    assert result["distance_correlation"] == pytest.approx(result["distance_correlation_chance"], abs=0.01)
    assert 0.05 < result["distance_correlation_chance"] < 0.3  # the statistic's bias, for which chance is reported
    assert abs(result["distance_rank_correlation"]) < 0.05


def test_neighbour_measures_equal_their_definitions() -> None:
    inside, outside = windows(60, 0), windows(41, 1)
    result = measure(lambda rows: rows[:, :3], inside, outside, neighbors=4)
    spaces = [standardised(inside, outside).astype(float), outside[:, :3].astype(float)]
    n, k = 41, 4
    orders = [
        [sorted((j for j in range(n) if j != i), key=lambda j, i=i, x=x: np.linalg.norm(x[i] - x[j])) for i in range(n)]  # type: ignore[misc]
        for x in spaces
    ]

    def penalty(teacher: list[list[int]], reduced: list[list[int]]) -> float:
        total = 0
        for i in range(n):
            for j in set(reduced[i][:k]) - set(teacher[i][:k]):
                total += teacher[i].index(j) + 1 - k
        return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * total

    assert result["trustworthiness"] == pytest.approx(penalty(*orders), abs=1e-12)
    assert result["continuity"] == pytest.approx(penalty(*orders[::-1]), abs=1e-12)
    for point in result["knn_overlap_curve"]:
        size = point["neighbors"]
        shared = [len(set(a[:size]) & set(b[:size])) / size for a, b in zip(*orders, strict=True)]
        assert point["overlap"] == pytest.approx(np.mean(shared), abs=1e-12)
    assert [point["neighbors"] for point in result["knn_overlap_curve"]] == [1, 4, 5, 10]
    assert result["knn_overlap"] == result["knn_overlap_curve"][1]["overlap"]
    assert result["knn_overlap_chance"] == 4 / 40


def test_trustworthiness_and_continuity_are_those_of_scikit_learn() -> None:
    inside, outside = windows(60, 0), windows(90, 1)
    result = measure(lambda rows: rows[:, :2], inside, outside, neighbors=7)
    teacher, reduced = standardised(inside, outside), outside[:, :2]
    expected = sklearn_trustworthiness(teacher, reduced, n_neighbors=7)
    assert result["trustworthiness"] == pytest.approx(expected, abs=1e-12)
    assert result["continuity"] == pytest.approx(sklearn_trustworthiness(reduced, teacher, n_neighbors=7), abs=1e-12)


def test_distance_measures_equal_their_definitions() -> None:
    inside, outside = windows(60, 0), windows(33, 1)
    result = measure(lambda rows: np.tanh(rows[:, :2]), inside, outside)
    spaces = [standardised(inside, outside).astype(float), np.tanh(outside[:, :2]).astype(np.float32).astype(float)]
    n = 33
    a, b = ([[float(np.sqrt(((p - q) ** 2).sum())) for q in x] for p in x] for x in spaces)

    def centred(d: list[list[float]]) -> list[list[float]]:
        rows = [sum(row) / n for row in d]
        columns = [sum(d[i][j] for i in range(n)) / n for j in range(n)]
        return [[d[i][j] - rows[i] - columns[j] + sum(rows) / n for j in range(n)] for i in range(n)]

    def covariance(x: list[list[float]], y: list[list[float]]) -> float:
        return sum(x[i][j] * y[i][j] for i in range(n) for j in range(n)) / n**2

    one, other = centred(a), centred(b)
    squared = covariance(one, other) / (covariance(one, one) * covariance(other, other)) ** 0.5
    assert result["distance_correlation"] == pytest.approx(squared**0.5, abs=1e-12)
    upper = [(i, j) for i in range(n) for j in range(i + 1, n)]
    ranks = [rankdata([d[i][j] for i, j in upper]) for d in (a, b)]
    assert result["distance_rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_explain_the_variance_in_their_span(whiten: bool) -> None:
    inside, outside = windows(400, 0), windows(5000, 1)  # more than one block
    pca = PCA(3, whiten)
    pca.fit([inside])
    z = (outside - pca.mean) / pca.scale
    basis = pca.components / np.linalg.norm(pca.components, axis=1, keepdims=True)
    expected = np.square(z @ basis.T).sum() / np.square(z).sum()
    result = kept(pca, inside, outside)
    assert result["explained_variance"] == pytest.approx(expected, abs=1e-6)
    assert 0.3 < expected < 0.95
    assert (result["windows"], result["compared_windows"], result["neighbors"]) == (5000, 2000, 10)


def test_explained_variance_is_that_of_a_regression_with_intercept() -> None:
    inside, outside = windows(100, 0), windows(50, 1)
    result = measure(lambda rows: np.abs(rows[:, :4]) + 100, inside, outside)
    z = [standardised(inside, rows).astype(float) for rows in (inside, outside)]
    y = [
        np.hstack([(np.abs(rows[:, :4]) + 100).astype(np.float32), np.ones((len(rows), 1))])
        for rows in (inside, outside)
    ]
    weights = np.linalg.solve(y[0].T @ y[0], y[0].T @ z[0])
    expected = 1 - np.square(z[1] - y[1] @ weights).sum() / np.square(z[1]).sum()
    assert result["explained_variance"] == pytest.approx(expected, abs=1e-6)


def test_a_constant_reduction_keeps_nothing() -> None:
    result = measure(lambda rows: np.full((len(rows), 3), 0.1), windows(200, 0), windows(300, 1))
    assert result["explained_variance"] == pytest.approx(0.0, abs=1e-12)
    assert (result["distance_correlation"], result["distance_rank_correlation"]) == (0.0, None)
    assert result["knn_overlap"] == pytest.approx(result["knn_overlap_chance"], abs=0.03)
    json.dumps(result, allow_nan=False)


def test_dependent_dimensions_and_fewer_windows_than_dimensions_have_a_share() -> None:
    inside, outside = windows(200, 0), windows(300, 1)
    plain = measure(lambda rows: rows[:, :4], inside, outside)["explained_variance"]
    doubled = measure(lambda rows: rows[:, [0, 1, 2, 3, 3, 0]], inside, outside)["explained_variance"]
    assert doubled == pytest.approx(plain, abs=1e-6)
    few = measure(lambda rows: standardised(inside[:5], rows), inside[:5], outside)["explained_variance"]
    assert -5 < few < 1


def test_a_constant_dimension_counts_as_it_is() -> None:
    inside, outside = windows(200, 0), windows(100, 1)
    inside[:, 2] = outside[:, 2] = 1234.5678
    result = measure(lambda rows: np.delete(rows, 2, axis=1), inside, outside)
    assert result["explained_variance"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("count", "distances", "neighbours"), [(0, 0, 0), (2, 0, 0), (3, 1, 0), (21, 1, 0), (22, 1, 1)]
)
def test_few_windows_give_null(count: int, distances: int, neighbours: int) -> None:
    result = measure(lambda rows: rows[:, :5], windows(30, 0), windows(count, 1))
    assert (result["explained_variance"] is not None) == (count > 0)
    for name in ("distance_correlation", "distance_correlation_chance", "distance_rank_correlation"):
        assert (result[name] is not None) == bool(distances)
    for name in ("trustworthiness", "continuity", "knn_overlap", "knn_overlap_chance"):
        assert (result[name] is not None) == bool(neighbours)
    assert len(result["knn_overlap_curve"]) == {0: 0, 2: 0, 3: 0, 21: 2, 22: 3}[count]
    json.dumps(result, allow_nan=False)


def test_the_seed_decides_which_windows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPARED", 100)
    inside, outside = windows(60, 0), windows(500, 1)
    results = [measure(lambda rows: rows[:, :4], inside, outside, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0]["distance_correlation"] != results[2]["distance_correlation"]
    assert results[0]["explained_variance"] == results[2]["explained_variance"]
    assert results[2]["compared_windows"] == 100


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(EdgeseaError, match="neighbors must be at least 1, not 0"):
        measure(lambda rows: rows, windows(9, 0), windows(9, 1), neighbors=0)
    with pytest.raises(EdgeseaError, match=r"cannot compare windows \(9, 12\) with \(0, 12\)"):
        measure(lambda rows: rows, windows(0, 0), windows(9, 1))
    with pytest.raises(EdgeseaError, match=r"cannot compare windows \(9, 12\) with \(9, 5\)"):
        measure(lambda rows: rows, windows(9, 0, 5), windows(9, 1))
    with pytest.raises(EdgeseaError, match="returns NaN or Inf"):
        measure(lambda rows: rows * np.nan, windows(9, 0), windows(9, 1))
