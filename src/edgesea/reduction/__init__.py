"""``reduce``: learn the reduction phi on a subset of a table, and load it again."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgesea.errors import EdgeseaError
from edgesea.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgesea.reduction.base import Reduction
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Table


def reduce(
    table: Path,
    out: Path,
    *,
    subset: Path | None = None,
    method: Literal["pca"] = "pca",
    size: int = 64,
    whiten: bool = False,
) -> dict[str, Any]:
    """Learn the reduction of the teacher's embeddings and report what it keeps.

    Parameters
    ----------
    table : Path
        Folder of a table.
    out : Path
        Folder of the reduction.
    subset : Path, optional
        The windows to fit on, from `edgesea sample`; default: all training windows.
    method : {"pca"}
        pca: standardisation and exact principal components, from one pass over the table.
    size : int
        Dimensions to keep.
    whiten : bool
        Scale every output dimension to unit variance.

    Returns
    -------
    dict
        method, sizes, windows, share of the variance explained on the windows fitted (``explained_variance``) and on
        the validation windows (``explained_variance_validate``).

    Raises
    ------
    EdgeseaError
        If the table or the subset is missing, they do not belong together, or the embeddings cannot be reduced so.
    """
    from edgesea.reduction.pca import PCA
    from edgesea.sampling.subset import Subset, table_key
    from edgesea.table.reader import Table
    from edgesea.version import versions

    source = Table(table)
    chosen = None if subset is None else Subset.load(Path(subset))
    if chosen is not None and chosen.info["table"] != table_key(source.info):
        raise EdgeseaError(f"{subset}: was chosen from another table than {table}")
    phi = PCA(size, whiten)
    phi.fit(source.iter_embeddings("train") if chosen is None else _subset_embeddings(source, chosen))
    provenance = {
        "teacher": source.info["teacher"],
        "table": source.info["manifest_sha256"],
        "subset": None if chosen is None else chosen.info,
        "versions": versions(),
    }
    phi.save(Path(out), provenance)
    summary = {key: value for key, value in phi.report().items() if key != "explained_variance_ratio"}
    return {"reduction": str(out), **summary, "explained_variance_validate": _explained(source, phi)}


def _subset_embeddings(table: "Table", subset: "Subset") -> "Iterator[NDArray[np.float32]]":
    import numpy as np

    for chunk in table.chunks():
        first, last = np.searchsorted(subset.part, [chunk.part, chunk.part + 1])  # a subset is sorted
        windows = subset.window[first:last] - chunk.first_window
        windows = windows[(windows >= 0) & (windows < len(chunk.clip))]
        if len(windows):
            yield table.embeddings(chunk.part, chunk.group)[windows].astype(np.float32)


def _explained(table: "Table", phi: Any) -> float | None:
    """Share of the standardised variance of the validation windows that lies in the components' span."""
    import numpy as np

    basis = phi.components / np.linalg.norm(phi.components, axis=1, keepdims=True)
    kept = total = 0.0
    for block in table.iter_embeddings("validate"):
        standardised = (block.astype(np.float64) - phi.mean) / phi.scale
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
    from edgesea.reduction.base import ARRAYS_FILE, REDUCTION_FILE
    from edgesea.reduction.pca import PCA

    path = Path(folder)
    if not (path / REDUCTION_FILE).is_file():
        raise EdgeseaError(f"{path}: no reduction here; make one: edgesea reduce")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    info = read_json(path / REDUCTION_FILE)
    methods = {"pca": PCA}
    method = info.get("method") if isinstance(info, dict) else None
    if method not in methods:
        raise EdgeseaError(f"{path / REDUCTION_FILE}: unknown method {method!r}; known: {', '.join(methods)}")
    try:
        arrays = load_file(path / ARRAYS_FILE)
    except (OSError, SafetensorError) as error:
        raise EdgeseaError(f"{path / ARRAYS_FILE}: cannot be read: {error}") from error
    try:
        return methods[method].restore(info, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeseaError(f"{path}: the two files do not fit together ({error}); reduce again") from error
