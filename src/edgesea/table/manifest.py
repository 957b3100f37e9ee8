"""Which clips there are: listed by a manifest or by a published data set's metadata, or found below a folder."""

import hashlib
import json
import logging
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pandas as pd

from edgesea.artifact import file_state
from edgesea.audio.io import find_audio
from edgesea.errors import EdgeseaError
from edgesea.table.sheet import UNKNOWN, Sheet, as_text, say, some

SPLITS = ("train", "validate", "test")
SYNONYMS = {"training": "train", "validation": "validate", "valid": "validate", "val": "validate", "testing": "test"}
COLUMNS = ("path", "sensor", "time", "split", "level", "label")


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


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a manifest."""

    clip: str  # name: the path below the root, with forward slashes
    path: Path
    sensor: str | None
    time: str | None  # start, ISO 8601
    split: str
    level: tuple[float, ...] | None  # measured, in dB SPL, evenly spaced from the start of the clip
    label: str | None = None  # colours the map of windows in a report; nothing is learned from it
    embeddings: Path | str = ""  # of an import: the file that holds them, or why there is none


@dataclass(frozen=True)
class Listing:
    """Rows that name recordings."""

    root: Path  # folder that paths are relative to
    rows: list[dict[str, str]]  # by the names in `COLUMNS`, and condition
    places: Sequence[str]  # of the rows, for messages
    found: bool = False  # listed by nobody: the folder that they are in may have the name of their split


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
    columns, (share, condition, _) = columns or {}, split_rule(validate)
    if unknown := sorted(columns.keys() - set(COLUMNS)):
        raise EdgeseaError(f"columns: unknown {', '.join(unknown)}; known: {', '.join(COLUMNS)}")
    source, root = Path(_expanded(str(source))), root and Path(_expanded(str(root)))
    if not source.exists():
        raise EdgeseaError(f"{source}: no such file or folder")
    published = _published(source) if source.is_dir() or root is None else None
    if published or not source.is_dir() or source.suffix == ".parquet":
        sheet, folder, kind = published or (Sheet.read(source), source.parent, None)
        roots = [root] if root else [folder, folder / "audio"] if kind else [folder]
        listing = _listed(sheet, roots, kind, columns, validate)
    else:
        listing = _found(source, f"validate={validate}" if condition else columns)
    recordings: dict[Hashable, list[tuple[str, ClipEntry]]] = {}
    absent = []
    for place, row in zip(listing.places, listing.rows, strict=True):
        try:
            name, path, key = locate(row["path"], listing.root)
            entry = make_entry(name, path, row, validate, listing.found)
        except EdgeseaError as error:
            raise EdgeseaError(f"{source}: {place}: {row['path'] or 'no path'}: {error}") from None
        recordings.setdefault(key, []).append((place, entry))
        absent += [(place, row["path"])] if isinstance(key, str) else []
    entries = sorted((_joined(source, rows) for rows in recordings.values()), key=lambda entry: entry.clip)
    if absent:
        (place, text), hint = absent[0], _hint(absent[0][1], listing.root)
        say(f"{source}: rows that name no file: {len(absent)} (first: {place}: {text}){hint}", logging.WARNING)
    if more := len(listing.rows) - len(entries):
        say(f"{source}: further names of the same recordings: {more}; each recording is one clip")
    if published:
        listed = {_normal(entry.path) for entry in entries}
        if count := sum(_normal(path) not in listed for path in find_audio(listing.root)):
            say(f"{source}: recordings that the metadata do not list, left out: {count}", logging.WARNING)
    return _with_splits(source, entries, share, bool(share or condition), bool(published))


def _found(folder: Path, needs: object) -> Listing:
    """The recordings below a folder."""
    if needs:
        raise EdgeseaError(f"{folder}: a folder, but {needs} is about the columns of a manifest; give one as source")
    names = [str(path.relative_to(folder)) for path in find_audio(folder)]
    return Listing(folder, [{"path": name} for name in names], names, found=True)


def _published(source: Path) -> tuple[Sheet, Path, Published] | None:
    """The metadata and the folder of a published data set, if `source` is either."""
    place = _normal(source)
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
    rows: list[dict[str, str]] = pd.DataFrame(cells).to_dict("records")  # type: ignore[assignment]
    root = next((root for root in roots if any(_identity(root / row["path"]) for row in rows[:99])), roots[0])
    return Listing(root, rows, [f"{sheet.unit} {line}" for line in sheet.rows.index])


def locate(text: str, root: Path) -> tuple[str, Path, Hashable]:
    """The name of the clip that a path means, its file, and what tells recordings apart: text, where there is none."""
    if not text:
        raise EdgeseaError("a recording needs one")
    tried = ((one, _identity(root / one)) for one in _spellings(text))
    spelling, state = next((found for found in tried if found[1]), (text, None))
    base, full = _normal(root), _normal(root / spelling)
    if state and ".." in Path(spelling).parts and _identity(full) != state:
        full = (root / spelling).resolve()  # .. behind a link
    key = state or str(full)
    if not full.is_relative_to(base):  # unless by a link
        base, full = base.resolve(), full.parent.resolve() / full.name
    if not full.is_relative_to(base):
        return clip_name(Path(os.path.normpath(spelling))), root / spelling, key
    return clip_name(full.relative_to(base)), root / full.relative_to(base), key


def _normal(path: Path) -> Path:
    """An absolute path without dots; links are left as they are."""
    return Path(os.path.normpath(path.absolute()))


def _spellings(text: str) -> Iterator[str]:
    """A path as it is, and where there is no such file, as it may be meant: by another system's slashes or accents."""
    yield text
    slashed = unquote(text.removeprefix("file://")) if text.startswith("file:///") else text.replace("\\", "/")
    paths = os.path.expandvars(_expanded(slashed)), text
    yield from dict.fromkeys(unicodedata.normalize(form, path) for path in paths for form in ("NFC", "NFD"))
    if not text.isascii():
        yield os.fsdecode(slashed.encode("cp1252", "ignore"))


def _expanded(text: str) -> str:
    return f"{Path.home()}{text[1:]}" if text.startswith("~/") else text


def _identity(path: Path) -> tuple[int, ...] | None:
    """What the file system tells files apart by; None where there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _hint(path: str, root: Path) -> str:
    """How a path that leads nowhere may be mended."""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", path):
        return "; a Windows path of another computer: write them relative to the manifest"
    if Path(path).exists():
        return f"; paths are relative to {root}, which the option root changes"
    folder, name = (root / path).parent, Path(path).name
    others = [other.name for other in folder.iterdir()] if folder.is_dir() else []
    found = [other for other in others if other.casefold() == name.casefold()]
    return f"; there is {found[0]}" if found else ""


def clip_name(path: Path) -> str:
    """The name of a clip; bytes that are not UTF-8, which neither Parquet nor JSON can store, are spelt out."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def make_entry(clip: str, path: Path, row: Mapping[str, Any], validate: float | str, in_folder: bool) -> ClipEntry:
    """The clip that a row of a manifest or a shard describes, with the split that is stated, or ""."""
    _, condition, value = split_rule(validate)
    known = {name: cell for name, cell in row.items() if cell not in (None, "")}
    known = {name: cell for name, cell in known.items() if name in ("sensor", "label") or cell not in UNKNOWN}
    folder = clip.partition("/")[0] if in_folder else ""
    split = str(known["split"]) if "split" in known else folder if folder in SPLITS else ""
    if condition and not split:
        split = "validate" if as_text(row["condition"]) == value else "train"
    split = SYNONYMS.get(split.casefold(), split.casefold())
    if split and split not in SPLITS:
        raise EdgeseaError(f"split {known['split']!r} is not one of {', '.join(SPLITS)}")
    sensor, label = (as_text(known[name]) if name in known else None for name in ("sensor", "label"))
    time = _iso(known["time"]) if "time" in known else None
    level = _levels(known["level"]) if "level" in known else None
    return ClipEntry(clip, path, sensor, time, split, level, label)


def _joined(source: Path, rows: Sequence[tuple[str, ClipEntry]]) -> ClipEntry:
    """The clip that rows describe together; EdgeseaError if they contradict each other."""
    entry = min((entry for _, entry in rows), key=_unusual)
    for name in ("sensor", "time", "split", "level", "label") if len(rows) > 1 else ():
        values: dict[Any, str] = {}
        for place, other in rows:
            if (value := getattr(other, name)) not in (None, ""):
                values.setdefault(value, place)
        if len(values) > 1:
            (one, first), (two, second), *_ = values.items()
            both = f"{name} {one!r} and {two!r} of one recording, {entry.clip}"
            raise EdgeseaError(f"{source}: {first} and {second}: {both}; correct one of them")
        entry = replace(entry, **dict.fromkeys([name] if values else [], next(iter(values), None)))
    return entry


def _unusual(entry: ClipEntry) -> tuple[Any, ...]:
    """Of the names that a recording has, the least counts."""
    parts = Path(entry.clip).parts
    return Path(entry.clip).is_absolute(), parts[0] == "..", any(part[0] == "." for part in parts), entry.clip


def _with_splits(
    source: Path, entries: Sequence[ClipEntry], share: float, wanted: bool, published: bool
) -> list[ClipEntry]:
    """The clips, those without a split divided by their names; EdgeseaError if none trains (published: a warning)."""
    splits = {entry.clip: entry.split or hash_split(entry.clip, share) for entry in entries}
    free = [entry.clip for entry in entries if not entry.split]
    if free and "train" not in splits.values():
        splits[max(free, key=_position)] = "train"
    counts = Counter(splits.values())
    if not counts["train"]:
        found = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
        problem = f"{source}: no clip is in the split train, which everything is learned from ({found})"
        if not published:
            raise EdgeseaError(problem)
        say(problem, logging.WARNING)
    if wanted and not counts["validate"]:
        say(f"{source}: {counts['train']} clip(s) train, none validates; see the option validate", logging.WARNING)
    return [replace(entry, split=splits[entry.clip]) for entry in entries]


def hash_split(clip: str, validate: float) -> str:
    """``validate`` for a share `validate` of all names, else ``train``; a function of the name alone."""
    return "validate" if _position(clip) < validate * 2**64 else "train"


def _position(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _iso(value: Any) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
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
    fields = ((e.clip, e.sensor, e.time, e.split, e.level, file_size(e.path)) for e in entries)
    return sha256(*map(repr, fields))


def sha256(*texts: str) -> str:
    """Hash of texts, in which bytes of file names need not be UTF-8."""
    return hashlib.sha256("".join(texts).encode("utf-8", "surrogateescape")).hexdigest()
