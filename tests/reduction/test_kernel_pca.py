from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import KernelPCA as SklearnKernelPCA
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction import load_reduction
from edgesea.reduction.kernel_pca import KernelPCA

Float32 = NDArray[np.float32]


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


KERNELS = [
    {"kernel": "rbf"},
    {"kernel": "rbf", "gamma": 0.3},
    {"kernel": "poly"},
    {"kernel": "poly", "gamma": 0.5, "degree": 2, "coef0": 0.0},
]


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
    assert actual.dtype == np.float32


def test_whitened_outputs_have_unit_variance_and_are_otherwise_the_same() -> None:
    rows = embeddings()
    plain, white = fitted(rows).transform(rows), fitted(rows, whiten=True).transform(rows)
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(white, plain / plain.std(0, ddof=1), atol=1e-4)


def test_fewer_landmarks_approximate_it_the_better_the_more_there_are() -> None:
    rows, new = embeddings(600), embeddings(100, seed=1)
    exact = fitted(rows, landmarks=600).transform(new)
    errors = []
    for landmarks in (20, 60, 200):
        approximate = fitted(rows, landmarks=landmarks).transform(new)
        # The best rotation, as components with near eigenvalues turn into each other.
        left, _, right = np.linalg.svd(approximate.T @ exact)
        errors.append(np.square(approximate @ left @ right - exact).sum() / np.square(exact).sum())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_how_batches_are_cut_does_not_matter() -> None:
    rows = embeddings()
    one, other = (fitted(rows, batch=batch, landmarks=50) for batch in (1, 500))
    np.testing.assert_array_equal(one.landmark_rows, other.landmark_rows)
    np.testing.assert_allclose(one.transform(rows), other.transform(rows), atol=1e-5)
    together = one.transform(rows)
    alone = np.concatenate([one.transform(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_blocks_of_kernel_values_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = embeddings()
    whole = fitted(rows, landmarks=50).transform(rows)
    monkeypatch.setattr("edgesea.reduction.kernel_pca.BLOCK", 50 * 7)
    np.testing.assert_allclose(fitted(rows, landmarks=50).transform(rows), whole, atol=1e-5)


def test_the_seed_chooses_the_landmarks() -> None:
    one, same, other = (fitted(embeddings(), landmarks=20, seed=seed).landmark_rows for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_gamma_is_one_over_the_dimensions_that_vary() -> None:
    rows = embeddings()
    rows[:, :4] = 3.0
    assert fitted(rows).gamma == 1 / 8


def test_repeated_windows_are_no_obstacle() -> None:
    rows = np.repeat(embeddings(40), 5, axis=0)
    assert np.isfinite(fitted(rows, landmarks=200).transform(rows)).all()


@pytest.mark.parametrize("options", KERNELS)
def test_a_saved_reduction_transforms_alike(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = embeddings()
    phi = fitted(rows, landmarks=60, whiten=True, **options)
    phi.save(tmp_path, {})
    loaded = load_reduction(tmp_path)
    np.testing.assert_array_equal(loaded.transform(rows), phi.transform(rows))
    assert loaded.report() == phi.report()
    assert ("degree" in phi.report()) == (options["kernel"] == "poly")
    assert 0 < phi.report()["feature_variance"] < 1


def test_more_components_than_the_features_span_are_refused() -> None:
    with pytest.raises(EdgeseaError, match="features of 8 landmarks span 8 dimensions, not 9; lower size, or raise"):
        fitted(embeddings(), 9, landmarks=8)
    # With all windows as landmarks the mean takes one dimension.
    with pytest.raises(EdgeseaError, match="span 7 dimensions, not 8"):
        fitted(embeddings(8), 8)
    with pytest.raises(EdgeseaError, match=r"span 3 dimensions, not 4"):
        fitted(np.repeat(embeddings(4), 30, axis=0), 4)


def test_rows_that_can_be_seen_only_once_are_noticed() -> None:
    with pytest.raises(EdgeseaError, match="200 windows in the first pass, 0 in the second"):
        KernelPCA(2).fit(iter([embeddings()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "sigmoid"}, "unknown kernel 'sigmoid'; known: rbf, poly"),
        ({"gamma": 0.0}, "gamma must be above 0, not 0.0"),
        ({"gamma": float("nan")}, "gamma must be above 0"),
        ({"kernel": "poly", "degree": 0}, "degree must be a whole number of at least 1, not 0"),
        ({"kernel": "poly", "coef0": -1.0}, "coef0 must be at least 0, not -1.0"),
        ({"landmarks": 1}, "landmarks must be at least 2, not 1"),
        ({"kernel": "poly", "degree": 900}, "the kernel overflows; lower degree or gamma"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        fitted(embeddings(), **options)
