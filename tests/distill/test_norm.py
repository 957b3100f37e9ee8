import pytest
import torch
from torch import distributed, nn

from edgesea.distill.norm import synchronise


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_it_is_batch_normalisation_forward_and_backward(alone):
    torch.manual_seed(0)
    plain, synced = (nn.Sequential(nn.BatchNorm2d(3, eps=1e-3)) for _ in range(2))
    for model in (plain, synced):
        nn.init.constant_(model[0].weight, 1.5)
    synchronise(synced)
    assert type(synced[0]) is not nn.BatchNorm2d
    for _ in range(2):
        x = torch.randn(4, 3, 5, 6) * 2 + 10
        gradients = []
        for model in (plain, synced):
            one = x.clone().requires_grad_()
            model.zero_grad()
            (model(one) * torch.arange(6.0)).square().sum().backward()
            gradients.append([one.grad, *(p.grad for p in model.parameters())])
        for left, right in zip(*gradients, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    for model in (plain.eval(), synced.eval()):
        model(x)
    for (name, left), (other, right) in zip(plain.state_dict().items(), synced.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
