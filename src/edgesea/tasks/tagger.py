"""The classifier of urban sound tagging: small networks on the windows of clips, whose probabilities are averaged."""

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.preparation import (
    Preparation,
    as_clip_means,
    as_windows,
    check_finite,
    held_out,
    needed_context,
    oversampled,
)


def tag_probabilities(
    train: Bags,
    targets: Targets,
    test: Bags,
    options: TaggingOptions,
    seed: int,
    monitored: tuple[Bags, Targets] | None = None,
) -> NDArray[np.float64]:
    """Probabilities of tags from multi-label networks.

    Parameters
    ----------
    train : Bags
        N clips; those without windows are not trained on.
    targets : Targets
        What is to be predicted for them.
    test : Bags
        M clips.
    options : TaggingOptions
        What is learned, and how.
    seed : int
        Of what is held out and oversampled, and of the first network; further ones have seed + 1, seed + 2, ...
    monitored : tuple of Bags and Targets, optional
        Clips whose loss decides when training ends. Default: a tenth of the training clips, see
        `edgesea.tasks.preparation.held_out`.

    Returns
    -------
    ndarray, (M, K) float64
        0 for clips without windows.

    Raises
    ------
    EdgeseaError
        If no training clip has windows, embeddings hold NaN, what an option needs is missing, or the loss becomes NaN.
    """
    from edgesea.tasks.tagger_training import Examples, predict, train_network

    check_needs(targets, train.context, options)
    if options.monitor != "train" and monitored is None:
        raise EdgeseaError(f"tagging: monitor {options.monitor} needs labelled clips of that split; choose train")
    rng = np.random.default_rng(seed)
    inputs, wanted, watched, preparation = _prepare(train, targets, options, monitored, rng)
    sensors = np.unique(wanted.sensors) if options.sensor_factor and wanted.sensors is not None else None
    examples = Examples.of(inputs, wanted, sensors)
    watched_examples = None if watched is None else Examples.of(*watched, sensors)
    judged = preparation.apply(_usable(test, options, "test"))
    probabilities = np.zeros((len(test), targets.labels.shape[1]))
    for member in range(options.members if len(judged) else 0):
        trained = train_network(examples, watched_examples, options, seed + member)
        probabilities[test.usable] += predict(trained.network, judged, options) / options.members
    return np.minimum(probabilities, 1.0)


def _prepare(
    train: Bags,
    targets: Targets,
    options: TaggingOptions,
    monitored: tuple[Bags, Targets] | None,
    rng: np.random.Generator,
) -> tuple[Bags, Targets, tuple[Bags, Targets] | None, Preparation]:
    """The network's inputs and targets for training and for monitoring, and what maps other clips to such inputs."""
    bags, wanted = _usable(train, options, "training"), targets.take(np.flatnonzero(train.usable))
    if not len(bags):
        raise EdgeseaError("tagging: no training clip has embeddings; embed them again")
    watched = None
    if monitored is not None:
        watched = _usable(monitored[0], options, "monitored"), monitored[1].take(np.flatnonzero(monitored[0].usable))
    elif options.patience:
        held = held_out(len(bags), wanted.sensors, rng)
        parts = [(bags.take(own), wanted.take(own)) for own in (np.flatnonzero(~held), np.flatnonzero(held))]
        (bags, wanted), watched = parts
    if options.oversample:
        bags, wanted = oversampled(bags, wanted, options, rng)
    preparation = Preparation.fit(bags, options)
    bags = preparation.apply(bags)
    if watched is None or not len(watched[0]) or not options.patience:
        watched = None
    else:
        watched = preparation.apply(watched[0]), watched[1]
    if options.target_mode == "framewise":
        bags, wanted = as_windows(bags, wanted)
        watched = None if watched is None else as_windows(*watched)
    return bags, wanted, watched, preparation


def _usable(bags: Bags, options: TaggingOptions, what: str) -> Bags:
    """The clips with windows; of target mode clip, with one each."""
    check_finite(bags, what)
    if options.target_mode == "clip":
        bags = as_clip_means(bags)
    return bags if bags.usable.all() else bags.take(np.flatnonzero(bags.usable))


def check_needs(targets: Targets, context: NDArray[np.float64] | None, options: TaggingOptions) -> None:
    """Raise an `EdgeseaError` if an option has not what it needs."""
    if options.context:
        needed_context(context)
    if options.sensor_factor and targets.sensors is None:
        raise EdgeseaError("tagging: sensor_factor needs the column sensor_id in the annotations; leave it out")
    if options.proximity_factor and targets.proximity is None:
        raise EdgeseaError("tagging: proximity_factor needs the columns ..._proximity in the annotations; leave it out")
