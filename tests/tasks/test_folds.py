import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags
from edgesea.tasks.folds import FoldTask, fold_scores
from edgesea.tasks.options import ProbeOptions


def task_of(labels: Any, folds: Any) -> FoldTask:
    return FoldTask("esc50", [Path(f"{i}.wav") for i in range(len(labels))], np.array(labels), np.array(folds))


def made_of(folds: int = 3, clips: int = 6, classes: int = 2) -> FoldTask:
    """`clips` of each class in each fold."""
    labels = np.tile(np.repeat([f"class{c}" for c in range(classes)], clips), folds)
    return task_of(labels, np.repeat(np.arange(1, folds + 1), clips * classes))


def bags_of(rows: np.ndarray, windows: int = 1) -> Bags:
    """Clips of so many equal windows."""
    return Bags(np.repeat(rows, windows, axis=0).astype(np.float32), np.full(len(rows), windows))


def informative(task: FoldTask, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (task.labels == "class1")[:, None] * 4.0 + rng.standard_normal((len(task.labels), 3))


def identity(task: FoldTask) -> np.ndarray:
    """Features that encode which clip it is, and nothing about its class."""
    return np.eye(len(task.labels)) * 10.0


@pytest.mark.parametrize("classifier", ["logistic", "mlp", "svm", "random_forest"])
def test_each_fold_is_tested_in_turn(classifier: Any) -> None:
    task = made_of()
    result = task.score(bags_of(informative(task)), ProbeOptions(classifier))
    assert result["accuracy"] > 0.9
    assert sorted(result["accuracy_by_fold"]) == ["1", "2", "3"]
    assert result["accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_fold"].values())))
    assert result["accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_class"].values())))
    assert result["clips"] == 36
    assert "chosen" not in result
    assert "confidence" not in result


def test_chosen_folds_alone_are_tested() -> None:
    task = made_of()
    features = informative(task)
    features[task.folds == 3] = informative(task, 9)[task.folds == 3][::-1]  # fold 3 is misleading
    result = task.score(bags_of(features), folds=[2])
    assert list(result["accuracy_by_fold"]) == ["2"]
    assert result["clips"] == np.sum(result["confusion"]["counts"]) == 12


@pytest.mark.parametrize(
    ("classifier", "features", "search"),
    [
        *itertools.product(["logistic", "mlp", "svm"], ["mean", "framewise"], [False]),
        *itertools.product(["logistic", "svm"], ["mean", "statistics", "framewise"], [True]),
    ],
)
def test_the_fold_under_test_is_never_trained_on(classifier: Any, features: Any, search: bool) -> None:
    """Clip identities can be learnt by heart but tell nothing of other clips: seen ones would give an accuracy of 1."""
    task, probe = made_of(clips=10), ProbeOptions(classifier, features, search)
    bags = bags_of(identity(task), windows=2)
    for fold in (1, 2):
        first = task.score(bags, probe, [fold])
        assert first["accuracy"] <= 0.65
        # The labels of the fold under test have no influence, neither on what is predicted nor on what is chosen.
        flipped = np.where(task.folds == fold, np.char.replace(task.labels, "class0", "class1"), task.labels)
        other = task_of(flipped, task.folds).score(bags, probe, [fold])
        assert np.sum(other["confusion"]["counts"], axis=0).tolist() == np.sum(first["confusion"]["counts"], 0).tolist()
        # Nor have its features on what is chosen.
        rows = bags.rows.copy()
        rows[np.repeat(task.folds == fold, 2)] = 1e3
        chosen = task.score(bags.with_rows(rows), probe, [fold]).get("chosen")
        assert first.get("chosen") == other.get("chosen") == chosen


@pytest.mark.parametrize("search", [False, True])
def test_leaking_folds_would_be_noticed(search: bool) -> None:
    """The test above can fail: with every clip in two folds, identities are all it takes."""
    task = made_of(clips=10)
    twice = task_of(np.tile(task.labels, 2), [*task.folds, *np.roll(task.folds, len(task.folds) // 3)])
    bags = bags_of(np.tile(identity(task), (2, 1)))
    assert twice.score(bags, ProbeOptions(search=search))["accuracy"] == 1.0


def test_a_search_tells_what_it_chose_for_each_fold_tested() -> None:
    task = made_of()
    result = task.score(bags_of(informative(task)), ProbeOptions("svm", search=True), [1, 3])
    assert list(result["chosen"]) == ["1", "3"]
    assert set(result["chosen"]["1"]) == {"C", "gamma"}
    with pytest.raises(EdgeseaError, match="fold 1: search: without fold 2"):
        made_of(folds=2).score(bags_of(informative(made_of(folds=2))), ProbeOptions(search=True))


def test_windows_of_a_clip_vote_by_their_mean_probability() -> None:
    """Two windows that hardly lean to one class are outvoted by one that is sure of the other."""
    task = made_of(folds=2, clips=10)
    sign = np.where(task.labels == "class1", 1.0, -1.0)
    bags = bags_of(np.stack([sign * np.linspace(0.5, 5, 10)[np.arange(40) % 10], np.zeros(40)], 1), windows=3)
    rows = bags.rows.copy()
    tested = np.flatnonzero(np.repeat(task.folds == 2, 3)).reshape(-1, 3)
    rows[tested[:, :2], 0], rows[tested[:, 2], 0] = -0.1 * sign[20:, None], 5 * sign[20:]
    assert task.score(bags.with_rows(rows), ProbeOptions(features="framewise"), [2])["accuracy"] == 1.0
    rows[tested, 0] *= -1
    assert task.score(bags.with_rows(rows), ProbeOptions(features="framewise"), [2])["accuracy"] == 0.0


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, folds = rng.integers(0, 4, 200), np.repeat([1, 2, 5], [20, 80, 100])
    predicted = np.where(rng.random(200) < 0.5 + 0.1 * truth, truth, rng.integers(0, 5, 200))
    names = np.array(["a", "b", "c", "d", "never true"])
    result = fold_scores(truth, predicted, folds, names)
    assert result["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert result["class_accuracy"] == pytest.approx(recall_score(truth, predicted, average="macro", labels=range(4)))
    by_fold = {str(fold): accuracy_score(truth[folds == fold], predicted[folds == fold]) for fold in (1, 2, 5)}
    assert result["accuracy_by_fold"] == pytest.approx(by_fold)
    assert result["fold_accuracy"] == pytest.approx(np.mean(list(by_fold.values())))
    assert result["fold_accuracy"] != pytest.approx(result["accuracy"])
    assert list(result["accuracy_by_class"]) == ["a", "b", "c", "d"]
    assert result["confusion"]["classes"] == result["confusion"]["columns"] == names.tolist()
    assert result["confusion"]["counts"] == confusion_matrix(truth, predicted, labels=range(5)).tolist()


def test_failed_clips_count_as_wrong_and_are_not_trained_on() -> None:
    task = made_of()
    features, counts = informative(task), np.ones(36, np.int64)
    whole = task.score(bags_of(features), folds=[1])
    assert whole["accuracy"] == 1.0
    assert whole["confusion"] == {
        "classes": ["class0", "class1"], "columns": ["class0", "class1"], "counts": [[6, 0], [0, 6]],
    }  # fmt: skip
    counts[[0, 1, 2, 20]] = 0  # three of fold 1
    for kind in ("mean", "statistics", "framewise"):
        bags = Bags(features[counts > 0].astype(np.float32), counts)
        result = task.score(bags, ProbeOptions(features=kind), [1])  # type: ignore[arg-type]
        assert result["accuracy"] == pytest.approx(9 / 12)
        assert result["class_accuracy"] == pytest.approx((0.5 + 1) / 2)
        assert result["clips"] == 12
        assert result["confusion"]["columns"] == ["class0", "class1", "(none)"]
        assert result["confusion"]["counts"] == [[3, 0, 3], [0, 6, 0]]


def test_a_fold_of_failed_clips_scores_zero() -> None:
    task = made_of()
    usable = task.folds != 2
    bags = Bags(informative(task)[usable].astype(np.float32), usable.astype(np.int64))
    result = task.score(bags)
    assert result["accuracy_by_fold"]["2"] == 0.0
    assert result["accuracy_by_fold"]["1"] > 0.9


def test_the_seed_alone_decides() -> None:
    task = made_of(clips=20)
    bags = bags_of(np.random.default_rng(3).standard_normal((120, 4)))
    scores = [task.score(bags, ProbeOptions("mlp"), seed=seed, resamples=20) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_intervals_are_those_of_so_many_clips() -> None:
    """Those of an accuracy p have the binomial's width; those of unequal folds and classes are around their scores."""
    task = made_of(clips=100, folds=2)
    rng = np.random.default_rng(1)
    features = (task.labels == "class1") * 1.0 + rng.standard_normal(400)
    result = task.score(bags_of(features[:, None]), resamples=2000)
    accuracy, (low, high) = result["accuracy"], result["confidence"]["accuracy"]
    assert 0.6 < accuracy < 0.8
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / 400), rel=0.1)
    for name in ("accuracy", "fold_accuracy", "class_accuracy"):
        low, high = result["confidence"][name]
        assert low < result[name] < high


def test_folds_that_cannot_be_tested_are_refused() -> None:
    task = made_of()
    with pytest.raises(EdgeseaError, match=r"folds \[7\] do not exist; the data has \[1, 2, 3\]"):
        task.score(bags_of(informative(task)), folds=[1, 7])
    one = made_of(folds=1)
    with pytest.raises(EdgeseaError, match="the data has only fold 1"):
        one.score(bags_of(informative(one)))
    with pytest.raises(EdgeseaError, match="embeddings of 12 clips do not fit 36 labels"):
        task.score(bags_of(informative(one)))


def test_training_folds_with_a_single_class_are_refused() -> None:
    task = made_of(folds=2)
    usable = (task.folds == 1) | (task.labels == "class0")
    bags = Bags(informative(task)[usable].astype(np.float32), usable.astype(np.int64))
    with pytest.raises(EdgeseaError, match=r"fold 1.*at least two classes"):
        task.score(bags, folds=[1])


def test_a_class_that_is_not_in_the_folds_tested_has_no_accuracy() -> None:
    task = task_of(["a", "b", "a", "b", "c", "a", "b", "b"], [1, 1, 2, 2, 2, 1, 1, 2])
    result = task.score(bags_of(np.eye(8)), folds=[1])
    assert sorted(result["accuracy_by_class"]) == ["a", "b"]
    assert result["confusion"]["counts"][2] == [0, 0, 0]
    assert result["class_accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_class"].values())))


def test_folds_held_out_are_gone_and_two_must_be_left() -> None:
    task = made_of()
    left = task.without([2])
    assert sorted(set(left.folds.tolist())) == [1, 3]
    assert left.paths == [path for path, fold in zip(task.paths, task.folds, strict=True) if fold != 2]
    with pytest.raises(EdgeseaError, match="hold_out leaves fold 3 alone; two are needed"):
        task.without([1, 2])
    with pytest.raises(EdgeseaError, match="hold_out leaves no fold; two are needed"):
        task.without([1, 2, 3])
    with pytest.raises(EdgeseaError, match=r"folds \[4\] do not exist; the data has \[1, 2, 3\]"):
        task.without([4])
