import logging

import numpy as np
import pytest
from scipy.stats import chisquare

from edgesea.errors import EdgeseaError
from edgesea.sampling.kmeans import choose_kmeans


def clustered(*sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """Well separated clusters of these sizes, shuffled: features (n, 16) and labels (n,)."""
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (20 * rng.standard_normal((len(sizes), 16))[label] + rng.standard_normal((len(label), 16))), label


def test_every_cluster_gives_equally_many() -> None:
    x, label = clustered(1000, 50, 200, 12)
    chosen = choose_kmeans(x, 40, np.random.default_rng(0), clusters=4)
    assert np.bincount(label[chosen]).tolist() == [10, 10, 10, 10]
    assert (np.diff(chosen) > 0).all()
    assert chosen.dtype == np.int64


def test_a_small_cluster_is_taken_whole_and_the_others_give_more() -> None:
    x, label = clustered(500, 400, 5)
    chosen = choose_kmeans(x, 45, np.random.default_rng(0), clusters=3)
    assert np.bincount(label[chosen]).tolist() == [20, 20, 5]


def test_windows_of_a_cluster_are_equally_likely() -> None:
    x, label = clustered(20, 30)
    rng, draws = np.random.default_rng(1), 600
    counts = sum(np.bincount(choose_kmeans(x, 2, rng), minlength=50) for _ in range(draws))
    for each in (0, 1):
        assert counts[label == each].sum() == draws
        assert 0.001 < chisquare(counts[label == each]).pvalue < 0.999


def test_the_seed_decides() -> None:
    x, _ = clustered(300, 300)
    one, same, other = (choose_kmeans(x, 30, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("x", [np.ones((30, 4)), np.repeat(np.eye(3), 10, axis=0), np.zeros((30, 1))])
def test_duplicates_leave_fewer_clusters(x: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgesea"):
        chosen = choose_kmeans(x, 12, np.random.default_rng(0))
    different = len(np.unique(x, axis=0))
    assert f"found {different} clusters, not 12" in caplog.text
    assert len(set(chosen.tolist())) == 12
    assert np.unique(x[chosen], axis=0, return_counts=True)[1].tolist() == [12 // different] * different


def test_none_and_all() -> None:
    x, _ = clustered(20, 10)
    assert choose_kmeans(x, 0, np.random.default_rng(0)).tolist() == []
    assert choose_kmeans(np.zeros((0, 3)), 0, np.random.default_rng(0)).tolist() == []
    for clusters in (None, 1, 3, 1000):
        assert choose_kmeans(x, 30, np.random.default_rng(0), clusters).tolist() == list(range(30))


@pytest.mark.parametrize(
    ("k", "clusters", "message"),
    [(31, None, "cannot choose k = 31 of 30 windows"), (3, 0, "clusters must be at least 1, not 0")],
)
def test_bad_sizes_are_named(k: int, clusters: int | None, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        choose_kmeans(clustered(20, 10)[0], k, np.random.default_rng(0), clusters)


def test_nan_is_named() -> None:
    x, _ = clustered(20, 10)
    x[7, 3] = np.nan
    with pytest.raises(EdgeseaError, match="1 of 30 rows contain NaN or infinity, the first is row 7"):
        choose_kmeans(x, 3, np.random.default_rng(0))
