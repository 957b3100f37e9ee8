import math

import numpy as np
import pytest
import torch

from edgesea.distill.module import FitMeasure, mask_spectrogram


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


def test_masks_hide_at_most_their_share_and_differ_between_windows():
    hidden = mask_spectrogram(torch.ones(200, 1, 64, 50), 0.125, torch.Generator().manual_seed(0)) == 0
    bands, frames = hidden.all(3)[:, 0].sum(1), hidden.all(2)[:, 0].sum(1)
    assert 8 < int(bands.max()) <= 16  # two masks of up to 8 bands
    assert 6 < int(frames.max()) <= 12
    assert len({tuple(row.tolist()) for row in hidden.flatten(1)}) > 190
