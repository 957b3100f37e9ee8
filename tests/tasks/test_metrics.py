import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.metrics import auprc, precision_recall_curve, tagging_scores


def test_a_curve_worked_by_hand() -> None:
    """Thresholds 1, 0.9, 0.5, 0.2 (0.009 is below 0.01 and no threshold) select 0, 1, 3, 4 of five scores."""
    labels, scores = np.array([1, 0, 1, 1, 1]), np.array([0.9, 0.5, 0.5, 0.2, 0.009])
    precision, recall, threshold = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(threshold, [1, 0.9, 0.5, 0.2])
    np.testing.assert_allclose(precision, [0, 1, 2 / 3, 3 / 4])
    np.testing.assert_allclose(recall, [0, 1 / 4, 2 / 4, 3 / 4])
    # From (0, 1) by (0, 0), (1/4, 1), (2/4, 2/3), (3/4, 3/4) to (1, 0), each a quarter wide.
    assert auprc(labels, scores) == pytest.approx(0.25 / 2 * ((0 + 1) + (1 + 2 / 3) + (2 / 3 + 3 / 4) + (3 / 4 + 0)))


def test_a_score_of_one_is_selected_by_the_threshold_one() -> None:
    precision, recall, threshold = precision_recall_curve(np.array([1, 0]), np.array([1.0, 0.3]))
    np.testing.assert_allclose(threshold, [1, 0.3])
    np.testing.assert_allclose(precision, [1, 0.5])
    np.testing.assert_allclose(recall, [1, 1])


def test_points_of_equal_recall_stay_in_the_order_of_decreasing_threshold() -> None:
    """Recall is 1/2 at the thresholds 0.8, 0.6 and 0.4, while precision falls: only this order gives this area."""
    labels, scores = np.array([1, 0, 0, 1]), np.array([0.8, 0.6, 0.4, 0.2])
    precision, recall, _ = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(recall, [0, 1 / 2, 1 / 2, 1 / 2, 1])
    np.testing.assert_allclose(precision, [0, 1, 1 / 2, 1 / 3, 1 / 2])
    assert auprc(labels, scores) == pytest.approx(0.5 * (0 + 1) / 2 + 0.5 * (1 / 3 + 1 / 2) / 2)


def test_the_order_of_the_clips_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 300), rng.integers(0, 20, 300) / 20
    order = rng.permutation(300)
    assert auprc(labels[order], scores[order]) == auprc(labels, scores)


def test_perfect_and_absent_predictions() -> None:
    labels = np.array([1, 1, 0, 0])
    # Nothing reaches the threshold 1, where precision counts as 0: the curve begins with a notch.
    assert auprc(labels, np.array([0.9, 0.9, 0.1, 0.1])) == pytest.approx(0.5)
    assert auprc(labels, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert auprc(labels, np.zeros(4)) == pytest.approx(0.0)
    assert np.isnan(auprc(np.zeros(4, int), np.full(4, 0.5)))


def test_micro_pools_and_macro_averages_the_tags_that_occur() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    scores = np.array([[0.9, 0.2, 0.1], [0.6, 0.7, 0.6], [0.3, 0.4, 0.2]])
    result = tagging_scores(labels, scores, ["a", "b", "c"])
    areas = [auprc(labels[:, k], scores[:, k]) for k in range(2)]
    assert result["class_auprc"] == {"a": areas[0], "b": areas[1], "c": None}
    assert result["macro_auprc"] == pytest.approx(np.mean(areas))
    assert result["micro_auprc"] == pytest.approx(auprc(labels.ravel(), scores.ravel()))
    assert result["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))  # 3 hits, 1 false alarm, 1 miss


def test_f1_takes_a_score_of_one_half_as_positive_and_is_zero_without_any() -> None:
    assert tagging_scores(np.array([[1]]), np.array([[0.5]]), ["a"])["micro_f1"] == 1.0
    assert tagging_scores(np.array([[0]]), np.array([[0.1]]), ["a"])["micro_f1"] == 0.0


@pytest.mark.parametrize("number", [0, 3])
def test_published_scores_are_reproduced(shared_data: Path, number: int) -> None:
    """Coarse tags of SONYC-UST, scored by the challenge's own script.

    That script sorts points of equal recall by an unstable sort; here ties of recall are ordered by decreasing
    threshold, the well-defined curve, so areas agree to 2e-4 where there are many clips and to 0.06 for rare tags. F1
    has no ties and agrees exactly.
    """
    folder = shared_data / "sonyc_ust"
    truth = pd.read_csv(folder / "validate_ground_truth_coarse.csv").set_index("audio_filename")
    predicted = pd.read_csv(folder / f"predictions_{number}.csv").set_index("audio_filename").loc[truth.index]
    published = json.loads((folder / f"published_scores_{number}.json").read_text())["coarse"]
    names = [column.removesuffix("_presence") for column in truth.columns]
    result = tagging_scores(truth.to_numpy(), predicted[names].to_numpy(), names)
    assert result["micro_f1"] == pytest.approx(published["micro_f1"], abs=1e-12)
    assert result["micro_auprc"] == pytest.approx(published["micro_auprc"], abs=2e-4)
    by_class = {name.split("_", 1)[1]: value for name, value in result["class_auprc"].items()}  # type: ignore[attr-defined]
    assert by_class == pytest.approx(published["class_auprc"], abs=0.06)
    assert result["macro_auprc"] == pytest.approx(np.mean(list(by_class.values())), rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[1, 0]], [[0.5]], "must have the same shape"),
        ([1, 0], [0.5, 0.5], "must have the same shape"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "must have the same shape"),
        ([[2]], [[0.5]], "labels must be 0 or 1"),
        ([[-1]], [[0.5]], "labels must be 0 or 1"),
        ([[1]], [[1.5]], r"scores must lie in \[0, 1\]"),
        ([[1]], [[-0.1]], r"scores must lie in \[0, 1\]"),
        ([[1]], [[np.nan]], r"scores must lie in \[0, 1\]"),
    ],
)
def test_other_arrays_are_refused(labels: list, scores: list, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(EdgeseaError, match=message):
        tagging_scores(np.asarray(labels), np.asarray(scores, float), ["a"])
