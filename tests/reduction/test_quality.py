"""What a reduction preserves, against direct implementations of the definitions."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.manifold import trustworthiness

from edgesea.reduction.pca import PCA
from edgesea.reduction.quality import quality

Float32 = NDArray[np.float32]
SIZE = 12


def measure(function: Callable[[NDArray[Any]], Any], inside: Float32, outside: Float32, **more: int) -> Any:
    """The quality of a reduction that is any function of rows."""
    phi: Any = SimpleNamespace(slow=False, transform=lambda rows: np.asarray(function(rows), np.float32))
    return quality(phi, inside, outside, **more)


def windows(count: int, seed: int) -> Float32:
    """Correlated dimensions of unequal scale and mean."""
    mixing = np.random.default_rng(99).standard_normal((SIZE, SIZE)) * np.linspace(0.1, 3, SIZE)
    return (np.random.default_rng(seed).standard_normal((count, SIZE)) @ mixing + np.arange(SIZE)).astype(np.float32)


def standardised(inside: Float32, rows: Float32) -> Float32:
    wide = inside.astype(np.float64)
    return ((rows - wide.mean(0)) / wide.std(0)).astype(np.float32)


def test_the_identity_preserves_everything_also_of_equal_windows():
    inside, outside = windows(200, 0), windows(150, 1)
    outside[20:60] = outside[20]
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((SIZE, SIZE)))[0]
    moved = measure(lambda rows: 4.0 * standardised(inside, rows).astype(float) @ rotation + 2, inside, outside)
    result = measure(lambda rows: standardised(inside, rows), inside, outside)
    assert (result["windows"], result["compared_windows"]) == (150, 111)
    assert (result["trustworthiness"], result["continuity"], result["knn_overlap"]) == (1.0, 1.0, 1.0)
    for name in ("explained_variance", "distance_rank_correlation"):
        assert result[name] == pytest.approx(1.0, abs=1e-12)
        assert moved[name] == pytest.approx(1.0, abs=1e-6)
    assert moved["knn_overlap"] > 0.999


def test_noise_preserves_what_chance_gives():
    rng = np.random.default_rng(5)
    result = measure(lambda rows: rng.standard_normal((len(rows), 8)), windows(2000, 0), windows(1200, 1))
    assert -0.03 < result["explained_variance"] < 0.001
    assert result["knn_overlap_chance"] == 10 / 1199
    # At random, the count of shared neighbours has about the variance of a Poisson one.
    assert abs(result["knn_overlap"] - 10 / 1199) < 5 * np.sqrt(10 / 1199 / 12000)
    for name in ("trustworthiness", "continuity"):
        assert result[name] == pytest.approx(0.5, abs=0.02)
    assert abs(result["distance_rank_correlation"]) < 0.05


def test_neighbours_and_distances_equal_their_definitions():
    inside, outside = windows(60, 0), windows(41, 1)
    result = measure(lambda rows: np.tanh(rows[:, :3]), inside, outside, neighbors=4)
    spaces = [standardised(inside, outside).astype(float), np.tanh(outside[:, :3]).astype(np.float32).astype(float)]
    distances = [np.sqrt(np.square(x[:, None] - x).sum(-1)) for x in spaces]
    expected = trustworthiness(*spaces, n_neighbors=4), trustworthiness(*spaces[::-1], n_neighbors=4)
    assert (result["trustworthiness"], result["continuity"]) == pytest.approx(expected, abs=1e-12)
    nearest = [np.argsort(d, axis=1)[:, 1:5].tolist() for d in distances]  # after the window itself
    shared = [len(set(a) & set(b)) / 4 for a, b in zip(*nearest, strict=True)]
    assert result["knn_overlap"] == pytest.approx(np.mean(shared), abs=1e-12)
    ranks = [rankdata(d[np.triu_indices(41, 1)]) for d in distances]
    assert result["distance_rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_explain_the_variance_in_their_span(whiten):
    inside, outside = windows(400, 0), windows(5000, 1)  # more than one block
    pca = PCA(3, whiten)
    pca.fit([inside])
    result = quality(pca, inside, outside)
    assert result["explained_variance"] == pytest.approx(pca.explained_variance([outside]), abs=1e-6)
    assert (result["windows"], result["compared_windows"], result["neighbors"]) == (5000, 2000, 10)


def test_constant_and_dependent_dimensions_and_few_windows_have_a_share():
    inside, outside = windows(200, 0), windows(300, 1)
    constant = measure(lambda rows: np.full((len(rows), 3), 0.1), inside, outside)
    assert constant["explained_variance"] == pytest.approx(0.0, abs=1e-12)
    assert constant["distance_rank_correlation"] is None
    plain, doubled = (measure(lambda r, c=c: r[:, c], inside, outside) for c in ([0, 1, 2, 3], [0, 1, 2, 3, 3, 0]))
    assert doubled["explained_variance"] == pytest.approx(plain["explained_variance"], abs=1e-6)
    inside[:, 2] = outside[:, 2] = 1234.5678  # a constant dimension of the teacher
    result = measure(lambda rows: np.delete(rows, 2, axis=1), inside, outside)
    assert result["explained_variance"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("count", "distances", "neighbours"), [(2, 0, 0), (3, 1, 0), (21, 1, 0), (22, 1, 1)])
def test_few_windows_give_null(count, distances, neighbours):
    result = measure(lambda rows: rows[:, :5], windows(30, 0), windows(count, 1))
    assert (result["distance_rank_correlation"] is not None) == bool(distances)
    for name in ("trustworthiness", "continuity", "knn_overlap", "knn_overlap_chance"):
        assert (result[name] is not None) == bool(neighbours)
    json.dumps(result, allow_nan=False)
