"""Training a tagger's network, and predicting with it, on the CPU."""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.tagger_network import (
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

log = logging.getLogger(__name__)

LINE_SEARCH = 25  # evaluations at most
PREDICTED = 512  # clips predicted at once
SHOWN_AFTER = 5.0  # seconds of training until there is a progress bar


@dataclass(frozen=True)
class Examples:
    """Clips as tensors, to be trained on or monitored.

    Attributes
    ----------
    rows : Tensor, (R, D) float32
        The network's inputs, window by window.
    counts : Tensor, (N,) int64
        Windows of each clip, at least 1.
    labels, given : Tensor, (N, K) float32
        0 or 1.
    sensors : Tensor, (N,) int64, or None
        Numbers among the sensors trained on; -1 for others.
    proximity : Tensor, (N, P, 2) float32, or None
        See `edgesea.tasks.bags.Targets`.
    """

    rows: Tensor
    counts: Tensor
    labels: Tensor
    given: Tensor
    sensors: Tensor | None
    proximity: Tensor | None

    @classmethod
    def of(cls, bags: Bags, targets: Targets, sensors: NDArray[np.int64] | None) -> "Examples":
        """Tensors of clips with windows; `sensors` are those trained on, in order, if they are to be predicted."""
        numbers = None
        if sensors is not None and targets.sensors is not None:
            place = np.minimum(np.searchsorted(sensors, targets.sensors), len(sensors) - 1)
            numbers = torch.from_numpy(np.where(sensors[place] == targets.sensors, place, -1))
        return cls(
            torch.from_numpy(bags.rows),
            torch.from_numpy(bags.counts.astype(np.int64)),
            torch.from_numpy(targets.labels.astype(np.float32)),
            torch.from_numpy(targets.given.astype(np.float32)),
            numbers,
            None if targets.proximity is None else torch.from_numpy(targets.proximity.astype(np.float32)),
        )

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, clips: Tensor) -> "Examples":
        """Some of the clips, by index."""
        counts = self.counts[clips]
        begin = (self.counts.cumsum(0) - self.counts)[clips] - (counts.cumsum(0) - counts)
        rows = torch.repeat_interleave(begin, counts)
        rows += torch.arange(len(rows))
        return Examples(
            self.rows.index_select(0, rows),
            counts,
            self.labels[clips],
            self.given[clips],
            None if self.sensors is None else self.sensors[clips],
            None if self.proximity is None else self.proximity[clips],
        )


@dataclass(frozen=True)
class Trained:
    """A network, and how it was trained.

    Attributes
    ----------
    network : TagNetwork
        With the weights that were kept.
    losses : list of float
        Loss of each epoch: the mean over its steps, before each; of lbfgs, that before the epoch. With the L2 term.
    monitored : list of float
        Loss of the monitored clips after each epoch, without the L2 term; empty if there are none.
    """

    network: TagNetwork
    losses: list[float]
    monitored: list[float]

    @property
    def kept(self) -> int:
        """The epoch whose weights were kept, from 1."""
        return int(np.argmin(self.monitored)) + 1 if self.monitored else len(self.losses)


def train_network(train: Examples, monitored: Examples | None, options: TaggingOptions, seed: int) -> Trained:
    """Train one network.

    Parameters
    ----------
    train : Examples
        At least one clip.
    monitored : Examples, optional
        Clips by whose loss training ends, and the best epoch is kept, as `patience` says. Default: no such clips; all
        epochs are trained, and the last is kept.
    options : TaggingOptions
        Network, losses, optimiser.
    seed : int
        Of the initial weights and of the order of the clips. Nothing depends on torch's global generator.

    Raises
    ------
    EdgeseaError
        If the loss becomes NaN or infinite.
    """
    with torch.enable_grad():
        return _Training(train, monitored, options, seed).run()


class _Training:
    """One network, its optimiser, and the best weights so far."""

    def __init__(self, train: Examples, monitored: Examples | None, options: TaggingOptions, seed: int) -> None:
        self.train, self.monitored, self.options, self.seed = train, monitored, options, seed
        self.generator = torch.Generator().manual_seed(seed)
        sensors = int(train.sensors.max()) + 1 if options.sensor_factor and train.sensors is not None else 0
        proximities = train.proximity.shape[1] if options.proximity_factor and train.proximity is not None else 0
        hidden = (options.hidden_layer_size,) * options.num_hidden_layers
        self.network = TagNetwork(
            train.rows.shape[1], train.labels.shape[1], hidden, self.generator, sensors, proximities
        )
        self.laplacian = cooccurrence_laplacian(train.labels * train.given)
        parameters = list(self.network.parameters())
        self.optimizer: torch.optim.Optimizer
        if options.optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr=options.learning_rate, fused=True)
        else:  # one iteration a step; what it knows of the curvature outlives the step
            self.optimizer = torch.optim.LBFGS(
                parameters, max_iter=1, max_eval=1 + LINE_SEARCH, line_search_fn="strong_wolfe"
            )

    def run(self) -> Trained:
        """Train all epochs, or until the monitored loss has not fallen for `patience` of them."""
        losses: list[float] = []
        monitored: list[float] = []
        best, kept = math.inf, None
        epoch = self._adam if self.options.optimizer == "adam" else self._lbfgs
        bar = tqdm(
            range(1, self.options.num_epochs + 1),
            desc="train tagger",
            unit="epoch",
            leave=False,
            disable=None,
            delay=SHOWN_AFTER,
        )
        for number in bar:
            losses.append(self._finite(epoch(), number))
            if self.monitored is None:
                continue
            with torch.no_grad():
                monitored.append(self._finite(float(self._data_loss(self.monitored)), number))
            if monitored[-1] < best:
                best, kept = monitored[-1], {name: own.clone() for name, own in self.network.state_dict().items()}
            elif number - (int(np.argmin(monitored)) + 1) >= self.options.patience:
                break
        bar.close()
        if kept is not None:
            self.network.load_state_dict(kept)
        trained = Trained(self.network.eval(), losses, monitored)
        log.debug("tagger with seed %d: %d epochs, number %d kept", self.seed, len(losses), trained.kept)
        return trained

    def _adam(self) -> float:
        """One pass over the shuffled clips; their mean loss."""
        total = torch.zeros((), dtype=torch.float64)
        order = torch.randperm(len(self.train), generator=self.generator)
        for clips in torch.split(order, self.options.batch_size):
            loss = self._loss(self.train.take(clips))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(clips)
        return float(total) / len(self.train)

    def _lbfgs(self) -> float:
        """One iteration on all clips; the loss before it."""

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self._loss(self.train)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        return float(torch.as_tensor(self.optimizer.step(closure)).detach())  # type: ignore[arg-type]

    def _loss(self, clips: Examples) -> Tensor:
        """What is minimised."""
        return self._data_loss(clips) + self.options.l2_reg * squared_weights(self.network.kernels())

    def _data_loss(self, clips: Examples) -> Tensor:
        """Loss without the L2 term."""
        found = pool_outputs(self.network(clips.rows), clips.counts, self.network.alpha)
        loss = masked_cross_entropy(found.tags, clips.labels, clips.given)
        if self.options.cooccurrence_loss_factor:
            loss = loss + self.options.cooccurrence_loss_factor * laplacian_loss(found.tags, self.laplacian)
        if found.sensors is not None and clips.sensors is not None:
            loss = loss + sensor_loss(found.sensors, clips.sensors)
        if found.proximity is not None and clips.proximity is not None:
            loss = loss + proximity_loss(found.proximity, clips.proximity)
        return loss

    def _finite(self, loss: float, epoch: int) -> float:
        if not math.isfinite(loss):
            raise EdgeseaError(
                f"tagging: the loss became {loss} in epoch {epoch}; standardize, or lower learning_rate "
                f"({self.options.learning_rate})"
            )
        return loss


@torch.no_grad()
def predict(network: TagNetwork, bags: Bags, options: TaggingOptions) -> NDArray[np.float64]:
    """Probabilities of tags.

    Parameters
    ----------
    network : TagNetwork
        Trained.
    bags : Bags
        The network's inputs of N clips, all with windows.
    options : TaggingOptions
        target_mode and aggregation: how the probabilities of windows become a clip's.

    Returns
    -------
    ndarray, (N, K) float64
    """
    rows, counts = torch.from_numpy(bags.rows), torch.from_numpy(bags.counts.astype(np.int64))
    alpha: Tensor = network.alpha
    if options.target_mode == "framewise":
        alpha = torch.zeros_like(alpha) if options.aggregation == "mean" else torch.ones_like(alpha)
    is_max = options.target_mode == "framewise" and options.aggregation == "max"
    parts, begin = [], 0
    for own in torch.split(counts, PREDICTED):
        end = begin + int(own.sum())
        tags, present = by_clip(network(rows[begin:end]).tags, own)
        parts.append(max_pool(tags, present) if is_max else auto_pool(tags, alpha, present))
        begin = end
    return torch.cat(parts).clamp(0.0, 1.0).double().numpy()
