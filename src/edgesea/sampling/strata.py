"""Strata: the windows of one sensor in one day, week or month, from each of which a subset takes its share.

A table is read twice: its small columns, to count the windows of each stratum, and then what a method needs, to hand
out whole strata. A stratum is complete when as many windows have been seen as were counted. Incomplete strata take at
most `BUDGET` bytes together, so memory depends on neither the size nor the order of a table; only where clips of many
strata are mixed, parts of it are read more than once. Both are done where `cluster.using` says.
"""

import hashlib
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from itertools import chain
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from edgesea.cluster import results
from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import Float64, Int64
from edgesea.table.reader import Chunk, Table

log = logging.getLogger(__name__)

Period = Literal["day", "week", "month", "none"]
Place = tuple[int, int]  # of a chunk: part, row group
Name = tuple[str, str]  # sensor and period, e.g. 2020-05-01, 2020-W18 or 2020-05; "" where unknown or not asked for

DAY = 86400  # seconds
EPOCH = datetime(1970, 1, 1)
DAYS = 10**7  # more than the calendar has
BUDGET = 1 << 30  # bytes of incomplete strata; one stratum is always read, however large
TOGETHER = 1 << 27  # bytes of strata that are read, and chosen from, by one call
SMALL_BYTES = 20  # of a window, without its embedding


class StratumWindows(NamedTuple):
    """The windows of a stratum that a method chooses from, in the order of the table."""

    part: NDArray[np.int32]  # where each stands in the table: part, and row in the part
    window: NDArray[np.int32]
    level: NDArray[np.float32]  # dB
    seconds_of_day: Float64  # local time; NaN where unknown
    embeddings: NDArray[np.floating[Any]]  # (n, D) in the dtype of the table; (n, 0) for methods that need none

    @property
    def size(self) -> int:
        return len(self.part)


@cache
def _period_name(day: int, period: Period) -> str:
    if not day:
        return ""
    name = date.fromordinal(day)
    return f"{name:%G-W%V}" if period == "week" else name.isoformat()[: 7 if period == "month" else 10]


def _plain_times(times: NDArray[np.object_]) -> NDArray[np.datetime64] | None:
    """Times all at once, if all are written like 2019-05-01T13:45:00, as most are."""
    letters = times.astype("U20").view(np.uint32).reshape(-1, 20)
    is_plain = (letters[:, [4, 7, 10, 13, 16, 19]] == [*map(ord, "--T::\0")]).all() and letters[:, 18].all()
    return times.astype("M8[s]") if is_plain else None


def local_seconds(chunk: Chunk, sample_rate: int, zone: ZoneInfo | None) -> Float64:
    """Local time at which each window of a chunk starts, in seconds since 1970-01-01 00:00; NaN where unknown."""
    if not chunk.offsets.any() and (times := _plain_times(chunk.times)) is not None:
        return times.astype(np.float64)[chunk.clip] + chunk.start / sample_rate
    begins = []
    for name, time, offset in zip(chunk.names, chunk.times, (chunk.offsets / sample_rate).tolist(), strict=True):
        if not time:
            begins.append(np.nan)
            continue
        # A long clip has a row every 64 windows, so a change to daylight saving time within it is not missed.
        try:
            moment = datetime.fromisoformat(time)
            if offset:
                moment += timedelta(seconds=offset)
            if moment.tzinfo is not None:
                moment = (moment if zone is None else moment.astimezone(zone)).replace(tzinfo=None)
        except OverflowError:
            reason = f"time {time} is not in the years 1 to 9999; correct the manifest"
            raise EdgeseaError(f"{name}: {reason}") from None
        begins.append((moment - EPOCH).total_seconds())
    return np.array(begins)[chunk.clip] + (chunk.start - chunk.offsets[chunk.clip]) / sample_rate


@dataclass(frozen=True)
class Grouping:
    """What makes strata of a table's windows: of `split` (None: all), by sensor and period.

    Times with an offset (Z, +02:00) are converted to `zone`; others are local already. A window belongs to the day on
    which it starts; weeks begin on Monday (ISO 8601).
    """

    table: Table
    period: Period
    split: str | None = None
    zone: ZoneInfo | None = None

    def group(self, chunk: Chunk) -> tuple[Int64, Float64, list[Name], Int64]:
        """Windows of the split (m,), their `local_seconds` (m,), the strata they are in, and which of these (m,)."""
        rows = chunk.select(self.split)
        seconds = local_seconds(chunk, self.table.sample_rate, self.zone)[rows]
        sensors = list(dict.fromkeys(sensor or "" for sensor in chunk.sensors))
        codes = DAYS * np.array([sensors.index(sensor or "") for sensor in chunk.sensors], np.int64)[chunk.clip[rows]]
        if self.period != "none":
            days = np.floor(seconds / DAY) + EPOCH.toordinal()
            codes += np.nan_to_num(days, nan=0).clip(max=date.max.toordinal()).astype(np.int64)
        # Few sensors and days, which are then named one by one; several days may be one stratum.
        codes, code = np.unique(codes, return_inverse=True)
        each = [(sensors[code // DAYS], _period_name(code % DAYS, self.period)) for code in codes.tolist()]
        names = list(dict.fromkeys(each))
        return rows, seconds, names, np.array([names.index(name) for name in each], np.int64)[code]

    def count(self, parts: range) -> Iterator[tuple[Place, dict[Name, int], int, set[timedelta | None]]]:
        """Of each chunk of some parts: windows in each stratum, those without a time, offsets of the times from UTC."""
        for chunk in self.table.chunks(parts, ["clip", "sensor", "time", "split", "offset", "start"]):
            rows, seconds, names, place = self.group(chunk)
            if len(rows):
                sizes = dict(zip(names, np.bincount(place).tolist(), strict=True))
                offsets: set[timedelta | None] = {None}
                if _plain_times(chunk.times) is None:
                    offsets = {datetime.fromisoformat(time).utcoffset() for time in chunk.times if time}
                yield (chunk.part, chunk.group), sizes, int(np.isnan(seconds).sum()), offsets


@dataclass(frozen=True)
class Batch:
    """Some strata, which are read together."""

    grouping: Grouping
    names: dict[int, Name]  # of each, by its number
    sizes: dict[int, int]  # windows that may be chosen
    chunks: list[tuple[Place, list[int]]]  # where they are, with all strata there
    most: int | None  # windows of a stratum that are read, if it has more; None: all, but no embeddings

    def read(self, seed: int) -> Iterator[tuple[int, StratumWindows]]:
        """Yield (number, its windows) of each, when it is complete. Of large ones, windows are drawn uniformly."""
        drawn, table = {}, self.grouping.table
        for number, size in self.sizes.items():
            if self.most is not None and size > self.most:
                rng = stratum_rng(seed, self.names[number], "pool")
                drawn[number] = np.sort(rng.choice(size, self.most, replace=False))
        pieces: dict[int, list[StratumWindows]] = {number: [] for number in self.sizes}
        seen = dict.fromkeys(self.sizes, 0)
        for (part, group), members in self.chunks:
            chunk = table.chunk(part, group)
            rows, seconds, _, place = self.grouping.group(chunk)
            embeddings = np.empty((len(chunk.clip), 0)) if self.most is None else table.embeddings(part, group)
            for index in (index for index, number in enumerate(members) if number in pieces):
                number, mine = members[index], np.flatnonzero(place == index)
                first, seen[number] = seen[number], seen[number] + len(mine)
                if number in drawn:
                    low, high = np.searchsorted(drawn[number], [first, seen[number]])
                    mine = mine[drawn[number][low:high] - first]
                row = rows[mine]
                places = np.full(len(row), part, np.int32), (row + chunk.first_window).astype(np.int32)
                pieces[number].append(StratumWindows(*places, chunk.level[row], seconds[mine] % DAY, embeddings[row]))
                if seen[number] == self.sizes[number]:
                    yield number, StratumWindows(*map(np.concatenate, zip(*pieces.pop(number), strict=True)))


class Strata:
    """The strata of a table: their `names`, sorted, and their `sizes`, the windows that may be chosen in each."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self.untimed = 0  # windows without a time
        self.offsets: set[timedelta | None] = set()  # from UTC, of the clips' times
        sizes: Counter[Name] = Counter()
        found: dict[Place, list[Name]] = {}
        runs = ((parts,) for parts in grouping.table.runs())
        for place, counts, untimed, offsets in chain.from_iterable(results(grouping.count, runs)):
            sizes.update(counts)
            found[place] = list(counts)
            self.untimed += untimed
            self.offsets |= offsets
        self.names = sorted(sizes)  # not as they appear, so that shares do not depend on the order of the clips
        self.sizes: Int64 = np.array([sizes[name] for name in self.names])
        number = {name: index for index, name in enumerate(self.names)}
        # Strata in each chunk that has any
        self.chunks = {place: [number[name] for name in names] for place, names in found.items()}

    @property
    def sensors(self) -> list[str]:
        """Sensors, sorted; "" stands for windows without one."""
        return sorted({sensor for sensor, _ in self.names})

    def keep_sensors(self, sensors: Collection[str]) -> None:
        """Leave no windows to choose in the strata of other sensors."""
        self.sizes = np.where([sensor in sensors for sensor, _ in self.names], self.sizes, 0)

    def log_unknown(self, needs_levels: bool) -> None:
        """Log what is not known of the windows, and what follows from it for a method that may need their levels."""
        table, zone, total = self.grouping.table.path, self.grouping.zone, self.sizes.sum()
        needs_times = needs_levels or self.grouping.period != "none"
        if zone is not None and not self.offsets - {None}:
            log.warning("%s: no time in it has an offset from UTC, so time_zone changes nothing", table)
        if zone is None and timedelta(0) in self.offsets and needs_times:
            log.warning("%s: times are in UTC, and so are days and hours; set time_zone to use local ones", table)
        if "" in self.sensors:
            level = logging.INFO if self.sensors == [""] else logging.WARNING
            log.log(level, "%s: windows have no sensor; they count as one sensor's", table)
        if self.untimed and needs_times:
            level = logging.INFO if self.untimed == total and not needs_levels else logging.WARNING
            text = "%s: %d of %d windows have no time; they count as of one period and one time of day"
            log.log(level, text, table, self.untimed, total)

    def batches(self, wanted: Collection[int], most: int | None) -> Iterator[Batch]:
        """Some strata in batches that lie apart in the table, each of about `TOGETHER` bytes.

        Of a stratum with more than `most` windows only so many are read; None: all, but no embeddings.
        """
        table, counts = self.grouping.table, self.sizes if most is None else np.minimum(self.sizes, most)
        each = SMALL_BYTES + (0 if most is None else table.embedding_size * table.embedding_dtype.itemsize)
        some = set(wanted)
        chunks = [(place, members) for place, members in self.chunks.items() if not some.isdisjoint(members)]
        last = {number: index for index, (_, members) in enumerate(chunks) for number in members}
        begin, end, found = 0, 0, dict[int, int]()  # strata in the order in which they begin, and their bytes
        for index, (_, members) in enumerate(chunks):
            found |= {number: int(counts[number]) * each for number in members if number in some}
            end = max(end, *(last[number] for number in members if number in some))
            if end == index and (sum(found.values()) >= TOGETHER or index + 1 == len(chunks)):
                # Where clips of many strata are mixed, they do not fit in memory, and chunks are read several times.
                share = np.cumsum(list(found.values())) // BUDGET
                for number in np.unique(share):
                    numbers = np.array(list(found))[share == number].tolist()
                    mine = [chunk for chunk in chunks[begin : index + 1] if not set(numbers).isdisjoint(chunk[1])]
                    names = {number: self.names[number] for number in numbers}
                    sizes = {number: int(self.sizes[number]) for number in numbers}
                    yield Batch(self.grouping, names, sizes, mine, most)
                begin, found = index + 1, {}


def find_zone(name: str | None) -> ZoneInfo | None:
    """Time zone of an IANA name, e.g. ``America/New_York``."""
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise EdgeseaError(f"unknown time zone {name!r}; give an IANA name, e.g. Europe/Berlin or UTC") from None


def stratum_rng(seed: int, name: Name, purpose: str) -> np.random.Generator:
    """Random numbers of one stratum, which do not depend on which other strata there are, nor on their order."""
    digest = hashlib.blake2b(repr((name, purpose)).encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def quotas(sizes: Int64, total: int, rng: np.random.Generator) -> Int64:
    """Share `total` (at most ``sizes.sum()``) out as equally as the sizes allow; remainders are assigned at random."""
    levels = range(int(sizes.max(initial=0)) + 1)
    level = bisect_right(levels, total, key=lambda level: np.minimum(sizes, level).sum()) - 1  # to which all are filled
    shares = np.minimum(sizes, level)
    rest = rng.choice(np.flatnonzero(sizes > level), int(total - shares.sum()), replace=False)
    shares[rest] += 1
    return shares
