import numpy as np
import pytest

from edgesea.reduction.reservoir import Reservoir

ROWS = np.arange(200, dtype=np.float32)[:, None] * [1, 2]


def sample(size: int, batch: int, seed: int = 0) -> np.ndarray:
    reservoir = Reservoir(size, np.random.default_rng(seed))
    batches = [ROWS[first : first + batch].astype(np.float32) for first in range(0, len(ROWS), batch)]
    passed = list(reservoir.watch(batches))
    assert all(one is other for one, other in zip(passed, batches, strict=True))
    return reservoir.rows


@pytest.mark.parametrize("batch", [1, 3, 70, 500])
def test_rows_are_drawn_once_in_order_however_they_are_cut(batch: int) -> None:
    drawn = sample(30, batch)
    assert drawn.shape == (30, 2)
    assert (np.diff(drawn[:, 0]) > 0).all()
    np.testing.assert_array_equal(drawn, sample(30, 200))
    np.testing.assert_array_equal(drawn[:, 1], 2 * drawn[:, 0])


def test_all_rows_are_kept_if_there_are_no_more() -> None:
    for size in (200, 201):
        np.testing.assert_array_equal(sample(size, 7), ROWS)


def test_every_row_is_as_likely() -> None:
    draws, size = 2000, 40
    counts = np.zeros(200)
    for seed in range(draws):
        counts[sample(size, 50, seed)[:, 0].astype(int)] += 1
    share = size / 200
    # Chi-squared of 200 counts that are each binomial and negatively correlated: mean (199) (1 - share) share draws.
    statistic = np.square(counts - draws * share).sum() / (draws * share * (1 - share))
    assert abs(statistic - 200) < 4 * np.sqrt(2 * 200)
