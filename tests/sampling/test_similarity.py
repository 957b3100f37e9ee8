import numpy as np
import pytest

from edgesea.sampling.similarity import position_features, similarity_features


def test_linear_and_cosine_are_exact() -> None:
    x = np.random.default_rng(0).standard_normal((60, 7)) + 2
    np.testing.assert_array_equal(similarity_features(x, "linear"), x)
    cosine, length = similarity_features(x, "cosine"), np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(cosine @ cosine.T, x @ x.T / np.outer(length, length), atol=1e-14)


def test_cosine_of_extreme_rows() -> None:
    x = np.array([[0, 0], [3e-300, 4e-300], [3e200, 4e200], [-0.3, -0.4]])
    np.testing.assert_allclose(similarity_features(x, "cosine"), [[0, 0], [0.6, 0.8], [0.6, 0.8], [-0.6, -0.8]])


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
