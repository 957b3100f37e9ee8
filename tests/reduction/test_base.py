import inspect
from typing import get_args, get_type_hints

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.reduction import OPTIONS, _classes, reduce, used_options
from edgesea.reduction.base import take

EVERY = {name: parameter.default for name, parameter in inspect.signature(reduce).parameters.items()}


def test_the_methods_are_those_of_the_stage_and_each_has_a_class() -> None:
    assert get_args(get_type_hints(reduce)["method"]) == tuple(OPTIONS)
    assert {name: each.method for name, each in _classes().items()} == {name: name for name in OPTIONS}


@pytest.mark.parametrize("method", OPTIONS)
def test_the_options_are_those_of_the_class_with_the_stages_defaults(method: str) -> None:
    parameters = inspect.signature(_classes()[method]).parameters
    assert set(parameters) == set(OPTIONS[method])
    for name, parameter in parameters.items():
        assert parameter.default in (inspect.Parameter.empty, EVERY[name]), name


def test_every_option_of_the_stage_is_used_by_some_method() -> None:
    used = {name for names in OPTIONS.values() for name in names}
    assert used == set(EVERY) - {"table", "out", "subset", "method"}


def test_degree_and_coef0_are_used_by_the_polynomial_kernel_only() -> None:
    rbf, poly = (used_options("kernel_pca", {**EVERY, "kernel": kernel}) for kernel in ("rbf", "poly"))
    assert poly.keys() - rbf.keys() == {"degree", "coef0"}
    assert tuple(poly) == OPTIONS["kernel_pca"]
    assert used_options("identity", EVERY) == {}


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EdgeseaError, match="unknown method 'magic'; known: pca, kernel_pca, umap"):
        used_options("magic", EVERY)


def test_arrays_of_another_shape_are_refused() -> None:
    arrays = {"a": np.zeros((2, 3))}
    assert take(arrays, "a", None, 3) is arrays["a"]
    for shape in [(2,), (2, 4), (2, 3, 1)]:
        with pytest.raises(ValueError, match=r"a \(2, 3\), not "):
            take(arrays, "a", *shape)
