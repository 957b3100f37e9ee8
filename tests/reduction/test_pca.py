from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import peak_memory
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811
from sklearn.decomposition import KernelPCA as SklearnKernelPCA
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction.pca import PCA, KernelPCA, RandomProjection

Float32 = NDArray[np.float32]


def correlated(rows: int = 700, size: int = 24, seed: int = 0) -> Float32:
    """Correlated dimensions with well-separated variances."""
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((rows, size)) * 1.25 ** -np.arange(size)
    return (sources @ rng.standard_normal((size, size))).astype(np.float32)


def fitted(phi: Any, rows: NDArray[Any], batch: int = 97) -> Any:
    phi.fit([rows[first : first + batch] for first in range(0, len(rows), batch)])
    return phi


CHANGES: dict[str, Callable[[Float32], Float32]] = {
    "none": lambda rows: rows,
    "offset": lambda rows: rows + np.float32(1e4),
    "scaled": lambda rows: np.asarray(rows * np.logspace(-4, 4, rows.shape[1]), np.float32),
    "constants": lambda rows: np.where(np.isin(np.arange(24), [3, 7, 11]), np.float32(1234.5678), rows),
    "repeated": lambda rows: np.repeat(rows[:300], 3, axis=0),
    "half": lambda rows: rows.astype(np.float16).astype(np.float32),
}


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_equals_scikit_learn_up_to_the_sign(change, whiten):
    rows, size = CHANGES[change](correlated()), 8
    pca = fitted(PCA(size, whiten), rows)
    standardised = StandardScaler().fit_transform(rows.astype(np.float64))
    reference = SklearnPCA(size, whiten=whiten, svd_solver="full").fit(standardised)
    expected, actual = reference.transform(standardised), pca.transform(rows)
    sign = np.sign((expected * actual).sum(0))
    np.testing.assert_allclose(actual * sign, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(pca.variance[:size], reference.explained_variance_ratio_, rtol=1e-5)
    assert (pca.components[np.arange(size), np.abs(pca.components).argmax(1)] > 0).all()
    assert change != "constants" or np.abs(pca.components[:, [3, 7, 11]]).max() < 1e-12
    shares = np.square(standardised @ reference.components_.T).sum() / np.square(standardised).sum()
    assert pca.explained_variance([rows]) == pytest.approx(shares, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 4096, 10_000])
def test_how_batches_are_cut_does_not_matter(batch):
    rows = correlated(9000, 12) + np.float32(1e4)
    one, other = fitted(PCA(4), rows, 9000), fitted(PCA(4), rows, batch)
    for name in PCA.saved:
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-10, atol=1e-10)
    assert one.windows == other.windows == 9000


def test_a_random_projection_preserves_squared_distances_with_the_spread_of_chi_squared():
    """|C z|^2 / |z|^2 is chi-squared with d degrees of freedom, divided by d: mean 1, variance 2 / d."""
    rows, size, draws = correlated(60, 40), 8, 300

    true = pdist(StandardScaler().fit_transform(rows.astype(np.float64))[:6], "sqeuclidean")
    projected = [fitted(RandomProjection(size, seed), rows).transform(rows[:6]) for seed in range(draws)]
    ratios = np.array([pdist(each, "sqeuclidean") / true for each in projected])
    # Four standard errors of a mean of `draws` values.
    np.testing.assert_allclose(ratios.mean(0), 1, atol=4 * np.sqrt(2 / size / draws))
    np.testing.assert_allclose(ratios.var(), 2 / size, rtol=0.15)


def test_memory_does_not_grow_with_the_number_of_windows():
    rng, pca = np.random.default_rng(0), PCA(16)
    _, peak = peak_memory(lambda: pca.fit(rng.standard_normal((1000, 256), np.float32) for _ in range(200)))
    assert (pca.windows, peak < 25e6) == (200_000, True)  # they are 205 MB as float32


def curved(rows: int = 200, size: int = 12, seed: int = 0) -> Float32:
    """A curved sheet in a space of other scales."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, (rows, 3))
    mixing = np.random.default_rng(99).standard_normal((3, size))
    return np.asarray((np.sin(2 * hidden @ mixing) + 0.1 * rng.standard_normal((rows, size))) * 30 + 5, np.float32)


@pytest.mark.parametrize(
    "options",
    [{"kernel": "rbf"}, {"kernel": "rbf", "gamma": 0.3}, {"kernel": "poly", "gamma": 0.5, "degree": 2, "coef0": 0.0}],
)
def test_with_all_windows_as_landmarks_it_is_scikit_learns_kernel_pca(options):
    rows, new = curved(), curved(80, seed=1)
    phi = fitted(KernelPCA(5, landmarks=len(rows), **options), rows)
    scaler = StandardScaler().fit(rows.astype(np.float64))
    reference = SklearnKernelPCA(5, eigen_solver="dense", **options).fit(scaler.transform(rows))
    for part in (rows, new):
        expected = np.abs(reference.transform(scaler.transform(part.astype(np.float64))))
        np.testing.assert_allclose(np.abs(phi.transform(part)), expected, atol=1e-5 * expected.max())


def test_neither_batches_nor_repeated_windows_matter():
    rows = curved()
    one, other = (fitted(KernelPCA(5, landmarks=50), rows, batch) for batch in (1, 500))
    np.testing.assert_array_equal(one.landmarks_, other.landmarks_)
    places = [np.flatnonzero((rows == landmark).all(1)).item() for landmark in one.landmarks_]
    assert places == sorted(set(places))
    np.testing.assert_allclose(one.transform(rows), other.transform(rows), atol=1e-5)
    plain, repeated = (fitted(KernelPCA(5), few).transform(rows) for few in (curved(40), np.repeat(curved(40), 5, 0)))
    np.testing.assert_allclose(np.abs(repeated), np.abs(plain), rtol=0.1)


def test_whitened_outputs_have_unit_variance_and_are_otherwise_the_same():
    rows = curved()
    rows[:, :4] = 3.0
    plain, white = fitted(KernelPCA(5), rows), fitted(KernelPCA(5, whiten=True), rows).transform(rows)
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(white, plain.transform(rows) / plain.transform(rows).std(0, ddof=1), atol=1e-4)
    assert plain.describe()["gamma"] == 1 / 8  # one over the dimensions that vary
    assert 0 < plain.describe()["feature_variance"] < 1


@pytest.mark.parametrize(
    ("method", "rows", "rank"),
    [
        (PCA, correlated(4, 6), 3),
        (PCA, np.repeat(correlated(50, 3), 2, axis=1), 3),
        (KernelPCA, curved(8), 7),  # with all windows as landmarks the mean takes one dimension
        (KernelPCA, np.repeat(curved(4), 30, axis=0), 3),
    ],
)
def test_more_components_than_the_windows_span_are_refused(method, rows, rank):
    assert fitted(method(rank), rows).output_size == rank
    with pytest.raises(EdgeseaError, match=f"size.* {rank}.*{rank + 1}"):
        fitted(method(rank + 1), rows)
