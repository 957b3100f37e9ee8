from pathlib import Path

import numpy as np
import pytest

from edgesea.sampling.frames import candidates, quotas
from edgesea.table.reader import Table


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([2, 10, 10], 12, [2, 5, 5]),
        ([1, 2, 30], 20, [1, 2, 17]),
        ([4, 4, 4], 12, [4, 4, 4]),
        ([5, 6, 7], 4, [1, 1, 2]),
        ([3], 2, [2]),
        ([2, 2], 0, [0, 0]),
    ],
)
def test_quotas_are_as_equal_as_the_sizes_allow(sizes: list[int], total: int, expected: list[int]) -> None:
    assert quotas(np.array(sizes), total).tolist() == expected


def test_quotas_hold_for_random_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(0, 20, rng.integers(1, 12))
        total = int(rng.integers(0, sizes.sum() + 1))
        shares = quotas(sizes, total)
        assert shares.sum() == total
        assert (shares <= sizes).all()
        unfilled = shares[shares < sizes]
        if len(unfilled):
            assert shares.max() - unfilled.min() <= 1


def test_candidates_know_where_they_stand_and_to_whom_they_belong(small_table: Path) -> None:
    table = Table(small_table)
    found = candidates(table, "train", "day")
    assert len(found.part) == table.counts["train"] == 60
    seen = set()
    for chunk in table.chunks():
        for row, clip in enumerate(chunk.clip):
            if chunk.splits[clip] == "train":
                name = (chunk.sensors[clip], chunk.times[clip][:10])
                seen.add((chunk.part, chunk.first_window + row, name))
    assert {(p, w, found.names[f]) for p, w, f in zip(found.part, found.window, found.frame, strict=True)} == seen


def test_frames_are_sensors_and_days_or_sensors_alone(small_table: Path) -> None:
    table = Table(small_table)
    sensors, days = ["s0", "s1", "s2"], ["2020-05-01", "2020-05-02"]
    assert sorted(candidates(table, None, "day").names) == [(sensor, day) for sensor in sensors for day in days]
    assert sorted(candidates(table, None, "none").names) == [(sensor, "") for sensor in sensors]
