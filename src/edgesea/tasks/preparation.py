"""What a tagger's networks are given: examples, synthetic clips, standardised and whitened embeddings, context."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.reduction.pca import CUTOFF, principal_axes
from edgesea.reduction.standardised import Moments
from edgesea.tasks.bags import Bags, Targets
from edgesea.tasks.context import SIZE, ContextEncoding
from edgesea.tasks.options import TaggingOptions
from edgesea.tasks.oversampling import label_set_smote, mlsmote

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
BLOCK = 8192  # rows worked on at once
SENSORS = 10  # with at least so many, whole sensors are held out


def check_finite(bags: Bags, what: str) -> None:
    """Raise an `EdgeseaError` if an embedding holds NaN or infinity; `what` names the clips."""
    finite = [np.isfinite(bags.rows[block]).all(1) for block in _blocks(len(bags.rows))]
    if all(block.all() for block in finite):
        return
    bad = np.unique(bags.owner[~np.concatenate(finite)])
    raise EdgeseaError(
        f"tagging: the embeddings of {len(bad)} of {len(bags)} {what} clips hold NaN or infinity (first: clip number "
        f"{bad[0]}, from 0); embed them again"
    )


def _blocks(rows: int) -> Iterator[slice]:
    for first in range(0, rows, BLOCK):
        yield slice(first, min(first + BLOCK, rows))


def as_clip_means(bags: Bags) -> Bags:
    """Each clip with one window, the mean of its own; clips without windows stay without."""
    return replace(bags, rows=bags.means()[bags.usable], counts=bags.usable.astype(np.int64))


def as_windows(bags: Bags, targets: Targets) -> tuple[Bags, Targets]:
    """Each window as a clip of its own, with the targets of its clip."""
    owner = bags.owner
    context = None if bags.context is None else bags.context[owner]
    return Bags(bags.rows, np.ones(len(bags.rows), np.int64), context), targets.take(owner)


def held_out(clips: int, sensors: Int64 | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which clips are monitored and not trained on: a tenth.

    Parameters
    ----------
    clips : int
        Number N of clips.
    sensors : ndarray, (N,) int64, optional
        Sensors of the clips. If there are at least ten, whole ones are held out: in random order, each that does not
        make it more than a tenth of the clips. The smallest never does.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray of bool, (N,)
        At least one is held out, if that leaves any.
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


def oversampled(
    bags: Bags, targets: Targets, options: TaggingOptions, rng: np.random.Generator
) -> tuple[Bags, Targets]:
    """Add synthetic clips by MLSMOTE or label-set SMOTE.

    A synthetic clip lies between two clips, which are chosen by the mean embeddings: its windows between their first,
    second, ... windows, as many as both have. So do its coordinates; hour, day and week are the seed's. A tag that is
    not given counts as absent, and is given for a synthetic clip if it is for both its parents.

    Parameters
    ----------
    bags, targets : Bags, Targets
        N clips, all with windows.
    options : TaggingOptions
        oversample, oversample_iters, thresh_type.
    rng : Generator
        Source of randomness.

    Returns
    -------
    Bags, Targets
        The N clips, followed by the synthetic ones, which have neither sensor nor proximity.
    """
    smote = {"mlsmote": mlsmote, "lssmote": label_set_smote}[options.oversample or "mlsmote"]
    labels = targets.labels * targets.given
    made = smote(bags.means(), labels, iterations=options.oversample_iters, threshold=options.thresh_type, rng=rng)
    weight, first = made.weight.astype(np.float32), bags.first
    counts = np.minimum(bags.counts[made.seed], bags.counts[made.neighbor])
    owner = np.repeat(np.arange(len(counts)), counts)
    window = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.empty((len(bags.rows) + len(owner), bags.rows.shape[1]), np.float32)
    rows[: len(bags.rows)] = bags.rows
    for block in _blocks(len(owner)):
        clip, share = owner[block], weight[owner[block], None]
        one, other = (bags.rows[first[parent[clip]] + window[block]] for parent in (made.seed, made.neighbor))
        rows[len(bags.rows) + block.start : len(bags.rows) + block.stop] = share * one + (1 - share) * other
    context = bags.context
    if context is not None:
        between, nearness = context[made.seed], made.weight[:, None]
        between[:, :2] = nearness * between[:, :2] + (1 - nearness) * context[made.neighbor, :2]
        context = np.concatenate([context, between])
    given = targets.given[made.seed] & targets.given[made.neighbor]
    return (
        Bags(rows, np.concatenate([bags.counts, counts]), context),
        Targets(np.concatenate([targets.labels, made.labels]), np.concatenate([targets.given, given])),
    )


@dataclass(frozen=True)
class Preparation:
    """Maps embeddings and context to the inputs of the network; learned on the training clips.

    Attributes
    ----------
    mean, scale : ndarray, (D,) float64
        Embeddings x become (x - mean) / scale.
    axes : ndarray, (d, D) float64, optional
        Then they are projected on these, the principal axes divided by the standard deviations along them.
    context : ContextEncoding, optional
        What is appended to each window of a clip.
    """

    mean: Float64
    scale: Float64
    axes: Float64 | None
    context: ContextEncoding | None

    @classmethod
    def fit(cls, bags: Bags, options: TaggingOptions) -> "Preparation":
        """Learn from training clips with windows.

        Dimensions that do not vary are divided by 1. The PCA has at most as many dimensions as the embedding, and no
        more than the windows span; a whitened component has unit variance (with n - 1 degrees of freedom).

        Raises
        ------
        EdgeseaError
            If context is wanted and there is none.
        """
        context = None
        if options.context:
            context = ContextEncoding.fit(needed_context(bags.context), options.standardize)
        moments = Moments(bags.rows.shape[1], full=options.pca_components is not None)
        if options.standardize or options.pca_components is not None:
            moments.update(bags.rows)
        else:
            return cls(np.zeros_like(moments.mean), np.ones_like(moments.mean), None, context)
        scale = np.where(moments.varies, moments.std, 1.0) if options.standardize else np.ones_like(moments.mean)
        axes = None if options.pca_components is None else _whitening(moments, scale, options.pca_components)
        return cls(moments.mean, scale, axes, context)

    def apply(self, bags: Bags) -> Bags:
        """The same clips, with the network's inputs as rows, and no context besides."""
        size = len(self.mean) if self.axes is None else len(self.axes)
        rows = np.empty((len(bags.rows), size + (SIZE if self.context else 0)), np.float32)
        appended = self.context.encode(needed_context(bags.context)) if self.context else None
        owner = bags.owner
        for block in _blocks(len(rows)):
            own = (bags.rows[block] - self.mean) / self.scale
            rows[block, :size] = own if self.axes is None else own @ self.axes.T
            if appended is not None:
                rows[block, size:] = appended[owner[block]]
        return Bags(rows, bags.counts)


def needed_context(context: Float64 | None) -> Float64:
    """The context; an `EdgeseaError` if there is none."""
    if context is None:
        raise EdgeseaError(
            "tagging: context needs the columns latitude, longitude, hour, day and week in the annotations, as "
            "SONYC-UST v2 has them; leave out context"
        )
    return context


def _whitening(moments: Moments, scale: Float64, components: int) -> Float64:
    """Principal axes of the windows that `moments` has seen, divided by the standard deviations along them."""
    covariance = moments.scatter / max(1, moments.count - 1) / np.outer(scale, scale)
    covariance[~moments.varies] = covariance[:, ~moments.varies] = 0.0
    values, axes = principal_axes(covariance)
    # A direction without variance cannot be whitened: in other clips, it would be rounding noise blown up.
    rank = int(np.count_nonzero(values > max(values[0] * CUTOFF, 0.0)))
    kept = min(components, rank)
    return axes[:kept] / np.sqrt(values[:kept, None])
