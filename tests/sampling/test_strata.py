from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_table import write_table

from edgesea.errors import EdgeseaError
from edgesea.sampling import strata
from edgesea.sampling.strata import Grouping, Strata, StratumWindows, find_zone, quotas
from edgesea.table.reader import Table

DAYS, CLIPS, WINDOWS = 6, 5, 7


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [([1, 2, 30], 20, [1, 2, 17]), ([4, 4, 4], 12, [4, 4, 4]), ([0, 5, 0, 5], 6, [0, 3, 0, 3]), ([], 0, [])],
)
def test_quotas_are_as_equal_as_the_sizes_allow(sizes, total, expected):
    assert quotas(np.array(sizes, np.int64), total, np.random.default_rng(0)).tolist() == expected


def test_remainders_are_assigned_at_random():
    rng, draws = np.random.default_rng(0), 4000
    sizes = np.array([1, 5, 5, 50, 500, 5])
    total = sum(quotas(sizes, 9, rng) for _ in range(draws))
    # The first stratum gives its only window; the others 8 of 5 strata: one each, and three of them a second one.
    assert total[0] == draws
    np.testing.assert_allclose(total[1:] / draws, 1.6, atol=0.05)


def one_clip(folder: Path, time: str | None) -> Table:
    return Table(write_table(folder, [[{"embeddings": np.zeros((3, 2)), "time": time, "sensor": "a"}]]))


@pytest.mark.parametrize(
    ("time", "period", "zone", "expected"),
    [
        ("2020-05-01T12:00:00", "day", None, ["2020-05-01"]),
        ("2020-05-01T12:00:00", "none", None, [""]),
        # The first days of 2021 belong to the last ISO week of 2020, and its Monday to 2021.
        ("2021-01-03T12:00:00", "week", None, ["2020-W53"]),
        ("2021-01-04T00:00:00", "week", None, ["2021-W01"]),
        # A window belongs to the day on which it starts: these start at 23:59:58, :59, 00:00:00.
        ("2020-05-31T23:59:58", "month", None, ["2020-05", "2020-06"]),
        ("1969-12-31T23:59:59", "day", None, ["1969-12-31", "1970-01-01"]),
        ("9999-12-31T23:59:59", "day", None, ["9999-12-31"]),
        # Evening in New York is the next day in UTC.
        ("2020-05-02T01:00:00Z", "day", "America/New_York", ["2020-05-01"]),
        ("2020-05-01T23:00:00-05:00", "day", "UTC", ["2020-05-02"]),
        ("2020-05-02T01:00:00", "day", "America/New_York", ["2020-05-02"]),  # no offset: local already
        # There, clocks were put from UTC-5 to UTC-4 in the night to 2020-03-08.
        ("2020-03-08T04:30:00Z", "day", "America/New_York", ["2020-03-07"]),
        ("2020-03-09T04:30:00Z", "day", "America/New_York", ["2020-03-09"]),
    ],
)
def test_strata_have_the_names_of_their_periods(tmp_path, time, period, zone, expected):
    found = Strata(Grouping(one_clip(tmp_path, time), period, None, find_zone(zone)))
    assert [name for _, name in found.names] == expected


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00"])
def test_times_outside_of_the_calendar_name_the_clip(tmp_path, time):
    with pytest.raises(EdgeseaError, match=r"0-0\.wav.*" + time.replace("+", r"\+")):
        Strata(Grouping(one_clip(tmp_path, time), "day", None, find_zone("UTC")))


def test_windows_without_sensor_or_time_have_strata_of_their_own(tmp_path):
    clips = [
        {"embeddings": np.zeros((2, 2)), "sensor": "a", "time": "2020-05-01T10:00:00"},
        {"embeddings": np.zeros((3, 2)), "sensor": "a"},
        {"embeddings": np.zeros((4, 2)), "time": "2020-05-01T10:00:00"},
        {"embeddings": np.zeros((5, 2))},
    ]
    found = Strata(Grouping(Table(write_table(tmp_path, [clips])), "day"))
    expected = {("a", "2020-05-01"): 2, ("a", ""): 3, ("", "2020-05-01"): 4, ("", ""): 5}
    assert dict(zip(found.names, found.sizes.tolist(), strict=True)) == expected
    assert found.untimed == 8


def mixed_strata(folder: Path, order: np.ndarray, period: strata.Period = "day") -> Strata:
    """Clips of six days, of one sensor, in a given order; the embedding tells day, clip and window."""
    clips = []
    for day, clip in (divmod(number, CLIPS) for number in order.tolist()):
        embeddings = np.stack([np.full(WINDOWS, day), np.full(WINDOWS, clip), np.arange(WINDOWS)], 1)
        time, levels = f"2020-05-{day + 1:02d}T{clip:02d}:00:00", 100 * day + 10 * clip + np.arange(WINDOWS) / 10
        split = "test" if clip == CLIPS - 1 else "train"
        clips.append({"embeddings": embeddings, "time": time, "sensor": "a", "levels": levels, "split": split})
    table = Table(write_table(folder, [clips[i : i + 4] for i in range(0, len(clips), 4)]))
    return Strata(Grouping(table, period, "train"))


def read(found: Strata, most: int, seed: int = 0) -> dict[int, StratumWindows]:
    batches = found.batches(range(len(found.names)), most)
    return {number: windows for batch in batches for number, windows in batch.read(seed)}


@pytest.mark.parametrize(("budget", "batches"), [(1 << 30, 1), (2000, 3), (1, 6)])
def test_strata_come_whole_however_mixed_and_however_little_memory(tmp_path, budget, batches, monkeypatch):
    monkeypatch.setattr(strata, "BUDGET", budget)
    found = mixed_strata(tmp_path, np.random.default_rng(0).permutation(DAYS * CLIPS))
    reads: list[tuple[int, int]] = []
    table = found.grouping.table
    chunk = table.chunk
    monkeypatch.setattr(table, "chunk", lambda *place: (reads.append(place), chunk(*place))[1])
    windows_of = read(found, most=1000)
    assert max(map(reads.count, reads)) <= batches
    assert sorted(windows_of) == list(range(DAYS))
    for day, windows in windows_of.items():
        # Every training window of that day, each once, in the order of the table.
        assert sorted(map(tuple, windows.embeddings.tolist())) == [
            (day, clip, k) for clip in range(CLIPS - 1) for k in range(WINDOWS)
        ]
        places = list(zip(windows.part.tolist(), windows.window.tolist(), strict=True))
        assert places == sorted(places)
        _, clip, k = windows.embeddings.T
        np.testing.assert_allclose(windows.level, 100 * day + 10 * clip + k / 10, rtol=1e-6)
        np.testing.assert_array_equal(windows.seconds_of_day, 3600 * clip + k)
        for (part, window), embedding in zip(places, windows.embeddings, strict=True):
            np.testing.assert_array_equal(table.embeddings(part, 0)[window], embedding)


def test_a_large_stratum_is_thinned_uniformly(tmp_path):
    found = mixed_strata(tmp_path, np.random.default_rng(1).permutation(DAYS * CLIPS), "none")
    total = DAYS * (CLIPS - 1) * WINDOWS
    assert found.sizes.tolist() == [total]
    counts: Counter[tuple[float, ...]] = Counter()
    for seed in range(200):
        windows = read(found, most=40, seed=seed)[0]
        drawn = set(map(tuple, windows.embeddings.tolist()))
        assert len(drawn) == 40
        counts.update(drawn)
    assert len(counts) == total
    # 200 draws of 40 of 168: 47.6 each, with a standard deviation of 6.
    assert 20 < min(counts.values()) < max(counts.values()) < 75
