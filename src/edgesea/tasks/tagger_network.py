"""The multi-label network of urban sound tagging: layers, pooling over windows, and losses.

Shapes: B clips with at most T windows, R windows of all of them, K tags, S sensors, P tags with a proximity.

The network, its factors and its losses are those of the classifiers that SONYC trains on embeddings (Cartwright et al.,
"SONYC-UST-V2", DCASE workshop 2020, and the code of the challenge's baseline).
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 1e-7  # probabilities nearer to 0 or 1 count as this in logarithms


class Outputs(NamedTuple):
    """What a network says of windows, or of clips.

    Attributes
    ----------
    tags : Tensor, (N, K)
        Probability of each tag.
    sensors : Tensor, (N, S), or None
        Probability of each sensor.
    proximity : Tensor, (N, P, 2), or None
        Probabilities of near and far.
    """

    tags: Tensor
    sensors: Tensor | None
    proximity: Tensor | None


class Dense(nn.Module):
    """A linear layer.

    Parameters
    ----------
    inputs, outputs : int
        Sizes.
    generator : Generator
        Source of the initial kernel, which is uniform (Glorot & Bengio, 2010); biases are 0 at first.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (inputs + outputs))
        kernel = torch.rand(outputs, inputs, generator=generator, dtype=torch.float32)
        self.kernel = nn.Parameter((2.0 * kernel - 1.0) * bound)
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """(R, inputs) -> (R, outputs)."""
        return functional.linear(values, self.kernel, self.bias)


class TagNetwork(nn.Module):
    """Dense layers on each window, with ReLU, and a sigmoid for each tag.

    If there are sensors, a softmax over them is computed from the last hidden layer, and given to the output layer
    beside it; likewise a softmax over near and far for each tag with a proximity.

    Parameters
    ----------
    inputs, tags : int
        Sizes of input and output.
    hidden : sequence of int
        Sizes of the hidden layers; without any, each tag is a logistic regression.
    generator : Generator
        Source of the initial kernels.
    sensors, proximities : int
        S and P; 0: the network has no such factor.

    Attributes
    ----------
    alpha : Parameter, (K,)
        Of `auto_pool`; 1 at first.
    """

    def __init__(
        self,
        inputs: int,
        tags: int,
        hidden: Iterable[int],
        generator: torch.Generator,
        sensors: int = 0,
        proximities: int = 0,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.hidden = nn.ModuleList(Dense(own, following, generator) for own, following in pairwise(sizes))
        self.sensors = Dense(sizes[-1], sensors, generator) if sensors else None
        self.proximity = Dense(sizes[-1], 2 * proximities, generator) if proximities else None
        self.tags = Dense(sizes[-1] + sensors + 2 * proximities, tags, generator)
        self.alpha = nn.Parameter(torch.ones(tags, dtype=torch.float32))

    def forward(self, rows: Tensor) -> Outputs:
        """Outputs for each of the windows (R, inputs)."""
        last = rows
        for layer in self.hidden:
            last = layer(last).relu()
        parts, sensors, proximity = [last], None, None
        if self.sensors is not None:
            sensors = torch.softmax(self.sensors(last), 1)
            parts.append(sensors)
        if self.proximity is not None:
            proximity = torch.softmax(self.proximity(last).reshape(len(rows), -1, 2), 2)
            parts.append(proximity.flatten(1))
        joined = torch.cat(parts, 1) if len(parts) > 1 else last
        return Outputs(torch.sigmoid(self.tags(joined)), sensors, proximity)

    def kernels(self) -> list[Tensor]:
        """The weights of all dense layers, without biases."""
        return [layer.kernel for layer in self.modules() if isinstance(layer, Dense)]


def by_clip(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor | None]:
    """Arrange what belongs to windows by clips, padded to the clip with the most windows.

    Parameters
    ----------
    values : Tensor, (R, ...)
        Clip by clip.
    counts : Tensor, (B,) int64
        Windows of each clip, at least 1.

    Returns
    -------
    values : Tensor, (B, T, ...)
        What stands in the padding is arbitrary, but finite.
    present : Tensor of bool, (B, T), or None
        False in the padding; None if there is none.
    """
    longest = int(counts.max())
    if longest * len(counts) == len(values):
        return values.reshape(len(counts), longest, *values.shape[1:]), None
    window = torch.arange(longest)
    first = counts.cumsum(0) - counts
    return values[first[:, None] + window.minimum(counts[:, None] - 1)], window < counts[:, None]


def auto_pool(probabilities: Tensor, alpha: Tensor, present: Tensor | None = None) -> Tensor:
    """Pool the windows of clips: sum_t p_t w_t, with w = softmax_t(alpha p_t).

    AutoPool: McFee, Salamon & Bello, "Adaptive pooling operators for weakly labeled sound event detection", IEEE/ACM
    TASLP 26(11), 2018. alpha 0 gives the mean, 1 softmax pooling, infinity the maximum.

    Parameters
    ----------
    probabilities : Tensor, (B, T, K)
        p, in [0, 1].
    alpha : Tensor, (K,)
        One for each tag; finite.
    present : Tensor of bool, (B, T), optional
        Windows that count; at least one of each clip. Default: all.

    Returns
    -------
    Tensor, (B, K)
    """
    logits = alpha * probabilities
    if present is not None:
        logits = logits.masked_fill(~present[:, :, None], -math.inf)
    return (torch.softmax(logits, 1) * probabilities).sum(1)


def max_pool(probabilities: Tensor, present: Tensor | None = None) -> Tensor:
    """The largest probability of each clip's windows, (B, T, K) -> (B, K); see `auto_pool`."""
    if present is not None:
        probabilities = probabilities.masked_fill(~present[:, :, None], 0.0)
    return probabilities.amax(1)


def pool_outputs(outputs: Outputs, counts: Tensor, alpha: Tensor) -> Outputs:
    """Outputs of windows -> of clips: tags by `auto_pool`, the factors' probabilities by their mean."""

    def mean(values: Tensor) -> Tensor:
        padded, present = by_clip(values, counts)
        return padded.mean(1) if present is None else (padded * present[:, :, None]).sum(1) / counts[:, None]

    tags, present = by_clip(outputs.tags, counts)
    sensors, proximity = outputs.sensors, outputs.proximity
    return Outputs(
        auto_pool(tags, alpha, present),
        None if sensors is None else mean(sensors),
        None if proximity is None else mean(proximity.flatten(1)).reshape(len(counts), -1, 2),
    )


def masked_cross_entropy(probabilities: Tensor, labels: Tensor, given: Tensor) -> Tensor:
    """Binary cross-entropy of tags, without those that are not given: -1/(N K) sum_given y ln p + (1 - y) ln(1 - p).

    As in the loss of the baseline of DCASE 2020 task 5 for fine tags, a tag that is left out counts as if it were
    predicted perfectly; so each given tag of a clip weighs the same, however many others are given.

    Parameters
    ----------
    probabilities, labels, given : Tensor, (N, K)
        p in [0, 1]; y 0 or 1; 1 where y is given, else 0.

    Returns
    -------
    Tensor, ()
    """
    p = probabilities.clamp(SMALLEST, 1.0 - SMALLEST)
    likelihood = torch.lerp(1.0 - p, p, labels)  # p where the label is 1, 1 - p where it is 0
    return -(likelihood.log() * given).sum() / labels.numel()


def cooccurrence_laplacian(labels: Tensor) -> Tensor:
    """Laplacian L = D - A of the graph of tags that occur together.

    A_ij is the share of the clips that have both tags i and j, 0 for i = j; D is diagonal, with the sums of A's rows.

    Parameters
    ----------
    labels : Tensor, (N, K)
        0 or 1.

    Returns
    -------
    Tensor, (K, K)
    """
    together = labels.T @ labels / max(1, len(labels))
    together.fill_diagonal_(0.0)
    return torch.diag(together.sum(1)) - together


def laplacian_loss(probabilities: Tensor, laplacian: Tensor) -> Tensor:
    """Mean over clips of p^T L p = 1/2 sum_ij A_ij (p_i - p_j)^2: how much the probabilities of joined tags differ.

    The quadratic form of a graph's Laplacian: Belkin & Niyogi, "Laplacian eigenmaps for dimensionality reduction and
    data representation", Neural Computation 15(6), 2003.

    Parameters
    ----------
    probabilities : Tensor, (N, K)
        p.
    laplacian : Tensor, (K, K)
        Of `cooccurrence_laplacian`.

    Returns
    -------
    Tensor, ()
    """
    return ((probabilities @ laplacian) * probabilities).sum() / len(probabilities)


def sensor_loss(probabilities: Tensor, sensors: Tensor) -> Tensor:
    """Cross-entropy of the sensor: -1/N sum_n ln s_n, with the probability s_n of clip n's own sensor.

    Parameters
    ----------
    probabilities : Tensor, (N, S)
        Rows sum to 1.
    sensors : Tensor, (N,) int64
        0 ... S - 1; -1: of no known sensor, which contributes 0.

    Returns
    -------
    Tensor, ()
    """
    logs = probabilities.clamp_min(SMALLEST).log()
    return functional.nll_loss(logs, sensors, ignore_index=-1, reduction="sum") / len(sensors)


def proximity_loss(probabilities: Tensor, proximity: Tensor) -> Tensor:
    """Cross-entropy of near and far, summed over the tags: -1/N sum_n sum_p t_np . ln q_np.

    Parameters
    ----------
    probabilities : Tensor, (N, P, 2)
        q: near, far.
    proximity : Tensor, (N, P, 2)
        t: (1, 0), (0, 1), or (0, 0) where it is not known, which contributes 0.

    Returns
    -------
    Tensor, ()
    """
    return -(proximity * probabilities.clamp_min(SMALLEST).log()).sum() / len(proximity)


def squared_weights(kernels: Iterable[Tensor]) -> Tensor:
    """Sum of the squares of all weights: times `l2_reg`, the L2 term of the loss (without a factor of 1/2)."""
    return torch.stack([kernel.square().sum() for kernel in kernels]).sum()
