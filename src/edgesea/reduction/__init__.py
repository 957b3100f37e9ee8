"""``reduce``: learn the reduction phi on a subset of a table, and load it again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.artifact import check_vacant, read_json
from edgesea.errors import EdgeseaError
from edgesea.reduction.base import ARRAYS_FILE, OPTIONS, REDUCTION_FILE, used_options

if TYPE_CHECKING:
    from edgesea.reduction.base import Reduction
    from edgesea.reduction.rows import Windows

__all__ = ["OPTIONS", "load_reduction", "reduce", "used_options"]

INSIDE, OUTSIDE = 20000, 5000  # windows at most, of those fitted on and of others, that phi is judged by


def reduce(
    table: Path,
    out: Path,
    *,
    subset: Path | None = None,
    method: Literal["pca", "kernel_pca", "umap", "random_projection", "identity"] = "pca",
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
    """Learn the reduction of the teacher's embeddings and report what it keeps.

    Options that the method does not use are ignored.

    Parameters
    ----------
    table : Path
        Folder of a table.
    out : Path
        Folder of the reduction: new, empty, or with an earlier reduction, which is replaced.
    subset : Path, optional
        The windows to fit on, from `edgesea sample`; default: all training windows.
    method : {"pca", "kernel_pca", "umap", "random_projection", "identity"}
        pca: exact principal components, from one pass over the table. kernel_pca: those of a kernel's features,
        approximated with landmarks. umap: UMAP's layout (needs the extra umap, and memory for all windows fitted on);
        other windows are placed among their nearest neighbours. random_projection: a Gaussian matrix. All of these
        standardise the dimensions first. identity: the embedding as it is.
    size : int
        Dimensions to keep; all but identity.
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
        Of umap: neighbours of a window. More keep the large structure better, fewer the small.
    min_dist : float
        Of umap: how close points may lie, between 0 and 1.
    metric : {"euclidean", "cosine", "correlation"}
        Of umap: distance of standardised embeddings.
    references : int
        Of umap: most windows that are kept to place others by; the time to place one grows with it.
    seed : int
        Seed of the matrix, the landmarks or the layout, and of the choice of windows that the reduction is judged by.

    Returns
    -------
    dict
        method, sizes, windows, options used; ``kept``: measures of what is kept, on windows that were not fitted on
        (`edgesea.reduction.kept`; null if there are none); of pca, the share of the standardised variance explained
        on the windows fitted (``explained_variance``) and on all validation windows that were not fitted on
        (``explained_variance_validate``; of identity 1); both null for the other methods.

    Raises
    ------
    EdgeseaError
        If the table or the subset is missing, they do not belong together, `out` holds something else, or the
        embeddings cannot be reduced so.
    """
    options = used_options(method, locals())
    if not 0 <= seed < 2**32:
        raise EdgeseaError(f"seed must lie in 0 ... {2**32 - 1}, not {seed}")
    if not (Path(out) / REDUCTION_FILE).is_file():  # the arrays alone are what a reduction killed at its end leaves
        check_vacant(Path(out), "no reduction", besides=(ARRAYS_FILE,))
    from edgesea.artifact import versions
    from edgesea.reduction.rows import Windows, in_split, in_subset
    from edgesea.sampling.subset import Subset, table_key
    from edgesea.table.reader import Table

    phi = _classes()[method](**options)
    source = Table(table)
    chosen = None if subset is None else Subset.load(Path(subset))
    if chosen is not None and chosen.info["table"] != table_key(source.info):
        raise EdgeseaError(f"{subset}: was chosen from another table than {table}; choose again: edgesea sample")
    fitted = Windows(source, in_split("train") if chosen is None else in_subset(chosen))
    phi.fit(fitted)
    kept = _judge(phi, fitted, seed)
    provenance = {
        "teacher": source.info["teacher"],
        "table": source.info["manifest_sha256"],
        "subset": None if chosen is None else chosen.info,
        "versions": versions(),
    }
    phi.save(Path(out), provenance, kept)
    report = {key: value for key, value in phi.report().items() if key != "explained_variance_ratio"}
    variance = {
        "explained_variance": report.pop("explained_variance", None),
        "explained_variance_validate": _explained(phi, fitted),
    }
    return {"reduction": str(out), **report, **variance, "kept": kept}


def _classes() -> "dict[str, type[Reduction]]":
    from edgesea.reduction.identity import Identity
    from edgesea.reduction.kernel_pca import KernelPCA
    from edgesea.reduction.pca import PCA
    from edgesea.reduction.random_projection import RandomProjection
    from edgesea.reduction.umap import Umap

    return {each.method: each for each in (PCA, KernelPCA, Umap, RandomProjection, Identity)}


def _judge(phi: "Reduction", fitted: "Windows", seed: int) -> dict[str, Any] | None:
    """What phi keeps on validation windows, or on training windows where there are none; none that were fitted on."""
    from edgesea.reduction.kept import kept
    from edgesea.reduction.rows import Windows, draw, outside

    for split in ("validate", "train"):
        others = Windows(fitted.table, outside(split, fitted.select))
        if len(others):
            rows = draw([(fitted, INSIDE), (others, OUTSIDE)], seed)
            return {"split": split, "fitted_windows": len(rows[0]), **kept(phi, *rows, seed=seed)}
    return None


def _explained(phi: "Reduction", fitted: "Windows") -> float | None:
    """Share of the standardised variance that is kept of the validation windows that were not fitted on.

    That in the span of pca's components; None for methods without such a share, and where there are no windows.
    """
    import numpy as np

    from edgesea.reduction.pca import PCA
    from edgesea.reduction.rows import Windows, outside

    if phi.method not in ("pca", "identity"):
        return None
    others = Windows(fitted.table, outside("validate", fitted.select))
    if not isinstance(phi, PCA):
        return 1.0 if len(others) else None
    basis = phi.components / np.linalg.norm(phi.components, axis=1, keepdims=True)
    kept = total = 0.0
    for block in others:
        standardised = phi.standardise(block)
        total += float(np.square(standardised).sum())
        kept += float(np.square(standardised @ basis.T).sum())
    return kept / total if total else None


def load_reduction(folder: Path | str) -> "Reduction":
    """Load a reduction that `reduce` wrote.

    Parameters
    ----------
    folder : path
        Folder with ``reduction.json`` and ``reduction.safetensors``.

    Returns
    -------
    Reduction
        With ``input_size``, ``output_size`` and ``transform``.

    Raises
    ------
    EdgeseaError
        If the folder holds no reduction, or one of an unknown method.
    """
    path = Path(folder)
    if not (path / REDUCTION_FILE).is_file():
        raise EdgeseaError(f"{path}: no reduction here; make one: edgesea reduce")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    info = read_json(path / REDUCTION_FILE)
    method = info.get("method") if isinstance(info, dict) else None
    if not isinstance(method, str) or method not in OPTIONS:
        raise EdgeseaError(f"{path / REDUCTION_FILE}: unknown method {method!r}; known: {', '.join(OPTIONS)}")
    try:
        arrays = load_file(path / ARRAYS_FILE)
    except (OSError, SafetensorError) as error:
        raise EdgeseaError(f"{path / ARRAYS_FILE}: cannot be read: {error}") from error
    try:
        return _classes()[method].restore(info, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeseaError(f"{path}: the two files do not fit together ({error}); reduce again") from error
