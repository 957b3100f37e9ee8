"""``reduce``: learn the reduction phi on a subset of a table, and load it again."""

from pathlib import Path
from typing import Any, Literal

from edgesea.artifact import check_vacant, locked, versions
from edgesea.errors import EdgeseaError
from edgesea.reduction.base import ARRAYS_FILE, REDUCTION_FILE, load_reduction, method_class, used_options

__all__ = ["load_reduction", "reduce", "used_options"]


def reduce(
    table: Path,
    out: Path,
    *,
    subset: Path | None = None,
    method: str = "pca",
    size: int = 64,
    whiten: bool = False,
    kernel: Literal["rbf", "poly"] = "rbf",
    gamma: float | None = None,
    degree: int = 3,
    coef0: float = 1.0,
    landmarks: int = 1000,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    metric: Literal["euclidean", "cosine", "correlation"] = "euclidean",
    references: int = 20000,
    seed: int = 0,
) -> dict[str, Any]:
    """Learn the reduction of the teacher's embeddings and measure what it preserves.

    Options that the method does not use are ignored.

    Parameters
    ----------
    table : Path
        Folder of a table.
    out : Path
        Folder of the reduction: new, empty, or with an earlier reduction, which is replaced.
    subset : Path, optional
        The windows to fit on, from `edgesea sample`; default: all training windows.
    method : str
        pca: exact principal components, from one pass over the table. kernel_pca: those of a kernel's features,
        approximated with landmarks. umap: UMAP's layout (needs the extra umap, and memory for all windows fitted on);
        other windows are placed among their nearest neighbours. random_projection: a Gaussian matrix. All of these
        standardise the dimensions first. identity: the embedding as it is.
    size : int
        Dimensions of the result; all but identity.
    whiten : bool
        Scale every output dimension to unit variance; pca and kernel_pca.
    kernel : {"rbf", "poly"}
        Of kernel_pca: exp(-gamma |x - y|^2), or (gamma x.y + coef0)^degree.
    gamma : float, optional
        Of kernel_pca; default: 1 / number of dimensions that vary.
    degree : int
        Of kernel_pca with poly.
    coef0 : float
        Of kernel_pca with poly.
    landmarks : int
        Of kernel_pca: windows that the kernel is approximated with; memory grows with the square.
    n_neighbors : int
        Of umap: neighbours of a window. More preserve the large structure better, fewer the small.
    min_dist : float
        Of umap: how close points may lie, between 0 and 1.
    metric : {"euclidean", "cosine", "correlation"}
        Of umap: distance of standardised embeddings.
    references : int
        Of umap: windows at most that others are placed by; the time to place one grows with it.
    seed : int
        Seed of the matrix, the landmarks or the layout, and of the windows that the quality is measured on.

    Returns
    -------
    dict
        method, sizes, windows, options used; ``explained_variance`` and ``explained_variance_validate``: of pca, the
        share of the standardised variance on the windows fitted and on all other validation windows (else null);
        ``kept``: see `edgesea.reduction.quality` (null without windows that were not fitted on).

    EdgeseaError: table or subset is missing, they do not belong together, `out` holds something else, or an option
    is bad.
    """
    phi = method_class(method)(**used_options(method, locals()))
    if not 0 <= seed < 2**32:
        raise EdgeseaError(f"seed must lie in 0 ... {2**32 - 1}, not {seed}")
    if not (Path(out) / REDUCTION_FILE).is_file():  # the arrays alone are what a reduction killed at its end leaves
        check_vacant(Path(out), "no reduction", besides=(ARRAYS_FILE,))
    from edgesea.reduction.quality import held_out_quality
    from edgesea.reduction.windows import find_windows, open_subset
    from edgesea.table.reader import Table

    source = Table(table)
    chosen = None if subset is None else open_subset(Path(subset), source)
    windows = find_windows(source, chosen)
    if not len(windows["fitted"]):
        raise EdgeseaError(f"{table}: no windows in the split train; it has {source.counts}")
    with locked(Path(out)):
        try:
            phi.fit(windows["fitted"])
        except EdgeseaError as error:
            raise error if str(table) in str(error) else EdgeseaError(f"{table}: {error}") from error
        quality = held_out_quality(phi, windows, seed)
        provenance = {
            "teacher": source.info["teacher"],
            "table": source.info["manifest_sha256"],
            "subset": None if chosen is None else chosen.info,
            "versions": versions(),
        }
        phi.save(Path(out), provenance, quality)
    validate = {"explained_variance_validate": phi.explained_variance(windows["validate"])}
    found = {"reduction": str(out), "explained_variance": None, **phi.describe(), **validate, "kept": quality}
    return {name: value for name, value in found.items() if name != "explained_variance_ratio"}
