from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.tagger_network import auto_pool, masked_cross_entropy
from edgesea.tasks.tagger_training import Examples, Trained, predict, train_network

Problem = tuple[Bags, Targets]


def problem(clips: int = 120, seed: int = 0, longest: int = 4, noise: float = 1.0) -> Problem:
    """Clips whose windows tell three tags, with noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 3)) < 0.4).astype(np.float32)
    counts = rng.integers(1, longest + 1, clips)
    rows = np.repeat(labels, counts, 0) @ np.random.default_rng(99).standard_normal((3, 6)) - 0.5
    rows += noise * rng.standard_normal(rows.shape)
    return Bags(rows.astype(np.float32), counts), Targets(labels, np.ones(labels.shape, bool))


def examples(own: Problem, sensors: Any = None) -> Examples:
    return Examples.of(*own, sensors)


def weights(trained: Trained) -> np.ndarray:
    return np.concatenate([values.detach().numpy().ravel() for values in trained.network.parameters()])


def test_clips_are_taken_with_their_windows() -> None:
    own = problem(20)
    all_of_it, chosen = examples(own), [7, 0, 7, 19]
    found = all_of_it.take(torch.tensor(chosen))
    wanted = own[0].take(np.array(chosen))
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    np.testing.assert_array_equal(found.labels, own[1].labels[chosen])


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_without_hidden_layers_it_finds_scikit_learns_logistic_regression(optimizer: Any) -> None:
    """The same minimum means the same cross-entropy and the same L2 term, without one on the biases."""
    bags, targets = own = problem(200, longest=1, noise=2.0)
    options = TaggingOptions(
        num_hidden_layers=0, l2_reg=0.01, patience=0, optimizer=optimizer, learning_rate=0.02,
        batch_size=200, num_epochs=600 if optimizer == "adam" else 100,
    )  # fmt: skip
    network = train_network(examples(own), None, options, 0).network
    for tag in range(3):
        # It minimises C sum_i loss_i + 1/2 w^2; here the loss is divided by 200 clips and 3 tags.
        judge = LogisticRegression(C=1 / (2 * 0.01 * 600), tol=1e-10, max_iter=1000)
        judge.fit(bags.rows.astype(np.float64), targets.labels[:, tag])
        found = np.append(network.tags.kernel[tag].detach(), network.tags.bias[tag].detach())
        np.testing.assert_allclose(found, np.append(judge.coef_, judge.intercept_), atol=2e-3)


def test_the_l2_term_shrinks_the_weights() -> None:
    sizes = []
    for strength in (0.0, 1e-2, 1e-1):
        options = TaggingOptions(l2_reg=strength, patience=0, num_epochs=60, learning_rate=0.01)
        trained = train_network(examples(problem()), None, options, 0)
        sizes.append(sum(kernel.square().sum().item() for kernel in trained.network.kernels()))
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_best_epoch_is_kept_and_training_ends_after_patience(optimizer: Any) -> None:
    options = TaggingOptions(patience=4, num_epochs=200, learning_rate=0.02, l2_reg=0.01, optimizer=optimizer)
    watched = examples(problem(60, seed=1, noise=2.0))
    trained = train_network(examples(problem(40, noise=2.0)), watched, options, 0)
    assert len(trained.monitored) == len(trained.losses) < 60
    assert trained.kept == len(trained.monitored) - 4
    assert trained.monitored[trained.kept - 1] == min(trained.monitored)
    assert trained.losses[-1] < trained.losses[0]
    bags, targets = problem(60, seed=1, noise=2.0)
    p = torch.from_numpy(predict(trained.network, bags, options))
    loss = masked_cross_entropy(p, torch.from_numpy(targets.labels).double(), torch.ones_like(p))
    np.testing.assert_allclose(loss, min(trained.monitored), rtol=1e-4)  # without the L2 term


def test_without_monitored_clips_all_epochs_are_trained() -> None:
    trained = train_network(examples(problem()), None, TaggingOptions(num_epochs=7, patience=0), 0)
    assert (len(trained.losses), trained.kept, trained.monitored) == (7, 7, [])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_seed_alone_decides_whatever_torchs_global_state(optimizer: Any) -> None:
    options = TaggingOptions(num_epochs=5, patience=2, optimizer=optimizer, sensor_factor=True)
    bags, targets = problem()
    own = bags, replace(targets, sensors=np.arange(len(bags)) % 3)
    data = examples(own, np.arange(3))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = weights(train_network(data, data, options, 3))
    assert torch.equal(torch.get_rng_state(), state)
    try:
        torch.manual_seed(2)
        torch.set_default_dtype(torch.float64)
        with torch.no_grad():
            again = weights(train_network(data, data, options, 3))
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, weights(train_network(data, data, options, 4)))


def test_a_loss_that_is_no_number_is_an_error() -> None:
    message = r"the loss became (nan|inf) in epoch \d+; standardize, or lower learning_rate"
    with pytest.raises(EdgeseaError, match=message):
        train_network(examples(problem()), None, TaggingOptions(learning_rate=1e30), 0)


def test_masked_tags_are_not_learned() -> None:
    bags, targets = problem()
    given = targets.given.copy()
    given[:, 1] = False
    options = TaggingOptions(num_epochs=40, patience=0, learning_rate=0.01, l2_reg=0.0)
    start = train_network(examples((bags, targets)), None, replace(options, learning_rate=1e-30), 0).network
    found = train_network(examples((bags, Targets(targets.labels, given))), None, options, 0).network
    torch.testing.assert_close(found.tags.kernel[1], start.tags.kernel[1], rtol=0, atol=1e-12)
    assert (found.tags.kernel[0] - start.tags.kernel[0]).abs().max() > 0.05
    # Its labels have no influence at all.
    other = targets.labels.copy()
    other[:, 1] = 1 - other[:, 1]
    again = train_network(examples((bags, Targets(other, given))), None, options, 0).network
    torch.testing.assert_close(again.tags.kernel, found.tags.kernel, rtol=0, atol=0)


def test_sensors_are_learned_and_unseen_ones_are_left_out_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    bags, targets = problem()
    sensors = rng.choice([2, 5, 9], len(bags))
    bags = bags.with_rows(
        bags.rows + 3 * rng.standard_normal((10, 6)).astype(np.float32)[np.repeat(sensors, bags.counts)]
    )
    targets = replace(targets, sensors=sensors)
    options = TaggingOptions(sensor_factor=True, num_epochs=30, learning_rate=0.01)
    train, unseen = (
        Examples.of(bags, replace(targets, sensors=own), np.array([2, 5, 9])) for own in (sensors, np.full(120, 7))
    )
    assert unseen.sensors is not None
    assert (unseen.sensors == -1).all()
    trained = train_network(train, unseen, options, 0)
    assert trained.network.sensors is not None
    assert len(trained.network.sensors.bias) == 3
    found = trained.network(train.rows).sensors
    assert found is not None
    right = found.argmax(1).numpy() == np.searchsorted([2, 5, 9], np.repeat(sensors, bags.counts))
    assert right.mean() > 0.9
    plain = masked_cross_entropy(
        torch.from_numpy(predict(trained.network, bags, options)).float(), unseen.labels, unseen.given
    )
    np.testing.assert_allclose(plain, min(trained.monitored), rtol=1e-4)


def test_proximity_is_learned_and_where_it_is_not_known_contributes_nothing() -> None:
    bags, targets = problem()
    near = np.repeat(bags.means()[:, :2, None] > 0, 2, axis=2)
    near[:, :, 1] = ~near[:, :, 0]
    proximity = near.astype(np.float32)
    proximity[:60, 1] = 0
    options = TaggingOptions(proximity_factor=True, num_epochs=40, patience=0, learning_rate=0.01)
    trained = train_network(examples((bags, replace(targets, proximity=proximity))), None, options, 0)
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    found = trained.network(torch.from_numpy(bags.means())).proximity
    assert found is not None
    assert ((found[:, :, 0].detach().numpy() > 0.5) == near[:, :, 0]).mean() > 0.85
    unknown = replace(targets, proximity=np.zeros_like(proximity))
    untrained = train_network(examples((bags, unknown)), None, replace(options, l2_reg=0.0), 0)
    assert untrained.losses[-1] < 0.7  # nothing but the loss of the tags


def test_windows_of_any_number_are_pooled_by_the_aggregation() -> None:
    bags, _ = problem(700)
    network = train_network(examples(problem()), None, TaggingOptions(num_epochs=3, patience=0), 0).network
    p = [own.detach() for own in network(torch.from_numpy(bags.rows)).tags.split(bags.counts.tolist())]
    wanted = {
        "mean": [own.mean(0) for own in p],
        "max": [own.amax(0) for own in p],
        "softmax": [(own.softmax(0) * own).sum(0) for own in p],
        "mil": [auto_pool(own[None], network.alpha)[0] for own in p],
    }
    for name, pooled in wanted.items():
        mode = "mil" if name == "mil" else "framewise"
        options = TaggingOptions(target_mode=mode, aggregation="max" if name == "mil" else name)  # type: ignore[arg-type]
        found = predict(network, bags, options)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, torch.stack(pooled).detach(), atol=1e-6)


def test_autopool_learns_which_tags_are_short() -> None:
    """Tag 0 sounds in one window of ten; tag 1 in all of them, but single windows of other clips sound like it."""
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 2)) < 0.5).astype(np.float32)
    rows = 0.3 * rng.standard_normal((300, 10, 2))
    moment = rng.integers(10, size=300)
    rows[np.arange(300), moment, 0] += 2 * labels[:, 0]
    rows[:, :, 1] += labels[:, 1:]
    rows[np.arange(300), moment, 1] = 2
    own = Bags(rows.reshape(3000, 2).astype(np.float32), np.full(300, 10)), Targets(labels, np.ones((300, 2), bool))
    options = TaggingOptions(num_epochs=60, patience=0, learning_rate=0.02, hidden_layer_size=16, l2_reg=1e-3)
    for seed in range(3):
        network = train_network(examples(own), None, options, seed).network
        short, long = network.alpha.tolist()
        assert short > 2 > 1 > long
