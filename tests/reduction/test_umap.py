"""Everything that needs umap-learn, whose first import takes a quarter of a minute."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import umap
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction import load_reduction, reduce
from edgesea.reduction.umap import Metric, Umap
from edgesea.sampling import sample

Float32 = NDArray[np.float32]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine", "correlation")
CENTRES = np.random.default_rng(42).standard_normal((4, 20)) * 4


def clusters(rows: int = 240, seed: int = 0) -> tuple[Float32, NDArray[np.int64]]:
    """Four clusters far apart, of other scales, and which each row belongs to."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, rows)
    scales = np.logspace(-2, 2, 20)
    return np.asarray((CENTRES[label] + rng.standard_normal((rows, 20))) * scales + 3, np.float32), label


def fitted(rows: Float32, size: int = 3, **options: Any) -> Umap:
    phi = Umap(size, **options)
    phi.fit([rows[:100], rows[100:]])
    return phi


@pytest.fixture(scope="module", params=METRICS)
def phi(request: pytest.FixtureRequest) -> Umap:
    return fitted(clusters()[0], metric=request.param)


@pytest.mark.parametrize("cut", [1, 2, 3, 16, 97, 299])
def test_a_window_is_mapped_to_the_same_bits_in_any_batch_and_order(phi: Umap, cut: int) -> None:
    rows = np.concatenate([clusters(200, seed=1)[0], clusters()[0][:100]])
    together = phi.transform(rows)
    order = np.random.default_rng(cut).permutation(len(rows))[: 40 * cut]
    parts = [phi.transform(rows[order[first : first + cut]]) for first in range(0, len(order), cut)]
    np.testing.assert_array_equal(np.concatenate(parts), together[order])
    np.testing.assert_array_equal(phi.transform(np.asfortranarray(rows)), together)
    np.testing.assert_array_equal(phi.transform(rows[::-1])[::-1], together)
    assert together.dtype == np.float32


def test_blocks_are_cut_without_a_trace(phi: Umap, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clusters(200, seed=1)[0]
    whole = phi.transform(rows)
    monkeypatch.setattr("edgesea.reduction.umap.BLOCK", 7)
    monkeypatch.setattr("edgesea.reduction.neighbors.BATCH", 11)
    monkeypatch.setattr("edgesea.reduction.neighbors.BYTES", 10_000)
    np.testing.assert_array_equal(phi.transform(rows), whole)


def test_the_map_is_the_mean_of_the_nearest_references_by_the_metric(phi: Umap) -> None:
    train, new = clusters()[0], clusters(30, seed=1)[0]
    scaler = StandardScaler().fit(train.astype(np.float64))
    # The layout of every training row, found by its prepared form.
    coordinates = {point.tobytes(): place for point, place in zip(phi.points, phi.coordinates, strict=True)}
    layout = np.stack([coordinates[point.tobytes()] for point in phi._prepare(train)])
    distances = cdist(scaler.transform(new), scaler.transform(train), phi.metric)
    for row, mapped in zip(distances, phi.transform(new), strict=True):
        nearest = np.argsort(row)[:15]
        gaps = row[nearest] - row[nearest[0]]
        low, high = 1e-9, 1e3
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.exp(-gaps / middle).sum() < np.log2(15) else (low, middle)
        weight = np.exp(-gaps / high)
        expected = weight @ layout[nearest] / weight.sum()
        np.testing.assert_allclose(mapped, expected, atol=1e-3)


def test_the_layout_is_umaps(phi: Umap) -> None:
    rows = clusters()[0]
    model = umap.UMAP(n_neighbors=15, n_components=3, min_dist=0.1, metric=phi.metric, random_state=0, n_jobs=1)
    expected = model.fit_transform(phi._prepare(rows))
    order = np.lexsort(phi._prepare(rows).T[::-1])  # references are sorted
    np.testing.assert_array_equal(phi.coordinates, expected[order])


def test_training_windows_are_mapped_near_their_own_coordinates(phi: Umap) -> None:
    rows, label = clusters()
    coordinates = {point.tobytes(): place for point, place in zip(phi.points, phi.coordinates, strict=True)}
    own = np.stack([coordinates[point.tobytes()] for point in phi._prepare(rows)])
    error = np.linalg.norm(phi.transform(rows) - own, axis=1)
    # Half the typical distance of two windows of a cluster, whose diameter 15 of 60 neighbours nearly fill.
    spread = np.mean([np.median(cdist(own[label == k], own[label == k])) for k in range(4)])
    assert np.median(error) < spread / 2


def test_clusters_stay_apart(phi: Umap) -> None:
    train, train_label = clusters()
    new, label = clusters(150, seed=5)
    places, mapped = phi.transform(train), phi.transform(new)
    centres = np.stack([places[train_label == k].mean(0) for k in range(4)])
    assert (cdist(mapped, centres).argmin(1) == label).all()
    within = max(np.linalg.norm(mapped[label == k] - centres[k], axis=1).max() for k in range(4))
    assert within < cdist(centres, centres)[np.triu_indices(4, 1)].min() / 2


def test_a_saved_reduction_maps_to_the_same_bits(phi: Umap, tmp_path: Path) -> None:
    rows = clusters(50, seed=1)[0]
    phi.save(tmp_path, {})
    loaded = load_reduction(tmp_path)
    np.testing.assert_array_equal(loaded.transform(rows), phi.transform(rows))
    assert loaded.report() == phi.report()
    assert phi.report()["different_references"] == 240
    info = json.loads((tmp_path / "reduction.json").read_text())
    (tmp_path / "reduction.json").write_text(json.dumps({**info, "n_neighbors": 241}))
    with pytest.raises(EdgeseaError, match=r"do not fit together \(240 references for n_neighbors = 241"):
        load_reduction(tmp_path)


def test_references_are_a_random_share_and_equal_windows_are_one(caplog: pytest.LogCaptureFixture) -> None:
    rows = clusters()[0]
    with caplog.at_level(logging.INFO, "edgesea"):
        few = fitted(rows, references=50, n_neighbors=5, seed=3)
    assert "50 of the 240 windows are kept as references" in caplog.text
    assert few.points.shape == (50, 20)
    assert {point.tobytes() for point in few.points} <= {point.tobytes() for point in few._prepare(rows)}
    assert few.windows == 240

    silent = np.concatenate([rows, np.repeat(rows[:1], 60, axis=0)])
    phi = fitted(silent)
    assert len(phi.points) == 240
    one = phi.transform(rows[:1])
    np.testing.assert_array_equal(phi.transform(np.repeat(rows[:1], 9, axis=0)), np.repeat(one, 9, axis=0))


def test_the_seed_decides() -> None:
    rows = clusters()[0]
    one, same, other = (fitted(rows, seed=seed).coordinates for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_a_stage_with_umap(small_table: Path, tmp_path: Path) -> None:
    sample(small_table, tmp_path / "s", size=40)
    options: dict[str, Any] = {"subset": tmp_path / "s", "method": "umap", "size": 2, "n_neighbors": 6}
    result = reduce(small_table, tmp_path / "phi", **options, metric="cosine")
    assert (result["windows"], result["output_size"], result["n_neighbors"]) == (40, 2, 6)
    assert result["kept"]["split"] == "validate"
    assert result["explained_variance_validate"] is None
    assert "whiten" not in result
    assert load_reduction(tmp_path / "phi").transform(np.ones((3, 512), np.float32)).shape == (3, 2)
    # What umap does not use changes nothing.
    reduce(small_table, tmp_path / "psi", **options, metric="cosine", whiten=True, kernel="poly", landmarks=7)
    for name in ("reduction.json", "reduction.safetensors"):
        assert (tmp_path / "phi" / name).read_bytes() == (tmp_path / "psi" / name).read_bytes()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (clusters()[0] * np.float32(np.nan), {}, "NaN or Inf; extract or import the table again"),
        (np.full((30, 4), 12.3, np.float32), {}, "all windows have the same embedding"),
        (clusters(1)[0], {}, "at least two windows"),
        (clusters()[0], {"size": 21}, r"size must lie in 1 ... 20 \(the embedding's\), not 21"),
        (clusters(15)[0], {}, "15 windows are too few for n_neighbors = 15 and size = 3"),
        (clusters(10)[0], {"n_neighbors": 4, "size": 9}, "10 windows are too few"),
        (np.repeat(clusters(10)[0], 9, axis=0), {}, "only 10 different windows for n_neighbors = 15"),
        (clusters()[0], {"n_neighbors": 1}, "n_neighbors must be at least 2, not 1"),
        (clusters()[0], {"min_dist": 1.5}, r"min_dist must lie in \[0, 1\], not 1.5"),
        (clusters()[0], {"metric": "manhattan"}, "unknown metric 'manhattan'; known: euclidean, cosine, correlation"),
        (clusters()[0], {"references": 14}, r"references must be at least n_neighbors \(15\), not 14"),
    ],
)
def test_what_cannot_be_reduced_is_refused(rows: Float32, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        fitted(rows, **{"size": 3, **options})


def test_the_fewest_windows_that_are_accepted_can_be_laid_out() -> None:
    for windows, options in ((5, {"n_neighbors": 4, "size": 2}), (8, {"n_neighbors": 2, "size": 6})):
        rows = clusters(windows)[0]
        assert np.isfinite(fitted(rows, **options).transform(rows)).all()  # type: ignore[arg-type]


def test_embeddings_that_cannot_be_mapped_are_refused(phi: Umap) -> None:
    with pytest.raises(EdgeseaError, match=r"umap: embeddings must have shape \(b, 20\)"):
        phi.transform(np.zeros((2, 19), np.float32))
    for value in (np.inf, -np.inf, np.nan):
        with pytest.raises(EdgeseaError, match="umap: the embeddings hold NaN, Inf or numbers out of range"):
            phi.transform(np.full((2, 20), value, np.float32))
    assert phi.transform(np.zeros((0, 20), np.float32)).shape == (0, 3)
    assert np.isfinite(phi.transform(np.full((2, 20), 1e30, np.float32))).all()


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EdgeseaError, match=r"umap-learn is not installed; .* pip install 'edgesea\[umap\]'"):
        fitted(clusters()[0])


def test_the_number_of_threads_of_torch_stays() -> None:
    code = """
import numpy as np, torch
from edgesea.reduction.umap import Umap
torch.randn(64, 64) @ torch.randn(64, 64)
before = torch.get_num_threads()
Umap(2).fit([np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)])
assert before == torch.get_num_threads() == 1, torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
