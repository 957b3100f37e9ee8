"""A teacher that takes its time, so that a test can look at a stage while it runs."""

import time

import numpy as np
from quick_model import moments

SLOW = "callable:slow_model:slow@8000"


def slow(windows: np.ndarray) -> np.ndarray:
    time.sleep(1.0)
    return moments(windows)
