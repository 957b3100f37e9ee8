import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stored import embeddings_of

from edgesea.distill import module
from edgesea.distill.data import WindowSource
from edgesea.distill.module import FitMeasure, objective, target_scale
from edgesea.reduction import load_reduction
from edgesea.table.reader import Table


def measured(outputs, targets, batch):
    measure = FitMeasure(targets.shape[1])
    for first in range(0, len(targets), batch):
        rows = slice(first, first + batch)
        measure.update(torch.from_numpy(outputs[rows]), torch.from_numpy(targets[rows]))
    return measure.result()


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_measures_equal_their_formulas(batch):
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((50, 5)) * [3, 1, 1, 0.1, 2] + [0, 5, 0, -1, 0]
    outputs = targets + rng.standard_normal((50, 5)) * 0.3
    result = measured(outputs, targets, batch)
    error, deviation = np.square(targets - outputs), np.square(targets - targets.mean(0))
    cosine = (targets * outputs).sum(1) / np.linalg.norm(targets, axis=1) / np.linalg.norm(outputs, axis=1)
    assert result["mse"] == pytest.approx(error.mean(), rel=1e-12)
    assert result["mae"] == pytest.approx(np.abs(targets - outputs).mean(), rel=1e-12)
    assert result["cosine"] == pytest.approx(cosine.mean(), rel=1e-12)
    assert result["r2"] == pytest.approx(1 - error.sum() / deviation.sum(), rel=1e-10)
    assert result["r2_per_dimension"] == pytest.approx(1 - error.sum(0) / deviation.sum(0), rel=1e-8)


def test_a_perfect_student_and_targets_that_do_not_vary():
    targets = np.random.default_rng(1).standard_normal((40, 3))
    assert measured(targets, targets, 16)["r2"] == 1.0
    targets[:, 1] = 0.7
    result = measured(targets + 0.1, targets, 10)
    assert [value is None for value in result["r2_per_dimension"]] == [False, True, False]
    assert math.isfinite(result["r2"])
    constant = np.full((30, 2), 0.7)
    result = measured(constant, constant, 10)
    assert math.isnan(result["r2"])
    assert result["mse"] == 0.0


def test_outputs_in_low_precision_are_measured_in_double():
    targets = np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32) + 100
    outputs = targets.astype(np.float16)
    error = np.square(targets.astype(np.float64) - outputs).mean()
    assert measured(outputs, targets, 32)["mse"] == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("scale", [None, torch.tensor([2.0, 0.5, 1.0])])
def test_objectives_equal_their_formulas(scale):
    rng = np.random.default_rng(0)
    y, t = rng.standard_normal((2, 20, 3))
    by = np.ones(3) if scale is None else scale.numpy()
    squared = np.square((y - t) / by).mean()
    lengths = np.linalg.norm(y / by, axis=1) * np.linalg.norm(t / by, axis=1)
    cosine = 1 - np.mean((y * t) @ by**-2.0 / lengths)
    for loss, expected in {"mse": squared, "cosine": cosine, "both": squared + cosine}.items():
        value = objective(torch.from_numpy(y), torch.from_numpy(t), loss, scale)
        assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("most", [10**6, 30])
def test_targets_are_scaled_by_their_deviation(small_table, small_reduction, monkeypatch, most):
    monkeypatch.setattr(module, "SCALE_WINDOWS", most)
    source = WindowSource(Table(small_table), load_reduction(small_reduction), "train")
    targets = source.phi.transform(embeddings_of(source.table, "train"))
    each, both = (
        target_scale(source, SimpleNamespace(**o))
        for o in ({"standardize": True}, {"standardize": False, "loss": "both"})
    )
    assert target_scale(source, SimpleNamespace(standardize=False, loss="cosine")) is None
    assert each.numpy() == pytest.approx(targets.std(0), rel=1e-5 if most > len(targets) else 0.5)
    assert float(both) == pytest.approx(float(each.square().mean().sqrt()), rel=1e-6)
