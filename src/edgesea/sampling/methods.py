"""The methods of ``sample``: each chooses k windows of one stratum. The fields of a method are its options."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.sampling.dpp import KDPP, Float64, Floating, Int64, greedy_map_dpp, warn_if_uniform
from edgesea.sampling.similarity import Similarity, similarity_features
from edgesea.sampling.strata import Name, Strata, StratumWindows, quotas, stratum_rng

log = logging.getLogger(__name__)

SLOT = 7200  # seconds: levels are compared with those of the same two hours of the day
LEAST_CHOICE = 4  # windows considered for each that is chosen, at least
MOST_CLUSTERS = 256  # by default: more cost time, and are small and unstable in a day of windows
KMEANS_BATCH = 4096  # rows per update of the centres

# Indices of k of the windows of a stratum; of k-DPPs also how many are chosen by similarity (`KDPP.by_similarity`)
Choice = tuple[Int64, float | None]


@dataclass(frozen=True)
class Method:
    """Chooses k of the windows of a stratum; this one uniformly."""

    needs_embeddings: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = False

    def choose(self, windows: StratumWindows, k: int, rng: np.random.Generator) -> Choice:
        return rng.choice(windows.size, k, replace=False), None


@dataclass(frozen=True)
class Loud(Method):
    """Draw one window after the other, each with probability proportional to its `relevance` among those left.

    Give every window an exponential waiting time with its relevance as the rate. The first one to occur is window i
    with probability relevance_i / sum, and the exponential distribution forgets: after it, the others race as if they
    had just started. So the k shortest times are exactly these draws, at the cost of one sort (Efraimidis &
    Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters, 2006).
    """

    needs_levels = True

    def choose(self, windows: StratumWindows, k: int, rng: np.random.Generator) -> Choice:
        waiting = np.log(rng.standard_exponential(windows.size)) - np.log(relevance(windows))
        return np.argsort(waiting)[:k], None


@dataclass(frozen=True)
class KMeans(Method):
    """Cluster the windows, then draw equally many from each cluster, uniformly; small clusters are taken whole."""

    needs_embeddings = True

    clusters: int | None = None  # default: as many as windows to choose, at most 256
    max_candidates: int = 20000

    def choose(self, windows: StratumWindows, k: int, rng: np.random.Generator) -> Choice:
        from sklearn.cluster import MiniBatchKMeans

        clusters, seed = min(self.clusters or min(k, MOST_CLUSTERS), windows.size), int(rng.integers(2**31))
        model = MiniBatchKMeans(clusters, batch_size=KMEANS_BATCH, n_init=1, random_state=seed)
        with warnings.catch_warnings():
            # Fewer different rows than clusters leave clusters empty; the quotas pass over those.
            warnings.filterwarnings("ignore", "Number of distinct clusters")
            label = model.fit_predict(windows.embeddings.astype(np.float32))
        sizes = np.bincount(label)
        members = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
        shares = quotas(sizes, k, rng)
        return np.concatenate([rng.choice(m, n, replace=False) for m, n in zip(members, shares, strict=True)]), None


@dataclass(frozen=True)
class DiverseDPP(Method):
    """A k-DPP on the similarity of the embeddings.

    A determinant is zero for more windows than dimensions, so beyond them a k-DPP would draw uniformly. Then the
    stratum is divided into as few random groups as needed, and each gives its share by a k-DPP.
    """

    needs_embeddings = True
    greedy: ClassVar[bool] = False  # take the likeliest set instead of a draw

    similarity: Similarity = "cosine"
    ridge: float = 1e-6
    max_candidates: int = 20000

    def choose(self, windows: StratumWindows, k: int, rng: np.random.Generator) -> Choice:
        quality = relevance(windows) if self.needs_levels else np.ones(windows.size)
        groups = -(-k // windows.embeddings.shape[1])
        if groups > 1:
            log.info("%d of %d windows exceed the dimensions: %d random groups", k, windows.size, groups)
        members = np.array_split(rng.permutation(windows.size) if groups > 1 else np.arange(windows.size), groups)
        shares = quotas(np.array([len(each) for each in members]), k, rng).tolist()
        choices = [
            self._choose(windows.embeddings[m], quality[m], n, rng) for m, n in zip(members, shares, strict=True)
        ]
        rows = np.concatenate([each[chosen] for each, (chosen, _) in zip(members, choices, strict=True)])
        return rows, None if self.greedy else sum(by_similarity or 0.0 for _, by_similarity in choices)

    def _choose(self, embeddings: Floating, quality: Float64, k: int, rng: np.random.Generator) -> Choice:
        features = similarity_features(embeddings, self.similarity)
        if self.greedy:
            return greedy_map_dpp(features, k, quality=quality, ridge=self.ridge), None
        process = KDPP(features, k, quality=quality, ridge=self.ridge)
        return process.sample(rng), process.by_similarity


class LoudDPP(DiverseDPP):
    """A k-DPP on the similarity of the embeddings, with `relevance` as the quality."""

    needs_levels = True


class GreedyDiverseDPP(DiverseDPP):
    greedy = True


class GreedyLoudDPP(LoudDPP):
    greedy = True


METHODS: dict[str, type[Method]] = {
    "random": Method,
    "spl": Loud,
    "dpp_div": DiverseDPP,
    "dpp": LoudDPP,
    "dpp_div_map": GreedyDiverseDPP,
    "dpp_map": GreedyLoudDPP,
    "kmeans": KMeans,
}


def option_names(method: type[Method]) -> set[str]:
    """Options of `sample` that a method has and others may not have."""
    return {field.name for field in fields(method)}


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with those of the options that it has."""
    return METHODS[name](**{key: options[key] for key in option_names(METHODS[name])})


def choose_windows(
    strata: Strata, size: int, method: Method, seed: int, workers: int
) -> tuple[Int64, Int64, float | None]:
    """Choose equally many windows from each stratum, in threads, while the table is read on.

    Returns the part of each window and its row in the part, sorted, and the share of those that a k-DPP chose by
    similarity (None: there was no choice).
    """
    count = int((strata.sizes > 0).sum())
    if size < count:
        log.warning("%d windows of %d strata: only %d strata, drawn at random, give one each", size, count, size)
    rng = stratum_rng(seed, ("", ""), "quotas")
    shares = quotas(strata.sizes, min(size, int(strata.sizes.sum())), rng)
    wanted = shares > 0
    most = None
    if candidates := getattr(method, "max_candidates", None):
        # From few more windows than are to be chosen, every method would choose nearly as if at random.
        most = max(candidates, LEAST_CHOICE * int(shares.max()))
        if large := int((strata.sizes[wanted] > most).sum()):
            text = (
                "%d of %d strata have more than %d windows: of each, so many, drawn uniformly, are considered; raise "
            )
            log.warning(text + "max_candidates, or take shorter strata, to consider more", large, wanted.sum(), most)
    numbers = set(np.flatnonzero(wanted).tolist())
    reading = strata.read(numbers, with_embeddings=method.needs_embeddings, most=most, seed=seed)
    calls = (partial(_choose, method, windows, int(shares[n]), seed, strata.names[n]) for n, windows in reading)
    bar = tqdm(total=int(shares.sum()), unit="window", unit_scale=True, desc="sample", disable=None)
    # One thread for each stratum, rather than all for one stratum's matrices, unless there is only one stratum.
    limit = threadpool_limits(1) if min(workers, len(numbers)) > 1 else nullcontext()
    parts, rows, by_similarity, among = [], [], 0.0, 0
    with limit, bar:
        for windows, (chosen, similar) in chain.from_iterable(prefetch(calls, workers)):
            parts.append(windows.part[chosen])
            rows.append(windows.window[chosen])
            if similar is not None:
                by_similarity, among = by_similarity + similar, among + len(chosen)
            bar.update(len(chosen))
    part, window = np.concatenate(parts).astype(np.int64), np.concatenate(rows).astype(np.int64)
    order = np.lexsort((window, part))
    if isinstance(method, DiverseDPP):
        warn_if_uniform(by_similarity, among, method.ridge)
    return part[order], window[order], by_similarity / among if among else None


def _choose(
    method: Method, windows: StratumWindows, k: int, seed: int, name: Name
) -> Iterator[tuple[StratumWindows, Choice]]:
    """Choose from one stratum; an iterator, for `prefetch`."""
    try:
        finite = np.isfinite(windows.embeddings).all(1)
        if k == windows.size:
            yield windows, (np.arange(k), None)
        elif not finite.all():
            part, window = windows.part[~finite][0], windows.window[~finite][0]
            raise EdgeseaError(
                f"{(~finite).sum()} of {windows.size} windows have embeddings with NaN or Inf, the first is window "
                f"{window} of part {part}; make the table again without its clip"
            )
        else:
            yield windows, method.choose(windows, k, stratum_rng(seed, name, "choose"))
    except EdgeseaError as error:
        raise EdgeseaError(f"stratum {', '.join(filter(None, name)) or '(all windows)'}: {error}") from error


def relevance(windows: StratumWindows) -> Float64:
    """Ranks of the levels within two-hour slots of the day, (n,) in (0, 1].

    The rank in the slot (1: the quietest; the mean of their ranks for equal levels) divided by the number of windows in
    the slot: 1 for a window that is alone in it. Windows without a time have a slot of their own.
    """
    missing = int(np.count_nonzero(~np.isfinite(windows.level)))
    if missing:
        raise EdgeseaError(
            f"{missing} of {windows.size} windows have no level, which this method needs; choose random, dpp_div, "
            "dpp_div_map or kmeans, or make a table with levels"
        )
    slots = np.nan_to_num(windows.seconds_of_day // SLOT, nan=-1)
    result = np.zeros(windows.size)
    for slot in np.unique(slots):
        members = slots == slot
        # Equal levels stand next to each other in the order: `last` is how many are not louder, and a group of
        # `count` equal ones has the ranks last - count + 1 ... last.
        _, group, count = np.unique(windows.level[members], return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        result[members] = (last - (count - 1) / 2)[group] / members.sum()
    return result
