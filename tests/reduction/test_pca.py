import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
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


def fitted(rows: NDArray[Any], size: int, whiten: bool = False, batch: int = 97) -> PCA:
    pca = PCA(size, whiten)
    pca.fit(rows[first : first + batch] for first in range(0, len(rows), batch))
    return pca


def with_constants(rows: Float32) -> Float32:
    rows = rows.copy()
    rows[:, 3], rows[:, 7], rows[:, 11] = 0.0, 1234.5678, -1e-3
    return rows


CHANGES: dict[str, Callable[[Float32], Float32]] = {
    "none": lambda rows: rows,
    "offset": lambda rows: rows + np.float32(1e4),
    "scaled": lambda rows: np.asarray(rows * np.logspace(-4, 4, rows.shape[1]), np.float32),
    "constants": with_constants,
    "repeated": lambda rows: np.repeat(rows[:300], 3, axis=0),
    "half": lambda rows: rows.astype(np.float16).astype(np.float32),
}


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_equals_scikit_learn_up_to_the_sign(change: str, whiten: bool) -> None:
    rows, size = CHANGES[change](correlated()), 8
    pca = fitted(rows, size, whiten)
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
def test_how_batches_are_cut_does_not_matter(batch: int) -> None:
    rows = correlated(9000, 12) + np.float32(1e4)
    one, other = fitted(rows, 4, batch=9000), fitted(rows, 4, batch=batch)
    for name in PCA.saved:
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-10, atol=1e-10)
    assert one.windows == other.windows == 9000


def test_a_random_projection_preserves_squared_distances_with_the_spread_of_chi_squared() -> None:
    """|C z|^2 / |z|^2 is chi-squared with d degrees of freedom, divided by d: mean 1, variance 2 / d."""
    rows, size, draws = correlated(60, 40), 8, 300

    def projected(seed: int) -> NDArray[np.float32]:
        phi = RandomProjection(size, seed)
        phi.fit([rows])
        return phi.transform(rows[:6])

    true = pdist(StandardScaler().fit_transform(rows.astype(np.float64))[:6], "sqeuclidean")
    ratios = np.array([pdist(projected(seed), "sqeuclidean") / true for seed in range(draws)])
    # Four standard errors of a mean of `draws` values.
    np.testing.assert_allclose(ratios.mean(0), 1, atol=4 * np.sqrt(2 / size / draws))
    np.testing.assert_allclose(ratios.var(), 2 / size, rtol=0.15)
    np.testing.assert_array_equal(projected(3), projected(3))


PEAK = """
import resource, sys
import numpy as np
from edgesea.reduction.pca import PCA

rng = np.random.default_rng(0)
pca = PCA(16)
pca.fit(rng.standard_normal((1000, 256), np.float32) for _ in range(int(sys.argv[1]) // 1000))
assert pca.windows == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_windows() -> None:
    """200 000 windows are 205 MB as float32; peak resident memory may differ by a tenth of that."""
    few, many = (
        float(subprocess.run([sys.executable, "-c", PEAK, n], capture_output=True, check=True, text=True).stdout)
        for n in ("20000", "200000")
    )
    assert many - few < 25, f"{few:.0f} MB for 20 000 windows, {many:.0f} MB for 200 000"


KERNELS: list[dict[str, Any]] = [
    {"kernel": "rbf"},
    {"kernel": "rbf", "gamma": 0.3},
    {"kernel": "poly"},
    {"kernel": "poly", "gamma": 0.5, "degree": 2, "coef0": 0.0},
]


def curved(rows: int = 200, size: int = 12, seed: int = 0) -> Float32:
    """A curved sheet in a space of other scales."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, (rows, 3))
    mixing = np.random.default_rng(99).standard_normal((3, size))
    return np.asarray((np.sin(2 * hidden @ mixing) + 0.1 * rng.standard_normal((rows, size))) * 30 + 5, np.float32)


def kernel_fitted(rows: Float32, size: int = 5, batch: int = 37, **options: Any) -> KernelPCA:
    phi = KernelPCA(size, **options)
    phi.fit([rows[first : first + batch] for first in range(0, len(rows), batch)])
    return phi


@pytest.mark.parametrize("options", KERNELS)
def test_with_all_windows_as_landmarks_it_is_scikit_learns_kernel_pca(options: dict[str, Any]) -> None:
    rows, new = curved(), curved(80, seed=1)
    phi = kernel_fitted(rows, landmarks=len(rows), **options)
    scaler = StandardScaler().fit(rows.astype(np.float64))
    reference = SklearnKernelPCA(5, eigen_solver="dense", **options).fit(scaler.transform(rows))
    for part in (rows, new):
        expected, actual = reference.transform(scaler.transform(part.astype(np.float64))), phi.transform(part)
        sign = np.sign((expected * actual).sum(0))
        np.testing.assert_allclose(actual * sign, expected, atol=1e-5 * np.abs(expected).max())


def test_neither_batches_nor_repeated_windows_matter() -> None:
    rows = curved()
    one, other = (kernel_fitted(rows, batch=batch, landmarks=50) for batch in (1, 500))
    np.testing.assert_array_equal(one.landmarks_, other.landmarks_)
    places = [np.flatnonzero((rows == landmark).all(1)).item() for landmark in one.landmarks_]
    assert len(places) == 50
    assert places == sorted(places)
    np.testing.assert_allclose(one.transform(rows), other.transform(rows), atol=1e-5)
    repeated = kernel_fitted(np.repeat(curved(40), 5, axis=0), landmarks=200).transform(rows)
    np.testing.assert_allclose(np.abs(repeated), np.abs(kernel_fitted(curved(40)).transform(rows)), rtol=0.1)


def test_whitened_outputs_have_unit_variance_and_are_otherwise_the_same() -> None:
    rows = curved()
    rows[:, :4] = 3.0
    plain, white = kernel_fitted(rows), kernel_fitted(rows, whiten=True).transform(rows)
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(white, plain.transform(rows) / plain.transform(rows).std(0, ddof=1), atol=1e-4)
    assert plain.describe()["gamma"] == 1 / 8  # one over the dimensions that vary
    assert 0 < plain.describe()["feature_variance"] < 1


@pytest.mark.parametrize(
    ("rows", "rank", "kernel"),
    [
        (correlated(4, 6), 3, False),
        (np.repeat(correlated(50, 3), 2, axis=1), 3, False),
        (curved(8), 7, True),  # with all windows as landmarks the mean takes one dimension
        (np.repeat(curved(4), 30, axis=0), 3, True),
    ],
)
def test_more_components_than_the_windows_span_are_refused(rows: Float32, rank: int, kernel: bool) -> None:
    fit = kernel_fitted if kernel else fitted
    assert fit(rows, rank).output_size == rank
    with pytest.raises(EdgeseaError, match=f"size.* {rank}.*{rank + 1}"):
        fit(rows, rank + 1)
