"""The methods of ``sample``: each chooses k windows of one stratum."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from edgesea.cluster import results
from edgesea.errors import EdgeseaError
from edgesea.parallel import prefetch
from edgesea.sampling.dpp import KDPP, Float64, Int64, greedy_map_dpp, warn_if_uniform
from edgesea.sampling.strata import Batch, Name, Strata, StratumWindows, quotas, stratum_rng

log = logging.getLogger(__name__)

SLOT = 7200  # seconds: levels are compared with those of the same two hours of the day
LEAST_CHOICE = 4  # windows considered for each that is chosen, at least
MOST_CLUSTERS = 256  # by default: more cost time, and are small and unstable in a day of windows

LEVELS = ("spl", "dpp", "dpp_map")  # methods that need levels
DPPS = ("dpp_div", "dpp", "dpp_div_map", "dpp_map")
# Options that only some methods have; those with max_candidates need embeddings
OPTIONS = {"kmeans": ("clusters", "max_candidates"), **dict.fromkeys(DPPS, ("similarity", "ridge", "max_candidates"))}
# Indices of k of the windows of a stratum; of k-DPPs also how many are chosen by similarity (`KDPP.by_similarity`)
Choice = tuple[Int64, float | None]
Options = Mapping[str, Any]  # used options of `sample`


def choose_uniform(windows: StratumWindows, k: int, rng: np.random.Generator, options: Options) -> Choice:
    """Choose uniformly."""
    return rng.choice(windows.size, k, replace=False), None


def choose_loud(windows: StratumWindows, k: int, rng: np.random.Generator, options: Options) -> Choice:
    """Draw one window after the other, each with probability proportional to its `relevance` among those left.

    Give every window an exponential waiting time with its relevance as the rate. The first one to occur is window i
    with probability relevance_i / sum, and the exponential distribution forgets: after it, the others race as if they
    had just started. So the k shortest times are exactly these draws, at the cost of one sort (Efraimidis &
    Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters, 2006).
    """
    waiting = np.log(rng.standard_exponential(windows.size)) - np.log(relevance(windows))
    return np.argsort(waiting)[:k], None


def choose_kmeans(windows: StratumWindows, k: int, rng: np.random.Generator, options: Options) -> Choice:
    """Cluster the windows, then draw equally many from each cluster, uniformly; small clusters are taken whole."""
    from sklearn.cluster import MiniBatchKMeans

    clusters = min(options["clusters"] or min(k, MOST_CLUSTERS), windows.size)
    seed = int(rng.integers(2**31))
    model = MiniBatchKMeans(clusters, batch_size=4096, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        # Fewer different rows than clusters leave clusters empty; the quotas pass over those.
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        label = model.fit_predict(windows.embeddings.astype(np.float32))
    sizes = np.bincount(label)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
    shares = quotas(sizes, k, rng)
    return np.concatenate([rng.choice(m, n, replace=False) for m, n in zip(members, shares, strict=True)]), None


def choose_dpp(windows: StratumWindows, k: int, rng: np.random.Generator, options: Options) -> Choice:
    """Draw a k-DPP on the similarity of the embeddings, or take its likeliest set; `relevance` may be its quality.

    A determinant is zero for more windows than dimensions, so beyond them a k-DPP would draw uniformly. Then the
    stratum is divided into as few random groups as needed, and each gives its share by a k-DPP.
    """
    quality = relevance(windows) if options["method"] in LEVELS else np.ones(windows.size)
    greedy, ridge = options["method"].endswith("_map"), options["ridge"]
    groups = -(-k // windows.embeddings.shape[1])
    if groups > 1:
        log.info("%d of %d windows exceed the dimensions: %d random groups", k, windows.size, groups)
    members = np.array_split(rng.permutation(windows.size) if groups > 1 else np.arange(windows.size), groups)
    shares = quotas(np.array([len(each) for each in members]), k, rng).tolist()
    chosen, by_similarity = [], 0.0
    for rows, share in zip(members, shares, strict=True):
        features = windows.embeddings[rows].astype(np.float64)
        if options["similarity"] == "cosine":
            features = normalized(features)
        if greedy:
            chosen.append(rows[greedy_map_dpp(features, share, quality=quality[rows], ridge=ridge)])
            continue
        process = KDPP(features, share, quality=quality[rows], ridge=ridge)
        chosen.append(rows[process.sample(rng)])
        by_similarity += process.by_similarity
    return np.concatenate(chosen), None if greedy else by_similarity


METHODS: dict[str, Callable[[StratumWindows, int, np.random.Generator, Options], Choice]] = {
    "random": choose_uniform,
    "spl": choose_loud,
    "kmeans": choose_kmeans,
    **dict.fromkeys(DPPS, choose_dpp),
}


def choose_windows(strata: Strata, options: Options, workers: int) -> tuple[Int64, Int64, float | None]:
    """Choose equally many windows from each stratum, in threads, while the table is read on.

    Returns the part of each window and its row in the part, sorted, and the share of those that a k-DPP chose by
    similarity (None: there was no choice).
    """
    size, seed, count = options["size"], options["seed"], int((strata.sizes > 0).sum())
    if size < count:
        log.warning("%d windows of %d strata: only %d strata, drawn at random, give one each", size, count, size)
    rng = stratum_rng(seed, ("", ""), "quotas")
    shares = quotas(strata.sizes, min(size, int(strata.sizes.sum())), rng)
    wanted = np.flatnonzero(shares)
    most = None
    if candidates := options.get("max_candidates"):
        # From few more windows than are to be chosen, every method would choose nearly as if at random.
        most = max(candidates, LEAST_CHOICE * int(shares.max()))
        if large := int((strata.sizes[wanted] > most).sum()):
            text = "%d of %d strata have more than %d windows: so many of each, drawn uniformly, are considered"
            log.warning(text + "; raise max_candidates, or take shorter strata", large, len(wanted), most)
    # One thread for each stratum, rather than all for one stratum's matrices, unless there is only one stratum.
    threads = workers if len(wanted) > 1 else 1
    choose = partial(_choose_batch, dict(options), threads)
    calls = ((each, {n: int(shares[n]) for n in each.sizes}) for each in strata.batches(wanted.tolist(), most))
    places, by_similarity, among = [], 0.0, 0
    with tqdm(total=int(shares.sum()), unit="window", unit_scale=True, desc="sample", disable=None) as bar:
        for chosen, similar in chain.from_iterable(results(choose, calls)):
            places.append(chosen)
            if similar is not None:
                by_similarity, among = by_similarity + similar, among + chosen.shape[1]
            bar.update(chosen.shape[1])
    part, window = np.concatenate(places, axis=1)
    order = np.lexsort((window, part))
    if among:
        warn_if_uniform(by_similarity, among, options["ridge"])
    return part[order], window[order], by_similarity / among if among else None


def _choose_batch(
    options: Options, threads: int, batch: Batch, shares: Mapping[int, int]
) -> Iterator[tuple[Int64, float | None]]:
    """Choose from the strata of a batch: place of each window (2, k), and how many were chosen by similarity."""
    reading = batch.read(options["seed"])
    calls = (partial(_choose, windows, shares[n], batch.names[n], options) for n, windows in reading)
    with threadpool_limits(1) if threads > 1 else nullcontext():
        yield from chain.from_iterable(prefetch(calls, threads))


def _choose(windows: StratumWindows, k: int, name: Name, options: Options) -> Iterator[tuple[Int64, float | None]]:
    """The same from one stratum; an iterator, for `prefetch`."""
    chosen, similar = np.arange(k), None
    if k < windows.size:
        try:
            if len(bad := np.flatnonzero(~np.isfinite(windows.embeddings).all(1))):
                place = f"the first is window {windows.window[bad[0]]} of part {windows.part[bad[0]]}"
                problem = f"{len(bad)} of {windows.size} windows have NaN or Inf in embeddings: {place}"
                raise EdgeseaError(f"{problem}; make the table again without its clip")
            rng = stratum_rng(options["seed"], name, "choose")
            chosen, similar = METHODS[options["method"]](windows, k, rng, options)
        except EdgeseaError as error:
            raise EdgeseaError(f"stratum {', '.join(filter(None, name)) or '(all windows)'}: {error}") from error
    yield np.array([windows.part[chosen], windows.window[chosen]], np.int64), similar


def relevance(windows: StratumWindows) -> Float64:
    """Ranks of the levels within two-hour slots of the day, (n,) in (0, 1].

    The rank in the slot (1: the quietest; the mean of their ranks for equal levels) divided by the number of windows in
    the slot: 1 for a window that is alone in it. Windows without a time have a slot of their own.
    """
    import pandas as pd

    if missing := int(np.count_nonzero(~np.isfinite(windows.level))):
        remedy = "choose random, dpp_div, dpp_div_map or kmeans, or make a table with levels"
        raise EdgeseaError(f"{missing} of {windows.size} windows have no level, which this method needs; {remedy}")
    slots = np.nan_to_num(windows.seconds_of_day // SLOT, nan=-1)
    return np.asarray(pd.Series(windows.level).groupby(slots).rank(pct=True), np.float64)


def normalized(rows: Float64) -> Float64:
    """Rows of length 1, also of huge and of tiny ones; a row of zeros stays one: it is similar to nothing."""
    largest = np.abs(rows).max(1, initial=0.0)
    rows = rows / np.where(largest > 0, largest, 1.0)[:, None]  # keeps the squares in range
    length = np.linalg.norm(rows, axis=1)
    return rows / np.where(length > 0, length, 1.0)[:, None]
