"""``kmeans``: equally many windows from each cluster of the embeddings."""

import logging
import warnings
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.sampling.checks import Floating, finite_rows, subset_size
from edgesea.sampling.frames import quotas

log = logging.getLogger(__name__)

MOST_CLUSTERS = 256  # by default: more cost time, and are small and unstable in a day of windows
BATCH = 4096  # rows per update of the centres


def choose_kmeans(
    features: Floating, k: SupportsIndex, rng: np.random.Generator, clusters: int | None = None
) -> NDArray[np.int64]:
    """Cluster the windows, then draw equally many from each cluster, uniformly.

    Parameters
    ----------
    features : ndarray, (n, d) float
        Embeddings; clusters are compact in their Euclidean distance.
    k : int
        How many windows; 0 gives the empty set.
    rng : Generator
        Source of randomness, of the clustering too.
    clusters : int, optional
        Number of clusters; k, but at most 256, by default. Features with fewer different rows have fewer clusters.

    Returns
    -------
    ndarray, (k,) int64
        Row numbers, sorted. Clusters too small for their share are taken whole, and the others give more.

    Raises
    ------
    EdgeseaError
        If k > n, clusters < 1 or features are not finite.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = finite_rows(features).astype(np.float32)
    size = subset_size(k, len(rows))
    wanted = max(1, min(size, MOST_CLUSTERS)) if clusters is None else clusters
    if wanted < 1:
        raise EdgeseaError(f"clusters must be at least 1, not {wanted}")
    if size == 0:
        return np.zeros(0, np.int64)
    seed = int(rng.integers(2**31))
    model = MiniBatchKMeans(min(wanted, len(rows)), batch_size=BATCH, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        # Fewer different rows than clusters leave clusters empty; the quotas pass over those.
        warnings.simplefilter("ignore", ConvergenceWarning)
        label = model.fit_predict(rows)
    sizes = np.bincount(label).astype(np.int64)
    if np.count_nonzero(sizes) < model.n_clusters:
        log.info("kmeans found %d clusters, not %d", np.count_nonzero(sizes), model.n_clusters)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
    shares = quotas(sizes, size, rng)
    return np.sort(np.concatenate([rng.choice(m, s, replace=False) for m, s in zip(members, shares, strict=True)]))
