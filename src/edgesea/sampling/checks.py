"""What every sampler asks of its input."""

import operator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

Float64 = NDArray[np.float64]
Floating = NDArray[np.floating[Any]]


def finite_rows(features: Floating) -> Float64:
    """Copy features to double precision.

    Parameters
    ----------
    features : ndarray, (n, d) float
        One row for each window.

    Returns
    -------
    ndarray, (n, d) float64
        A copy, which the caller may change.

    Raises
    ------
    EdgeseaError
        If they are no matrix, or not all finite.
    """
    rows = np.array(features, np.float64)
    if rows.ndim != 2:
        raise EdgeseaError(f"features must have the shape (windows, dimensions), not {rows.shape}")
    # A sum is finite only if its terms are; the mask is built only if the sum says that it may be needed.
    if not np.isfinite(rows.sum()):
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise EdgeseaError(
                f"features: {len(bad)} of {len(rows)} rows contain NaN or infinity, the first is row {bad[0]}; "
                "leave these windows out, or extract them again"
            )
    return rows


def finite_column(values: Floating, name: str, size: int, *, low: float, high: float = np.inf) -> Float64:
    """Copy one number for each window to double precision.

    Parameters
    ----------
    values : ndarray, (n,) float
        The numbers.
    name : str
        What an error calls them.
    size : int
        n, the number of windows.
    low, high : float
        They must be in [low, high).

    Returns
    -------
    ndarray, (n,) float64

    Raises
    ------
    EdgeseaError
        If there are too few or too many, or one is not finite or out of range.
    """
    column = np.array(values, np.float64)
    if column.shape != (size,):
        raise EdgeseaError(f"{name} must have the shape ({size},), one number for each window, not {column.shape}")
    bad = np.flatnonzero(~(np.isfinite(column) & (column >= low) & (column < high)))
    if len(bad):
        limits = (
            "" if low == -np.inf else f" and at least {low:g}" if high == np.inf else f" and in [{low:g}, {high:g})"
        )
        raise EdgeseaError(
            f"{name} must be finite{limits}; "
            f"{len(bad)} of {size} are not, the first is {column[bad[0]]} at row {bad[0]}"
        )
    return column


def subset_size(k: SupportsIndex, n: int) -> int:
    """Check that k of n windows can be chosen.

    Raises
    ------
    EdgeseaError
        If k is negative or more than n.
    """
    size = operator.index(k)
    if size < 0:
        raise EdgeseaError(f"k must be at least 0, not {size}")
    if size > n:
        raise EdgeseaError(f"cannot choose k = {size} of {n} windows without repetition; lower k to {n}")
    return size
