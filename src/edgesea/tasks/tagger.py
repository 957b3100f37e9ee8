"""The classifier of urban sound tagging: small networks on the windows of clips, whose probabilities are averaged.

Shapes: B clips with at most T windows, R windows of all of them, K tags. A factor is what the network also predicts of
a clip, as G choices among C: the sensor (one among all), or near and far (of each tag with a proximity one among two).

The network, its factors and its losses are those of the classifiers that SONYC trains on embeddings (Cartwright et al.,
"SONYC-UST-V2", DCASE workshop 2020, and the code of the challenge's baseline). It is trained on the CPU.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.tasks.features import Bags, Float32, Targets, context_encoder
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.oversampling import label_set_smote, mlsmote

Clips = tuple[Bags, Targets]

SENSORS = 10  # with at least so many, whole sensors are held out
CUTOFF = 1e-12  # variances below this share of the largest are rounding noise
SMALLEST = 1e-7  # probabilities nearer to 0 or 1 count as this in logarithms
PREDICTED = 512  # clips predicted at once
SHOWN_AFTER = 5.0  # seconds of training until there is a progress bar
ALPHAS = {"mean": 0.0, "softmax": 1.0, "max": 1e9}  # of `auto_pool`


def tag_probabilities(
    train: Bags, targets: Targets, test: Bags, options: TaggingOptions, seed: int, monitored: Clips | None = None
) -> NDArray[np.float64]:
    """Probabilities (M, K) of the tags of test clips, from networks trained on the train clips; all have windows.

    `seed` decides what is held out and oversampled, and the first network; further ones have seed + 1, seed + 2, ...
    The loss of the `monitored` clips, by default of a tenth of the training clips, decides when training ends.
    """
    rng, bags = np.random.default_rng(seed), train
    if options.patience and monitored is None:
        held = held_out(len(bags), targets.sensors, rng)
        parts = [(bags.take(part), targets.take(part)) for part in (np.flatnonzero(~held), np.flatnonzero(held))]
        (bags, targets), monitored = parts
    if options.oversample:
        bags, targets = oversampled(bags, targets, options, rng)
    prepare = preparation(bags, options)
    sensors = np.unique(np.asarray(targets.sensors))

    def examples(bags: Bags, targets: Targets) -> Examples:
        inputs, factors = prepare(bags), []
        if options.target_mode == "framewise":  # each window is a clip
            inputs, targets = Bags(inputs.rows, np.ones(len(inputs.rows), np.int64)), targets.take(bags.owner)
        if options.sensor_factor:
            factors.append((np.asarray(targets.sensors)[:, None, None] == sensors).astype(np.float32))
        if options.proximity_factor:
            factors.append(np.asarray(targets.proximity))
        return Examples(inputs, targets.labels, targets.given, factors)

    learned = examples(bags, targets)
    watched = examples(*monitored) if options.patience and monitored is not None and len(monitored[0]) else None
    inputs, found = prepare(test), []
    for member in range(options.members):
        with torch.random.fork_rng(devices=[]):
            found.append(predict(train_network(learned, watched, options, seed + member)[0], inputs))
    return np.asarray(np.mean(found, 0))


def held_out(clips: int, sensors: NDArray[np.int64] | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of N clips are monitored and not trained on: a tenth, but at least one if that leaves any.

    If there are at least ten sensors, whole ones are held out: in random order, each that does not make it more than a
    tenth of the clips. The smallest never does.
    """
    chosen = np.zeros(clips, bool)
    names, numbers = np.unique(np.zeros(clips) if sensors is None else sensors, return_inverse=True)
    if len(names) < SENSORS:
        chosen[rng.permutation(clips)[: max(1, round(clips / 10)) if clips > 1 else 0]] = True
        return chosen
    sizes = np.bincount(numbers)
    for sensor in rng.permutation(len(names)):
        if 10 * (np.count_nonzero(chosen) + sizes[sensor]) <= clips:
            chosen |= numbers == sensor
    return chosen


def oversampled(bags: Bags, targets: Targets, options: TaggingOptions, rng: np.random.Generator) -> Clips:
    """N clips with windows, followed by synthetic ones, which have neither sensor nor proximity.

    A synthetic clip lies between two clips, which are chosen by the mean embeddings: its windows between their first,
    second, ... windows, as many as both have. So do its coordinates; hour, day and week are the seed's. A tag that is
    not given counts as absent, and is given for a synthetic clip if it is for both its parents.
    """
    smote = mlsmote if options.oversample == "mlsmote" else label_set_smote
    labels = (targets.labels > 0) & targets.given
    made = smote(bags.means(), labels, iterations=options.oversample_iters, threshold=options.thresh_type, rng=rng)
    counts = np.minimum(bags.counts[made.seed], bags.counts[made.neighbor])
    owner = np.repeat(np.arange(len(counts)), counts)
    window = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    weight = made.weight.astype(np.float32)[owner, None]
    one, other = (bags.rows[bags.first[parent[owner]] + window] for parent in (made.seed, made.neighbor))
    rows = np.concatenate([bags.rows, weight * one + (1 - weight) * other])
    context = bags.context
    if context is not None:
        between, share = context[made.seed], made.weight[:, None]
        between[:, :2] = share * between[:, :2] + (1 - share) * context[made.neighbor, :2]
        context = np.concatenate([context, between])
    given = targets.given[made.seed] & targets.given[made.neighbor]
    return (
        Bags(rows, np.concatenate([bags.counts, counts]), context),
        Targets(np.concatenate([targets.labels, made.labels]), np.concatenate([targets.given, given])),
    )


def preparation(train: Bags, options: TaggingOptions) -> Callable[[Bags], Bags]:
    """What maps embeddings and context of clips to the inputs of the network; learned on training clips."""
    rows = train.rows.astype(np.float64)  # to be rounded once, at the end
    steps = [StandardScaler(with_mean=options.standardize, with_std=options.standardize).fit(rows)]
    if options.pca_components is not None:
        rows = steps[0].transform(rows)
        pca = PCA(min(options.pca_components, *rows.shape), whiten=True, svd_solver="covariance_eigh").fit(rows)
        # A direction without variance cannot be whitened: in other clips, it would be rounding noise blown up.
        rank = np.count_nonzero(pca.explained_variance_ > CUTOFF * pca.explained_variance_[0])
        pca.components_, pca.explained_variance_ = pca.components_[:rank], pca.explained_variance_[:rank]
        steps.append(pca)
    encode = context_encoder(np.asarray(train.context), options.standardize) if options.context else None

    def prepare(bags: Bags) -> Bags:
        rows = bags.rows.astype(np.float64)
        for step in steps:
            rows = step.transform(rows)
        if encode is not None:
            rows = np.hstack([rows, encode(np.asarray(bags.context))[bags.owner]])
        return Bags(np.ascontiguousarray(rows, dtype=np.float32), bags.counts)

    return prepare


class Examples(NamedTuple):
    """B clips, all with windows, and what is to be predicted of them."""

    bags: Bags
    labels: Float32  # (B, K)
    given: NDArray[np.bool_]  # (B, K)
    factors: Sequence[Float32] = ()  # (B, G, C): 1 where it is chosen; all 0 where that is unknown

    def take(self, clips: NDArray[np.integer]) -> "Examples":
        factors = [factor[clips] for factor in self.factors]
        return Examples(self.bags.take(clips), self.labels[clips], self.given[clips], factors)


class TagNetwork(nn.Module):
    """Dense layers on each window, with ReLU, and a sigmoid for each tag.

    Softmaxes for the factors are computed from the last hidden layer, and given to the output layer beside it. Without
    hidden layers, each tag is a logistic regression.
    """

    def __init__(self, clips: Examples, options: TaggingOptions, seed: int) -> None:
        super().__init__()
        tags = clips.labels.shape[1]
        sizes = [clips.bags.rows.shape[1], *[options.hidden_layer_size] * options.num_hidden_layers]
        self.shapes = [factor.shape[1:] for factor in clips.factors]
        self.hidden = nn.ModuleList(nn.Linear(one, following) for one, following in pairwise(sizes))
        self.factors = nn.ModuleList(nn.Linear(sizes[-1], math.prod(shape)) for shape in self.shapes)
        self.tags = nn.Linear(sizes[-1] + sum(map(math.prod, self.shapes)), tags)
        # Not trained by clips of one window, as those of framewise are.
        alpha = ALPHAS[options.aggregation] if options.target_mode == "framewise" else 1.0
        self.alpha = nn.Parameter(torch.full((tags,), alpha))
        torch.manual_seed(seed)
        for layer in [*self.hidden, *self.factors, self.tags]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, bags: Bags) -> tuple[Tensor, list[Tensor]]:
        """Probabilities of the tags of clips, (B, K), by AutoPool, and of their factors, (B, G, C), by the mean."""
        rows, counts = torch.from_numpy(bags.rows), torch.from_numpy(bags.counts)
        for layer in self.hidden:
            rows = layer(rows).relu()
        layers = zip(self.factors, self.shapes, strict=True)
        factors = [torch.softmax(layer(rows).unflatten(1, shape), 2) for layer, shape in layers]
        tags = torch.sigmoid(self.tags(torch.cat([rows, *(factor.flatten(1) for factor in factors)], 1)))
        return auto_pool(tags, counts, self.alpha), [mean_pool(factor, counts) for factor in factors]


def by_clip(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R, ...) of the windows of B clips as (B, T, ...), padded with others, and which exist, (B, T)."""
    window = torch.arange(int(counts.max()))
    present = window < counts[:, None]
    if present.all():
        return values.reshape(*present.shape, *values.shape[1:]), present
    first = (counts.cumsum(0) - counts)[:, None]
    return values[(first + window).clamp_max(len(values) - 1)], present


def auto_pool(probabilities: Tensor, counts: Tensor, alpha: Tensor) -> Tensor:
    """Pool the windows of clips: (R, K) -> (B, K), sum_t p_t w_t with w = softmax_t(alpha p_t).

    AutoPool: McFee, Salamon & Bello, "Adaptive pooling operators for weakly labeled sound event detection", IEEE/ACM
    TASLP 26(11), 2018. alpha (K,) 0 gives the mean, 1 softmax pooling, infinity the maximum.
    """
    p, present = by_clip(probabilities, counts)
    logits = (alpha * p).masked_fill(~present[:, :, None], -math.inf)
    return (torch.softmax(logits, 1) * p).sum(1)


def mean_pool(factor: Tensor, counts: Tensor) -> Tensor:
    """Means over the windows of clips, (R, G, C) -> (B, G, C)."""
    values, present = by_clip(factor, counts)
    return (values * present[:, :, None, None]).sum(1) / counts[:, None, None]


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


def factor_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a factor's choices (B, G, C), summed over them; that of an unknown one is 0."""
    return -(target * probabilities.clamp_min(SMALLEST).log()).sum() / len(target)


def train_network(
    train: Examples, monitored: Examples | None, options: TaggingOptions, seed: int
) -> tuple[TagNetwork, list[float]]:
    """Train all epochs, or until the loss of the monitored clips has not fallen for `patience` of them.

    Returns the network with the weights of the best epoch, or of the last one where none was monitored, and the loss
    of the monitored clips after each epoch, without the L2 term. Seeds torch's global generator.
    """
    network = TagNetwork(train, options, seed)
    laplacian = cooccurrence_laplacian(torch.from_numpy(train.labels * train.given))
    weights = [parameter for parameter in network.parameters() if parameter.ndim == 2]
    optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, fused=True)
    lbfgs = options.optimizer == "lbfgs"
    if lbfgs:  # one iteration a step; what it knows of the curvature outlives the step
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=1, max_eval=26, line_search_fn="strong_wolfe")

    def data_loss(batch: Examples) -> Tensor:
        tags, factors = network(batch.bags)
        loss = masked_cross_entropy(tags, torch.from_numpy(batch.labels), torch.from_numpy(batch.given))
        if options.cooccurrence_loss_factor:
            loss = loss + options.cooccurrence_loss_factor * laplacian_loss(tags, laplacian)
        for probabilities, target in zip(factors, batch.factors, strict=True):
            loss = loss + factor_loss(probabilities, torch.from_numpy(target))
        return loss

    def step(batch: Examples) -> float:
        """Minimise the loss with its L2 term; returns it as it was before."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            squares = torch.stack([weight.square().sum() for weight in weights]).sum()
            loss = data_loss(batch) + options.l2_reg * squares
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        return float(optimizer.step(closure))  # type: ignore[arg-type]

    curve: list[float] = []
    best = network.state_dict()
    epochs = range(1, options.num_epochs + 1)
    for epoch in tqdm(epochs, desc="train tagger", unit="epoch", leave=False, disable=None, delay=SHOWN_AFTER):
        batches = torch.split(torch.randperm(len(train.bags)), options.batch_size)
        losses = [step(train)] if lbfgs else [step(train.take(batch.numpy())) for batch in batches]
        if monitored is not None:
            with torch.no_grad():
                curve.append(float(data_loss(monitored)))
        if not np.isfinite([*losses, *curve[-1:]]).all():
            raise EdgeseaError(f"tagging: the loss of epoch {epoch} is not finite; lower learning_rate, or standardize")
        if curve and curve[-1] < min(curve[:-1], default=math.inf):
            best = copy.deepcopy(network.state_dict())
        elif curve and epoch > np.argmin(curve) + options.patience:
            break
    network.load_state_dict(best)
    return network, curve


@torch.no_grad()
def predict(network: TagNetwork, bags: Bags) -> NDArray[np.float64]:
    """Probabilities (N, K) of the tags of clips, all with windows."""
    blocks = torch.split(torch.arange(len(bags)), PREDICTED)
    tags = torch.cat([network(bags.take(block.numpy()))[0] for block in blocks])
    return tags.clamp(0.0, 1.0).double().numpy()
