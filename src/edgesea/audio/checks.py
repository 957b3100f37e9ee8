"""Options, checked: each function gives a value in its plain type, or raises EdgeseaError that names the option."""

from numbers import Real
from typing import Any

import numpy as np

from edgesea.audio.io import RATES
from edgesea.errors import EdgeseaError


def checked_hop(name: str, value: float, unit: str = "seconds") -> float:
    """`value` as a float; EdgeseaError unless it is a positive number."""
    number = _item(value)
    try:
        hop = float(number) if isinstance(number, Real) and not isinstance(number, bool) else 0.0
    except OverflowError:  # an integer or a fraction
        hop = 0.0
    if not 0 < hop < float("inf"):
        raise EdgeseaError(f"{name} must be a positive number of {unit}, not {value!r}")
    return hop


def checked_flag(name: str, value: bool) -> bool:
    """`value` as a bool; EdgeseaError unless it is one, or 0 or 1."""
    if not isinstance(value, int | np.bool_) or value not in (0, 1):
        raise EdgeseaError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def checked_count(name: str, value: int) -> int:
    """`value` as an int; EdgeseaError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise EdgeseaError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)


def checked_rate(name: str, value: float) -> int:
    """`value` as an int; EdgeseaError unless it is a sample rate, a whole number of Hz."""
    rate = _item(value)
    number = isinstance(rate, Real) and not isinstance(rate, bool)
    if not number or not RATES[0] <= rate <= RATES[1] or not float(rate).is_integer():
        raise EdgeseaError(f"{name} must be a whole number from {RATES[0]} to {RATES[1]} Hz, not {value!r}")
    return int(rate)


def _item(value: Any) -> Any:
    """A number out of an array without dimensions, as np.load gives one; anything else as it is."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
