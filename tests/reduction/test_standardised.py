"""What all learned methods refuse, and the moments they share. UMAP's own tests are in test_umap.py."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction.base import Reduction
from edgesea.reduction.kernel_pca import KernelPCA
from edgesea.reduction.pca import PCA
from edgesea.reduction.random_projection import RandomProjection
from edgesea.reduction.standardised import Moments

Float32 = NDArray[np.float32]
LEARNED = (PCA, KernelPCA, RandomProjection)


def normal(rows: int, size: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_moments_are_those_of_all_rows_also_far_from_zero(full: bool, batch: int) -> None:
    rows = normal(900, 5) * [1, 1e-2, 3, 1, 1] + [1e4, 0, 5, 0, 1]
    moments = Moments(5, full)
    for first in range(0, len(rows), batch):
        moments.update(rows[first : first + batch])
    scatter = np.cov(rows.T, ddof=0) * len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.scatter, scatter if full else np.diag(scatter), rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(moments.std, rows.std(0), rtol=1e-9)


@pytest.mark.parametrize("method", LEARNED)
def test_the_standardisation_is_that_of_scikit_learn(method: type[PCA]) -> None:
    rows = normal(300, 6) * [1, 100, 1e-3, 1, 1, 1] + [0, 50, 0, 0, 9, 0]
    rows[:, 3] = 1234.5678
    rows = rows.astype(np.float32)
    phi = method(2)
    phi.fit([rows[:100], rows[100:]])
    scaler = StandardScaler().fit(rows.astype(np.float64))
    np.testing.assert_allclose(phi.standardise(rows), scaler.transform(rows.astype(np.float64)), atol=1e-6)
    assert phi.scale[3] == 1


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        (np.full((5, 3), np.nan, np.float32), 1, "NaN or Inf; extract or import the table again"),
        (np.array([[0, 1], [np.inf, 2]], np.float32), 1, "NaN or Inf"),
        (normal(50, 6), 7, r"size must lie in 1 ... 6 \(the embedding's\), not 7"),
        (normal(50, 6), 0, "size must lie in 1 ... 6"),
        (normal(1, 6), 1, "at least two windows"),
        (normal(0, 6), 1, "at least two windows"),
        (np.full((9, 4), 1234.567, np.float32), 1, "all windows have the same embedding"),
        (np.repeat(normal(1, 4), 30, axis=0), 1, "all windows have the same embedding"),
    ],
)
def test_what_cannot_be_standardised_is_refused(
    method: Callable[[int], Reduction], rows: Float32, size: int, message: str
) -> None:
    with pytest.raises(EdgeseaError, match=message):
        method(size).fit([rows])


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("shape", [(4, 23), (4, 25), (24,), (2, 2, 24)])
def test_embeddings_of_another_width_are_refused(method: Callable[[int], Reduction], shape: tuple[int, ...]) -> None:
    phi = method(3)
    phi.fit([normal(60, 24)])
    with pytest.raises(EdgeseaError, match=rf"{phi.method}: embeddings must have shape \(b, 24\)"):
        phi.transform(np.zeros(shape, np.float32))
    assert phi.transform(np.zeros((0, 24), np.float32)).shape == (0, 3)
