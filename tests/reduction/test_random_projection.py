from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from edgesea.reduction import load_reduction
from edgesea.reduction.random_projection import RandomProjection

Float32 = NDArray[np.float32]


def embeddings(rows: int = 60, size: int = 40) -> Float32:
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((rows, size)) @ rng.standard_normal((size, size)) + 7
    return np.asarray(mixed, np.float32)


def fitted(size: int, seed: int = 0, rows: Float32 | None = None) -> RandomProjection:
    phi = RandomProjection(size, seed)
    phi.fit([embeddings() if rows is None else rows])
    return phi


def test_squared_distances_are_kept_on_average_with_the_spread_of_chi_squared() -> None:
    """|C z|^2 / |z|^2 is chi-squared with d degrees of freedom, divided by d: mean 1, variance 2 / d."""
    rows, size, draws = embeddings(), 8, 300
    standardised = (rows - rows.mean(0)) / rows.std(0)
    true = pdist(standardised[:6], "sqeuclidean")
    ratios = np.array([pdist(fitted(size, seed).transform(rows[:6]), "sqeuclidean") / true for seed in range(draws)])
    # Four standard errors of a mean of `draws` values.
    np.testing.assert_allclose(ratios.mean(0), 1, atol=4 * np.sqrt(2 / size / draws))
    np.testing.assert_allclose(ratios.var(), 2 / size, rtol=0.15)


def test_the_entries_are_normal_with_variance_one_over_d() -> None:
    components = fitted(20, rows=embeddings(500, 400)).components
    np.testing.assert_allclose(components.var(), 1 / 20, rtol=4 * np.sqrt(2 / components.size))
    np.testing.assert_allclose(components.mean(), 0, atol=4 * np.sqrt(1 / 20 / components.size))
    excess = np.mean(components**4) / np.mean(components**2) ** 2 - 3
    assert abs(excess) < 4 * np.sqrt(24 / components.size)


def test_the_seed_decides() -> None:
    rows = embeddings()
    np.testing.assert_array_equal(fitted(5, 3).transform(rows), fitted(5, 3).transform(rows))
    assert not np.allclose(fitted(5, 3).transform(rows), fitted(5, 4).transform(rows))


def test_a_saved_projection_transforms_alike(tmp_path: Path) -> None:
    phi = fitted(5, 9)
    phi.save(tmp_path, {})
    loaded = load_reduction(tmp_path)
    np.testing.assert_array_equal(loaded.transform(embeddings()), phi.transform(embeddings()))
    assert loaded.report() == phi.report()
    assert (loaded.method, loaded.input_size, loaded.output_size) == ("random_projection", 40, 5)
    assert phi.report()["seed"] == 9
