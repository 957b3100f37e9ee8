import _thread
import signal
import threading
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneGroupOut, ParameterGrid, cross_val_score

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags
from edgesea.tasks.options import Classifier, ProbeOptions
from edgesea.tasks.probes import clip_features, fit_probe, fixed_epochs, make_probe, predict, search_grid

KINDS: tuple[Classifier, ...] = get_args(Classifier)


def problem(clips: int = 60, classes: int = 3, folds: int = 3, noise: float = 1.0, seed: int = 0) -> tuple[Any, ...]:
    """Clips of one to three windows around a place of the class and one of the clip: bags, classes, folds."""
    rng = np.random.default_rng(seed)
    labels, counts = np.arange(clips) % classes, rng.integers(1, 4, clips)
    places = rng.standard_normal((classes, 6)) * 2
    own = places[labels] + noise * rng.standard_normal((clips, 6))
    rows = np.repeat(own, counts, axis=0) + 0.3 * rng.standard_normal((counts.sum(), 6))
    return Bags(rows.astype(np.float32), counts), labels, 1 + np.arange(clips) // classes % folds


def test_features_are_those_of_each_clip() -> None:
    bags = Bags(np.array([[1, 10], [3, 10], [8, 40], [5, 6]], np.float32), np.array([3, 0, 1]))
    first = [4, 20, np.sqrt(26 / 3), np.sqrt(200), 1, 10, 8, 40, 3, 10]
    for features, rows in (("mean", [[4, 20], [5, 6]]), ("statistics", [first, [5, 6, 0, 0, 5, 6, 5, 6, 5, 6]])):
        found = clip_features(bags, features)  # type: ignore[arg-type]
        assert found.counts.tolist() == [1, 0, 1]
        np.testing.assert_allclose(found.rows, rows, rtol=1e-6)
    assert clip_features(bags, "framewise") is bags


@pytest.mark.parametrize(("kind", "classes"), product(KINDS, (2, 8)))
def test_a_clip_gets_the_class_with_the_largest_mean_score(kind: Classifier, classes: int) -> None:
    bags, labels, folds = problem(240, classes, noise=3.0)
    probe, _ = fit_probe(bags.rows, labels[bags.owner], folds[bags.owner], ProbeOptions(kind), 0)
    test = problem(240, classes, noise=3.0, seed=1)[0]
    single = probe.predict(test.rows)
    assert len(set(single.tolist())) == classes
    np.testing.assert_array_equal(predict(probe, Bags(test.rows, np.ones(len(test.rows), np.int64))), single)
    scores = (probe.decision_function if kind == "svm" else probe.predict_proba)(test.rows)
    means = [scores[test.owner == clip].mean(0) for clip in range(len(test))]
    expected = [mean.argmax() if np.ndim(mean) else mean > 0 for mean in means]  # one number: svm with two classes
    np.testing.assert_array_equal(predict(probe, test), expected)


@pytest.mark.parametrize(("kind", "features"), [("logistic", "framewise"), ("svm", "mean"), ("mlp", "mean")])
def test_a_search_leaves_out_one_fold_at_a_time(kind: Classifier, features: Any) -> None:
    """Clips have places of their own: with windows of one clip on both sides, the wrong parameters would win."""
    bags, labels, folds = problem(48, noise=3.0, seed=2)
    bags = clip_features(bags, features)
    labels, folds = labels[bags.owner], folds[bags.owner]
    probe, chosen = fit_probe(bags.rows, labels, folds, ProbeOptions(kind, search=True), 0)
    scores = []
    for own in ParameterGrid(search_grid(kind, bags.rows.shape[1])):  # the definition of the search, in a loop
        model = make_probe(kind, 0).set_params(**{f"classifier__{name}": own[name] for name in own})
        with fixed_epochs():
            found = cross_val_score(model, bags.rows, labels, groups=folds, cv=LeaveOneGroupOut())
        scores.append((found.mean(), own))
    assert chosen == next(own for score, own in scores if score > max(score for score, _ in scores) - 1e-12)
    assert len({score for score, _ in scores}) > 1, "the parameters must matter"
    parameters = probe.named_steps["classifier"].get_params()
    assert {name: parameters[name] for name in chosen} == chosen
    assert (probe.predict(bags.rows) == labels).mean() > 0.5


def test_a_search_needs_two_folds_of_two_classes() -> None:
    bags, labels, folds = problem(30, classes=2)
    for own, among, fold in ((labels, np.ones_like(folds), 1), (np.where(folds == 2, labels, 0), folds, 2)):
        with pytest.raises(EdgeseaError, match=f"search: without fold {fold}"):
            fit_probe(bags.means(), own, among, ProbeOptions(search=True), 0)


@pytest.mark.parametrize("search", [False, True])
def test_ctrl_c_ends_the_training_instead_of_cutting_it_short(search: bool) -> None:
    bags, labels, folds = problem(3000)
    options = ProbeOptions("mlp", search=search, num_hidden_layers=2, hidden_layer_size=256)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in background jobs
    threading.Timer(0.5, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_probe(bags.means(), labels, folds, options, 0)
    finally:
        signal.signal(signal.SIGINT, before)
