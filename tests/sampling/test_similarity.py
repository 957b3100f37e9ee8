import logging

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.sampling.cholesky import pivoted_cholesky
from edgesea.sampling.dpp import KDPP
from edgesea.sampling.similarity import position_features, similarity_features


def rows(n: int = 60, d: int = 7) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)) + 2


def squared_distances(x: np.ndarray) -> np.ndarray:
    return np.square(x[:, None] - x).sum(-1)


def test_linear_and_cosine_are_exact() -> None:
    x = rows()
    np.testing.assert_array_equal(similarity_features(x, "linear"), x)
    cosine = similarity_features(x)
    length = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(cosine @ cosine.T, x @ x.T / np.outer(length, length), atol=1e-14)
    centered = similarity_features(x, "centered_cosine")
    np.testing.assert_allclose(centered, similarity_features(x - x.mean(0)), atol=1e-13)
    assert (cosine @ cosine.T).mean() > 0.7 > 0.1 > abs((centered @ centered.T).mean())


def test_cosine_of_extreme_rows() -> None:
    x = np.array([[0, 0], [3e-300, 4e-300], [3e200, 4e200], [-0.3, -0.4]])
    found = similarity_features(x)
    np.testing.assert_allclose(found, [[0, 0], [0.6, 0.8], [0.6, 0.8], [-0.6, -0.8]])
    assert np.abs(similarity_features(np.full((9, 5), 0.1), "centered_cosine")).max() == 0


def test_rbf_is_exact_for_few_windows() -> None:
    x = rows()
    found = similarity_features(x, "rbf", gamma=0.3)
    np.testing.assert_allclose(found @ found.T, np.exp(-0.3 * squared_distances(x)), atol=1e-11)
    squared = squared_distances(x)
    by_default = similarity_features(x, "rbf")
    expected = np.exp(-squared / np.median(squared[squared > 0]))
    np.testing.assert_allclose(by_default @ by_default.T, expected, atol=1e-11)
    assert KDPP(found, 20).rank >= 20  # unlike the 7 of linear and cosine


def test_rbf_of_many_windows_knows_its_error(caplog: pytest.LogCaptureFixture) -> None:
    x = rows(400, 6)
    exact = np.exp(-0.05 * squared_distances(x))
    with caplog.at_level(logging.WARNING, "edgesea"):
        found = similarity_features(x, "rbf", gamma=0.05, most=20)
    error = np.abs(found @ found.T - exact).max()
    assert found.shape == (400, 20)
    assert f"20 features, largest error {error:.2g}" in caplog.text
    better = similarity_features(x, "rbf", gamma=0.05, most=300)
    assert np.abs(better @ better.T - exact).max() < error / 100


def test_duplicates_need_no_features_of_their_own() -> None:
    assert similarity_features(np.repeat(rows(5), 4, axis=0), "rbf").shape == (20, 5)
    assert similarity_features(np.ones((20, 3)), "rbf").shape == (20, 1)
    assert similarity_features(np.zeros((0, 3)), "rbf").shape == (0, 0)
    assert similarity_features(np.zeros((0, 3)), "centered_cosine").shape == (0, 3)


def test_positions_are_as_similar_as_they_are_near() -> None:
    # New York, a point 1 km north of it, London, and New York again.
    latitude = np.array([40.7128, 40.7128 + 1 / 111.195, 51.5074, 40.7128])
    longitude = np.array([-74.006, -74.006, -0.1278, -74.006 + 360])
    found = position_features(latitude, longitude, scale_km=1000)
    distance = -1000 * np.log(found @ found.T)
    assert distance[0, 1] == pytest.approx(1, rel=1e-4)
    assert distance[0, 2] == pytest.approx(5570, rel=1e-3)
    assert distance[0, 3] == pytest.approx(0, abs=1e-6)
    by_default = position_features(latitude, longitude)
    assert np.isclose(by_default @ by_default.T, np.exp(-1)).any()


def test_sensors_far_apart_are_chosen() -> None:
    rng = np.random.default_rng(0)
    place = np.repeat([[40.70, -74.00], [40.80, -73.90], [40.75, -74.10]], 5, axis=0) + rng.normal(0, 1e-3, (15, 2))
    process = KDPP(position_features(place[:, 0], place[:, 1], scale_km=5), 3)
    share = np.mean([len(set(process.sample(rng) // 5)) == 3 for _ in range(200)])
    assert share > 0.85 > 3 * 25 / 91  # 125 of 455 triples by chance


def test_pivoted_cholesky_stops_where_the_rest_is_rounding() -> None:
    x = rows(50, 4)
    kernel = x @ x.T
    result = pivoted_cholesky(np.diag(kernel), kernel.__getitem__, 50, tolerance=1e-12)
    assert result.factor.shape == (50, 4)
    np.testing.assert_allclose(result.factor @ result.factor.T, kernel, atol=1e-11)
    partial = pivoted_cholesky(np.diag(kernel), kernel.__getitem__, 2, tolerance=1e-12)
    assert partial.pivots.tolist() == result.pivots[:2].tolist()
    np.testing.assert_allclose(
        partial.residual, np.diag(kernel - partial.factor @ partial.factor.T), atol=1e-12 * kernel.max()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity_features(rows(), "cos"), "unknown similarity 'cos'; choose from cosine, centered_cosine"),
        (lambda: similarity_features(rows() * np.nan), "60 of 60 rows contain NaN"),
        (lambda: similarity_features(rows(), "rbf", gamma=0), "gamma must be above 0, not 0"),
        (lambda: position_features(np.array([91.0]), np.zeros(1)), "latitude must be finite and in .* 91.0 at row 0"),
        (lambda: position_features(np.zeros(2), np.array([0, np.nan])), "longitude must be finite"),
        (lambda: position_features(np.zeros(2), np.zeros(2), scale_km=0), "scale_km must be above 0"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        call()
