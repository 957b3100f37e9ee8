import _thread
import signal
import threading
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, ParameterGrid, cross_val_score

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags
from edgesea.tasks.folds import (
    LAYOUTS,
    SCALERS,
    FoldTask,
    clip_features,
    fit_probe,
    fixed_epochs,
    fold_scores,
    make_probe,
    predict,
    search_grid,
)
from edgesea.tasks.options import Classifier, ProbeOptions


def task_of(folds: int = 3, clips: int = 6) -> FoldTask:
    """`clips` of each of two classes in each fold."""
    labels, numbers = np.tile(np.repeat(["class0", "class1"], clips), folds), np.arange(2 * clips * folds)
    return FoldTask("esc50", [Path(f"{n}.wav") for n in numbers], labels, 1 + numbers // (2 * clips), numbers)


def bags_of(rows: np.ndarray, windows: int | np.ndarray = 1) -> Bags:
    """Clips of so many equal windows."""
    counts = np.full(len(rows), windows)
    return Bags(np.repeat(rows, counts, axis=0).astype(np.float32), counts)


def informative(task: FoldTask) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (task.labels == "class1")[:, None] * 4.0 + rng.standard_normal((len(task.labels), 3))


def identity(task: FoldTask) -> np.ndarray:
    """Features that encode which clip it is, and nothing about its class."""
    return np.eye(len(task.labels)) * 10.0


@pytest.mark.parametrize("classifier", ["logistic", "mlp", "svm", "random_forest"])
def test_each_fold_is_tested_in_turn(classifier):
    task = task_of()
    result = task.score(bags_of(informative(task)), ProbeOptions(classifier))
    assert result["accuracy"] > 0.9
    assert (sorted(result["accuracy_by_fold"]), result["clips"]) == (["1", "2", "3"], 36)
    one = task.score(bags_of(informative(task)), ProbeOptions(classifier), folds=[2])
    assert one["accuracy_by_fold"] == {"2": result["accuracy_by_fold"]["2"]}
    assert one["clips"] == np.sum(one["confusion"]["counts"]) == 12


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
@pytest.mark.parametrize(("features", "search"), product(["mean", "statistics", "framewise"], [True, False]))
def test_the_fold_under_test_is_never_trained_on(classifier, features, search):
    """Which clip it is can be learnt by heart but says nothing about others: seen ones would give an accuracy of 1."""
    task, probe = task_of(clips=10), ProbeOptions(classifier, features, search)
    bags = bags_of(identity(task), windows=2)
    first = task.score(bags, probe, [2])
    assert first["accuracy"] <= 0.65
    # The labels of the fold under test have no influence, neither on what is predicted nor on what is chosen.
    flipped = np.where(task.folds == 2, np.char.replace(task.labels, "class0", "class1"), task.labels)
    other = replace(task, labels=flipped).score(bags, probe, [2])
    assert np.sum(other["confusion"]["counts"], axis=0).tolist() == np.sum(first["confusion"]["counts"], 0).tolist()
    # Nor have its features on what is chosen.
    changed = bags.with_rows(np.where(np.repeat(task.folds == 2, 2)[:, None], np.float32(1e3), bags.rows))
    assert first.get("chosen") == other.get("chosen") == task.score(changed, probe, [2]).get("chosen")
    if classifier == "svm" and search:
        assert set(first["chosen"]["2"]) == {"C", "gamma"}


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, folds = rng.integers(0, 4, 200), np.repeat([1, 2, 5], [20, 80, 100])
    predicted = np.where(rng.random(200) < 0.5 + 0.1 * truth, truth, rng.integers(0, 4, 200))
    names = np.array(["a", "b", "c", "d", "never true"])
    result = fold_scores(truth, predicted, folds, names)
    by_fold = {str(fold): accuracy_score(truth[folds == fold], predicted[folds == fold]) for fold in (1, 2, 5)}
    assert (result["accuracy"], result["accuracy_by_fold"]) == (accuracy_score(truth, predicted), by_fold)
    assert result["class_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
    assert result["fold_accuracy"] == pytest.approx(np.mean(list(by_fold.values())), abs=1e-12)
    assert list(result["accuracy_by_class"]) == ["a", "b", "c", "d"]
    assert (result["confusion"]["classes"], np.sum(result["confusion"]["counts"])) == (names.tolist(), 200)


def test_clips_without_windows_are_left_out():
    task, rows, left = task_of(), informative(task_of()), np.setdiff1d(np.arange(36), [0, 1, 2, 20])
    part = replace(task, **{name: getattr(task, name)[left] for name in ("labels", "folds", "recordings")})
    for kind in ("mean", "statistics", "framewise"):
        probe = ProbeOptions(features=kind)
        result = task.score(bags_of(rows, np.isin(np.arange(36), left) * 1), probe, resamples=20)
        assert result == part.score(bags_of(rows[left]), probe, resamples=20)
        assert result["clips"] == 32


def test_folds_and_classes_that_lose_their_clips_are_named():
    task, all_of_them = task_of(), np.ones(36, bool)
    first, second = task.labels == "class0", task.folds == 2
    for usable, words in (
        (all_of_them, []),
        (all_of_them & (np.arange(36) % 6 > 0), []),
        (~second, ["fold 2"]),
        (~first, ["class class0"]),
        (~first | second, ["class class0 outside of fold 2"]),
        (second, ["fold 1", "fold 3", "class class0 outside of fold 2", "class class1 outside of fold 2"]),
    ):
        assert task.emptied(usable) == words
    single = replace(task, labels=np.where(second, "third", task.labels))
    assert single.emptied(all_of_them) == []  # it was so before


def test_the_seed_decides_and_intervals_have_the_binomials_width():
    task = task_of(clips=100, folds=2)
    features = (task.labels == "class1") * 1.0 + np.random.default_rng(1).standard_normal(400)
    first, same, other = (task.score(bags_of(features[:, None]), ProbeOptions("mlp"), None, n, 300) for n in (0, 0, 1))
    assert first == same != other
    for name, (low, high) in first["confidence"].items():
        assert low < (p := first[name]) < high
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 400), rel=0.2)


def test_folds_that_cannot_be_tested_are_refused():
    task, one = task_of(), task_of(folds=1)
    usable = (task.folds == 1) | (task.labels == "class0")  # of the other folds one class is left
    for call in (
        lambda: task.score(bags_of(informative(task)), folds=[1, 7]),
        lambda: one.score(bags_of(informative(one))),
        lambda: task.without([1, 2]),
        lambda: task.without([7]),
        lambda: task.score(bags_of(informative(task), usable.astype(int)), folds=[1]),
    ):
        with pytest.raises(EdgeseaError):
            call()
    left = task.without([2])
    assert {*left.folds} == {1, 3}
    assert left.paths == [path for path, fold in zip(task.paths, task.folds, strict=True) if fold != 2]


def write_table(data: Path, text: str, name: str = "esc50") -> Path:
    path = data / LAYOUTS[name][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return data


def test_real_metadata_is_read_and_a_clip_in_another_fold_is_found(shared_data, tmp_path):
    task = FoldTask.load("esc50", shared_data / "esc10")
    assert np.unique(task.labels, return_counts=True)[1].tolist() == [40] * 10
    assert [path.name[0] for path in task.paths] == [str(fold) for fold in task.folds]
    city = FoldTask.load("urbansound8k", shared_data / "urbansound8k")
    assert all(path.is_file() for path in (*task.paths, *city.paths))
    rows = pd.read_csv(shared_data / "esc10" / "meta" / "esc50.csv")
    first, second = np.flatnonzero(rows["src_file"] == 17808)
    rows.loc[second, "fold"] = rows.loc[first, "fold"] % 5 + 1
    with pytest.raises(EdgeseaError, match=rf"esc50\.csv: line {first + 2}, src_file: '17808'; line {second + 2}"):
        FoldTask.load("esc50", write_table(tmp_path, rows.to_csv(index=False)))


def test_clips_lie_in_the_folders_of_their_folds(tmp_path):
    text = "class,fold,slice_file_name,fsID\nsiren,10,7.wav,\ndog,2,9.wav,9\nsiren,3,8.wav,\n"
    task = FoldTask.load("urbansound8k", write_table(tmp_path, text, "urbansound8k"))
    assert task.paths == [tmp_path / "audio" / file for file in ("fold10/7.wav", "fold2/9.wav", "fold3/8.wav")]
    assert (task.labels.tolist(), task.folds.tolist()) == (["siren", "dog", "siren"], [10, 2, 3])
    assert task.recordings.tolist() == [0, 1, 2]  # of two clips it is not known, and need not be the same
    esc = FoldTask.load("esc50", write_table(tmp_path, "fold,category,filename\n2,rain,b.wav\n"))
    assert (esc.paths, esc.recordings.tolist()) == ([tmp_path / "audio" / "b.wav"], [0])


def test_a_bad_row_is_refused_by_its_line(tmp_path):
    for row, *words in (
        *((f"b.wav,{fold},rain,7", "fold", fold) for fold in ("one", "0", "-1", "1.5", 10**20, "")),
        *(("b.wav,1,,7", "category", "''"), (",1,rain,7", "filename", "''")),
        *(("a.wav,1,rain,7", "filename", "'a.wav'", "line 2"), ("b.wav,2,rain,9", "src_file", "'9'", "line 2")),
    ):
        write_table(tmp_path, f"filename,fold,category,src_file\na.wav,1,rain,9\n{row}\nc.wav,2,rain,8\n")
        with pytest.raises(EdgeseaError) as caught:
            FoldTask.load("esc50", tmp_path)
        assert all(str(word) in str(caught.value) for word in (tmp_path / "meta" / "esc50.csv", "line 3", *words))


# --- probes

KINDS: tuple[Classifier, ...] = get_args(Classifier)


def problem(clips: int = 60, classes: int = 3, folds: int = 3, noise: float = 1.0, seed: int = 0) -> tuple[Any, ...]:
    """Clips of one to three windows around a place of the class and one of the clip: bags, classes, folds."""
    rng = np.random.default_rng(seed)
    labels, counts = np.arange(clips) % classes, rng.integers(1, 4, clips)
    places = rng.standard_normal((classes, 6)) * 2
    own = places[labels] + noise * rng.standard_normal((clips, 6))
    rows = np.repeat(own, counts, axis=0) + 0.3 * rng.standard_normal((counts.sum(), 6))
    return Bags(rows.astype(np.float32), counts), labels, 1 + np.arange(clips) // classes % folds


def test_features_are_those_of_each_clip():
    bags = Bags(np.array([[1, 10], [3, 10], [8, 40], [5, 6]], np.float32), np.array([3, 0, 1]))
    first = [4, 20, np.sqrt(26 / 3), np.sqrt(200), 1, 10, 8, 40, 3, 10]
    for features, rows in (("mean", [[4, 20], [5, 6]]), ("statistics", [first, [5, 6, 0, 0, 5, 6, 5, 6, 5, 6]])):
        found = clip_features(bags, features)
        assert found.counts.tolist() == [1, 0, 1]
        np.testing.assert_allclose(found.rows, rows, rtol=1e-6)
    assert clip_features(bags, "framewise") is bags


@pytest.mark.parametrize(("kind", "classes"), product(KINDS, (2, 8)))
def test_a_clip_gets_the_class_with_the_largest_mean_score(kind, classes):
    bags, labels, folds = problem(240, classes, noise=3.0)
    probe, _ = fit_probe(bags.rows, labels[bags.owner], folds[bags.owner], bags.owner, ProbeOptions(kind), 0)
    test = problem(240, classes, noise=3.0, seed=1)[0]
    single = probe.predict(test.rows)
    assert len(set(single.tolist())) == classes
    np.testing.assert_array_equal(predict(probe, Bags(test.rows, np.ones(len(test.rows), np.int64))), single)
    scores = (probe.decision_function if kind == "svm" else probe.predict_proba)(test.rows)
    means = [scores[test.owner == clip].mean(0) for clip in range(len(test))]
    expected = [mean.argmax() if np.ndim(mean) else mean > 0 for mean in means]  # one number: svm with two classes
    np.testing.assert_array_equal(predict(probe, test), expected)


@pytest.mark.parametrize(("kind", "features"), [("logistic", "framewise"), ("svm", "mean"), ("mlp", "mean")])
def test_a_search_leaves_out_one_fold_at_a_time(kind, features):
    """Clips have places of their own: with windows of one clip on both sides, the wrong parameters would win."""
    bags, labels, folds = problem(48, noise=3.0, seed=2)
    bags = clip_features(bags, features)
    labels, folds = labels[bags.owner], folds[bags.owner]
    probe, chosen = fit_probe(bags.rows, labels, folds, bags.owner, ProbeOptions(kind, search=True), 0)
    scores = []
    for own in ParameterGrid(search_grid(kind, bags.rows.shape[1])):  # the definition of the search, in a loop
        model = make_probe(kind, 0).set_params(**own)
        with fixed_epochs():
            found = cross_val_score(model, bags.rows, labels, groups=folds, cv=LeaveOneGroupOut())
        scores.append((found.mean(), own))
    best = next(own for score, own in scores if score > max(score for score, _ in scores) - 1e-12)
    scaler = [name for name, one in SCALERS.items() if one is best.get("scaler")]
    assert ([chosen.pop("scaler")] if kind == "logistic" else []) == scaler
    best.pop("scaler", None)
    assert chosen == {name.removeprefix("classifier__"): value for name, value in best.items()}
    assert len({score for score, _ in scores}) > 1, "the parameters must matter"
    parameters = probe.named_steps["classifier"].get_params()
    assert {name: parameters[name] for name in chosen} == chosen
    assert (probe.predict(bags.rows) == labels).mean() > 0.5


def test_a_search_needs_two_folds_of_two_classes():
    bags, labels, folds = problem(30, classes=2)
    with pytest.raises(EdgeseaError, match="search: without fold 2"):
        fit_probe(bags.means(), np.where(folds == 2, labels, 0), folds, folds, ProbeOptions(search=True), 0)
    with pytest.raises(EdgeseaError, match="search: the only training fold cannot be divided"):
        fit_probe(bags.means(), labels, np.ones_like(folds), np.ones_like(folds), ProbeOptions(search=True), 0)


def test_a_search_divides_a_single_fold_by_recordings_and_may_scale_all_dimensions_alike():
    """Clips of a recording are alike: if some are trained on, remembering recordings looks like knowing classes."""
    rng = np.random.default_rng(0)
    recordings = np.repeat(np.arange(60), 5)
    labels = np.repeat(rng.integers(0, 2, 60), 5)
    signal = (2.0 * labels - 1)[:, None] + rng.normal(0, 2.0, (60, 2)).repeat(5, 0)
    fingerprint = 1e-2 * rng.normal(size=(60, 40)).repeat(5, 0)  # small, but of the recording, not of the class
    rows = np.hstack([signal, fingerprint]).astype(np.float32)
    one = np.ones_like(labels)
    probe, chosen = fit_probe(rows, labels, one, recordings, ProbeOptions(search=True), 0)
    assert chosen["scaler"] == "common", chosen
    np.testing.assert_allclose(np.mean(probe["scaler"].transform(rows) ** 2), 1, rtol=1e-5)
    _, mixed = fit_probe(rows, labels, one, np.arange(300), ProbeOptions(search=True), 0)
    assert mixed != chosen, "clips of a recording on both sides choose what remembers recordings"


@pytest.mark.parametrize("search", [False, True])
def test_ctrl_c_ends_the_training_instead_of_cutting_it_short(search):
    bags, labels, folds = problem(3000)
    options = ProbeOptions("mlp", search=search, num_hidden_layers=2, hidden_layer_size=256)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in background jobs
    threading.Timer(0.5, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_probe(bags.means(), labels, folds, folds, options, 0)
    finally:
        signal.signal(signal.SIGINT, before)
