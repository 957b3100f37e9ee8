"""Which clips there are: listed by a manifest or by a published data set's metadata, or found below a folder."""

import gc
import hashlib
import json
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from edgesea.artifact import file_state
from edgesea.audio.io import find_audio
from edgesea.errors import EdgeseaError
from edgesea.table.paths import expanded, hint, identity, locate, normal
from edgesea.table.sheet import UNKNOWN, Sheet, as_text, say, some

SPLITS = ("train", "validate", "test")
SYNONYMS = {"training": "train", "validation": "validate", "valid": "validate", "val": "validate", "testing": "test"}
COLUMNS = ("path", "sensor", "time", "split", "level", "label")
UNSTATED = (None, "", *UNKNOWN)


class Published(NamedTuple):
    """How a data set is published."""

    metadata: str  # below its folder
    columns: dict[str, str]  # see the option `columns`
    fold: str = ""  # column of the folds that keep clips of one recording together


PUBLISHED = (
    Published("meta/esc50.csv", {"path": "audio/{filename}", "label": "category"}, "fold"),
    Published("metadata/UrbanSound8K.csv", {"path": "audio/fold{fold}/{slice_file_name}", "label": "class"}, "fold"),
    Published("annotations.csv", {"path": "audio/{audio_filename}", "sensor": "sensor_id", "split": "split"}),
)


class ClipEntry(NamedTuple):
    """One clip of a manifest; small, for there may be millions."""

    clip: str  # name: the path below the root, with forward slashes
    file: Path | str
    sensor: str | None
    time: str | None  # start, ISO 8601
    split: str
    level: tuple[float, ...] | None  # measured, in dB SPL, evenly spaced from the start of the clip
    label: str | None = None  # colours the map of windows in a report; nothing is learned from it
    embeddings: Path | str = ""  # of an import: the file that holds them, or why there is none
    size: int = -1  # bytes of the file; -1 where there is none

    @property
    def path(self) -> Path:
        return Path(self.file)


@dataclass(frozen=True)
class Listing:
    """Rows that name recordings."""

    root: Path  # folder that paths are relative to
    columns: Mapping[str, Sequence[str]]  # by the names in `COLUMNS`, and condition
    places: Sequence[object]  # of the rows, for messages
    unit: str = ""  # what `places` count; nothing where the files were found: their folder may be named as their split

    def rows(self) -> Iterator[tuple[str | None, ...]]:
        """What each row says, in the order of `COLUMNS`, and of the condition; None where there is no such column."""
        return zip(*(self.columns.get(name, repeat(None)) for name in (*COLUMNS, "condition")), strict=False)

    def place(self, number: int) -> str:
        """Which row it is."""
        return f"{self.unit} {self.places[number]}".lstrip()


@cache
def split_rule(validate: float | str) -> tuple[float, str, str]:
    """The option `validate`: a share, or (``fold=5``) the column and the value that clips which validate have."""
    column, equals, value = str(validate).partition("=")
    if equals:
        return 0.0, column.strip(), as_text(value)
    try:
        share = float(validate)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise EdgeseaError(f"validate must be a share in [0, 1) or a condition column=value, not {validate!r}")
    return share, "", ""


def read_manifest(
    source: Path, root: Path | None = None, columns: Mapping[str, str] | None = None, validate: float | str = 0.1
) -> list[ClipEntry]:
    """List the clips of a folder, a manifest or a published data set, sorted by name; options as in `extract`.

    A recording is one clip, whatever its spelling, and also by links. EdgeseaError if rows contradict each other.
    """
    with _uncollected():
        return _read_manifest(source, root, columns or {}, validate)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Create millions of objects without Python's looking for garbage among them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_manifest(
    source: Path, root: Path | None, columns: Mapping[str, str], validate: float | str
) -> list[ClipEntry]:
    share, condition, _ = split_rule(validate)
    if unknown := sorted(columns.keys() - set(COLUMNS)):
        raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known: {', '.join(COLUMNS)}")
    source, root = Path(expanded(str(source))), root and Path(expanded(str(root)))
    if not source.exists():
        raise EdgeseaError(f"{source}: no such file or folder")
    published = _published(source) if source.is_dir() or root is None else None
    if published or not source.is_dir() or source.suffix == ".parquet":
        sheet, folder, kind = published or (Sheet.read(source), source.parent, None)
        roots = [root] if root else [folder, folder / "audio"] if kind else [folder]
        listing = _listed(sheet, roots, kind, columns, validate)
    else:
        listing = _found(source, f"validate={validate}" if condition else columns)
    entries: list[ClipEntry] = []
    firsts: dict[Hashable, int] = {}  # of the rows that name a recording
    repeated: dict[int, list[int]] = {}  # first row: all rows, where there are several
    absent: list[int] = []
    for number, (path, *known) in enumerate(listing.rows()):
        try:
            name, file, size, key = locate(path or "", listing.root)
            entries.append(make_entry(name, file, size, validate, not listing.unit, *known))
        except EdgeseaError as error:
            place = f"{source}: {listing.place(number)}"
            raise EdgeseaError(f"{place}: {path or 'no path'}: {error}") from None
        if (first := firsts.setdefault(key, number)) < number:
            repeated.setdefault(first, [first]).append(number)
        if isinstance(key, str):
            absent.append(number)
    del firsts
    for first, numbers in repeated.items():
        entries[first] = _joined(source, [(listing.place(number), entries[number]) for number in numbers])
    further = {number for numbers in repeated.values() for number in numbers[1:]}
    if absent:
        text = listing.columns["path"][absent[0]]
        named = f"(first: {listing.place(absent[0])}: {text}){hint(text, listing.root)}"
        say(f"{source}: rows that name no file: {len(absent)} {named}", logging.WARNING)
    if further:
        say(f"{source}: further names of the same recordings: {len(further)}; each recording is one clip")
        entries = [entry for number, entry in enumerate(entries) if number not in further]
    entries.sort(key=attrgetter("clip"))
    if published:
        listed = {normal(entry.path) for entry in entries}
        if count := sum(normal(path) not in listed for path in find_audio(listing.root)):
            say(f"{source}: recordings that the metadata do not list, left out: {count}", logging.WARNING)
    return _with_splits(source, entries, share, bool(share or condition), bool(published))


def _found(folder: Path, needs: object) -> Listing:
    """The recordings below a folder."""
    if needs:
        raise EdgeseaError(f"{folder}: a folder, but {needs} is about the columns of a manifest; give one as source")
    names = [str(path.relative_to(folder)) for path in find_audio(folder)]
    return Listing(folder, {"path": names}, names)


def _published(source: Path) -> tuple[Sheet, Path, Published] | None:
    """The metadata and the folder of a published data set, if `source` is either."""
    place = normal(source)
    for kind in PUBLISHED:
        folder = place if place.is_dir() else Path(str(place).removesuffix(kind.metadata))
        path = folder / kind.metadata
        if not path.is_file() or place not in (folder, path):
            continue
        try:
            sheet = Sheet.read(path)
            for pattern in (*kind.columns.values(), *([kind.fold] if kind.fold else [])):
                sheet.column(pattern)
        except EdgeseaError as error:
            say(f"{error}; not taken for the metadata of a data set")
            continue
        if sheet.find("path") is None:
            return sheet, source if place == folder else folder, kind
    return None


def _listed(
    sheet: Sheet, roots: Sequence[Path], kind: Published | None, columns: Mapping[str, str], validate: float | str
) -> Listing:
    """The recordings that a table lists; of a data set with folds, a share means whole folds, the last ones."""
    share, condition, value = split_rule(validate)
    wanted = {name: name for name in COLUMNS if name == "path" or sheet.find(name)} | (kind.columns if kind else {})
    wanted = {name: pattern for name, pattern in (wanted | {**columns}).items() if pattern or name == "path"}
    wanted |= {"condition": condition} if condition else {}
    if wanted.get("path") == "path" and sheet.find("path") is None:
        problem = f"{sheet.path}: no column 'path'; it has {some([*sheet.rows])}"
        raise EdgeseaError(f"{problem}; the first line names the columns, and the option columns says which is which")
    parts = {name: sheet.column(pattern) for name, pattern in wanted.items()}
    cells = {name: part for name, (part, _) in parts.items()}
    used = [header for _, headers in parts.values() for header in headers]
    if condition and value not in set(cells["condition"]):
        known = some(sorted(set(cells["condition"])))
        raise EdgeseaError(f"{sheet.path}: no row has {condition}={value}, so nothing would validate; it has {known}")
    if kind and kind.fold and share:
        folds, used = sheet.column(kind.fold)[0], [*used, kind.fold]
        names = sorted(set(folds), key=lambda fold: (len(fold), fold))
        last = names[1:][-max(1, round(share * len(names))) :]
        cells["split"] = folds.map(lambda fold: "validate" if fold in last else "train")
        say(f"{sheet.path}: fold {some(last)} validates (whole folds: clips of one recording are in the same)")
    sheet.report(used)
    listed = {name: column.tolist() for name, column in cells.items()}
    root = next((root for root in roots if any(identity(root / path) for path in listed["path"][:99])), roots[0])
    return Listing(root, listed, sheet.rows.index.tolist(), sheet.unit)


def make_entry(
    clip: str,
    file: Path | str,
    size: int,
    validate: float | str,
    in_folder: bool,
    sensor: Any = None,
    time: Any = None,
    split: Any = None,
    level: Any = None,
    label: Any = None,
    condition: Any = None,
) -> ClipEntry:
    """The clip that a row of a manifest or a shard describes, with the split that is stated, or ""."""
    if split not in UNSTATED:
        stated, split = split, str(split).casefold()
        split = SYNONYMS.get(split, split)
        if split not in SPLITS:
            raise EdgeseaError(f"split {stated!r} is not one of {', '.join(SPLITS)}")
    elif in_folder and (folder := clip.partition("/")[0]) in SPLITS:
        split = folder
    elif (rule := split_rule(validate))[1]:
        split = "validate" if as_text(condition) == rule[2] else "train"
    else:
        split = ""
    return ClipEntry(
        clip,
        file,
        None if sensor is None or sensor == "" else sys.intern(as_text(sensor)),  # few different ones
        None if time in UNSTATED else _iso(time),
        split,
        None if level in UNSTATED else _levels(level),
        None if label is None or label == "" else sys.intern(as_text(label)),
        size=size,
    )


def _joined(source: Path, rows: Sequence[tuple[str, ClipEntry]]) -> ClipEntry:
    """The clip that rows describe together; EdgeseaError if they contradict each other."""
    entry = min((entry for _, entry in rows), key=_unusual)
    for name in ("sensor", "time", "split", "level", "label"):
        values: dict[Any, str] = {}
        for place, other in rows:
            if (value := getattr(other, name)) not in (None, ""):
                values.setdefault(value, place)
        if len(values) > 1:
            (one, first), (two, second), *_ = values.items()
            both = f"{name} {one!r} and {two!r} of one recording, {entry.clip}"
            raise EdgeseaError(f"{source}: {first} and {second}: {both}; correct one of them")
        entry = entry._replace(**dict.fromkeys([name] if values else [], next(iter(values), None)))
    return entry


def _unusual(entry: ClipEntry) -> tuple[Any, ...]:
    """Of the names that a recording has, the least counts."""
    parts = Path(entry.clip).parts
    return Path(entry.clip).is_absolute(), parts[0] == "..", any(part[0] == "." for part in parts), entry.clip


def _with_splits(
    source: Path, entries: Sequence[ClipEntry], share: float, wanted: bool, published: bool
) -> list[ClipEntry]:
    """The clips, those without a split divided by their names; EdgeseaError if none trains (published: a warning)."""
    splits = [entry.split or hash_split(entry.clip, share) for entry in entries]
    free = [number for number, entry in enumerate(entries) if not entry.split]
    if free and "train" not in splits:
        splits[max(free, key=lambda number: _position(entries[number].clip))] = "train"
    counts = Counter(splits)
    if not counts["train"]:
        found = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
        problem = f"{source}: no clip is in the split train, which everything is learned from ({found})"
        if not published:
            raise EdgeseaError(problem)
        say(problem, logging.WARNING)
    if wanted and not counts["validate"]:
        say(f"{source}: {counts['train']} clip(s) train, none validates; see the option validate", logging.WARNING)
    return [ClipEntry(*entry[:4], split, *entry[5:]) for entry, split in zip(entries, splits, strict=True)]


def hash_split(clip: str, validate: float) -> str:
    """``validate`` for a share `validate` of all names, else ``train``; a function of the name alone."""
    return "validate" if _position(clip) < validate * 2**64 else "train"


def _position(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _iso(value: Any) -> str:
    text: str = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise EdgeseaError(f"time {text!r} is not ISO 8601, e.g. 2019-05-01T13:45:00") from None
    return text


def _levels(value: Any) -> tuple[float, ...] | None:
    try:
        if isinstance(value, str):
            value = json.loads(value) if value.lstrip().startswith("[") else re.split(r"[\s;,]+", value.strip())
        numbers = tuple(float(item) for item in (value if isinstance(value, list | tuple) else [value]))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise EdgeseaError(f"level {value!r} is neither a number nor a list of numbers")
    return numbers or None


def file_size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return (file_state(path) or (-1,))[0]


def manifest_digest(entries: Sequence[ClipEntry]) -> str:
    """sha256 of what the manifest says of all clips, labels excepted, and of their sizes: the identity of a table."""
    return sha256(repr((e.clip, e.sensor, e.time, e.split, e.level, e.size)) for e in entries)


def sha256(texts: Iterable[str]) -> str:
    """Hash of texts one behind the other, in which bytes of file names need not be UTF-8."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode("utf-8", "surrogateescape"))
    return found.hexdigest()
