"""Batch normalisation over the batches of all processes together, on CPUs, where torch has none."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _Normalised(torch.autograd.Function):
    """Normalise (N, C, H, W) over N, H, W of all processes, each of which has as many; returns mean and variance, too.

    The backward pass is that of batch normalisation (Ioffe & Szegedy, 2015), with its two sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        own = torch.stack([mean, variance])
        every = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(every, own)
        means, variances = torch.stack(every, 1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gradient, (x, weight, mean, inverse) = gradients[0], ctx.saved_tensors
        normalised = (x - mean[:, None, None]) * inverse[:, None, None]
        sums = torch.stack([gradient.sum((0, 2, 3)), (gradient * normalised).sum((0, 2, 3))])
        own = sums.clone()
        distributed.all_reduce(sums)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        shift, slope = (sums / count)[:, :, None, None]
        result = (gradient - shift - normalised * slope) * (weight * inverse)[:, None, None]
        return result, own[1], own[0], None


class _SyncBatchNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        normalised: Any = _Normalised.apply(input.float(), self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        result, mean, variance = normalised
        count = input.numel() // input.shape[1] * distributed.get_world_size()
        with torch.no_grad():
            for running, value in ((self.running_mean, mean), (self.running_var, variance * count / (count - 1))):
                running.lerp_(value, self.momentum)  # type: ignore[union-attr,arg-type]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return result.to(input.dtype)  # type: ignore[no-any-return]


def synchronise(model: nn.Module) -> None:
    """Make a model's batch normalisations those of all processes, with the same weights, by the same names."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _SyncBatchNorm
