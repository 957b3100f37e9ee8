"""Frames: the windows of one sensor in one day, week or month, among which a method chooses."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError
from edgesea.sampling.spl import DAY
from edgesea.table.reader import Chunk, Table

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
FrameLength = Literal["day", "week", "month", "none"]
FrameName = tuple[str, str]  # sensor and period, as 2020-05-01, 2020-W18 or 2020-05; "" where unknown or not asked for

EPOCH = datetime(1970, 1, 1)
FIRST, LAST = ((moment - EPOCH).total_seconds() for moment in (datetime.min, datetime.max))  # of the calendar


@dataclass(frozen=True)
class FrameIndex:
    """Which frames a table has, and where their windows are.

    Attributes
    ----------
    names : list of (sensor, period)
        Sorted.
    sizes : ndarray, (frames,) int64
        Windows that may be chosen in each.
    chunks : dict of (part, group) to list of int
        Frames that have windows in a chunk, for the chunks that have any.
    untimed : int
        Windows whose time is unknown.
    with_offset, in_utc : int
        Clips (rows of them, for long ones) whose time has an offset, and those among them where it is 0.
    split : str or None
        Only windows of this split count.
    length : {"day", "week", "month", "none"}
        What a frame spans.
    zone : ZoneInfo or None
        Where times with an offset are taken to.
    """

    names: list[FrameName]
    sizes: Int64
    chunks: dict[tuple[int, int], list[int]]
    untimed: int
    with_offset: int
    in_utc: int
    split: str | None
    length: FrameLength
    zone: ZoneInfo | None

    @property
    def sensors(self) -> list[str]:
        """Sensors, sorted; "" stands for windows without one."""
        return sorted({sensor for sensor, _ in self.names})

    def of_sensors(self, sensors: Collection[str]) -> "FrameIndex":
        """The same frames, of which those of other sensors have no windows to choose."""
        kept = np.array([sensor in sensors for sensor, _ in self.names])
        return replace(self, sizes=np.where(kept, self.sizes, 0))


def index_frames(table: Table, split: str | None, length: FrameLength, zone: ZoneInfo | None = None) -> FrameIndex:
    """Count the windows of each frame in one pass over the small columns of a table.

    Parameters
    ----------
    table : Table
        The table.
    split : str or None
        Which windows count; None: all.
    length : {"day", "week", "month", "none"}
        What a frame spans. A window belongs to the day on which it starts; weeks begin on Monday (ISO 8601).
    zone : ZoneInfo, optional
        See `local_seconds`.

    Raises
    ------
    EdgeseaError
        If the length is unknown.
    """
    if length not in get_args(FrameLength):
        raise EdgeseaError(f"unknown frame {length!r}; choose from {', '.join(get_args(FrameLength))}")
    sizes: dict[FrameName, int] = {}
    found: dict[tuple[int, int], list[FrameName]] = {}
    untimed = with_offset = in_utc = 0
    for chunk in table.chunks():
        rows = chunk.select(split)
        if not len(rows):
            continue
        seconds = local_seconds(chunk, table.sample_rate, zone)[rows]
        untimed += int(np.isnan(seconds).sum())
        shifts = [datetime.fromisoformat(time).utcoffset() for time in chunk.times if time]
        with_offset += sum(shift is not None for shift in shifts)
        in_utc += sum(shift == timedelta(0) for shift in shifts)
        names, place = frames_of(chunk, rows, seconds, length)
        for name, count in zip(names, np.bincount(place).tolist(), strict=True):
            sizes[name] = sizes.get(name, 0) + count
        found[chunk.part, chunk.group] = names
    order = sorted(sizes)  # not as they appear, so that shares do not depend on the order of the clips
    number = {name: frame for frame, name in enumerate(order)}
    return FrameIndex(
        names=order,
        sizes=np.array([sizes[name] for name in order], np.int64),
        chunks={key: [number[name] for name in names] for key, names in found.items()},
        untimed=untimed,
        with_offset=with_offset,
        in_utc=in_utc,
        split=split,
        length=length,
        zone=zone,
    )


def frames_of(chunk: Chunk, rows: Int64, seconds: Float64, length: FrameLength) -> tuple[list[FrameName], Int64]:
    """Frames of windows of a chunk.

    Parameters
    ----------
    chunk : Chunk
        The chunk.
    rows : ndarray, (m,) int64
        Windows in it.
    seconds : ndarray, (m,) float64
        Their `local_seconds`.
    length : {"day", "week", "month", "none"}
        What a frame spans.

    Returns
    -------
    names : list of (sensor, period)
        The frames that occur, each once.
    place : ndarray, (m,) int64
        Index of each window's frame in `names`.
    """
    sensors = list(dict.fromkeys(sensor or "" for sensor in chunk.sensors))
    number = {sensor: index for index, sensor in enumerate(sensors)}
    sensor = np.array([number[each or ""] for each in chunk.sensors], np.int64)[chunk.clip[rows]]
    days = np.full(len(rows), np.iinfo(np.int64).min)
    if length != "none":
        known = np.isfinite(seconds)
        days[known] = np.floor(seconds[known] / DAY).astype(np.int64)
    # Few days, which are then named one by one; several days may be one frame.
    each_day, day = np.unique(days, return_inverse=True)
    pairs, pair = np.unique(sensor * len(each_day) + day, return_inverse=True)
    periods = [_period_name(each, length) for each in each_day.tolist()]
    names = [(sensors[code // len(periods)], periods[code % len(periods)]) for code in pairs.tolist()]
    unique = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return list(unique), np.array([unique[name] for name in names], np.int64)[pair]


def _period_name(day: int, length: FrameLength) -> str:
    if day == np.iinfo(np.int64).min:
        return ""
    day_name = (date(1970, 1, 1) + timedelta(days=day)).isoformat()
    if length == "week":
        year, week, _ = date.fromisoformat(day_name).isocalendar()
        return f"{year}-W{week:02d}"
    return day_name if length == "day" else day_name[:7]


def find_zone(name: str | None) -> ZoneInfo | None:
    """Time zone of an IANA name, as ``America/New_York``.

    Raises
    ------
    EdgeseaError
        If there is none of this name.
    """
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise EdgeseaError(f"unknown time zone {name!r}; give an IANA name, as Europe/Berlin or UTC") from None


def local_seconds(chunk: Chunk, sample_rate: int, zone: ZoneInfo | None = None) -> Float64:
    """When each window of a chunk starts, by the clock on the wall.

    Parameters
    ----------
    chunk : Chunk
        Small columns of a chunk.
    sample_rate : int
        Rate in Hz of the table's audio.
    zone : ZoneInfo, optional
        A clip's time with an offset (``Z``, ``+02:00``) is taken to this zone; default: it is local at that offset. A
        time without an offset is local already.

    Returns
    -------
    ndarray, (windows,) float64
        Seconds since 1970-01-01 00:00 local time; NaN where the clip has no time.

    Raises
    ------
    EdgeseaError
        If a time lies outside the years 1 to 9999.
    """
    begins = np.full(len(chunk.times), np.nan)
    for row, (time, offset) in enumerate(zip(chunk.times, chunk.offsets.tolist(), strict=True)):
        if time:
            # A long clip has a row every 64 windows, so a change to daylight saving time within it is not missed.
            try:
                moment = datetime.fromisoformat(time) + timedelta(seconds=offset / sample_rate)
                if zone is not None and moment.tzinfo is not None:
                    moment = moment.astimezone(zone)
            except OverflowError:
                raise _out_of_range(chunk.names[row], time) from None
            begins[row] = (moment.replace(tzinfo=None) - EPOCH).total_seconds()
    seconds: Float64 = begins[chunk.clip] + (chunk.start - chunk.offsets[chunk.clip]) / sample_rate
    late = np.flatnonzero((seconds < FIRST) | (seconds >= LAST))
    if len(late):
        clip = chunk.clip[late[0]]
        raise _out_of_range(chunk.names[clip], chunk.times[clip])
    return seconds


def _out_of_range(clip: str, time: str) -> EdgeseaError:
    return EdgeseaError(f"{clip}: time {time} is out of range; correct it in the manifest, and make the table again")


def frame_rng(seed: int, name: FrameName, purpose: str) -> np.random.Generator:
    """Random numbers of one frame, which do not depend on which other frames there are, nor on their order."""
    digest = hashlib.blake2b(repr((name, purpose)).encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def quotas(sizes: Int64, total: int, rng: np.random.Generator) -> Int64:
    """Share `total` out over frames as equally as their sizes allow.

    Parameters
    ----------
    sizes : ndarray, (frames,) int64
        Windows in each frame.
    total : int
        At most ``sizes.sum()``.
    rng : Generator
        Decides which frames give one more than others, where it does not come out even.

    Returns
    -------
    ndarray, (frames,) int64
        Small frames are taken whole; the others differ by at most one.
    """
    # The largest level to which all frames can be filled, by bisection.
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(sizes, level).sum() <= total else (low, level - 1)
    shares = np.minimum(sizes, low)
    rest = rng.choice(np.flatnonzero(sizes > low), int(total - shares.sum()), replace=False)
    shares[rest] += 1
    return shares
