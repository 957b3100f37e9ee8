from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from edgesea.tasks.features import Bags, Targets, context_encoder
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.oversampling import label_set_smote, mlsmote
from edgesea.tasks.tagger import held_out, oversampled, preparation, tag_probabilities

FAST = TaggingOptions(learning_rate=0.01, num_epochs=40, patience=0, hidden_layer_size=64, members=1)


def problem(clips: int = 100, seed: int = 0) -> tuple[Bags, Targets]:
    """Clips of one to four windows that tell three tags, with noise; the third is rare."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 3)) < [0.5, 0.4, 0.15]).astype(np.float32)
    counts = rng.integers(1, 5, clips)
    rows = np.repeat(labels, counts, 0) @ np.random.default_rng(99).standard_normal((3, 6))
    rows = 5 + 3 * (rows + rng.standard_normal(rows.shape))
    where = rng.uniform(0, 6, (clips, 5)).astype(int).astype(float)
    sensors = 5 + 2 * (np.arange(clips) % 12)
    return Bags(rows.astype(np.float32), counts, where), Targets(labels, np.ones(labels.shape, bool), sensors)


def test_embeddings_are_standardised_and_whitened() -> None:
    train, test = problem()[0], problem(20, seed=1)[0]
    plain, white = (preparation(train, TaggingOptions(pca_components=size))(train).rows for size in (None, 3))
    for rows, ddof in ((plain, 0), (white, 1)):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(rows.std(0, ddof=ddof), 1, atol=1e-5)
    np.testing.assert_allclose(np.corrcoef(white.T), np.eye(3), atol=1e-5)
    np.testing.assert_array_equal(preparation(train, TaggingOptions(standardize=False))(test).rows, test.rows)
    # There are no more components than directions: three windows span a plane.
    few = train.take(np.flatnonzero(train.counts == 3)[:1])
    assert preparation(few, TaggingOptions(pca_components=9))(test).rows.shape == (len(test.rows), 2)
    train.rows[:, 1], train.rows[:, 2] = 2 * train.rows[:, 0], 1.5
    assert preparation(train, TaggingOptions(pca_components=9))(test).rows.shape == (len(test.rows), 4)


def test_context_follows_each_window() -> None:
    train, test = problem()[0], problem(20, seed=1)[0]
    found = preparation(train, TaggingOptions(context=True))(test)
    code = context_encoder(np.asarray(train.context), standardize=True)(np.asarray(test.context))
    np.testing.assert_array_equal(found.rows[:, 6:], code[test.owner])


def test_a_tenth_of_the_clips_is_held_out() -> None:
    rng = np.random.default_rng(0)
    for clips, wanted in ((1, 0), (2, 1), (9, 1), (50, 5), (300, 30)):
        assert held_out(clips, None, rng).sum() == wanted
        assert held_out(clips, np.arange(clips) % 9, rng).sum() == wanted  # too few sensors
    sensors = np.repeat(np.arange(12), [200, 20, 10, 10, 10, 8, 8, 8, 8, 8, 5, 5])
    for seed in range(20):
        held = held_out(300, sensors, np.random.default_rng(seed))
        assert 20 < held.sum() <= 30
        assert not set(sensors[held]) & set(sensors[~held])


@pytest.mark.parametrize(("name", "smote"), [("mlsmote", mlsmote), ("lssmote", label_set_smote)])
def test_synthetic_clips_are_made_window_by_window(name: Any, smote: Any) -> None:
    bags, targets = problem()
    given = np.random.default_rng(1).random(targets.given.shape) < 0.8
    options = TaggingOptions(oversample=name, oversample_iters=2, thresh_type="percentile_60")
    found, labelled = oversampled(bags, replace(targets, given=given), options, np.random.default_rng(5))
    known = (targets.labels > 0) & given  # what is not given is absent
    made = smote(bags.means(), known, iterations=2, threshold="percentile_60", rng=np.random.default_rng(5))
    assert len(found) == 100 + len(made.seed) > 103
    np.testing.assert_array_equal(found.rows[: len(bags.rows)], bags.rows)
    np.testing.assert_array_equal(labelled.labels, np.concatenate([targets.labels, made.labels]))
    np.testing.assert_array_equal(labelled.given[100:], given[made.seed] & given[made.neighbor])
    blocks = np.split(bags.rows, bags.first[1:])
    context, wanted = np.asarray(bags.context), []
    for seed, other, weight in zip(made.seed, made.neighbor, made.weight, strict=True):
        windows = min(bags.counts[seed], bags.counts[other])
        wanted.append(weight * blocks[seed][:windows] + (1 - weight) * blocks[other][:windows])
    np.testing.assert_allclose(found.rows[len(bags.rows) :], np.concatenate(wanted), rtol=1e-4)
    assert found.counts[100:].tolist() == [len(windows) for windows in wanted]
    share, where = made.weight[:, None], np.asarray(found.context)[100:]
    np.testing.assert_allclose(where[:, :2], share * context[made.seed, :2] + (1 - share) * context[made.neighbor, :2])
    np.testing.assert_array_equal(where[:, 2:], context[made.seed, 2:])


def test_probabilities_are_the_mean_of_networks_with_consecutive_seeds() -> None:
    (train, targets), test = problem(), problem(60, seed=1)[0]
    together = tag_probabilities(train, targets, test, replace(FAST, members=2), 4)
    single = [tag_probabilities(train, targets, test, FAST, seed) for seed in (4, 5)]
    np.testing.assert_allclose(together, np.mean(single, 0), atol=1e-9)
    assert not np.allclose(single[0], single[1])


@pytest.mark.parametrize("mode", ["mil", "framewise", "clip"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_tags_are_learned_in_every_mode_and_the_seed_alone_decides(mode: Any, optimizer: Any) -> None:
    options = replace(FAST, target_mode=mode, optimizer=optimizer, patience=3, sensor_factor=True)
    train, targets = problem(300)
    test, wanted = problem(100, seed=1)
    state = torch.manual_seed(1).get_state()
    found = tag_probabilities(train, targets, test, options, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert ((found > 0.5) == wanted.labels).mean() > 0.75
    torch.manual_seed(2)
    np.testing.assert_array_equal(tag_probabilities(train, targets, test, options, 0), found)


def test_clips_without_windows_are_not_trained_on_and_score_zero() -> None:
    (train, targets), test = problem(80), problem(20, seed=1)[0]
    whole = tag_probabilities(train, targets, test, FAST, 0)
    # Beside a clip that could not be embedded, whose labels say the contrary.
    gappy = Targets(np.r_[targets.labels, np.ones((1, 3), np.float32)], np.ones((81, 3), bool))
    train, test = (Bags(bags.rows, np.r_[bags.counts, 0]) for bags in (train, test))
    found = tag_probabilities(train, gappy, test, FAST, 0)
    np.testing.assert_allclose(found, np.r_[whole, np.zeros((1, 3))], atol=1e-6)


def test_monitored_clips_end_the_training_early() -> None:
    (train, targets), (test, wanted) = problem(60), problem(60, seed=1)
    options = replace(FAST, num_epochs=300, learning_rate=0.02, l2_reg=0.0)
    overfitted = tag_probabilities(train, targets, test, options, 0)
    for monitored in (None, (test, wanted)):
        early = tag_probabilities(train, targets, test, replace(options, patience=5), 0, monitored)
        assert log_loss(wanted.labels.ravel(), early.ravel()) < log_loss(wanted.labels.ravel(), overfitted.ravel()) / 2
    # Without patience nothing is held out, and nothing is monitored.
    np.testing.assert_array_equal(tag_probabilities(train, targets, test, options, 0, (test, wanted)), overfitted)
