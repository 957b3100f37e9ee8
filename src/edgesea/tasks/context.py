"""Where and when a clip was recorded, as numbers that a classifier can use.

The encoding is that of the baseline of DCASE 2020 task 5 (Cartwright et al., "SONYC-UST-V2: an urban sound tagging
dataset with spatiotemporal context", DCASE workshop 2020): two coordinates, and one-hot codes of hour, day and week.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

HOURS, DAYS, WEEKS = 24, 7, 52
SIZE = 2 + HOURS + DAYS + WEEKS


def one_hot(values: Float64, first: int, size: int) -> Float32:
    """One-hot code.

    Parameters
    ----------
    values : ndarray, (N,) float64
        Whole numbers; NaN where missing.
    first, size : int
        The codes are for `first` ... `first` + `size` - 1.

    Returns
    -------
    ndarray, (N, size) float32
        All zeros for any other value: week 53, which few years have, and missing ones.
    """
    code: Float32 = (values[:, None] == np.arange(first, first + size)).astype(np.float32)
    return code


@dataclass(frozen=True)
class ContextEncoding:
    """The encoding of context: latitude, longitude, hour (24), weekday (7), week (52).

    Attributes
    ----------
    mean : ndarray, (2,) float64
        Mean latitude and longitude of the training clips, in degrees: what stands for missing ones.
    shift, scale : ndarray, (2,) float64
        Coordinates are encoded as (degrees - shift) / scale.
    """

    mean: Float64
    shift: Float64
    scale: Float64

    @classmethod
    def fit(cls, context: Float64, standardize: bool) -> "ContextEncoding":
        """Learn mean, and scale if wanted, from training clips.

        Parameters
        ----------
        context : ndarray, (N, 5) float64
            See `edgesea.tasks.bags.Bags`; NaN where missing.
        standardize : bool
            Scale the coordinates to zero mean and unit variance over the clips that have them; else degrees are kept.
        """
        mean, std = np.zeros(2), np.zeros(2)
        for axis in range(2):
            known = context[~np.isnan(context[:, axis]), axis]
            if len(known):
                mean[axis], std[axis] = known.mean(), known.std()
        if not standardize:
            return cls(mean, np.zeros(2), np.ones(2))
        # Coordinates of one place leave rounding noise (1e-7 degrees are a centimetre), which is not to be blown up.
        return cls(mean, mean, np.where(std > 1e-7, std, 1.0))

    def encode(self, context: Float64) -> Float32:
        """Encode the context (N, 5) of clips as (N, 85) float32."""
        degrees = np.where(np.isnan(context[:, :2]), self.mean, context[:, :2])
        hour, day, week = context[:, 2:].T
        return np.hstack(
            [
                ((degrees - self.shift) / self.scale).astype(np.float32),
                one_hot(hour, 0, HOURS),
                one_hot(day, 0, DAYS),
                one_hot(week, 1, WEEKS),
            ]
        )
