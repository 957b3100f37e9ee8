from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from made_table import write_table

from edgesea.errors import EdgeseaError
from edgesea.sampling.frames import find_zone, frame_rng, frames_of, index_frames, local_seconds, quotas
from edgesea.table.reader import Table


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([2, 10, 10], 12, [2, 5, 5]),
        ([1, 2, 30], 20, [1, 2, 17]),
        ([4, 4, 4], 12, [4, 4, 4]),
        ([3], 2, [2]),
        ([2, 2], 0, [0, 0]),
        ([0, 5, 0, 5], 6, [0, 3, 0, 3]),
        ([], 0, []),
    ],
)
def test_quotas_are_as_equal_as_the_sizes_allow(sizes: list[int], total: int, expected: list[int]) -> None:
    assert quotas(np.array(sizes, np.int64), total, np.random.default_rng(0)).tolist() == expected


def test_quotas_hold_for_random_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(0, 20, rng.integers(1, 12))
        total = int(rng.integers(0, sizes.sum() + 1))
        shares = quotas(sizes, total, rng)
        assert shares.sum() == total
        assert (shares <= sizes).all()
        unfilled = shares[shares < sizes]
        if len(unfilled):
            assert shares.max() - unfilled.min() <= 1


def test_what_does_not_come_out_even_goes_to_every_frame_alike() -> None:
    rng, draws = np.random.default_rng(0), 4000
    sizes = np.array([1, 5, 5, 50, 500, 5])
    total = sum(quotas(sizes, 9, rng) for _ in range(draws))
    # The first frame gives its only window; the others 8 of 5 frames: one each, and three of them a second one.
    assert total[0] == draws
    np.testing.assert_allclose(total[1:] / draws, 1.6, atol=0.05)


def one_clip(folder: Path, time: str | None, windows: int = 3) -> Table:
    return Table(write_table(folder, [[{"embeddings": np.zeros((windows, 2)), "time": time, "sensor": "a"}]]))


def names(table: Table, length: str, zone: str | None = None) -> list[str]:
    return [period for _, period in index_frames(table, None, length, find_zone(zone)).names]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("time", "length", "zone", "expected"),
    [
        ("2020-05-01T12:00:00", "day", None, ["2020-05-01"]),
        ("2020-05-01T12:00:00", "month", None, ["2020-05"]),
        ("2020-05-01T12:00:00", "week", None, ["2020-W18"]),
        ("2020-05-01T12:00:00", "none", None, [""]),
        # The first days of 2021 belong to the last ISO week of 2020, and its Monday to 2021.
        ("2021-01-03T12:00:00", "week", None, ["2020-W53"]),
        ("2021-01-04T00:00:00", "week", None, ["2021-W01"]),
        # A window belongs to the day on which it starts: these start at 23:59:58, :59, 00:00:00.
        ("2020-05-31T23:59:58", "day", None, ["2020-05-31", "2020-06-01"]),
        ("2020-05-31T23:59:58", "month", None, ["2020-05", "2020-06"]),
        ("1969-12-31T23:59:59", "day", None, ["1969-12-31", "1970-01-01"]),
        # Evening in New York is the next day in UTC.
        ("2020-05-02T01:00:00Z", "day", None, ["2020-05-02"]),
        ("2020-05-02T01:00:00Z", "day", "America/New_York", ["2020-05-01"]),
        ("2020-05-01T23:00:00-05:00", "day", "UTC", ["2020-05-02"]),
        ("2020-05-02T01:00:00", "day", "America/New_York", ["2020-05-02"]),  # no offset: local already
        (None, "day", None, [""]),
        (None, "none", None, [""]),
    ],
)
def test_frames_have_the_names_of_their_periods(
    tmp_path: Path, time: str | None, length: str, zone: str | None, expected: list[str]
) -> None:
    assert names(one_clip(tmp_path, time), length, zone) == expected


def test_local_time_follows_daylight_saving(tmp_path: Path) -> None:
    # New York went from UTC-5 to UTC-4 on 2020-03-08 at 07:00 UTC: the clock jumped from 02:00 to 03:00.
    zone = ZoneInfo("America/New_York")
    for time, hour in (("2020-03-08T06:59:00Z", 1), ("2020-03-08T07:01:00Z", 3)):
        table = one_clip(tmp_path / str(hour), time)
        seconds = local_seconds(table.chunk(0, 0), table.sample_rate, zone)
        assert (seconds[0] % 86400) // 3600 == hour
        np.testing.assert_array_equal(np.diff(seconds), 1.0)


def test_every_window_is_counted_in_its_frame(small_table: Path) -> None:
    table = Table(small_table)
    expected: dict[tuple[str, str], int] = {}
    for chunk in table.chunks():
        for clip in chunk.clip:
            if chunk.splits[clip] == "train":
                name = (chunk.sensors[clip], chunk.times[clip][:10])
                expected[name] = expected.get(name, 0) + 1
    index = index_frames(table, "train", "day")
    assert dict(zip(index.names, index.sizes.tolist(), strict=True)) == expected
    assert index.names == sorted(expected)
    assert index.sensors == ["s0", "s1", "s2"]
    assert index.untimed == 0
    for chunk in table.chunks():
        rows = chunk.select("train")
        seconds = local_seconds(chunk, table.sample_rate)[rows]
        own, place = frames_of(chunk, rows, seconds, "day")
        assert [own[p] for p in place] == [(chunk.sensors[c], chunk.times[c][:10]) for c in chunk.clip[rows]]
        assert [index.names[f] for f in index.chunks.get((chunk.part, chunk.group), [])] == own


def test_windows_without_sensor_or_time_have_frames_of_their_own(tmp_path: Path) -> None:
    clips = [
        {"embeddings": np.zeros((2, 2)), "sensor": "a", "time": "2020-05-01T10:00:00"},
        {"embeddings": np.zeros((3, 2)), "sensor": "a"},
        {"embeddings": np.zeros((4, 2)), "time": "2020-05-01T10:00:00"},
        {"embeddings": np.zeros((5, 2))},
    ]
    index = index_frames(Table(write_table(tmp_path, [clips])), None, "day")
    expected = {("a", "2020-05-01"): 2, ("a", ""): 3, ("", "2020-05-01"): 4, ("", ""): 5}
    assert dict(zip(index.names, index.sizes.tolist(), strict=True)) == expected
    assert index.untimed == 8


@pytest.mark.parametrize(
    ("time", "zone"),
    [("9999-12-31T23:59:59", None), ("0001-01-01T00:00:00+01:00", "UTC"), ("9999-12-31T23:59:59-05:00", "UTC")],
)
def test_times_at_the_ends_of_the_calendar_name_the_clip(tmp_path: Path, time: str, zone: str | None) -> None:
    with pytest.raises(EdgeseaError, match=r"0-0\.wav: time .* is out of range; correct it in the manifest"):
        names(one_clip(tmp_path, time), "day", zone)


def test_unknown_names_are_refused(small_table: Path) -> None:
    with pytest.raises(EdgeseaError, match="unknown time zone 'Mars/Crater'; give an IANA name"):
        find_zone("Mars/Crater")
    with pytest.raises(EdgeseaError, match="unknown time zone '/etc/passwd'"):
        find_zone("/etc/passwd")
    with pytest.raises(EdgeseaError, match="unknown frame 'year'; choose from day, week, month, none"):
        index_frames(Table(small_table), None, "year")  # type: ignore[arg-type]


def test_random_numbers_of_a_frame_depend_on_its_name_purpose_and_seed() -> None:
    draws = {
        frame_rng(seed, name, purpose).integers(1 << 62)
        for seed in (0, 1)
        for name in (("a", "2020-05-01"), ("a", "2020-05-02"), ("b", "2020-05-01"), ("b\udcff", ""))
        for purpose in ("pool", "choose")
    }
    assert len(draws) == 16
    again = frame_rng(1, ("a", "2020-05-01"), "pool").integers(1 << 62)
    assert again in draws
