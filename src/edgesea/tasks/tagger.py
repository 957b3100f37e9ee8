"""The classifier of urban sound tagging: small networks on the windows of clips, whose probabilities are averaged."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from edgesea.tasks.features import Bags, Targets, context_encoder
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.oversampling import label_set_smote, mlsmote

Clips = tuple[Bags, Targets]

SENSORS = 10  # with at least so many, whole sensors are held out
CUTOFF = 1e-12  # variances below this share of the largest are rounding noise


def tag_probabilities(
    train: Bags, targets: Targets, test: Bags, options: TaggingOptions, seed: int, monitored: Clips | None = None
) -> NDArray[np.float64]:
    """Probabilities (M, K) of the tags of test clips, from networks trained on the train clips; 0 without windows.

    `seed` decides what is held out and oversampled, and the first network; further ones have seed + 1, seed + 2, ...
    The loss of the `monitored` clips, by default of a tenth of the training clips, decides when training ends.
    """
    from torch.random import fork_rng

    from edgesea.tasks.tagger_training import Examples, predict, train_network

    rng = np.random.default_rng(seed)
    bags, targets = _usable(train, options), targets.take(np.flatnonzero(train.usable))
    if monitored is not None:
        monitored = _usable(monitored[0], options), monitored[1].take(np.flatnonzero(monitored[0].usable))
    elif options.patience:
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
    inputs, found = prepare(_usable(test, options)), []
    for member in range(options.members):
        with fork_rng(devices=[]):
            found.append(predict(train_network(learned, watched, options, seed + member)[0], inputs))
    probabilities = np.zeros((len(test), targets.labels.shape[1]))
    probabilities[test.usable] = np.mean(found, 0)
    return probabilities


def _usable(bags: Bags, options: TaggingOptions) -> Bags:
    """The clips with windows; of target mode clip, with one each, their mean."""
    if options.target_mode == "clip":
        bags = replace(bags, rows=bags.means()[bags.usable], counts=bags.usable.astype(np.int64))
    return bags if bags.usable.all() else bags.take(np.flatnonzero(bags.usable))


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
