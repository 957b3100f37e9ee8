"""The multi-label network of urban sound tagging, its training, and its predictions, on the CPU.

Shapes: B clips with at most T windows, R windows of all of them, K tags, S sensors, P tags with a proximity.

The network, its factors and its losses are those of the classifiers that SONYC trains on embeddings (Cartwright et al.,
"SONYC-UST-V2", DCASE workshop 2020, and the code of the challenge's baseline).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags, Targets
from edgesea.tasks.options import TaggingOptions

Clips = tuple[Bags, Targets]

SMALLEST = 1e-7  # probabilities nearer to 0 or 1 count as this in logarithms
LINE_SEARCH = 25  # evaluations at most
PREDICTED = 512  # clips predicted at once
SHOWN_AFTER = 5.0  # seconds of training until there is a progress bar


class Outputs(NamedTuple):
    """Probabilities of N windows, or of N clips."""

    tags: Tensor  # (N, K)
    sensors: Tensor | None  # (N, S)
    proximity: Tensor | None  # (N, P, 2): near, far


class TagNetwork(nn.Module):
    """Dense layers on each window, with ReLU, and a sigmoid for each tag.

    If there are sensors, a softmax over them is computed from the last hidden layer, and given to the output layer
    beside it; likewise a softmax over near and far for each tag with a proximity. Without hidden layers, each tag is a
    logistic regression.
    """

    def __init__(
        self, inputs: int, tags: int, hidden: Sequence[int], seed: int, sensors: int = 0, proximities: int = 0
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(one, following) for one, following in pairwise(sizes))
        self.sensors = nn.Linear(sizes[-1], sensors) if sensors else None
        self.proximity = nn.Linear(sizes[-1], 2 * proximities) if proximities else None
        self.tags = nn.Linear(sizes[-1] + sensors + 2 * proximities, tags)
        self.alpha = nn.Parameter(torch.ones(tags))  # of `auto_pool`
        torch.manual_seed(seed)
        for layer in self.layers():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def layers(self) -> list[nn.Linear]:
        """All dense layers."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear)]

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
        return Outputs(torch.sigmoid(self.tags(torch.cat(parts, 1))), sensors, proximity)


def by_clip(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R, ...) of the windows of B clips as (B, T, ...), padded with others, and which exist, (B, T)."""
    window = torch.arange(int(counts.max()))
    present = window < counts[:, None]
    if present.all():
        return values.reshape(*present.shape, *values.shape[1:]), present
    first = (counts.cumsum(0) - counts)[:, None]
    return values[(first + window).clamp_max(len(values) - 1)], present


def auto_pool(probabilities: Tensor, alpha: Tensor, present: Tensor) -> Tensor:
    """Pool the windows of clips: (B, T, K) -> (B, K), sum_t p_t w_t with w = softmax_t(alpha p_t).

    AutoPool: McFee, Salamon & Bello, "Adaptive pooling operators for weakly labeled sound event detection", IEEE/ACM
    TASLP 26(11), 2018. alpha (K,) 0 gives the mean, 1 softmax pooling, infinity the maximum.
    """
    logits = (alpha * probabilities).masked_fill(~present[:, :, None], -math.inf)
    return (torch.softmax(logits, 1) * probabilities).sum(1)


def pool_outputs(outputs: Outputs, counts: Tensor, alpha: Tensor) -> Outputs:
    """Outputs of windows -> of clips: tags by `auto_pool`, the factors' probabilities by their mean."""

    def mean(values: Tensor) -> Tensor:
        padded, present = by_clip(values, counts)
        return (padded * present[:, :, None]).sum(1) / counts[:, None]

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
    """
    p = probabilities.clamp(SMALLEST, 1.0 - SMALLEST)
    likelihood = torch.lerp(1.0 - p, p, labels)  # p where the label is 1, 1 - p where it is 0
    return -(likelihood.log() * given).mean()


def cooccurrence_laplacian(labels: Tensor) -> Tensor:
    """Laplacian L = D - A of the graph of tags that occur together, (N, K) -> (K, K).

    A_ij is the share of the clips that have both tags i and j, 0 for i = j; D is diagonal, with the sums of A's rows.
    """
    together = (labels.T @ labels / len(labels)).fill_diagonal_(0.0)
    return torch.diag(together.sum(1)) - together


def laplacian_loss(probabilities: Tensor, laplacian: Tensor) -> Tensor:
    """Mean over clips of p^T L p = 1/2 sum_ij A_ij (p_i - p_j)^2: how much the probabilities of joined tags differ.

    The quadratic form of a graph's Laplacian: Belkin & Niyogi, "Laplacian eigenmaps for dimensionality reduction and
    data representation", Neural Computation 15(6), 2003.
    """
    return ((probabilities @ laplacian) * probabilities).sum() / len(probabilities)


def sensor_loss(probabilities: Tensor, sensors: Tensor) -> Tensor:
    """Cross-entropy of the sensor (N,): -1/N sum_n ln s_n; that of an unknown one, -1, is 0."""
    logs = probabilities.clamp_min(SMALLEST).log()
    return functional.nll_loss(logs, sensors, ignore_index=-1, reduction="sum") / len(sensors)


def proximity_loss(probabilities: Tensor, proximity: Tensor) -> Tensor:
    """Cross-entropy of near (1, 0) and far (0, 1), summed over the tags; that of an unknown one, (0, 0), is 0."""
    return -(proximity * probabilities.clamp_min(SMALLEST).log()).sum() / len(proximity)


class TrainingResult(NamedTuple):
    """A network, and how it was trained."""

    network: TagNetwork  # with the weights of the best epoch, or of the last one where none was monitored
    losses: list[float]  # of each epoch: the mean over its steps, before each, with the L2 term
    monitored: list[float]  # loss of the monitored clips after each epoch, without the L2 term


def train_network(train: Clips, monitored: Clips | None, options: TaggingOptions, seed: int) -> TrainingResult:
    """Train all epochs, or until the loss of the monitored clips has not fallen for `patience` of them.

    All clips have windows. Sensors are numbered from 0, those not trained on are -1. Seeds torch's global generator.
    """
    bags, targets = train
    sensors = int(targets.sensors.max()) + 1 if options.sensor_factor and targets.sensors is not None else 0
    proximities = targets.proximity.shape[1] if options.proximity_factor and targets.proximity is not None else 0
    hidden = (options.hidden_layer_size,) * options.num_hidden_layers
    network = TagNetwork(bags.rows.shape[1], targets.labels.shape[1], hidden, seed, sensors, proximities)
    laplacian = cooccurrence_laplacian(torch.from_numpy(targets.labels * targets.given))
    optimizer: torch.optim.Optimizer
    if options.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, fused=True)
    else:  # one iteration a step; what it knows of the curvature outlives the step
        optimizer = torch.optim.LBFGS(
            network.parameters(), max_iter=1, max_eval=1 + LINE_SEARCH, line_search_fn="strong_wolfe"
        )

    def data_loss(bags: Bags, targets: Targets) -> Tensor:
        found = pool_outputs(network(torch.from_numpy(bags.rows)), torch.from_numpy(bags.counts), network.alpha)
        loss = masked_cross_entropy(found.tags, torch.from_numpy(targets.labels), torch.from_numpy(targets.given))
        if options.cooccurrence_loss_factor:
            loss = loss + options.cooccurrence_loss_factor * laplacian_loss(found.tags, laplacian)
        if found.sensors is not None and targets.sensors is not None:
            loss = loss + sensor_loss(found.sensors, torch.from_numpy(targets.sensors))
        if found.proximity is not None and targets.proximity is not None:
            loss = loss + proximity_loss(found.proximity, torch.from_numpy(targets.proximity))
        return loss

    def batches() -> Iterator[Clips]:
        if options.optimizer == "lbfgs":
            yield train
        else:
            for clips in torch.split(torch.randperm(len(bags)), options.batch_size):
                yield bags.take(clips.numpy()), targets.take(clips.numpy())

    def step(batch: Clips) -> float:
        """Minimise the loss with its L2 term; returns the sum over the clips as it was before."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            squares = torch.stack([layer.weight.square().sum() for layer in network.layers()]).sum()
            loss = data_loss(*batch) + options.l2_reg * squares
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        loss = torch.as_tensor(optimizer.step(closure))  # type: ignore[no-untyped-call]
        return loss.item() * len(batch[0])

    result, best = TrainingResult(network, [], []), network.state_dict()
    epochs = range(1, options.num_epochs + 1)
    bar = tqdm(epochs, desc="train tagger", unit="epoch", leave=False, disable=None, delay=SHOWN_AFTER)
    for epoch in bar:
        result.losses.append(sum(map(step, batches())) / len(bags))
        if monitored is not None:
            with torch.no_grad():
                result.monitored.append(float(data_loss(*monitored)))
        for loss in (result.losses[-1], *result.monitored[-1:]):
            if not math.isfinite(loss):
                raise EdgeseaError(
                    f"tagging: the loss became {loss} in epoch {epoch}; standardize, or lower learning_rate "
                    f"({options.learning_rate})"
                )
        if monitored is None:
            continue
        since_best = epoch - 1 - int(np.argmin(result.monitored))
        if not since_best:
            best = copy.deepcopy(network.state_dict())
        elif since_best >= options.patience:
            break
    bar.close()
    network.load_state_dict(best)
    return result


@torch.no_grad()
def predict(network: TagNetwork, bags: Bags, options: TaggingOptions) -> NDArray[np.float64]:
    """Probabilities (N, K) of the tags of clips, all with windows; target_mode and aggregation tell how to pool."""
    rows, counts = torch.from_numpy(bags.rows), torch.from_numpy(bags.counts)
    alpha: Tensor = network.alpha
    if options.target_mode == "framewise":
        alpha = torch.full_like(alpha, {"mean": 0.0, "softmax": 1.0, "max": 1e9}[options.aggregation])
    parts, first = [], 0
    for block in torch.split(counts, PREDICTED):
        last = first + int(block.sum())
        tags, present = by_clip(network(rows[first:last]).tags, block)
        parts.append(auto_pool(tags, alpha, present))
        first = last
    return torch.cat(parts).clamp(0.0, 1.0).double().numpy()
