"""The methods of ``sample``: each chooses k windows of one frame."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.sampling.checks import Float64
from edgesea.sampling.dpp import KDPP, greedy_map_dpp
from edgesea.sampling.frame_reader import FrameWindows
from edgesea.sampling.frames import Int64, quotas
from edgesea.sampling.kmeans import choose_kmeans
from edgesea.sampling.similarity import Similarity, similarity_features
from edgesea.sampling.spl import choose_spl, relevance

log = logging.getLogger(__name__)

MOST_FEATURES = 512  # of rbf similarities


class Choice(NamedTuple):
    """What was chosen of a frame.

    Attributes
    ----------
    rows : ndarray, (k,) int64
        Indices of the windows in the frame, each once.
    core : float, or None
        Of a k-DPP: how many of the k windows are chosen by similarity and quality on average; the ridge draws the
        others uniformly. None for other methods, and where there was no choice.
    """

    rows: Int64
    core: float | None = None


@dataclass(frozen=True)
class MethodSpec:
    """A method, what it needs to know of windows, and the options that concern it.

    Attributes
    ----------
    choose : callable
        (windows, k, rng, **options) -> Choice.
    embeddings, levels : bool
        What it needs.
    options : tuple of str
        Options of `sample` that only some methods have.
    """

    choose: Callable[..., Choice]
    embeddings: bool = False
    levels: bool = False
    options: tuple[str, ...] = ()


def _random(windows: FrameWindows, k: int, rng: np.random.Generator) -> Choice:
    return Choice(rng.choice(len(windows), k, replace=False))


def _spl(windows: FrameWindows, k: int, rng: np.random.Generator) -> Choice:
    return Choice(choose_spl(frame_relevance(windows), k, rng))


def _kmeans(windows: FrameWindows, k: int, rng: np.random.Generator, *, clusters: int | None) -> Choice:
    return Choice(choose_kmeans(_embeddings(windows), k, rng, clusters))


def _dpp_div(windows: FrameWindows, k: int, rng: np.random.Generator, **kernel: Any) -> Choice:
    return _in_groups(_sample_dpp, windows, k, rng, np.ones(len(windows)), **kernel)


def _dpp(windows: FrameWindows, k: int, rng: np.random.Generator, **kernel: Any) -> Choice:
    return _in_groups(_sample_dpp, windows, k, rng, frame_relevance(windows), **kernel)


def _dpp_div_map(windows: FrameWindows, k: int, rng: np.random.Generator, **kernel: Any) -> Choice:
    return _in_groups(_greedy_dpp, windows, k, rng, np.ones(len(windows)), **kernel)


def _dpp_map(windows: FrameWindows, k: int, rng: np.random.Generator, **kernel: Any) -> Choice:
    return _in_groups(_greedy_dpp, windows, k, rng, frame_relevance(windows), **kernel)


def _sample_dpp(features: Float64, k: int, quality: Float64, ridge: float, rng: np.random.Generator) -> Choice:
    process = KDPP(features, k, quality=quality, ridge=ridge)
    return Choice(process.sample(rng), process.mean_core)


def _greedy_dpp(features: Float64, k: int, quality: Float64, ridge: float, rng: np.random.Generator) -> Choice:
    return Choice(greedy_map_dpp(features, k, quality=quality, ridge=ridge))


def _in_groups(
    one: Callable[[Float64, int, Float64, float, np.random.Generator], Choice],
    windows: FrameWindows,
    k: int,
    rng: np.random.Generator,
    quality: Float64,
    *,
    similarity: Similarity,
    gamma: float | None,
    ridge: float,
) -> Choice:
    """Choose from the whole frame; from random groups of it, if k exceeds the dimensions of the embeddings.

    A determinant is zero for more windows than dimensions, so beyond them a k-DPP has nothing to say and would draw
    uniformly. Each group's k is within the dimensions again.
    """
    embeddings = _embeddings(windows)
    dimensions = MOST_FEATURES if similarity == "rbf" else embeddings.shape[1]
    groups = -(-k // dimensions)
    if groups > 1:
        log.info(
            "%d of %d windows are to be chosen by similarities of %d dimensions: done in %d random groups",
            k,
            len(windows),
            dimensions,
            groups,
        )
    members = np.array_split(rng.permutation(len(windows)) if groups > 1 else np.arange(len(windows)), groups)
    shares = quotas(np.array([len(each) for each in members]), k, rng).tolist()
    rows, cores = [], []
    for each, share in zip(members, shares, strict=True):
        features = similarity_features(embeddings[each], similarity, gamma=gamma, most=MOST_FEATURES)
        choice = one(features, share, quality[each], ridge, rng)
        rows.append(each[choice.rows])
        cores += [] if choice.core is None else [choice.core]
    return Choice(np.concatenate(rows), sum(cores) if cores else None)


def _embeddings(windows: FrameWindows) -> Any:
    assert windows.embeddings is not None
    return windows.embeddings


def frame_relevance(windows: FrameWindows) -> Float64:
    """`relevance` of a frame's windows; those without a time are ranked among each other.

    Parameters
    ----------
    windows : FrameWindows
        The frame.

    Returns
    -------
    ndarray, (n,) float64
        In (0, 1].

    Raises
    ------
    EdgeseaError
        If a level is missing.
    """
    missing = int(np.count_nonzero(~np.isfinite(windows.level)))
    if missing:
        raise EdgeseaError(
            f"{missing} of {len(windows)} windows have no level, which this method needs; choose random, dpp_div, "
            "dpp_div_map or kmeans, or make a table with levels"
        )
    result = np.zeros(len(windows))
    timed = np.isfinite(windows.seconds_of_day)
    for members in (timed, ~timed):
        result[members] = relevance(windows.level[members], np.nan_to_num(windows.seconds_of_day[members]))
    return result


KERNEL = ("similarity", "gamma", "ridge", "pool")
METHODS: dict[str, MethodSpec] = {
    "random": MethodSpec(_random),
    "spl": MethodSpec(_spl, levels=True),
    "dpp_div": MethodSpec(_dpp_div, embeddings=True, options=KERNEL),
    "dpp": MethodSpec(_dpp, embeddings=True, levels=True, options=KERNEL),
    "dpp_div_map": MethodSpec(_dpp_div_map, embeddings=True, options=KERNEL),
    "dpp_map": MethodSpec(_dpp_map, embeddings=True, levels=True, options=KERNEL),
    "kmeans": MethodSpec(_kmeans, embeddings=True, options=("clusters", "pool")),
}
