import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from direct_metrics import direct_fine_scores, direct_tagging_scores, introsort
from sklearn.metrics import balanced_accuracy_score, f1_score, label_ranking_average_precision_score

from edgesea.errors import EdgeseaError
from edgesea.tasks import metrics
from edgesea.tasks.metrics import (
    Ties,
    accuracy,
    auprc,
    class_accuracy,
    confusion_counts,
    fine_scores,
    lwlrap,
    precision_recall,
    sonyc_ust_scores,
    tagging_scores,
)
from edgesea.tasks.taxonomy import Taxonomy, read_taxonomy

CLASSES = ("engine", "dog", "saw", "rare")
# Three complete tags and X, one tag alone, two complete tags and X, X alone.
TAXONOMY = Taxonomy(
    tuple(f"{number}_{name}" for number, name in enumerate(CLASSES, 1)),
    ("1-1_a", "1-2_b", "1-3_c", "1-X_d", "2-1_e", "3-1_f", "3-2_g", "3-X_h", "4-X_i"),
    np.array([0, 0, 0, 0, 1, 2, 2, 2, 3]),
    np.array([0, 0, 0, 1, 0, 0, 0, 1, 1], bool),
)


def random_cases(tags: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """200 sets of one to eight clips: rare and common labels, and scores with and without ties, of 0, 0.01 and 1."""
    rng = np.random.default_rng(seed)
    for case in range(200):
        shape = (int(rng.integers(1, 9)), tags)
        labels = (rng.random(shape) < rng.choice([0.02, 0.2, 0.5, 0.9])).astype(int)
        grid = np.array([0, 0.003, 0.01, 0.3, 0.5, 0.7, 1.0])
        scores = rng.choice(grid, shape) if case % 2 else rng.random(shape) ** rng.choice([1, 3, 8])
        mixed = rng.random(shape) < 0.2
        yield labels, np.where(mixed & (case % 4 == 0), rng.choice(grid, shape), scores)


def assert_equal(found: dict, expected: dict) -> None:  # type: ignore[type-arg]
    """All scores of the expected ones equal to 1e-12, or both None."""
    assert list(found["class_auprc"]) == list(expected["class_auprc"])
    flat = [
        {**{name: scores[name] for name in ("micro_auprc", "micro_f1", "macro_auprc")}, **scores["class_auprc"]}
        for scores in (found, expected)
    ]
    for name, value in flat[1].items():
        if value is None or flat[0][name] is None:
            assert flat[0][name] is value, name
        else:
            assert abs(flat[0][name] - value) <= 1e-12, name


def test_coarse_scores_are_those_of_the_definition() -> None:
    names = CLASSES[:3]
    for labels, scores in random_cases(len(names), 0):
        for ties, expected in direct_tagging_scores(labels, scores, names).items():
            assert_equal(tagging_scores(labels, scores, names, ties), expected)  # type: ignore[arg-type]


def test_fine_scores_are_those_of_the_definition() -> None:
    for labels, scores in random_cases(len(TAXONOMY.fine), 1):
        for ties, expected in direct_fine_scores(labels, scores, TAXONOMY).items():
            assert_equal(fine_scores(labels, scores, TAXONOMY, ties), expected)  # type: ignore[arg-type]


def test_many_tied_recalls_are_ordered_as_defined() -> None:
    """120 clips with few positives: far more points than a sort by insertion takes."""
    rng = np.random.default_rng(2)
    labels = (rng.random((120, len(TAXONOMY.fine))) < 0.05).astype(int)
    scores = rng.random(labels.shape).round(2)
    for ties, expected in direct_fine_scores(labels, scores, TAXONOMY).items():
        assert_equal(fine_scores(labels, scores, TAXONOMY, ties), expected)  # type: ignore[arg-type]
    labels, scores = labels[:, : len(CLASSES)], scores[:, : len(CLASSES)]
    for ties, expected in direct_tagging_scores(labels, scores, CLASSES).items():
        assert_equal(tagging_scores(labels, scores, CLASSES, ties), expected)  # type: ignore[arg-type]


def test_the_published_order_of_ties_is_that_of_the_introsort() -> None:
    rng = np.random.default_rng(3)
    for case in range(300):
        values = np.sort(rng.integers(0, rng.integers(1, 60), rng.integers(1, 500)) / 7)
        values = (values, values[::-1], rng.permutation(values))[case % 3]
        assert metrics._introsort(values).tolist() == introsort(values.tolist())


def test_a_numpy_without_the_introsort_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "INTROSORT", tuple(range(20)))
    labels, scores = np.array([1, 0]), np.array([0.9, 0.1])
    assert auprc(labels, scores) == pytest.approx(0.5)
    with pytest.raises(EdgeseaError, match="has no introsort; use ties='threshold'"):
        auprc(labels, scores, "published")


def published(shared_data: Path, number: int, mode: str) -> dict:  # type: ignore[type-arg]
    path = shared_data / "sonyc_ust" / f"published_scores_{number}.json"
    return json.loads(path.read_text())[mode]  # type: ignore[no-any-return]


def scored(shared_data: Path, number: int, ties: Ties) -> dict:  # type: ignore[type-arg]
    folder = shared_data / "sonyc_ust"
    truth, taxonomy = folder / "validate_ground_truth_coarse.csv", folder / "dcase-ust-taxonomy.yaml"
    return sonyc_ust_scores(folder / f"predictions_{number}.csv", truth, taxonomy, ties=ties)


@pytest.mark.parametrize("number", [0, 3])
def test_published_scores_are_met_with_their_order_of_ties(shared_data: Path, number: int) -> None:
    assert_equal(scored(shared_data, number, "published"), published(shared_data, number, "coarse"))


@pytest.mark.parametrize("number", [0, 3])
def test_published_scores_are_nearly_met_by_the_well_defined_curve(shared_data: Path, number: int) -> None:
    """F1 has no ties. The area of dog, with 6 positives, differs by 0.017 and 0.052; with it macro by 0.004, 0.008."""
    found, expected = scored(shared_data, number, "threshold"), published(shared_data, number, "coarse")
    assert found["micro_f1"] == pytest.approx(expected["micro_f1"], abs=1e-12)
    assert found["micro_auprc"] == pytest.approx(expected["micro_auprc"], abs=2e-4)
    assert found["macro_auprc"] == pytest.approx(expected["macro_auprc"], abs=0.009)
    assert found["class_auprc"] == pytest.approx(expected["class_auprc"], abs=0.06)


@pytest.mark.parametrize("number", [0, 3])
def test_published_fine_scores_are_met_where_the_truth_is_known(shared_data: Path, number: int) -> None:
    """The classes with a single fine tag: their coarse truth is the fine one."""
    folder = shared_data / "sonyc_ust"
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    truth = pd.read_csv(folder / "validate_ground_truth_coarse.csv").set_index("audio_filename")
    predicted = pd.read_csv(folder / f"predictions_{number}.csv").set_index("audio_filename").loc[truth.index]
    labels = truth.to_numpy()[:, taxonomy.parent]
    found = fine_scores(labels, predicted[list(taxonomy.fine)].to_numpy(), taxonomy, "published")["class_auprc"]
    expected = published(shared_data, number, "fine")["class_auprc"]
    for name in ("non-machinery-impact", "dog"):
        assert found[name] == pytest.approx(expected[name], abs=1e-12)


def test_a_curve_worked_by_hand() -> None:
    """Thresholds 1, 0.9, 0.5, 0.2 (0.009 is below 0.01 and no threshold) select 0, 1, 3, 4 of five scores."""
    labels, scores = np.array([1, 0, 1, 1, 1]), np.array([0.9, 0.5, 0.5, 0.2, 0.009])
    counts = confusion_counts(labels[:, None], scores[:, None])
    np.testing.assert_array_equal(counts, [[1, 0.9, 0.5, 0.2], [0, 1, 2, 3], [0, 0, 1, 1], [4, 3, 2, 1]])
    precision, recall = precision_recall(counts)
    np.testing.assert_allclose(precision, [0, 1, 2 / 3, 3 / 4])
    np.testing.assert_allclose(recall, [0, 1 / 4, 2 / 4, 3 / 4])
    # From (0, 1) by (0, 0), (1/4, 1), (2/4, 2/3), (3/4, 3/4) to (1, 0), each a quarter wide.
    assert auprc(labels, scores) == pytest.approx(0.25 / 2 * ((0 + 1) + (1 + 2 / 3) + (2 / 3 + 3 / 4) + (3 / 4 + 0)))


def test_points_of_equal_recall_stay_in_the_order_of_decreasing_threshold() -> None:
    """Recall is 1/2 at the thresholds 0.8, 0.6 and 0.4, while precision falls: only this order gives this area."""
    labels, scores = np.array([1, 0, 0, 1]), np.array([0.8, 0.6, 0.4, 0.2])
    assert auprc(labels, scores) == pytest.approx(0.5 * (0 + 1) / 2 + 0.5 * (1 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("labels", "scores", "counts"),
    [  # Labels and scores of three complete tags and X; hits, false alarms and misses at the threshold 0.5.
        ([0, 0, 0, 1], [0.5, 0, 0, 0], (1, 0, 0)),  # X is met by any tag of the class
        ([0, 0, 0, 1], [0.5, 0.5, 0, 0], (1, 0, 0)),  # once, and nothing beside it is a false alarm
        ([0, 0, 0, 1], [0, 0, 0, 0.5], (1, 0, 0)),  # also by X itself
        ([0, 0, 0, 1], [0, 0, 0, 0.4], (0, 0, 1)),
        ([1, 0, 0, 1], [0.5, 0, 0, 0.5], (1, 0, 0)),  # the complete tag is met: X adds nothing
        ([1, 0, 0, 1], [0, 0.5, 0, 0], (1, 0, 1)),  # the complete tag is missed, X is met
        ([1, 0, 0, 1], [0, 0, 0, 0], (0, 0, 1)),  # X counts as missed only if it is alone
        ([0, 0, 0, 0], [0.5, 0, 0, 0.5], (0, 2, 0)),  # a complete and a vague false alarm
        ([0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], (0, 3, 0)),  # all complete tags leave nothing to X
        ([1, 0, 0, 0], [0, 0, 0, 0.5], (0, 0, 1)),  # X alone is no hit, and no false alarm beside a true tag
    ],
)
def test_incomplete_tags_count_as_the_challenge_defines(labels: list, scores: list, counts: tuple) -> None:  # type: ignore[type-arg]
    """A second clip without labels, whose score is 0.5, makes 0.5 a threshold; it is one false alarm."""
    truth, own = np.array([labels, [0, 0, 0, 0]]), np.array([scores, [0.5, 0, 0, 0]])
    found = confusion_counts(truth[:, :3], own[:, :3], truth[:, 3], own[:, 3])
    assert [int(row[found.threshold == 0.5][0]) for row in found[1:]] == [counts[0], counts[1] + 1, counts[2]]


def test_the_order_of_the_clips_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 2, (300, 9)), rng.integers(0, 20, (300, 9)) / 20
    order = rng.permutation(300)
    found, expected = fine_scores(labels[order], scores[order], TAXONOMY), fine_scores(labels, scores, TAXONOMY)
    assert found.pop("lwlrap") == pytest.approx(expected.pop("lwlrap"), abs=1e-12)  # a sum, in another order
    assert found == expected


def test_perfect_and_absent_predictions() -> None:
    labels = np.array([1, 1, 0, 0])
    # Nothing reaches the threshold 1, where precision counts as 0: the curve begins with a notch.
    assert auprc(labels, np.array([0.9, 0.9, 0.1, 0.1])) == pytest.approx(0.5)
    assert auprc(labels, np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert auprc(labels, np.zeros(4)) == pytest.approx(0.0)


def test_scores_without_a_positive_label_are_none() -> None:
    names, scores = CLASSES[:2], np.full((4, 2), 0.5)
    nothing = tagging_scores(np.zeros((4, 2), int), scores, names)
    assert nothing == {
        "micro_auprc": None, "micro_f1": 0.0, "macro_auprc": None, "lwlrap": None,
        "class_auprc": dict.fromkeys(names),
    }  # fmt: skip
    some = tagging_scores(np.array([[1, 0]] * 4), scores, names)
    assert some["class_auprc"]["dog"] is None
    assert some["macro_auprc"] == some["class_auprc"]["engine"]


def test_f1_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    for shape in ((1, 1), (7, 3), (200, 23)):
        labels, scores = rng.integers(0, 2, shape), rng.integers(0, 11, shape) / 10
        found = tagging_scores(labels, scores, [str(tag) for tag in range(shape[1])])["micro_f1"]
        assert found == pytest.approx(f1_score(labels.ravel(), scores.ravel() >= 0.5, zero_division=0.0), abs=1e-12)


def test_lwlrap_is_scikit_learns_ranking_precision_weighted_with_the_number_of_labels() -> None:
    rng = np.random.default_rng(6)
    labels, scores = rng.random((300, 23)) < 0.1, rng.random((300, 23))
    overall, by_tag = lwlrap(labels, scores)
    weights = labels.sum(1)
    assert (weights == 0).any()
    expected = label_ranking_average_precision_score(labels, scores, sample_weight=weights)
    assert overall == pytest.approx(expected, abs=1e-12)
    assert np.average(by_tag, weights=labels.sum(0)) == pytest.approx(expected, abs=1e-12)
    complete = ~TAXONOMY.incomplete
    of_fine = fine_scores(labels[:, :9], scores[:, :9], TAXONOMY)["lwlrap"]
    assert of_fine == lwlrap(labels[:, :9][:, complete], scores[:, :9][:, complete])[0]


def test_lwlrap_worked_by_hand_ranks_the_later_of_equal_scores_higher() -> None:
    labels = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    scores = np.array([[0.2, 0.2, 0.9, 0.1], [0.5, 0.5, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]])
    overall, by_tag = lwlrap(labels, scores)
    np.testing.assert_allclose(by_tag, [(2 / 3 + 1 / 2) / 2, np.nan, 1, np.nan])
    assert overall == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_accuracy_and_class_accuracy_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(7)
    labels = rng.choice(["dog", "rain", "saw"], 200, p=[0.8, 0.15, 0.05])
    predicted = np.where(rng.random(200) < 0.5, labels, "dog")
    assert accuracy(labels, predicted) == np.mean([a == b for a, b in zip(labels, predicted, strict=True)])
    assert class_accuracy(labels, predicted) == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-12)
    assert class_accuracy(np.array([2, 2, 0]), np.array([2, 1, 0])) == 0.75  # 1 does not occur: it has no recall


@pytest.mark.parametrize("score", [accuracy, class_accuracy])
@pytest.mark.parametrize(("labels", "predicted"), [([1, 0], [1]), ([], []), ([[1]], [[1]])])
def test_classes_of_other_clips_are_refused(score, labels: list, predicted: list) -> None:  # type: ignore[type-arg, no-untyped-def]
    with pytest.raises(EdgeseaError, match=r"must have the same shape \(clips,\)"):
        score(np.array(labels), np.array(predicted))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([[1, 0]], [[0.5]], "must have the same shape"),
        ([1, 0], [0.5, 0.5], "must have the same shape"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "must have the same shape"),
        ([[2]], [[0.5]], "labels must be 0 or 1"),
        ([[-1]], [[0.5]], "labels must be 0 or 1; leave out clips whose labels are not given"),
        ([[1]], [[1.5]], r"scores must lie in \[0, 1\]"),
        ([[1]], [[-0.1]], r"scores must lie in \[0, 1\]"),
        ([[1]], [[np.nan]], r"scores must lie in \[0, 1\]"),
    ],
)
def test_other_arrays_are_refused(labels: list, scores: list, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(EdgeseaError, match=message):
        tagging_scores(np.asarray(labels), np.asarray(scores, float), ["a"])
    with pytest.raises(EdgeseaError, match=message):
        fine_scores(np.asarray(labels), np.asarray(scores, float), TAXONOMY)


def test_columns_of_another_taxonomy_are_refused() -> None:
    with pytest.raises(EdgeseaError, match="labels have 8 columns, where the taxonomy has 9 tags"):
        fine_scores(np.zeros((3, 8)), np.zeros((3, 8)), TAXONOMY)


def write_fine_case(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Annotations of 30 validation clips in the published layout, among others, and predictions in another order."""
    rng = np.random.default_rng(8)
    (folder / "taxonomy.yaml").write_text(
        "coarse: {1: engine, 2: dog, 3: saw, 4: rare}\n"
        "fine: {1: {1: a, 2: b, 3: c, X: d}, 2: {1: e}, 3: {1: f, 2: g, X: h}, 4: {X: i}}\n"
    )
    labels, scores = rng.integers(0, 2, (30, 9)), rng.random((30, 9)).round(2)
    coarse = np.stack([labels[:, TAXONOMY.parent == number].max(1) for number in range(4)], 1)
    rows = pd.DataFrame({"split": "validate", "audio_filename": [f"{n:02d}.wav" for n in range(30)], "annotator_id": 0})
    rows[[f"{tag}_presence" for tag in TAXONOMY.coarse]] = coarse
    rows[[f"{tag}_presence" for tag in TAXONOMY.fine]] = labels
    others = rows.assign(annotator_id=7).copy()
    others.iloc[:, 3:] = 1 - others.iloc[:, 3:]
    elsewhere = rows.assign(split="test", audio_filename=rows["audio_filename"] + "x")
    annotations = pd.concat([others, rows, elsewhere])
    for name, value in {"sensor_id": 0, "latitude": 40.7, "longitude": -74.0, "hour": 3, "day": 1, "week": 2}.items():
        annotations[name] = value
    annotations.to_csv(folder / "annotations.csv", index=False)
    predictions = pd.DataFrame(scores, columns=list(TAXONOMY.fine))
    predictions.insert(0, "audio_filename", rows["audio_filename"])
    predictions.sample(frac=1, random_state=0).to_csv(folder / "predictions.csv", index=False)
    return labels, scores


def test_fine_predictions_in_files_are_scored(tmp_path: Path) -> None:
    labels, scores = write_fine_case(tmp_path)
    found = sonyc_ust_scores(
        str(tmp_path / "predictions.csv"), tmp_path / "annotations.csv", tmp_path / "taxonomy.yaml", "fine"
    )
    assert found == fine_scores(labels, scores, TAXONOMY)
    assert_equal(found, direct_fine_scores(labels, scores, TAXONOMY)["threshold"])


def test_labels_that_are_not_given_are_named(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sonyc_ust"
    truth, taxonomy = folder / "validate_ground_truth_coarse.csv", folder / "dcase-ust-taxonomy.yaml"
    with pytest.raises(EdgeseaError, match=r"coarse\.csv: the fine labels of 538 of 538 clips are not given"):
        sonyc_ust_scores(folder / "predictions_0.csv", truth, taxonomy, "fine")
    with pytest.raises(EdgeseaError, match="mode must be coarse or fine, not 'both'"):
        sonyc_ust_scores(folder / "predictions_0.csv", truth, taxonomy, "both")  # type: ignore[arg-type]
