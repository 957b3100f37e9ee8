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
    total = counts.total()
    for each in counts:
        assert probability[each] > IMPOSSIBLE, f"{each} is impossible"
    cells: list[tuple[int, float]] = []
    rare_count, rare_expected = 0, 0.0
    for each, p in probability.items():
        if p * total >= 5:
            cells.append((counts[each], p * total))
        else:
            rare_count, rare_expected = rare_count + counts[each], rare_expected + p * total
    if rare_expected > 1:
        cells.append((rare_count, rare_expected))
    if len(cells) == 1:
        return 1.0  # one set that is certain
    found, expected = np.array(cells, float).T
    return float(chisquare(found, expected * found.sum() / expected.sum()).pvalue)
