"""``umap``: UMAP's layout of the windows fitted, and a map of any other window into it."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import needs
from edgesea.reduction.base import Float32, Float64
from edgesea.reduction.pca import Standardised


@dataclass(eq=False)
class Umap(Standardised):
    """UMAP of standardised embeddings (McInnes, Healy & Melville, 2018).

    A window is placed at the weighted mean of its nearest references, windows that UMAP laid out, with their fuzzy
    memberships as weights. UMAP itself places new points so, and then moves them by stochastic gradient descent, which
    makes a point depend on those that come with it. Here phi is a function of the window alone.
    """

    size: int
    n_neighbors: int = 15  # of a window, in the layout and in the map
    min_dist: float = 0.1  # how close points may lie in the layout
    metric: str = "euclidean"  # or cosine, correlation
    references: int = 20000  # at most; beyond that, a random share of the windows
    seed: int = 0
    method, slow = "umap", True
    saved = (*Standardised.saved, "points", "coordinates")

    def __post_init__(self) -> None:
        self.require("n_neighbors", self.n_neighbors >= 2, "at least 2")
        self.require("min_dist", 0 <= self.min_dist <= 1, "in [0, 1]")
        self.require("references", self.references >= self.n_neighbors, f"at least n_neighbors ({self.n_neighbors})")

    def fit(self, rows: Iterable[Float32]) -> None:
        """Lay out the windows; all are held in memory, as UMAP needs them."""
        from threadpoolctl import threadpool_info, threadpool_limits

        try:  # cuML's, on the GPU, where it is installed; both take the same arguments
            from cuml.manifold import UMAP
        except ImportError:
            with needs("umap", "umap"), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="IProgress")  # tqdm's, in a notebook without ipywidgets
                from umap import UMAP
        batches = list(rows)
        self.measure(batches)
        self.require("size", self.size < self.windows - 1, f"below the number of windows ({self.windows}) less 1")
        points = np.concatenate([self._prepare(batch) for batch in batches])
        options = {name: getattr(self, name) for name in ("n_neighbors", "min_dist", "metric")}
        model = UMAP(n_components=self.size, random_state=self.seed, **options)
        # numba sets the number of OpenMP's threads for the whole process, and so for torch; the former one comes back.
        with threadpool_limits(threadpool_info()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="n_jobs value")  # a seed means one thread; that is known
            layout = np.asarray(model.fit_transform(points), np.float32)
        placed = np.flatnonzero(np.isfinite(layout).all(1))  # UMAP leaves out what has no neighbour at all
        if len(placed) > self.references:
            placed = np.sort(np.random.default_rng(self.seed).choice(placed, self.references, replace=False))
        # Equal windows are merged: hundreds of silent ones would else be all the neighbours of a silent window.
        self.points, group, count = np.unique(points[placed], axis=0, return_inverse=True, return_counts=True)
        most = len(self.points)
        self.require("n_neighbors", self.n_neighbors <= most, f"at most {most}, the number of different windows")
        sums = np.zeros((len(self.points), self.size))
        np.add.at(sums, group.ravel(), layout[placed])
        self.coordinates = np.asarray(sums / count[:, None], np.float32)

    def _prepare(self, embeddings: NDArray[np.floating]) -> Float32:
        """Standardise embeddings, and normalise them so that the Euclidean neighbours are those of the metric."""
        rows = np.ascontiguousarray(self.standardise(embeddings))
        if self.metric == "correlation":
            rows -= rows.mean(1, keepdims=True)
        if self.metric != "euclidean":
            length = np.sqrt(np.square(rows).sum(1, keepdims=True))
            rows /= np.where(length > 0, length, 1.0)
        return rows.astype(np.float32)

    def _transform(self, embeddings: NDArray[np.floating]) -> Float64:
        """Place each row at the weighted mean of its nearest references."""
        from sklearn.neighbors import NearestNeighbors

        rows = self._prepare(embeddings)
        search = NearestNeighbors(n_neighbors=self.n_neighbors, algorithm="brute").fit(self.points)
        nearest = np.sort(search.kneighbors(rows, return_distance=False), axis=1)
        # The search rounds distances differently in each batch; what follows does not depend on the other rows.
        squared = np.square(np.subtract(rows[:, None], self.points[nearest], dtype=np.float64)).sum(-1)
        weight = memberships(np.sqrt(squared) if self.metric == "euclidean" else squared / 2)  # 1 - cosine
        weight /= weight.sum(1, keepdims=True)
        return np.asarray((weight[..., None] * self.coordinates[nearest]).sum(1))

    def describe(self) -> dict[str, Any]:
        """Also the number of different references."""
        return {**super().describe(), "different_references": len(self.points)}


def memberships(distances: Float64) -> Float64:
    """Fuzzy memberships of nearest neighbours, (b, k) float64 in [0, 1], from their distances.

    McInnes, Healy & Melville, 2018, algorithms 2 and 3: with rho the distance of the nearest,

        w_j = exp(-(d_j - rho) / sigma),    sum_j w_j = log2(k).

    The sum is larger where so many distances equal the smallest, or where sigma would be below 0.001 of their mean.
    """
    gaps = distances - distances.min(1, keepdims=True)
    target = np.log2(gaps.shape[1])
    # No w_j is below that of the farthest neighbour: at this sigma the sum is at least the target.
    high = gaps.max(1, keepdims=True) / np.log(gaps.shape[1] / target)
    high[high == 0] = 1.0
    low = np.zeros_like(high)
    for _ in range(50):
        middle = (low + high) / 2
        above = np.exp(-gaps / middle).sum(1, keepdims=True) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(np.exp(-gaps / np.maximum(high, 1e-3 * distances.mean(1, keepdims=True))))
