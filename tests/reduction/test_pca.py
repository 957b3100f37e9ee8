import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811
from sklearn.preprocessing import StandardScaler

from edgesea.errors import EdgeseaError
from edgesea.reduction import load_reduction
from edgesea.reduction.pca import PCA

Float32 = NDArray[np.float32]


def correlated(rows: int = 700, size: int = 24, seed: int = 0) -> Float32:
    """Correlated dimensions with well-separated variances."""
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((rows, size)) * 1.25 ** -np.arange(size)
    return (sources @ rng.standard_normal((size, size))).astype(np.float32)


def cut(rows: NDArray[np.floating], size: int) -> Iterator[NDArray[np.floating]]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def fitted(rows: NDArray[np.floating], size: int, whiten: bool = False, batch: int = 97) -> PCA:
    pca = PCA(size, whiten)
    pca.fit(cut(rows, batch))
    return pca


def offset(rows: Float32) -> Float32:
    return rows + np.float32(1e4)


def scaled(rows: Float32) -> Float32:
    return np.asarray(rows * np.logspace(-4, 4, rows.shape[1]), np.float32)


def with_constants(rows: Float32) -> Float32:
    rows = rows.copy()
    rows[:, 3], rows[:, 7], rows[:, 11] = 0.0, 1234.5678, -1e-3
    return rows


def duplicated(rows: Float32) -> Float32:
    return np.repeat(rows[:300], 3, axis=0)


def half(rows: Float32) -> Float32:
    return rows.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("change", [np.asarray, offset, scaled, with_constants, duplicated, half])
def test_equals_scikit_learn_up_to_the_sign(change, whiten: bool) -> None:  # type: ignore[no-untyped-def]
    rows, size = change(correlated()), 8
    pca = fitted(rows, size, whiten)
    standardised = StandardScaler().fit_transform(rows.astype(np.float64))
    reference = SklearnPCA(size, whiten=whiten, svd_solver="full").fit(standardised)
    expected, actual = reference.transform(standardised), pca.transform(rows)
    sign = np.sign((expected * actual).sum(0))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual * sign, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(pca.variance[:size], reference.explained_variance_ratio_, rtol=1e-5)
    if whiten:
        np.testing.assert_allclose(actual.std(0, ddof=1), 1.0, rtol=1e-5)


def test_the_sign_of_a_component_makes_its_largest_entry_positive() -> None:
    for whiten in (False, True):
        components = fitted(correlated(), 10, whiten).components
        assert (components[np.arange(10), np.abs(components).argmax(1)] > 0).all()


def test_constant_dimensions_contribute_nothing() -> None:
    pca = fitted(with_constants(correlated()), 5)
    np.testing.assert_allclose(pca.components[:, [3, 7, 11]], 0, atol=1e-12)
    moved = with_constants(correlated())
    before = pca.transform(moved)
    moved[:, 7] += 1
    np.testing.assert_allclose(pca.transform(moved), before, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 7, 300, 4096, 10_000])
def test_how_batches_are_cut_does_not_matter(batch: int) -> None:
    rows = offset(correlated(9000, 12))
    one, other = fitted(rows, 4, batch=9000), fitted(rows, 4, batch=batch)
    for name in ("mean", "scale", "components", "variance"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-10, atol=1e-10)
    assert one.windows == other.windows == 9000


def test_empty_batches_are_passed_over() -> None:
    rows = correlated()
    pca = PCA(3)
    pca.fit(iter([rows[:0], rows[:400], rows[:0], rows[400:]]))
    np.testing.assert_allclose(pca.components, fitted(rows, 3).components, atol=1e-10)
    assert pca.transform(rows[:0]).shape == (0, 3)


def test_a_row_is_transformed_alone_as_in_a_batch() -> None:
    rows = offset(correlated())
    pca = fitted(rows, 6, whiten=True)
    together = pca.transform(rows)
    alone = np.concatenate([pca.transform(rows[i : i + 1]) for i in range(100)])
    np.testing.assert_allclose(alone, together[:100], rtol=2e-7, atol=1e-9)  # a unit in the last place


def test_float16_rows_give_what_float32_rows_give() -> None:
    rows = correlated().astype(np.float16)
    one, other = fitted(rows, 4), fitted(rows.astype(np.float32), 4)
    np.testing.assert_array_equal(one.components, other.components)
    np.testing.assert_array_equal(one.transform(rows), other.transform(rows.astype(np.float32)))


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        (np.full((5, 3), np.nan, np.float32), 1, "NaN or Inf; extract or import the table again"),
        (np.array([[0, 1], [np.inf, 2]], np.float32), 1, "NaN or Inf"),
        (correlated(50, 6), 7, r"size must lie in 1 ... 6 \(the embedding's\), not 7"),
        (correlated(50, 6), 0, "size must lie in 1 ... 6"),
        (correlated(4, 6), 4, "the 4 windows span 3 dimensions, not 4"),
        (np.repeat(correlated(50, 3), 2, axis=1), 4, "the 50 windows span 3 dimensions, not 4"),
        (correlated(1, 6), 1, "at least two windows"),
        (correlated(0, 6), 1, "at least two windows"),
        (np.full((9, 4), 1234.567, np.float32), 1, "all windows have the same embedding"),
    ],
)
def test_what_cannot_be_reduced_is_refused(rows: Float32, size: int, message: str) -> None:
    with pytest.raises(EdgeseaError, match=message):
        fitted(rows, size)


def test_no_batch_at_all_is_refused() -> None:
    with pytest.raises(EdgeseaError, match="at least two windows"):
        PCA(1).fit(iter(()))


@pytest.mark.parametrize("shape", [(4, 23), (4, 25), (24,), (2, 2, 24)])
def test_embeddings_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgeseaError, match=r"must have shape \(b, 24\)"):
        fitted(correlated(), 3).transform(np.zeros(shape, np.float32))


@pytest.mark.parametrize("whiten", [False, True])
def test_a_saved_reduction_transforms_alike(tmp_path: Path, whiten: bool) -> None:
    rows = correlated()
    pca = fitted(rows, 6, whiten)
    pca.save(tmp_path / "phi", {"by": "test"})
    loaded = load_reduction(tmp_path / "phi")
    np.testing.assert_array_equal(loaded.transform(rows), pca.transform(rows))
    assert loaded.report() == pca.report()
    assert (loaded.input_size, loaded.output_size, loaded.method) == (24, 6, "pca")


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
