"""``umap``: UMAP's layout of the windows fitted, and a map of any other window into it."""

import logging
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError, missing_extra
from edgesea.reduction.base import Arrays, Float32, take
from edgesea.reduction.neighbors import Nearest, memberships
from edgesea.reduction.standardised import Standardised

log = logging.getLogger(__name__)

Metric = Literal["euclidean", "cosine", "correlation"]
BLOCK = 4096  # rows that are prepared at once


class Umap(Standardised):
    """UMAP of standardised embeddings (McInnes, Healy & Melville, 2018).

    A window is placed at the weighted mean of its nearest references, windows that UMAP laid out, with their fuzzy
    memberships as weights. UMAP itself places new points so, and then moves them by stochastic gradient descent, which
    makes a point depend on those that come with it. Here it stays: phi is a function of the window alone, and the same
    to the last bit in any batch.

    Parameters
    ----------
    size : int
        Dimensions d.
    n_neighbors : int
        Neighbours of a window, in the layout and in the map.
    min_dist : float
        How close points may lie in the layout, in [0, 1].
    metric : {"euclidean", "cosine", "correlation"}
        Distance of standardised embeddings.
    references : int
        Most references; beyond that, a random share of the windows.
    seed : int
        Seed of the layout and of the choice of references.

    Attributes
    ----------
    points : ndarray, (m, n) float32
        Different references, ready for the search: standardised, and normalised so that the Euclidean neighbours are
        those of the metric.
    coordinates : ndarray, (m, d) float32
        Where they lie in the layout; the mean for equal windows.
    """

    method = "umap"
    points: Float32
    coordinates: Float32
    _nearest: Nearest

    def __init__(
        self,
        size: int,
        n_neighbors: int = 15,
        min_dist: float = 0.1,
        metric: Metric = "euclidean",
        references: int = 20000,
        seed: int = 0,
    ) -> None:
        super().__init__(size)
        self.n_neighbors, self.min_dist, self.metric = n_neighbors, min_dist, metric
        self.references, self.seed = references, seed
        if n_neighbors < 2:
            raise EdgeseaError(f"umap: n_neighbors must be at least 2, not {n_neighbors}")
        if not 0 <= min_dist <= 1:
            raise EdgeseaError(f"umap: min_dist must lie in [0, 1], not {min_dist}")
        if metric not in get_args(Metric):
            raise EdgeseaError(f"umap: unknown metric {metric!r}; known: {', '.join(get_args(Metric))}")
        if references < n_neighbors:
            raise EdgeseaError(f"umap: references must be at least n_neighbors ({n_neighbors}), not {references}")

    def fit(self, rows: Iterable[Float32]) -> None:
        """Lay out the windows.

        Parameters
        ----------
        rows : iterable of ndarray, (b, n) float32
            Seen once; all batches are held in memory, as UMAP needs them.

        Raises
        ------
        EdgeseaError
            If umap-learn is missing, there are too few (different) windows, a value is NaN or infinite, nothing varies,
            or d > n.
        """
        estimator = _estimator()
        batches = list(rows)
        self.measure(batches)
        if self.windows <= max(self.n_neighbors, self.output_size + 1):
            raise EdgeseaError(
                f"umap: {self.windows} windows are too few for n_neighbors = {self.n_neighbors} and size = "
                f"{self.output_size}; choose more windows or lower these"
            )
        points = self._prepare(np.concatenate(batches))
        del batches
        layout = self._lay_out(estimator, points)
        placed = np.flatnonzero(np.isfinite(layout).all(1))  # UMAP leaves out what has no neighbour at all
        if len(placed) > self.references:
            log.info("umap: %d of the %d windows are kept as references", self.references, self.windows)
            rng = np.random.default_rng(self.seed)
            placed = np.sort(rng.choice(placed, self.references, replace=False))
        self._set_references(points[placed], layout[placed])

    def _lay_out(self, estimator: Any, points: Float32) -> Float32:
        log.info("umap: laying out %d windows by %s", len(points), estimator.__module__)
        model = estimator(
            n_neighbors=self.n_neighbors,
            n_components=self.output_size,
            min_dist=self.min_dist,
            metric=self.metric,
            random_state=self.seed,
        )
        from threadpoolctl import threadpool_info, threadpool_limits

        # numba sets the number of OpenMP's threads for the whole process, and so for torch; the former one comes back.
        with threadpool_limits(threadpool_info()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="n_jobs value")  # a seed means one thread; that is known
            return np.asarray(model.fit_transform(points), np.float32)

    def _set_references(self, rows: Float32, layout: Float32) -> None:
        """Merge equal windows: hundreds of silent ones would else be all the neighbours of a silent window."""
        points, group, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        if len(points) < self.n_neighbors:
            raise EdgeseaError(f"umap: only {len(points)} different windows for n_neighbors = {self.n_neighbors}")
        sums = np.zeros((len(points), layout.shape[1]))
        np.add.at(sums, group.ravel(), layout)
        self.points, self.coordinates = points, np.asarray(sums / count[:, None], np.float32)
        self._nearest = Nearest(points, self.n_neighbors)

    def _prepare(self, embeddings: NDArray[np.floating]) -> Float32:
        """Standardise embeddings (b, n), and normalise them for the metric; each row by itself."""
        result = np.empty(embeddings.shape, np.float32)
        for first in range(0, len(embeddings), BLOCK):
            block = np.ascontiguousarray(self.standardise(embeddings[first : first + BLOCK]))
            if self.metric == "correlation":
                block -= block.mean(1, keepdims=True)
            if self.metric != "euclidean":
                length = np.sqrt(np.square(block).sum(1, keepdims=True))
                block /= np.where(length > 0, length, 1.0)
            result[first : first + BLOCK] = block
        return result

    def transform(self, embeddings: NDArray[np.floating]) -> Float32:
        """Place embeddings (b, n) in the layout: (b, d) float32.

        Raises
        ------
        EdgeseaError
            If n is not the size that was fitted, or a value is NaN or infinite.
        """
        self.check_shape(embeddings)
        with np.errstate(invalid="ignore", over="ignore"):
            rows = self._prepare(embeddings)
        if not np.isfinite(rows).all():
            raise EdgeseaError("umap: the embeddings hold NaN, Inf or numbers out of range")
        squared, index = self._nearest.find(rows)
        # Of unit vectors, the squared distance is 2 (1 - cosine).
        weight = memberships(np.sqrt(squared) if self.metric == "euclidean" else squared / 2)
        weight /= weight.sum(1, keepdims=True)
        # Summed along the last axis, where the order of the additions does not depend on the batch.
        parts = weight[:, None] * self.coordinates[index].transpose(0, 2, 1)
        return np.asarray(np.ascontiguousarray(parts).sum(-1), np.float32)

    def report(self) -> dict[str, Any]:
        """Also the number of different references."""
        return {**super().report(), "different_references": len(self.points)}

    def arrays(self) -> Arrays:
        """mean, scale (float64), points, coordinates (float32)."""
        return {**super().arrays(), "points": self.points, "coordinates": self.coordinates}

    def set_arrays(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned."""
        super().set_arrays(arrays)
        self.points = take(arrays, "points", None, self.input_size)
        self.coordinates = take(arrays, "coordinates", len(self.points), self.output_size)
        if len(self.points) < self.n_neighbors:
            raise ValueError(f"{len(self.points)} references for n_neighbors = {self.n_neighbors}")
        self._nearest = Nearest(self.points, self.n_neighbors)


def _estimator() -> Any:
    """UMAP of cuML (on the GPU) where it is installed, else of umap-learn; they take the same arguments."""
    try:
        return import_module("cuml.manifold").UMAP
    except ImportError:
        pass
    try:
        return import_module("umap").UMAP
    except ImportError as error:
        raise missing_extra("umap-learn", "umap") from error
