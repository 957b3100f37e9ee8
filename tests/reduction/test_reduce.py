import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from edgesea.reduction import load_reduction, reduce
from edgesea.reduction.base import METHODS, method_class
from edgesea.reduction.pca import PCA
from edgesea.reduction.quality import quality
from edgesea.reduction.windows import find_windows
from edgesea.sampling import sample
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table

FILES = ("reduction.json", "reduction.safetensors")


def test_all_training_windows_by_default(small_table, tmp_path):
    result = reduce(small_table, tmp_path / "phi", size=5)
    expected = PCA(5)
    expected.fit(find_windows(Table(small_table))["fitted"])
    np.testing.assert_array_equal(load_reduction(tmp_path / "phi").components, expected.components)
    assert (result["windows"], result["input_size"], result["output_size"], result["whiten"]) == (60, 512, 5, False)
    info = json.loads((tmp_path / "phi" / "reduction.json").read_text())
    assert result["explained_variance"] == pytest.approx(sum(info["explained_variance_ratio"][:5]), rel=1e-9)
    assert len(info["explained_variance_ratio"]) == 512


def test_a_subset_alone_is_fitted_on_and_other_windows_measure_the_quality(small_table, tmp_path):
    sample(small_table, tmp_path / "s", size=70, split="all", stratum="none")
    result = reduce(small_table, tmp_path / "phi", subset=tmp_path / "s", size=5, seed=2)
    table, subset, phi = Table(small_table), Subset.load(tmp_path / "s"), load_reduction(tmp_path / "phi")
    windows = find_windows(table, subset)
    inside, others = (np.concatenate(list(windows[name])) for name in ("fitted", "validate"))
    np.testing.assert_allclose(phi.mean, inside.mean(0, dtype=np.float64), rtol=1e-9, atol=1e-12)
    assert 0 < len(others) < 20
    assert result["kept"] == {"split": "validate", "fitted_windows": 70, **quality(phi, inside, others, seed=2)}
    assert result["explained_variance_validate"] == pytest.approx(phi.explained_variance([others]))
    info = json.loads((tmp_path / "phi" / "reduction.json").read_text())
    assert (info["kept"], info["provenance"]["subset"]) == (result["kept"], subset.info)
    assert (info["provenance"]["teacher"]["id"], info["windows"]) == ("spectral", 70)
    assert info["provenance"]["versions"]["edgesea"]


def test_without_validation_windows_training_windows_left_over_measure_it(train_only_table, tmp_path):
    sample(train_only_table, tmp_path / "s", size=4)
    result = reduce(train_only_table, tmp_path / "phi", subset=tmp_path / "s", size=2)
    assert (result["kept"]["split"], result["kept"]["fitted_windows"], result["kept"]["windows"]) == ("train", 4, 2)
    assert result["explained_variance_validate"] is None
    assert reduce(train_only_table, tmp_path / "psi", size=2)["kept"] is None


@pytest.mark.parametrize("method", METHODS)
def test_options_that_a_method_does_not_use_do_not_matter(small_table, tmp_path, method):
    bad: dict[str, Any] = {"whiten": True, "kernel": "poly", "gamma": -1.0, "landmarks": 0, "n_neighbors": 0}
    bad |= {"min_dist": 7.0, "metric": "magic", "references": -1}
    unused = {"degree": 0, "coef0": -2.0} | {
        name: bad[name] for name in bad.keys() - {field.name for field in fields(method_class(method))}
    }
    one = reduce(small_table, tmp_path / "a", method=method, size=4)
    two = reduce(small_table, tmp_path / "b", method=method, size=4, **unused)
    assert {**one, "reduction": ""} == {**two, "reduction": ""}
    assert not set(unused) & one.keys()
    assert (one["explained_variance"] is None) == (method != "pca")
    assert (one["explained_variance_validate"] == 1.0) == (method == "identity")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_earlier_reduction_is_replaced_also_half_of_one(small_table, tmp_path):
    reduce(small_table, tmp_path / "phi", size=2)
    (tmp_path / "phi" / "reduction.json").unlink()  # killed between the two files
    for size in (3, 4):
        reduce(small_table, tmp_path / "phi", size=size)
        assert load_reduction(tmp_path / "phi").output_size == size
    assert {path.name for path in (tmp_path / "phi").iterdir()} >= set(FILES)


BAD_OPTIONS: list[tuple[str, list[object]]] = [
    ("--seed=-1", ["seed", -1]),
    ("--size=513", ["pca", 512, 513]),
    ("--size=0", ["pca", 512, 0]),
    ("--method=kernel_pca --gamma=0", ["gamma", 0]),
    ("--method=kernel_pca --kernel=poly --degree=0", ["degree", 0]),
    ("--method=kernel_pca --kernel=poly --coef0=-1", ["coef0", -1]),
    ("--method=kernel_pca --kernel=poly --degree=900", ["kernel_pca", "degree"]),
    ("--method=kernel_pca --landmarks=1", ["landmarks", 1]),
    ("--method=kernel_pca --landmarks=8 --size=9", ["kernel_pca", "landmarks", 8, 9]),
    ("--method=umap --n_neighbors=1", ["n_neighbors", 1]),
    ("--method=umap --min_dist=1.5", ["min_dist", 1.5]),
    ("--method=umap --references=14", ["references", 15, 14]),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_bad_input(options, words, small_table, tmp_path, refuses):
    refuses("reduce", small_table, tmp_path / "phi", *options.split(), words=words)
    assert not (tmp_path / "phi").exists()


def test_bad_folders(small_table, train_only_table, tmp_path, refuses):
    subset, before = tmp_path / "subset", sorted(small_table.iterdir())
    sample(train_only_table, subset)
    refuses("reduce", small_table, tmp_path / "phi", f"--subset={subset}", words=["subset", small_table])
    for out, named in ((subset, subset), (subset / "x", subset), (small_table, small_table)):
        refuses("reduce", small_table, out, "--size=2", words=[named])
    assert sorted(small_table.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["subset"]
