"""Everything that needs umap-learn, whose first import takes a quarter of a minute."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import umap
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction.umap import Umap

Float32 = NDArray[np.float32]
CENTRES = np.random.default_rng(42).standard_normal((4, 20)) * 4


def clusters(rows: int = 240, seed: int = 0) -> Float32:
    """Four clusters far apart, of other scales."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, rows)
    return np.asarray((CENTRES[label] + rng.standard_normal((rows, 20))) * np.logspace(-2, 2, 20) + 3, np.float32)


def fitted(rows: Float32, size: int = 3, **options: Any) -> Umap:
    phi = Umap(size, **options)
    phi.fit([rows[:100], rows[100:]])
    return phi


@pytest.fixture(scope="module", params=["euclidean", "cosine", "correlation"])
def phi(request: pytest.FixtureRequest) -> Umap:
    return fitted(clusters(), metric=request.param)


def layout(phi: Umap, rows: Float32) -> Float32:
    """Where UMAP put rows that were fitted on, found by their prepared form."""
    places = {point.tobytes(): place for point, place in zip(phi.points, phi.coordinates, strict=True)}
    return np.stack([places[point.tobytes()] for point in phi._prepare(rows)])


@pytest.mark.parametrize("cut", [1, 97])
def test_a_window_is_placed_alike_in_any_batch_and_order(phi, cut, monkeypatch):
    rows = np.concatenate([clusters(200, seed=1), clusters()[:100]])
    together = phi.transform(rows)
    order = np.random.default_rng(cut).permutation(len(rows))[: 40 * cut]
    parts = [phi.transform(rows[order[first : first + cut]]) for first in range(0, len(order), cut)]
    np.testing.assert_array_equal(np.concatenate(parts), together[order])
    monkeypatch.setattr("edgesea.reduction.base.BLOCK", 7)
    np.testing.assert_array_equal(phi.transform(np.asfortranarray(rows)), together)


def test_the_layout_is_umaps_and_the_map_the_mean_of_the_nearest(phi):
    train, new = clusters(), clusters(30, seed=1)
    model = umap.UMAP(n_neighbors=15, n_components=3, min_dist=0.1, metric=phi.metric, random_state=0, n_jobs=1)
    np.testing.assert_array_equal(layout(phi, train), model.fit_transform(phi._prepare(train)))
    scaler = StandardScaler().fit(train.astype(np.float64))
    distances = cdist(scaler.transform(new), scaler.transform(train), phi.metric)
    for row, mapped in zip(distances, phi.transform(new), strict=True):
        nearest = np.argsort(row)[:15]
        gaps = row[nearest] - row[nearest[0]]
        sigma = brentq(lambda s, g=gaps: np.exp(-g / s).sum() - np.log2(15), 1e-6, 1e3, xtol=1e-14)
        weight = np.exp(-gaps / sigma)
        np.testing.assert_allclose(mapped, weight @ layout(phi, train)[nearest] / weight.sum(), atol=1e-3)


def test_references_are_a_random_share_and_equal_windows_are_one():
    rows = clusters()
    few = fitted(rows, references=50, n_neighbors=5, seed=3)
    assert (few.points.shape, few.windows) == ((50, 20), 240)
    assert {point.tobytes() for point in few.points} <= {point.tobytes() for point in few._prepare(rows)}
    silent = fitted(np.concatenate([rows, np.repeat(rows[:1], 60, axis=0)]), seed=3)
    assert (silent.windows, silent.describe()["different_references"]) == (300, 240)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (clusters(10), {"n_neighbors": 4, "size": 9}, "size.*10.*9"),
        (np.repeat(clusters(10), 9, axis=0), {}, "n_neighbors.*10.*15"),
    ],
)
def test_too_few_windows_are_refused(rows, options, words):
    with pytest.raises(EdgeseaError, match=f"umap.*{words}"):
        fitted(rows, **options)


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EdgeseaError, match=r"umap .*edgesea\[umap\]"):
        fitted(clusters())


def test_cuml_is_preferred(monkeypatch):
    def on_gpu(*, n_components: int, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(fit_transform=lambda points: points[:, :n_components])

    monkeypatch.setitem(sys.modules, "cuml", ModuleType("cuml"))
    monkeypatch.setitem(sys.modules, "cuml.manifold", SimpleNamespace(UMAP=on_gpu))
    phi = fitted(clusters())
    np.testing.assert_array_equal(phi.coordinates, phi.points[:, :3])


def test_the_number_of_threads_of_torch_stays():
    code = """
import numpy as np, torch
from edgesea.reduction.umap import Umap
torch.randn(64, 64) @ torch.randn(64, 64)
before = torch.get_num_threads()
Umap(2).fit([np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)])
assert before == torch.get_num_threads() == 1, torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
