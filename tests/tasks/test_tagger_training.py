from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.tagger_training import (
    Examples,
    TagNetwork,
    auto_pool,
    cooccurrence_laplacian,
    factor_loss,
    laplacian_loss,
    masked_cross_entropy,
    mean_pool,
    predict,
    train_network,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def test_autopool_is_the_published_formula_for_each_tag_and_clip() -> None:
    # By hand: p = 0 and 1, alpha = ln 3: weights 1/4 and 3/4.
    by_hand = auto_pool(torch.tensor([[0.0], [1.0]]), torch.tensor([2]), torch.tensor([np.log(3.0)]))
    np.testing.assert_allclose(by_hand, [[0.75]], rtol=1e-6)
    for counts in ([4, 1, 2, 2], [3, 3, 3]):
        p, factor, alpha = drawn(9, 3), drawn(9, 5, 2), torch.tensor([0.0, 1.0, 1e5]).double()
        found = auto_pool(p, torch.tensor(counts), alpha), mean_pool(factor, torch.tensor(counts))
        for clip, (tags, values) in enumerate(zip(p.split(counts), factor.split(counts), strict=True)):
            softmaxed = (softmax(tags[:, 1].numpy()) * tags[:, 1].numpy()).sum()
            np.testing.assert_allclose(found[0][clip], [tags[:, 0].mean(), softmaxed, tags[:, 2].max()], atol=1e-9)
            np.testing.assert_allclose(found[1][clip], values.mean(0), rtol=1e-12)


def test_masked_loss_by_hand_and_with_all_given() -> None:
    p, labels = torch.tensor([[0.5, 0.9], [0.2, 0.6]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    wanted = -(np.log(0.5) + np.log(0.8) + np.log(0.6)) / 4  # the mean is over all four
    np.testing.assert_allclose(masked_cross_entropy(p, labels, torch.tensor([[1.0, 0], [1, 1]])), wanted, rtol=1e-6)
    wanted = functional.binary_cross_entropy(p, labels).item()
    np.testing.assert_allclose(masked_cross_entropy(p, labels, torch.ones(2, 2)), wanted, rtol=1e-6)


def test_laplacian_of_three_tags_by_hand() -> None:
    labels = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]])
    # A: (0, 1) in clips 0 and 1; (0, 2) and (1, 2) in clip 1; of four clips.
    wanted = np.array([[3, -2, -1], [-2, 3, -1], [-1, -1, 2]]) / 4
    np.testing.assert_allclose(cooccurrence_laplacian(labels), wanted)
    # p = (1, 0, 1/2): 1/2 (1 - 0)^2 + 1/4 (1 - 1/2)^2 + 1/4 (0 - 1/2)^2 = 5/8
    np.testing.assert_allclose(laplacian_loss(torch.tensor([[1.0, 0.0, 0.5]]), torch.from_numpy(wanted).float()), 5 / 8)


def test_loss_of_a_factor_leaves_out_what_is_unknown() -> None:
    logits, sensors = drawn(6, 1, 4), torch.zeros(6, 1, 4)
    sensors[0, 0, 0] = sensors[1, 0, 3] = 1.0
    known = functional.cross_entropy(logits[:2, 0], torch.tensor([0, 3]))
    np.testing.assert_allclose(factor_loss(torch.softmax(logits, 2), sensors), known * 2 / 6, rtol=1e-9)
    q = torch.tensor([[[0.8, 0.2], [0.5, 0.5]], [[0.3, 0.7], [0.9, 0.1]]])
    near_or_far = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    np.testing.assert_allclose(factor_loss(q, near_or_far), -np.log(0.8 * 0.7 * 0.1) / 2, rtol=1e-6)


def problem(clips: int = 120, seed: int = 0, longest: int = 4, noise: float = 1.0) -> Examples:
    """Clips whose windows show three tags, with noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, 3)) < 0.4).astype(np.float32)
    counts = rng.integers(1, longest + 1, clips)
    rows = np.repeat(labels, counts, 0) @ np.random.default_rng(99).standard_normal((3, 6)) - 0.5
    rows += noise * rng.standard_normal(rows.shape)
    return Examples(Bags(rows.astype(np.float32), counts), labels, np.ones(labels.shape, bool))


@pytest.mark.parametrize("layers", [0, 2])
def test_factors_come_from_the_last_hidden_layer_and_go_to_the_output_layer(layers: int) -> None:
    clips = problem(7, longest=1)._replace(factors=[np.zeros((7, 1, 6)), np.zeros((7, 2, 2))])
    network = TagNetwork(clips, TaggingOptions(num_hidden_layers=layers, hidden_layer_size=5), seed=0)
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
def test_without_hidden_layers_it_finds_scikit_learns_logistic_regression(optimizer: Any) -> None:
    """The same minimum means the same cross-entropy and the same L2 term, without one on the biases."""
    clips = problem(200, longest=1, noise=2.0)
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
def test_the_best_epoch_is_kept_and_training_ends_after_patience(optimizer: Any) -> None:
    options = TaggingOptions(patience=4, num_epochs=200, learning_rate=0.02, l2_reg=0.01, optimizer=optimizer)
    monitored = problem(60, seed=1, noise=2.0)
    network, losses = train_network(problem(40, noise=2.0), monitored, options, 0)
    assert len(losses) == np.argmin(losses) + 5 < 60
    p = torch.from_numpy(predict(network, monitored.bags))
    loss = masked_cross_entropy(p, torch.from_numpy(monitored.labels).double(), torch.ones_like(p))
    np.testing.assert_allclose(loss, min(losses), rtol=1e-4)  # without the L2 term


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(EdgeseaError, match="learning_rate"):
        train_network(problem(), None, TaggingOptions(learning_rate=1e30), 0)


@pytest.mark.parametrize(("aggregation", "alpha"), [("mean", 0.0), ("max", 1e9), ("softmax", 1.0), ("mil", None)])
def test_windows_of_any_number_are_pooled_by_the_aggregation(aggregation: Any, alpha: float | None) -> None:
    framewise: Any = {"target_mode": "framewise", "aggregation": aggregation}
    options = TaggingOptions(num_epochs=3, patience=0, **({} if alpha is None else framewise))
    clips, bags = problem(longest=4 if alpha is None else 1), problem(700).bags
    network = train_network(clips, None, options, 0)[0]
    windows = network(Bags(bags.rows, np.ones(len(bags.rows), np.int64)))[0].detach()
    weights = network.alpha.detach() if alpha is None else torch.full((3,), alpha)
    np.testing.assert_allclose(
        predict(network, bags), auto_pool(windows, torch.from_numpy(bags.counts), weights), atol=1e-6
    )
