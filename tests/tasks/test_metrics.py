from collections.abc import Callable

import numpy as np
import pytest
from direct_metrics import direct_scores
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score

from edgesea.errors import EdgeseaError
from edgesea.tasks import metrics
from edgesea.tasks.metrics import confidence_intervals, lwlrap, tagging_scores

CLASSES = ("engine", "dog", "saw", "rare")
# Three complete tags and X, one tag alone, two complete tags and X, X alone.
FINE = np.array([0, 0, 0, 0, 1, 2, 2, 2, 3]), np.array([0, 0, 0, 1, 0, 0, 0, 1, 1], bool)


def test_scores_are_those_of_the_definition():
    """Of rare and common labels, and scores with and without ties, of 0, 0.01 and 1."""
    rng = np.random.default_rng(0)
    # Few positives: far more points of equal recall than a sort by insertion takes.
    cases = [((rng.random((120, 9)) < 0.05).astype(int), rng.random((120, 9)).round(2))]
    for case in range(200):
        shape = (int(rng.integers(1, 9)), 9)
        labels = (rng.random(shape) < rng.choice([0.02, 0.2, 0.5, 0.9])).astype(int)
        grid = np.array([0, 0.003, 0.01, 0.3, 0.5, 0.7, 1.0])
        scores = rng.choice(grid, shape) if case % 2 else rng.random(shape) ** rng.choice([1, 3, 8])
        cases.append((labels, np.where((rng.random(shape) < 0.2) & (case % 4 == 0), rng.choice(grid, shape), scores)))
    for labels, scores in cases:
        for arrays in ((labels[:, :4], scores[:, :4], CLASSES), (labels, scores, CLASSES, *FINE)):
            for ties, expected in direct_scores(*arrays).items():
                found = tagging_scores(*arrays[:3], ties, *arrays[3:])
                del found["lwlrap"]
                assert found.pop("class_auprc") == pytest.approx(expected.pop("class_auprc"), abs=1e-12)
                assert found == pytest.approx(expected, abs=1e-12)


def test_ties_are_in_the_order_of_the_threshold_or_of_the_introsort(monkeypatch):
    # Recall is 1/2 at 0.8, 0.6 and 0.4, while precision falls: only the order by threshold gives this area.
    arrays = np.array([[1], [0], [0], [1]]), np.array([[0.8], [0.6], [0.4], [0.2]]), ["tag"]
    area = tagging_scores(*arrays)["class_auprc"]["tag"]
    assert area == pytest.approx(0.5 * (0 + 1) / 2 + 0.5 * (1 / 3 + 1 / 2) / 2)
    monkeypatch.setattr(metrics, "INTROSORT", list(range(20)))  # numpy has another one
    with pytest.raises(EdgeseaError):
        tagging_scores(*arrays, "published")


def test_lwlrap_is_that_of_scikit_learn_and_ranks_the_later_of_equal_scores_higher():
    rng = np.random.default_rng(5)
    labels, scores, ranked = rng.random((300, 9)) < 0.1, rng.random((300, 9)), ~FINE[1]
    found = tagging_scores(labels, scores, CLASSES, "threshold", *FINE)["lwlrap"]
    labels, scores = labels[:, ranked], scores[:, ranked]
    expected = label_ranking_average_precision_score(labels, scores, sample_weight=labels.sum(1))
    assert found == lwlrap(labels, scores) == pytest.approx(expected, abs=1e-12)
    labels = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    scores = np.array([[0.2, 0.2, 0.9, 0.1], [0.5, 0.5, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]])
    assert lwlrap(labels, scores) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert lwlrap(labels * 0, scores) is None
    # Of more than 16 tags, the reference's sort leaves equal ones in an order of its own.
    labels, scores = rng.random((300, 23)) < 0.2, rng.random((300, 23)).round(1)
    precisions = []
    for true, row in zip(labels, scores, strict=True):
        hits = true[np.argsort(row.astype(np.longdouble))[::-1]]
        precisions.extend((np.cumsum(hits) / np.arange(1, 24))[hits])
    assert lwlrap(labels, scores, "published") == pytest.approx(np.mean(precisions), abs=1e-12)
    assert abs(lwlrap(labels, scores) - np.mean(precisions)) > 1e-3
    assert lwlrap(labels[:, :16], scores[:, :16], "published") == lwlrap(labels[:, :16], scores[:, :16])


def share(correct: np.ndarray) -> Callable[[np.ndarray], dict[str, float | None]]:
    return lambda clips: {"share": float(correct[clips].mean())}


def test_an_interval_is_that_of_scipy():
    values, rng = np.random.default_rng(1).exponential(size=200), np.random.default_rng(3)
    found = confidence_intervals(share(values), 200, 500, seed=3)["share"]
    expected = stats.bootstrap((values,), np.mean, n_resamples=500, method="percentile", rng=rng).confidence_interval
    assert found == pytest.approx(list(expected), abs=1e-12)
    assert found != confidence_intervals(share(values), 200, 500, seed=4)["share"]


def test_clips_of_one_group_are_drawn_together():
    """Ten recordings of eight equal clips say no more than ten clips."""
    truth = np.repeat(np.random.default_rng(1).random(10) < 0.5, 8)
    groups = np.repeat([f"r{number}" for number in range(10)], 8)
    together = confidence_intervals(share(truth), 80, 500, groups=groups)
    assert together == confidence_intervals(share(truth[::8]), 10, 500)
    assert confidence_intervals(share(truth[:8]), 8, 500, groups=groups[:8]) == {}  # nothing is known from one


def test_resamples_without_a_score_are_left_out_for_it_alone():
    """The score exists where clip 0 was drawn; it is then 1 to 3, or how often that was."""
    times = confidence_intervals(
        lambda clips: {"some": (clips == 0).sum() or None, "all": (clips == 0).sum(), "none": None}, 10
    )
    assert (times["some"][0], times["all"][0], "none" in times) == (1.0, 0.0, False)
