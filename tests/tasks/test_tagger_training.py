from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags, Targets
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.tagger_training import (
    Outputs,
    TagNetwork,
    auto_pool,
    cooccurrence_laplacian,
    laplacian_loss,
    masked_cross_entropy,
    pool_outputs,
    predict,
    proximity_loss,
    sensor_loss,
    train_network,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def test_autopool_is_the_published_formula_for_each_tag() -> None:
    # By hand: p = 0 and 1, alpha = ln 3: weights 1/4 and 3/4.
    by_hand = auto_pool(torch.tensor([[[0.0], [1.0]]]), torch.tensor([np.log(3.0)]), torch.ones(1, 2, dtype=torch.bool))
    np.testing.assert_allclose(by_hand, [[0.75]], rtol=1e-6)
    p, everything = drawn(4, 6, 3).numpy(), torch.ones(4, 6, dtype=torch.bool)
    weights = softmax(np.array([0.0, 1.0, 1e5]) * p, 1)  # mean, softmax pooling and maximum
    found = auto_pool(torch.from_numpy(p), torch.tensor([0.0, 1.0, 1e5]).double(), everything)
    np.testing.assert_allclose(found, (weights * p).sum(1), rtol=1e-12)
    np.testing.assert_allclose(found[:, 0], p[:, :, 0].mean(1))
    np.testing.assert_allclose(found[:, 2], p[:, :, 2].max(1), atol=1e-9)


def test_padded_windows_have_no_part_in_pooling() -> None:
    windows, counts = Outputs(drawn(9, 2), drawn(9, 5, seed=1), drawn(9, 3, 2, seed=2)), [4, 1, 2, 2]
    found, alpha = pool_outputs(windows, torch.tensor(counts), drawn(2)), drawn(2)
    for clip, parts in enumerate(zip(*(values.split(counts) for values in windows if values is not None), strict=True)):
        alone = auto_pool(parts[0][None], alpha, torch.ones(1, counts[clip], dtype=torch.bool))[0]
        for values, mine in zip(found, (alone, parts[1].mean(0), parts[2].mean(0)), strict=True):
            assert values is not None
            np.testing.assert_allclose(values[clip], mine, rtol=1e-12)


def test_masked_loss_by_hand_and_with_all_given() -> None:
    p, labels = torch.tensor([[0.5, 0.9], [0.2, 0.6]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    wanted = -(np.log(0.5) + np.log(0.8) + np.log(0.6)) / 4  # the mean is over all four
    np.testing.assert_allclose(masked_cross_entropy(p, labels, torch.tensor([[1.0, 0], [1, 1]])), wanted, rtol=1e-6)
    found = masked_cross_entropy(p, labels, torch.ones(2, 2))
    np.testing.assert_allclose(found, functional.binary_cross_entropy(p, labels), rtol=1e-6)
    certain = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    loss = masked_cross_entropy(certain, torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.ones(1, 4))
    np.testing.assert_allclose(loss, -np.log(1e-7) / 2, rtol=0.01)


def test_laplacian_of_three_tags_by_hand() -> None:
    labels = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]])
    # A: (0, 1) in clips 0 and 1; (0, 2) and (1, 2) in clip 1; of four clips.
    wanted = np.array([[3, -2, -1], [-2, 3, -1], [-1, -1, 2]]) / 4
    np.testing.assert_allclose(cooccurrence_laplacian(labels), wanted)
    # p = (1, 0, 1/2): 1/2 (1 - 0)^2 + 1/4 (1 - 1/2)^2 + 1/4 (0 - 1/2)^2 = 5/8
    np.testing.assert_allclose(laplacian_loss(torch.tensor([[1.0, 0.0, 0.5]]), torch.from_numpy(wanted).float()), 5 / 8)


def test_losses_of_the_factors_leave_out_what_is_unknown() -> None:
    logits, sensors = drawn(6, 4), torch.tensor([0, 3, -1, -1, -1, -1])
    known = functional.cross_entropy(logits[:2], sensors[:2])
    np.testing.assert_allclose(sensor_loss(torch.softmax(logits, 1), sensors), known * 2 / 6, rtol=1e-9)
    q = torch.tensor([[[0.8, 0.2], [0.5, 0.5]], [[0.3, 0.7], [0.9, 0.1]]])
    near_or_far = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    np.testing.assert_allclose(proximity_loss(q, near_or_far), -np.log(0.8 * 0.7 * 0.1) / 2, rtol=1e-6)


@pytest.mark.parametrize("hidden", [(), (5, 6)])
def test_factors_come_from_the_last_hidden_layer_and_go_to_the_output_layer(hidden: tuple[int, ...]) -> None:
    network, rows = TagNetwork(4, 3, hidden, 0, sensors=6, proximities=2), drawn(7, 4).float()
    arrays = {name: values.detach().numpy() for name, values in network.named_parameters()}
    last = rows.numpy()
    for layer in range(len(hidden)):
        last = np.maximum(last @ arrays[f"hidden.{layer}.weight"].T, 0)
    sensors = softmax(last @ arrays["sensors.weight"].T, 1)
    proximity = softmax((last @ arrays["proximity.weight"].T).reshape(7, 2, 2), 2)
    joined = np.hstack([last, sensors, proximity.reshape(7, 4)])
    found = network(rows)
    np.testing.assert_allclose(found.sensors.detach(), sensors, rtol=1e-5)
    np.testing.assert_allclose(found.proximity.detach(), proximity, rtol=1e-5)
    np.testing.assert_allclose(found.tags.detach(), expit(joined @ arrays["tags.weight"].T), rtol=1e-5)


def problem(clips: int = 120, seed: int = 0, longest: int = 4, noise: float = 1.0) -> tuple[Bags, Targets]:
    """Clips whose windows tell three tags, with noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 3)) < 0.4).astype(np.float32)
    counts = rng.integers(1, longest + 1, clips)
    rows = np.repeat(labels, counts, 0) @ np.random.default_rng(99).standard_normal((3, 6)) - 0.5
    rows += noise * rng.standard_normal(rows.shape)
    return Bags(rows.astype(np.float32), counts), Targets(labels, np.ones(labels.shape, bool))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_without_hidden_layers_it_finds_scikit_learns_logistic_regression(optimizer: Any) -> None:
    """The same minimum means the same cross-entropy and the same L2 term, without one on the biases."""
    bags, targets = own = problem(200, longest=1, noise=2.0)
    options = TaggingOptions(
        num_hidden_layers=0, l2_reg=0.01, patience=0, optimizer=optimizer, learning_rate=0.02,
        batch_size=200, num_epochs=600 if optimizer == "adam" else 100,
    )  # fmt: skip
    network = train_network(own, None, options, 0).network
    for tag in range(3):
        # It minimises C sum_i loss_i + 1/2 w^2; here the loss is divided by 200 clips and 3 tags.
        reference = LogisticRegression(C=1 / (2 * 0.01 * 600), tol=1e-10, max_iter=1000)
        reference.fit(bags.rows.astype(np.float64), targets.labels[:, tag])
        found = np.append(network.tags.weight[tag].detach(), network.tags.bias[tag].detach())
        np.testing.assert_allclose(found, np.append(reference.coef_, reference.intercept_), atol=2e-3)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_best_epoch_is_kept_and_training_ends_after_patience(optimizer: Any) -> None:
    options = TaggingOptions(patience=4, num_epochs=200, learning_rate=0.02, l2_reg=0.01, optimizer=optimizer)
    bags, targets = problem(60, seed=1, noise=2.0)
    result = train_network(problem(40, noise=2.0), (bags, targets), options, 0)
    assert len(result.monitored) == len(result.losses) == np.argmin(result.monitored) + 5 < 60
    assert result.losses[-1] < result.losses[0]
    p = torch.from_numpy(predict(result.network, bags, options))
    loss = masked_cross_entropy(p, torch.from_numpy(targets.labels).double(), torch.ones_like(p))
    np.testing.assert_allclose(loss, min(result.monitored), rtol=1e-4)  # without the L2 term


def test_a_loss_that_is_no_number_is_an_error() -> None:
    with pytest.raises(EdgeseaError, match="learning_rate"):
        train_network(problem(), None, TaggingOptions(learning_rate=1e30), 0)


def test_sensors_and_proximities_are_learned() -> None:
    rng = np.random.default_rng(0)
    bags, targets = problem()
    sensors, near = rng.choice(3, len(bags)), bags.means()[:, :2] > 0
    places = 3 * rng.standard_normal((3, 6)).astype(np.float32)
    bags = bags.with_rows(bags.rows + places[np.repeat(sensors, bags.counts)])
    targets = replace(targets, sensors=sensors, proximity=np.stack([near, ~near], 2).astype(np.float32))
    options = TaggingOptions(sensor_factor=True, proximity_factor=True, num_epochs=40, learning_rate=0.01)
    unseen = bags, replace(targets, sensors=np.full(120, -1))
    network = train_network((bags, targets), unseen, options, 0).network
    found = pool_outputs(network(torch.from_numpy(bags.rows)), torch.from_numpy(bags.counts), network.alpha)
    assert found.sensors is not None
    assert found.proximity is not None
    assert (found.sensors.argmax(1).numpy() == sensors).mean() > 0.9
    assert ((found.proximity[:, :, 0].detach().numpy() > 0.5) == near).mean() > 0.8


def test_windows_of_any_number_are_pooled_by_the_aggregation() -> None:
    bags, _ = problem(700)
    network = train_network(problem(), None, TaggingOptions(num_epochs=3, patience=0), 0).network
    p = [own.detach() for own in network(torch.from_numpy(bags.rows)).tags.split(bags.counts.tolist())]
    wanted = {
        "mean": [own.mean(0) for own in p],
        "max": [own.amax(0) for own in p],
        "softmax": [(own.softmax(0) * own).sum(0) for own in p],
        "mil": [((network.alpha * own).softmax(0) * own).sum(0) for own in p],
    }
    for name, pooled in wanted.items():
        options = TaggingOptions() if name == "mil" else TaggingOptions(target_mode="framewise", aggregation=name)  # type: ignore[arg-type]
        np.testing.assert_allclose(predict(network, bags, options), torch.stack(pooled).detach(), atol=1e-6)
