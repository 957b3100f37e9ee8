"""What all methods have in common: the registry, options, files, and what they refuse."""

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgesea.errors import EdgeseaError
from edgesea.reduction import load_reduction, reduce, used_options
from edgesea.reduction.base import METHODS, Reduction, method_class

Float32 = NDArray[np.float32]
GOLDEN = Path(__file__).parents[1] / "golden" / "reductions"  # written by edgesea before its methods were dataclasses
EVERY = {name: parameter.default for name, parameter in inspect.signature(reduce).parameters.items()}
LEARNED: dict[str, dict[str, Any]] = {  # umap: see test_umap.py
    "pca": {"whiten": True},
    "kernel_pca": {"gamma": 0.01, "landmarks": 25, "seed": 4},
    "random_projection": {"seed": 4},
}


def normal(rows: int, size: int) -> Float32:
    return np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)


def fitted(method: str, rows: Float32, size: int = 3) -> Reduction:
    phi = method_class(method)(**{"size": size, **LEARNED.get(method, {})} if method != "identity" else {})
    phi.fit([rows[:20], rows[:0], rows[20:]])
    return phi


def test_the_registry_and_the_stage_agree():
    options = [field for name in METHODS for field in fields(method_class(name))]
    assert {field.name for field in options} == set(EVERY) - {"table", "out", "subset", "method"}
    assert all(field.name == "size" or field.default == EVERY[field.name] for field in options)
    assert all(method_class(name).method == name for name in METHODS)
    rbf, poly = (used_options("kernel_pca", {**EVERY, "kernel": kernel}) for kernel in ("rbf", "poly"))
    assert poly.keys() - rbf.keys() == {"degree", "coef0"}


@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.iterdir()) if path.is_dir()])
def test_reductions_of_earlier_versions_transform_as_they_did(name):
    with np.load(GOLDEN / "expected.npz") as expected:
        result = load_reduction(GOLDEN / name).transform(expected["rows"])
        np.testing.assert_allclose(result, expected[name], 1e-6, 1e-6 * np.abs(expected[name]).max())


@pytest.mark.parametrize("method", [*LEARNED, "identity"])
def test_a_saved_reduction_transforms_alike_each_row_alone(method, tmp_path):
    rows, size = normal(60, 9), 9 if method == "identity" else 3
    phi = fitted(method, rows)
    phi.save(tmp_path, {"by": "test"}, {"trustworthiness": 1.0})
    info = json.loads((tmp_path / "reduction.json").read_text())
    assert info == {**phi.describe(), "kept": {"trustworthiness": 1.0}, "provenance": {"by": "test"}}
    loaded, together = load_reduction(tmp_path), phi.transform(rows)
    np.testing.assert_array_equal(loaded.transform(rows), together)
    alone = np.concatenate([loaded.transform(rows[i : i + 1]) for i in range(60)])
    np.testing.assert_allclose(alone, together, rtol=1e-6, atol=1e-6)
    if method == "identity":
        np.testing.assert_array_equal(together, rows)
    empty = phi.transform(rows[:0].astype(np.float16))
    assert (empty.shape, empty.dtype, together.dtype) == ((0, size), np.float32, np.float32)
    for shape in [(4, 8), (9,)]:
        with pytest.raises(EdgeseaError, match=method):
            phi.transform(np.zeros(shape, np.float32))


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("rows", [normal(1, 6), normal(0, 6), np.full((9, 4), 1234.567, np.float32)])
def test_windows_that_do_not_differ_are_refused(method, rows):
    with pytest.raises(EdgeseaError, match=method):
        fitted(method, rows, 1)


@pytest.mark.parametrize("method", LEARNED)
def test_damage_is_noticed(method, tmp_path):
    fitted(method, normal(60, 9)).save(tmp_path, {})
    info = json.loads((tmp_path / "reduction.json").read_text())
    arrays = load_file(tmp_path / "reduction.safetensors")

    def less(values: dict[str, Any], name: str) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key != name}

    keys = ("method", "input_size", "output_size", "windows", *LEARNED[method])
    changes = ({"output_size": 4}, {"input_size": 8}, {"method": "magic"}, {"method": "identity"})
    damaged = [(info, less(arrays, name)) for name in arrays] + [(less(info, name), arrays) for name in keys]
    for changed, left in [*damaged, *(({**info, **change}, arrays) for change in changes)]:
        save_file(left, tmp_path / "reduction.safetensors")
        (tmp_path / "reduction.json").write_text(json.dumps(changed))
        with pytest.raises(EdgeseaError, match=tmp_path.name):
            load_reduction(tmp_path)
    (tmp_path / "reduction.safetensors").write_bytes(b"no arrays")
    with pytest.raises(EdgeseaError, match=tmp_path.name):
        load_reduction(tmp_path)
