from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import KernelPCA as SklearnKernelPCA
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction.kernel_pca import KernelPCA, Reservoir

Float32 = NDArray[np.float32]
KERNELS: list[dict[str, Any]] = [
    {"kernel": "rbf"},
    {"kernel": "rbf", "gamma": 0.3},
    {"kernel": "poly"},
    {"kernel": "poly", "gamma": 0.5, "degree": 2, "coef0": 0.0},
]


def embeddings(rows: int = 200, size: int = 12, seed: int = 0) -> Float32:
    """A curved sheet in a space of other scales."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-1, 1, (rows, 3))
    mixing = np.random.default_rng(99).standard_normal((3, size))
    return np.asarray((np.sin(2 * hidden @ mixing) + 0.1 * rng.standard_normal((rows, size))) * 30 + 5, np.float32)


def fitted(rows: Float32, size: int = 5, batch: int = 37, **options: Any) -> KernelPCA:
    phi = KernelPCA(size, **options)
    phi.fit([rows[first : first + batch] for first in range(0, len(rows), batch)])
    return phi


@pytest.mark.parametrize("options", KERNELS)
def test_with_all_windows_as_landmarks_it_is_scikit_learns_kernel_pca(options: dict[str, Any]) -> None:
    rows, new = embeddings(), embeddings(80, seed=1)
    phi = fitted(rows, landmarks=len(rows), **options)
    scaler = StandardScaler().fit(rows.astype(np.float64))
    reference = SklearnKernelPCA(5, eigen_solver="dense", **options).fit(scaler.transform(rows))
    for part in (rows, new):
        expected, actual = reference.transform(scaler.transform(part.astype(np.float64))), phi.transform(part)
        sign = np.sign((expected * actual).sum(0))
        np.testing.assert_allclose(actual * sign, expected, atol=1e-5 * np.abs(expected).max())


def test_neither_batches_nor_repeated_windows_matter() -> None:
    rows = embeddings()
    one, other = (fitted(rows, batch=batch, landmarks=50) for batch in (1, 500))
    np.testing.assert_array_equal(one.landmarks_, other.landmarks_)
    np.testing.assert_allclose(one.transform(rows), other.transform(rows), atol=1e-5)
    repeated = np.repeat(embeddings(40), 5, axis=0)
    np.testing.assert_allclose(
        np.abs(fitted(repeated, landmarks=200).transform(rows)),
        np.abs(fitted(embeddings(40)).transform(rows)),
        rtol=0.1,
    )


def test_whitened_outputs_have_unit_variance_and_are_otherwise_the_same() -> None:
    rows = embeddings()
    rows[:, :4] = 3.0
    plain, white = fitted(rows), fitted(rows, whiten=True).transform(rows)
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(white, plain.transform(rows) / plain.transform(rows).std(0, ddof=1), atol=1e-4)
    assert plain.describe()["gamma"] == 1 / 8  # one over the dimensions that vary
    assert 0 < plain.describe()["feature_variance"] < 1


@pytest.mark.parametrize(
    ("rows", "size", "options", "words"),
    [
        (embeddings(), 9, {"landmarks": 8}, "8 landmarks.* 8 .*9"),
        (embeddings(8), 8, {}, "7 .*8"),  # with all windows as landmarks the mean takes one dimension
        (np.repeat(embeddings(4), 30, axis=0), 4, {}, "3 .*4"),
        (embeddings(), 5, {"gamma": float("nan")}, "gamma.*nan"),
        (embeddings(), 5, {"kernel": "poly", "degree": 900}, "degree"),
    ],
)
def test_what_is_impossible_is_refused(rows: Float32, size: int, options: dict[str, Any], words: str) -> None:
    with pytest.raises(EdgeseaError, match=f"kernel_pca.*{words}"):
        fitted(rows, size, **options)


def test_a_reservoir_draws_rows_in_order_however_they_are_cut() -> None:
    stream = np.arange(200, dtype=np.float32)[:, None] * np.array([1, 2], np.float32)
    for size, batch in ((30, 1), (30, 3), (30, 70), (200, 3), (201, 500)):
        drawn, whole = Reservoir(size, 0), Reservoir(size, 0)
        passed = list(drawn.watch(stream[first : first + batch] for first in range(0, 200, batch)))
        np.testing.assert_array_equal(np.concatenate(passed), stream)
        list(whole.watch([stream]))
        assert drawn.rows.shape == (min(size, 200), 2)
        assert (np.diff(drawn.rows[:, 0]) > 0).all()
        np.testing.assert_array_equal(drawn.rows, whole.rows)
