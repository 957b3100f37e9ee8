import csv
from pathlib import Path

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.esc50 import Esc50


def write_metadata(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def made_of(folds: int = 3, clips: int = 6, classes: int = 2) -> Esc50:
    """`clips` of each class in each fold."""
    labels = np.tile(np.repeat([f"class{c}" for c in range(classes)], clips), folds)
    folds_of = np.repeat(np.arange(1, folds + 1), clips * classes)
    return Esc50([Path(f"{i}.wav") for i in range(len(labels))], labels, folds_of)


def informative(task: Esc50, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (task.labels == "class1")[:, None] * 4.0 + rng.standard_normal((len(task.labels), 3))


def identity(task: Esc50) -> np.ndarray:
    """Features that encode which clip it is, and nothing about its class."""
    return np.eye(len(task.labels)) * 10.0


def test_the_real_metadata_is_read(shared_data: Path) -> None:
    task = Esc50.load(shared_data / "esc10")
    assert len(task.paths) == 400
    assert all(path.is_file() for path in task.paths)
    assert sorted(set(task.folds.tolist())) == [1, 2, 3, 4, 5]
    assert {name: (task.labels == name).sum() for name in set(task.labels)} == dict.fromkeys(set(task.labels), 40)


def test_metadata_is_read_by_column_name(tmp_path: Path) -> None:
    write_metadata(tmp_path, [{"fold": 2, "category": "rain", "x": 1, "filename": "b.wav"}])
    task = Esc50.load(tmp_path)
    assert (task.paths, task.labels.tolist(), task.folds.tolist()) == ([tmp_path / "audio" / "b.wav"], ["rain"], [2])


def test_missing_or_bad_metadata_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"meta/esc50\.csv: no such file; the task esc50 needs"):
        Esc50.load(tmp_path)
    write_metadata(tmp_path, [{"filename": "a.wav", "category": "rain"}])
    with pytest.raises(EdgeseaError, match=r"bad or missing column: 'fold'; needed: filename, fold, category"):
        Esc50.load(tmp_path)
    write_metadata(tmp_path, [{"filename": "a.wav", "fold": "one", "category": "rain"}])
    with pytest.raises(EdgeseaError, match=r"bad or missing column: .*'one'"):
        Esc50.load(tmp_path)
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,category\n")
    with pytest.raises(EdgeseaError, match="no clips in it"):
        Esc50.load(tmp_path)


@pytest.mark.parametrize("classifier", ["logistic", "mlp"])
def test_each_fold_is_tested_in_turn(classifier) -> None:  # type: ignore[no-untyped-def]
    task = made_of()
    result = task.score(informative(task), np.ones(36, bool), classifier, None, 0)
    assert result["accuracy"] > 0.9
    assert sorted(result["accuracy_by_fold"]) == ["1", "2", "3"]
    assert result["accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_fold"].values())))
    assert result["accuracy"] == pytest.approx(np.mean(list(result["accuracy_by_class"].values())))
    assert result["clips"] == 36


def test_chosen_folds_alone_are_tested() -> None:
    task = made_of()
    features = informative(task)
    features[task.folds == 3] = informative(task, 9)[task.folds == 3][::-1]  # fold 3 is misleading
    result = task.score(features, np.ones(36, bool), "logistic", [2], 0)
    assert list(result["accuracy_by_fold"]) == ["2"]
    assert result["clips"] == 12


@pytest.mark.parametrize("classifier", ["logistic", "mlp"])
def test_the_fold_under_test_is_never_trained_on(classifier) -> None:  # type: ignore[no-untyped-def]
    """Clip identities can be learnt by heart but tell nothing of other clips: seen ones would give an accuracy of 1."""
    task = made_of(clips=10)
    features, usable = identity(task), np.ones(60, bool)
    for fold in (1, 2, 3):
        assert task.score(features, usable, classifier, [fold], 0)["accuracy"] <= 0.65
        # What the test clips' features are has no influence on the probe: change the labels of the fold under test ...
        flipped = np.where(task.folds == fold, np.char.replace(task.labels, "class0", "class1"), task.labels)
        other = Esc50(task.paths, flipped, task.folds).score(features, usable, classifier, [fold], 0)
        # ... and the same predictions are scored: all of class1 now, so both accuracies together tell the predictions.
        first = task.score(features, usable, classifier, [fold], 0)["accuracy_by_class"]
        assert other["accuracy"] == pytest.approx((first["class1"] + 1 - first["class0"]) / 2)


def test_leaking_folds_would_be_noticed() -> None:
    """The test above can fail: with every clip in two folds, identities are all it takes."""
    task = made_of(clips=10)
    twice = Esc50(
        task.paths * 2, np.tile(task.labels, 2), np.concatenate([task.folds, np.roll(task.folds, len(task.folds) // 3)])
    )
    assert twice.score(np.tile(identity(task), (2, 1)), np.ones(120, bool), "logistic", None, 0)["accuracy"] == 1.0


def test_failed_clips_count_as_wrong_and_are_not_trained_on() -> None:
    task = made_of()
    usable, features = np.ones(36, bool), informative(task)
    whole = task.score(features, usable, "logistic", [1], 0)
    assert whole["accuracy"] == 1.0
    usable[:3] = False  # of fold 1
    usable[20] = False
    features[~usable] = np.nan
    result = task.score(features, usable, "logistic", [1], 0)
    assert result["accuracy"] == pytest.approx(9 / 12)
    assert result["clips"] == 12


def test_a_fold_of_failed_clips_scores_zero() -> None:
    task = made_of()
    usable = task.folds != 2
    result = task.score(informative(task), usable, "logistic", None, 0)
    assert result["accuracy_by_fold"]["2"] == 0.0
    assert result["accuracy_by_fold"]["1"] > 0.9


def test_the_seed_alone_decides() -> None:
    task = made_of(clips=20)
    features = np.random.default_rng(3).standard_normal((120, 4))
    scores = [task.score(features, np.ones(120, bool), "mlp", None, seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_folds_that_cannot_be_tested_are_refused() -> None:
    task, usable = made_of(), np.ones(36, bool)
    with pytest.raises(EdgeseaError, match=r"folds \[7\] do not exist; the data has \[1, 2, 3\]"):
        task.score(informative(task), usable, "logistic", [1, 7], 0)
    one = made_of(folds=1)
    with pytest.raises(EdgeseaError, match="the data has only fold 1"):
        one.score(informative(one), usable[:12], "logistic", None, 0)


def test_training_folds_with_a_single_class_are_refused() -> None:
    task = made_of(folds=2)
    usable = (task.folds == 1) | (task.labels == "class0")
    with pytest.raises(EdgeseaError, match=r"fold 1.*at least two classes"):
        task.score(informative(task), usable, "logistic", [1], 0)


def test_a_class_that_is_not_in_the_folds_tested_has_no_accuracy() -> None:
    labels, folds = np.array(["a", "b", "a", "b", "c", "a", "b", "b"]), np.array([1, 1, 2, 2, 2, 1, 1, 2])
    task = Esc50([Path(str(i)) for i in range(8)], labels, folds)
    result = task.score(np.eye(8), np.ones(8, bool), "logistic", [1], 0)
    assert sorted(result["accuracy_by_class"]) == ["a", "b"]


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
