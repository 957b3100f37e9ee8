import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch import Tensor
from torch.nn import functional

from edgesea.tasks.tagger_network import (
    Outputs,
    TagNetwork,
    auto_pool,
    by_clip,
    cooccurrence_laplacian,
    laplacian_loss,
    masked_cross_entropy,
    max_pool,
    pool_outputs,
    proximity_loss,
    sensor_loss,
    squared_weights,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def test_autopool_of_alpha_zero_one_and_many_is_mean_softmax_and_maximum() -> None:
    p = drawn(5, 10, 3)
    for alpha, wanted in (
        (0.0, p.mean(1).numpy()),
        (1.0, (softmax(p.numpy(), 1) * p.numpy()).sum(1)),
        (1e5, p.amax(1).numpy()),
        (-1e5, p.amin(1).numpy()),
    ):
        np.testing.assert_allclose(auto_pool(p, torch.full((3,), alpha).double()), wanted, atol=1e-9)
    np.testing.assert_allclose(max_pool(p), p.amax(1))


def test_autopool_is_the_published_formula_for_each_tag() -> None:
    # By hand: p = 0 and 1, alpha = ln 3: weights 1/4 and 3/4.
    by_hand = auto_pool(torch.tensor([[[0.0], [1.0]]]), torch.tensor([np.log(3.0)]))
    np.testing.assert_allclose(by_hand, [[0.75]], rtol=1e-6)
    p, alpha = drawn(4, 6, 3), torch.tensor([-2.0, 0.5, 7.0]).double()
    wanted = np.empty((4, 3))
    for clip in range(4):
        for tag in range(3):
            own = p[clip, :, tag].numpy()
            weights = np.exp(alpha[tag].item() * own) / np.exp(alpha[tag].item() * own).sum()
            wanted[clip, tag] = (own * weights).sum()
    np.testing.assert_allclose(auto_pool(p, alpha), wanted, rtol=1e-12)


def test_the_slope_of_autopool_over_alpha_is_the_weighted_variance() -> None:
    p, alpha = drawn(1, 8, 1), torch.tensor([1.5]).double().requires_grad_()
    pooled = auto_pool(p, alpha)
    pooled.sum().backward()
    weights = softmax(1.5 * p[0, :, 0].numpy())
    wanted = (weights * (p[0, :, 0].numpy() - pooled.item()) ** 2).sum()
    assert alpha.grad is not None
    np.testing.assert_allclose(alpha.grad, [wanted], rtol=1e-9)


def test_padded_windows_have_no_part_in_pooling() -> None:
    values, counts = drawn(9, 2), torch.tensor([4, 1, 2, 2])
    padded, present = by_clip(values, counts)
    assert present is not None
    assert padded.shape == (4, 4, 2)
    assert present.sum(1).tolist() == [4, 1, 2, 2]
    for alpha in (0.0, 1.0, 30.0):
        weight = torch.full((2,), alpha).double()
        wanted = torch.cat([auto_pool(clip[None], weight) for clip in values.split(counts.tolist())])
        np.testing.assert_allclose(auto_pool(padded, weight, present), wanted, rtol=1e-12)
        torch.manual_seed(0)
        arbitrary = torch.where(present[..., None], padded, torch.rand(4, 4, 2))
        np.testing.assert_allclose(auto_pool(arbitrary, weight, present), wanted, rtol=1e-12)
    np.testing.assert_array_equal(
        max_pool(padded, present), torch.stack([c.amax(0) for c in values.split([4, 1, 2, 2])])
    )


def test_windows_of_equally_long_clips_need_no_padding() -> None:
    values = drawn(6, 2, 3)
    padded, present = by_clip(values, torch.tensor([2, 2, 2]))
    assert present is None
    np.testing.assert_array_equal(padded, values.reshape(3, 2, 2, 3))


@pytest.mark.parametrize("counts", [[3, 3], [1, 5]])
def test_factors_are_pooled_by_their_mean(counts: list[int]) -> None:
    windows = Outputs(drawn(6, 4), drawn(6, 5, seed=1), drawn(6, 3, 2, seed=2))
    alpha = torch.full((4,), 2.0).double()
    found = pool_outputs(windows, torch.tensor(counts), alpha)
    assert windows.sensors is not None
    assert windows.proximity is not None
    assert found.sensors is not None
    assert found.proximity is not None
    for clip, first in enumerate((0, counts[0])):
        own = slice(first, first + counts[clip])
        np.testing.assert_allclose(found.tags[clip], auto_pool(windows.tags[None, own], alpha)[0])
        np.testing.assert_allclose(found.sensors[clip], windows.sensors[own].mean(0))
        np.testing.assert_allclose(found.proximity[clip], windows.proximity[own].mean(0))


def test_masked_loss_by_hand() -> None:
    p = torch.tensor([[0.5, 0.9], [0.2, 0.6]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    given = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    wanted = -(np.log(0.5) + np.log(0.8) + np.log(0.6)) / 4  # the mean is over all four
    np.testing.assert_allclose(masked_cross_entropy(p, labels, given), wanted, rtol=1e-6)


def test_masked_loss_with_all_given_is_binary_cross_entropy() -> None:
    p, labels = drawn(7, 4), (drawn(7, 4, seed=1) > 0.5).double()
    found = masked_cross_entropy(p, labels, torch.ones_like(p))
    np.testing.assert_allclose(found, functional.binary_cross_entropy(p, labels), rtol=1e-12)


def test_a_masked_tag_has_no_gradient_and_a_given_one_that_of_the_formula() -> None:
    p, labels = drawn(5, 3).requires_grad_(), (drawn(5, 3, seed=1) > 0.5).double()
    given = (drawn(5, 3, seed=2) > 0.4).double()
    masked_cross_entropy(p, labels, given).backward()
    wanted = given * (p - labels) / (p * (1 - p)) / 15
    assert p.grad is not None
    assert (p.grad[given == 0] == 0).all()
    np.testing.assert_allclose(p.grad, wanted.detach(), rtol=1e-9)


def test_certain_predictions_have_a_finite_loss() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0, 1.0]], requires_grad=True)
    loss = masked_cross_entropy(p, torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.ones(1, 4))
    loss.backward()
    np.testing.assert_allclose(loss.item(), -np.log(1e-7) / 2, rtol=0.01)
    assert p.grad is not None
    assert torch.isfinite(p.grad).all()


TOGETHER = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]])


def test_laplacian_of_three_tags_by_hand() -> None:
    # A: (0, 1) in clips 0 and 1; (0, 2) and (1, 2) in clip 1; of four clips.
    wanted = np.array([[3, -2, -1], [-2, 3, -1], [-1, -1, 2]]) / 4
    np.testing.assert_allclose(cooccurrence_laplacian(TOGETHER), wanted)
    # p = (1, 0, 1/2): 1/2 (1 - 0)^2 + 1/4 (1 - 1/2)^2 + 1/4 (0 - 1/2)^2 = 5/8
    np.testing.assert_allclose(laplacian_loss(torch.tensor([[1.0, 0.0, 0.5]]), torch.from_numpy(wanted).float()), 5 / 8)


def test_laplacian_loss_is_half_the_weighted_sum_of_squared_differences() -> None:
    labels, p = (drawn(40, 5) > 0.6).double(), drawn(9, 5, seed=1)
    share = np.array([[np.mean((labels[:, i] * labels[:, j]).numpy()) for j in range(5)] for i in range(5)])
    np.fill_diagonal(share, 0)
    values = p.numpy()
    wanted = 0.5 * (share * (values[:, :, None] - values[:, None, :]) ** 2).sum((1, 2)).mean()
    np.testing.assert_allclose(laplacian_loss(p, cooccurrence_laplacian(labels)), wanted, rtol=1e-12)
    assert laplacian_loss(torch.full((3, 5), 0.4).double(), cooccurrence_laplacian(labels)).abs() < 1e-12


def test_sensor_loss_is_cross_entropy_without_unknown_sensors() -> None:
    logits, sensors = drawn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    p = torch.softmax(logits, 1)
    np.testing.assert_allclose(sensor_loss(p, sensors), functional.cross_entropy(logits, sensors), rtol=1e-9)
    sensors[2:] = -1
    known = functional.cross_entropy(logits[:2], sensors[:2])
    np.testing.assert_allclose(sensor_loss(p, sensors), known * 2 / 6, rtol=1e-9)


def test_proximity_loss_by_hand() -> None:
    q = torch.tensor([[[0.8, 0.2], [0.5, 0.5]], [[0.3, 0.7], [0.9, 0.1]]])
    near, far, unknown = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]
    targets = torch.tensor([[near, unknown], [far, far]])
    np.testing.assert_allclose(proximity_loss(q, targets), -(np.log(0.8) + np.log(0.7) + np.log(0.1)) / 2, rtol=1e-6)


def network(hidden: tuple[int, ...], sensors: int = 0, proximities: int = 0, seed: int = 0) -> TagNetwork:
    return TagNetwork(4, 3, hidden, torch.Generator().manual_seed(seed), sensors, proximities)


def test_squared_weights_are_those_of_kernels_only() -> None:
    own = network((5,), sensors=2, proximities=2)
    for name, values in own.named_parameters():
        torch.nn.init.constant_(values, 2.0 if name.endswith("kernel") else 100.0)
    # Hidden 4 x 5, sensors 5 x 2, proximity 5 x 4, output (5 + 2 + 4) x 3.
    assert squared_weights(own.kernels()).item() == 4 * (20 + 10 + 20 + 33)


def test_the_network_is_dense_layers_with_relu_and_a_sigmoid() -> None:
    own, rows = network((5, 6)), drawn(7, 4).float()
    arrays = {name: values.detach().numpy() for name, values in own.named_parameters()}
    last = rows.numpy()
    for layer in ("hidden.0", "hidden.1"):
        last = np.maximum(last @ arrays[f"{layer}.kernel"].T + arrays[f"{layer}.bias"], 0)
    wanted = expit(last @ arrays["tags.kernel"].T + arrays["tags.bias"])
    found = own(rows)
    np.testing.assert_allclose(found.tags.detach(), wanted, rtol=1e-5)
    assert found.sensors is None
    assert found.proximity is None


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_factors_come_from_the_last_hidden_layer_and_go_to_the_output_layer(hidden: tuple[int, ...]) -> None:
    own, rows = network(hidden, sensors=6, proximities=2), drawn(7, 4).float()
    arrays = {name: values.detach().numpy() for name, values in own.named_parameters()}
    last = rows.numpy()
    if hidden:
        last = np.maximum(last @ arrays["hidden.0.kernel"].T, 0)
    sensors = softmax(last @ arrays["sensors.kernel"].T, 1)
    proximity = softmax((last @ arrays["proximity.kernel"].T).reshape(7, 2, 2), 2)
    joined = np.hstack([last, sensors, proximity.reshape(7, 4)])
    found = own(rows)
    np.testing.assert_allclose(found.sensors.detach(), sensors, rtol=1e-5)
    np.testing.assert_allclose(found.proximity.detach(), proximity, rtol=1e-5)
    np.testing.assert_allclose(found.tags.detach(), expit(joined @ arrays["tags.kernel"].T), rtol=1e-5)


def test_initial_weights_are_glorots_and_depend_on_the_generator_alone() -> None:
    own = TagNetwork(300, 8, (100,), torch.Generator().manual_seed(3))
    bound = np.sqrt(6 / 400)
    kernel = own.kernels()[0].detach().numpy()
    assert np.abs(kernel).max() <= bound
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, bound / np.sqrt(3)], atol=0.01 * bound)
    np.testing.assert_array_equal(own.alpha.detach(), np.ones(8))
    state = torch.get_rng_state()
    again = TagNetwork(300, 8, (100,), torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.kernels()[0], own.kernels()[0])
    assert not torch.equal(TagNetwork(300, 8, (100,), torch.Generator().manual_seed(4)).kernels()[0], own.kernels()[0])
