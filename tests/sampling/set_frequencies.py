"""Are sets drawn as often as they should be? For the tests of every sampler that claims to be exact."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.stats import chisquare

IMPOSSIBLE = 1e-12  # a probability that is only rounding


def set_p_value(drawn: Iterable[Iterable[int]], probability: Mapping[tuple[int, ...], float]) -> float:
    """Chi-squared p value of the sets drawn, against the probability of each set (sorted tuples).

    Sets expected less than five times share one cell. A set that is impossible, or unknown, must never be drawn.
    """
    counts = Counter(tuple(sorted(int(i) for i in each)) for each in drawn)
    assert [each for each in counts if probability[each] <= IMPOSSIBLE] == []
    found, expected = np.array([(counts[each], p * counts.total()) for each, p in probability.items()]).T
    rare = expected < 5
    if expected[rare].sum() > 1:
        found, expected = np.append(found, found[rare].sum()), np.append(expected, expected[rare].sum())
        rare = np.append(rare, False)
    found, expected = found[~rare], expected[~rare]
    if len(found) == 1:
        return 1.0  # one set that is certain
    return float(chisquare(found, expected * found.sum() / expected.sum()).pvalue)
