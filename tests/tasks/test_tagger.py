from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn import functional

from edgesea.errors import EdgeseaError
from edgesea.tasks import tagger
from edgesea.tasks.features import Bags, Targets, context_encoder
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.oversampling import label_set_smote, mlsmote
from edgesea.tasks.tagger import held_out, oversampled, predict, preparation, tag_probabilities, train_network

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


def test_embeddings_are_standardised_and_whitened():
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


def test_context_follows_each_window():
    train, test = problem()[0], problem(20, seed=1)[0]
    found = preparation(train, TaggingOptions(context=True))(test)
    code = context_encoder(np.asarray(train.context), standardize=True)(np.asarray(test.context))
    np.testing.assert_array_equal(found.rows[:, 6:], code[test.owner])


def test_a_tenth_of_the_clips_is_held_out():
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
def test_synthetic_clips_are_made_window_by_window(name, smote):
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


def test_probabilities_are_the_mean_of_networks_with_consecutive_seeds():
    (train, targets), test = problem(), problem(60, seed=1)[0]
    together = tag_probabilities(train, targets, test, replace(FAST, members=2), 4)
    single = [tag_probabilities(train, targets, test, FAST, seed) for seed in (4, 5)]
    np.testing.assert_allclose(together, np.mean(single, 0), atol=1e-9)
    assert not np.allclose(single[0], single[1])


@pytest.mark.parametrize("mode", ["mil", "framewise"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_tags_are_learned_in_every_mode_and_the_seed_alone_decides(mode, optimizer):
    options = replace(FAST, target_mode=mode, optimizer=optimizer, patience=3, sensor_factor=True)
    train, targets = problem(300)
    test, wanted = problem(100, seed=1)
    state = torch.manual_seed(1).get_state()
    found = tag_probabilities(train, targets, test, options, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert ((found > 0.5) == wanted.labels).mean() > 0.75
    torch.manual_seed(2)
    np.testing.assert_array_equal(tag_probabilities(train, targets, test, options, 0), found)


def test_monitored_clips_end_the_training_early():
    (train, targets), (test, wanted) = problem(60), problem(60, seed=1)
    options = replace(FAST, num_epochs=300, learning_rate=0.02, l2_reg=0.0)
    overfitted = tag_probabilities(train, targets, test, options, 0)
    for monitored in (None, (test, wanted)):
        early = tag_probabilities(train, targets, test, replace(options, patience=5), 0, monitored)
        assert log_loss(wanted.labels.ravel(), early.ravel()) < log_loss(wanted.labels.ravel(), overfitted.ravel()) / 2
    # Without patience nothing is held out, and nothing is monitored.
    np.testing.assert_array_equal(tag_probabilities(train, targets, test, options, 0, (test, wanted)), overfitted)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def test_autopool_is_the_published_formula_for_each_tag_and_clip():
    # By hand: p = 0 and 1, alpha = ln 3: weights 1/4 and 3/4.
    by_hand = tagger.auto_pool(torch.tensor([[0.0], [1.0]]), torch.tensor([2]), torch.tensor([np.log(3.0)]))
    np.testing.assert_allclose(by_hand, [[0.75]], rtol=1e-6)
    for counts in ([4, 1, 2, 2], [3, 3, 3]):
        p, factor, alpha = drawn(9, 3), drawn(9, 5, 2), torch.tensor([0.0, 1.0, 1e5]).double()
        found = tagger.auto_pool(p, torch.tensor(counts), alpha), tagger.mean_pool(factor, torch.tensor(counts))
        for clip, (tags, values) in enumerate(zip(p.split(counts), factor.split(counts), strict=True)):
            softmaxed = (softmax(tags[:, 1].numpy()) * tags[:, 1].numpy()).sum()
            np.testing.assert_allclose(found[0][clip], [tags[:, 0].mean(), softmaxed, tags[:, 2].max()], atol=1e-9)
            np.testing.assert_allclose(found[1][clip], values.mean(0), rtol=1e-12)


def test_masked_loss_by_hand_and_with_all_given():
    p, labels = torch.tensor([[0.5, 0.9], [0.2, 0.6]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    wanted = -(np.log(0.5) + np.log(0.8) + np.log(0.6)) / 4  # the mean is over all four
    np.testing.assert_allclose(
        tagger.masked_cross_entropy(p, labels, torch.tensor([[1.0, 0], [1, 1]])), wanted, rtol=1e-6
    )
    wanted = functional.binary_cross_entropy(p, labels).item()
    np.testing.assert_allclose(tagger.masked_cross_entropy(p, labels, torch.ones(2, 2)), wanted, rtol=1e-6)


def test_laplacian_of_three_tags_by_hand():
    labels = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]])
    # A: (0, 1) in clips 0 and 1; (0, 2) and (1, 2) in clip 1; of four clips.
    wanted = np.array([[3, -2, -1], [-2, 3, -1], [-1, -1, 2]]) / 4
    np.testing.assert_allclose(tagger.cooccurrence_laplacian(labels), wanted)
    # p = (1, 0, 1/2): 1/2 (1 - 0)^2 + 1/4 (1 - 1/2)^2 + 1/4 (0 - 1/2)^2 = 5/8
    np.testing.assert_allclose(
        tagger.laplacian_loss(torch.tensor([[1.0, 0.0, 0.5]]), torch.from_numpy(wanted).float()), 5 / 8
    )


def test_loss_of_a_factor_leaves_out_what_is_unknown():
    logits, sensors = drawn(6, 1, 4), torch.zeros(6, 1, 4)
    sensors[0, 0, 0] = sensors[1, 0, 3] = 1.0
    known = functional.cross_entropy(logits[:2, 0], torch.tensor([0, 3]))
    np.testing.assert_allclose(tagger.factor_loss(torch.softmax(logits, 2), sensors), known * 2 / 6, rtol=1e-9)
    q = torch.tensor([[[0.8, 0.2], [0.5, 0.5]], [[0.3, 0.7], [0.9, 0.1]]])
    near_or_far = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    np.testing.assert_allclose(tagger.factor_loss(q, near_or_far), -np.log(0.8 * 0.7 * 0.1) / 2, rtol=1e-6)


def examples(clips: int = 120, seed: int = 0, longest: int = 4, noise: float = 1.0) -> tagger.Examples:
    """Clips whose windows show three tags, with noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 3)) < 0.4).astype(np.float32)
    counts = rng.integers(1, longest + 1, clips)
    rows = np.repeat(labels, counts, 0) @ np.random.default_rng(99).standard_normal((3, 6)) - 0.5
    rows += noise * rng.standard_normal(rows.shape)
    return tagger.Examples(Bags(rows.astype(np.float32), counts), labels, np.ones(labels.shape, bool))


@pytest.mark.parametrize("layers", [0, 2])
def test_factors_come_from_the_last_hidden_layer_and_go_to_the_output_layer(layers):
    clips = examples(7, longest=1)._replace(factors=[np.zeros((7, 1, 6)), np.zeros((7, 2, 2))])
    network = tagger.TagNetwork(clips, TaggingOptions(num_hidden_layers=layers, hidden_layer_size=5), seed=0)
    arrays = {name: values.detach().numpy() for name, values in network.named_parameters()}
    last = clips.bags.rows
    for layer in range(layers):
        last = np.maximum(last @ arrays[f"hidden.{layer}.weight"].T, 0)
    sensors = softmax(last @ arrays["factors.0.weight"].T, 1)
    proximity = softmax((last @ arrays["factors.1.weight"].T).reshape(7, 2, 2), 2)
    joined = np.hstack([last, sensors, proximity.reshape(7, 4)])
    tags, factors = network(clips.bags)
    np.testing.assert_allclose(factors[0].detach(), sensors[:, None], rtol=1e-5)
    np.testing.assert_allclose(factors[1].detach(), proximity, rtol=1e-5)
    np.testing.assert_allclose(tags.detach(), expit(joined @ arrays["tags.weight"].T), rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_without_hidden_layers_it_finds_scikit_learns_logistic_regression(optimizer):
    """The same minimum means the same cross-entropy and the same L2 term, without one on the biases."""
    clips = examples(200, longest=1, noise=2.0)
    options = TaggingOptions(
        num_hidden_layers=0, l2_reg=0.01, patience=0, optimizer=optimizer, learning_rate=0.02,
        batch_size=200, num_epochs=600 if optimizer == "adam" else 100,
    )  # fmt: skip
    network = train_network(clips, None, options, 0)[0]
    for tag in range(3):
        # It minimises C sum_i loss_i + 1/2 w^2; here the loss is divided by 200 clips and 3 tags.
        reference = LogisticRegression(C=1 / (2 * 0.01 * 600), tol=1e-10, max_iter=1000)
        reference.fit(clips.bags.rows.astype(np.float64), clips.labels[:, tag])
        found = np.append(network.tags.weight[tag].detach(), network.tags.bias[tag].detach())
        np.testing.assert_allclose(found, np.append(reference.coef_, reference.intercept_), atol=2e-3)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_best_epoch_is_kept_and_training_ends_after_patience(optimizer):
    options = TaggingOptions(patience=4, num_epochs=200, learning_rate=0.02, l2_reg=0.01, optimizer=optimizer)
    monitored = examples(60, seed=1, noise=2.0)
    network, losses = train_network(examples(40, noise=2.0), monitored, options, 0)
    assert len(losses) == np.argmin(losses) + 5 < 60
    p = torch.from_numpy(predict(network, monitored.bags))
    loss = tagger.masked_cross_entropy(p, torch.from_numpy(monitored.labels).double(), torch.ones_like(p))
    np.testing.assert_allclose(loss, min(losses), rtol=1e-4)  # without the L2 term


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(EdgeseaError, match="learning_rate"):
        train_network(examples(), None, TaggingOptions(learning_rate=1e30), 0)


@pytest.mark.parametrize(("aggregation", "alpha"), [("mean", 0.0), ("max", 1e9), ("softmax", 1.0), ("mil", None)])
def test_windows_of_any_number_are_pooled_by_the_aggregation(aggregation, alpha):
    framewise: Any = {"target_mode": "framewise", "aggregation": aggregation}
    options = TaggingOptions(num_epochs=3, patience=0, **({} if alpha is None else framewise))
    clips, bags = examples(longest=4 if alpha is None else 1), examples(700).bags
    network = train_network(clips, None, options, 0)[0]
    windows = network(Bags(bags.rows, np.ones(len(bags.rows), np.int64)))[0].detach()
    weights = network.alpha.detach() if alpha is None else torch.full((3,), alpha)
    np.testing.assert_allclose(
        predict(network, bags), tagger.auto_pool(windows, torch.from_numpy(bags.counts), weights), atol=1e-6
    )
