"""Which clips there are: listed by a manifest or by a published data set's metadata, or found below a folder."""

import hashlib
import json
import logging
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edgesea.artifact import file_state
from edgesea.audio.io import find_audio
from edgesea.errors import EdgeseaError, say
from edgesea.table.clips import BLOCK, DTYPES, FIELDS, ClipEntry, Manifest
from edgesea.table.paths import expanded, hint, identity, locate, normal
from edgesea.table.sheet import UNKNOWN, Sheet, as_text, some

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


@dataclass(frozen=True)
class Listing:
    """Rows that name recordings."""

    root: Path  # folder that paths are relative to
    columns: Mapping[str, "pd.Series[str]"]  # by the names in `COLUMNS`, and condition; the index names the rows
    unit: str = ""  # what the index counts

    def place(self, number: int) -> str:
        """Which row it is."""
        return f"{self.unit} {self.columns['path'].index[number]}".lstrip()


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
) -> Manifest:
    """List the clips of a folder, a manifest or a published data set, sorted by name; options as in `extract`.

    A recording is one clip, whatever its spelling, and also by links. EdgeseaError if rows contradict each other.
    """
    (share, condition, _), columns = split_rule(validate), columns or {}
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
    known, keys, absent = _understood(source, listing, validate)
    paths, groups = listing.columns["path"], defaultdict[Hashable, list[int]](list)  # rows that name the same recording
    ordered = np.sort(keys)
    alike = np.flatnonzero(np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]]))
    for number, path in zip(alike.tolist(), paths.iloc[alike], strict=True):
        groups[locate(path, listing.root)[-1]].append(number)
    in_order = sorted(groups.values(), key=lambda rows: rows[1:])  # of the first repetition
    further = [number for rows in in_order for number in _join(source, listing, known, rows)]
    if absent:
        text = paths.iloc[absent[0]]
        named = f"(first: {listing.place(absent[0])}: {text}){hint(text, listing.root)}"
        say(f"{source}: rows that name no file: {len(absent)} {named}", logging.WARNING)
    if further:
        say(f"{source}: further names of the same recordings: {len(further)}; each recording is one clip")
    order = np.argsort(known["clip"], kind="stable")
    order = order[~np.isin(order, further)]
    if further or (np.diff(order) < 0).any():
        known = {name: known.pop(name)[order] for name in FIELDS}
    entries = Manifest(listing.root, known)
    if published:
        listed = {normal(Path(file)) for file in entries.files()}
        if count := sum(normal(path) not in listed for path in find_audio(listing.root)):
            say(f"{source}: recordings that the metadata do not list, left out: {count}", logging.WARNING)
    _divide(source, entries, share, bool(share or condition), bool(published))
    return entries


def _understood(
    source: Path, listing: Listing, validate: float | str
) -> tuple[dict[str, NDArray[Any]], "array[int]", list[int]]:
    """The columns of a manifest; for each row, a hash of what tells its recording from others; the rows without a file.

    EdgeseaError for the first row of which something cannot be understood.
    """
    count, keys, absent = len(listing.columns["path"]), array("q"), list[int]()
    columns = {name: np.full(count, ClipEntry._field_defaults.get(name, ""), DTYPES[name]) for name in FIELDS}

    def place(path: str) -> tuple[str, str, int]:
        name, file, size, key = locate(path, listing.root)
        if isinstance(key, str):
            absent.append(len(keys))
        keys.append(hash(key))
        return name, file, size

    for first in range(0, count, BLOCK):
        block = slice(first, first + BLOCK)
        found, problems = defaultdict[str, Any](list), list[tuple[int, EdgeseaError]]()
        convert = {name: cache(function) for name, function in conversions(validate).items()}
        for name, function in ({"path": place} | convert).items():
            try:
                if name in listing.columns:
                    found[name].extend(map(function, listing.columns[name].iloc[block].to_numpy(object)))
            except EdgeseaError as error:
                problems.append((first + len(found[name]), error))
        if problems:
            number, problem = min(problems, key=itemgetter(0))
            path = listing.columns["path"].iloc[number] or "no path"
            raise EdgeseaError(f"{source}: {listing.place(number)}: {path}: {problem}")
        found["clip"], found["file"], found["size"] = zip(*found.pop("path"), strict=True)
        if "condition" in found:
            splits = zip(found.pop("split", repeat("")), found.pop("condition"), strict=False)
            found["split"] = [stated or given for stated, given in splits]
        for name, values in found.items():
            columns[name][block] = np.fromiter(values, object)
    return columns, keys, absent


def _found(folder: Path, needs: object) -> Listing:
    """The recordings below a folder."""
    if needs:
        raise EdgeseaError(f"{folder}: a folder, but {needs} is about the columns of a manifest; give one as source")
    names = [str(path.relative_to(folder)) for path in find_audio(folder)]
    columns = {"path": names, "split": [*map(folder_split, names)]}
    index = pd.Index(names, dtype=object)
    return Listing(folder, {name: pd.Series(cells, index, dtype=object) for name, cells in columns.items()})


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
    if condition and value not in (values := set(cells["condition"].unique())):
        known = some(sorted(values))
        raise EdgeseaError(f"{sheet.path}: no row has {condition}={value}, so nothing would validate; it has {known}")
    if kind and kind.fold and share:
        folds, used = sheet.column(kind.fold)[0], [*used, kind.fold]
        names = sorted(set(folds), key=lambda fold: (len(fold), fold))
        last = names[1:][-max(1, round(share * len(names))) :]
        cells["split"] = folds.map(lambda fold: "validate" if fold in last else "train")
        say(f"{sheet.path}: fold {some(last)} validates (whole folds: clips of one recording are in the same)")
    sheet.report(used)
    root = next((root for root in roots if any(identity(root / path) for path in cells["path"][:99])), roots[0])
    return Listing(root, cells, sheet.unit)


def conversions(validate: float | str) -> dict[str, Callable[[Any], Any]]:
    """What tells the meaning of cells, by the name of the column; "" or None for those that say nothing."""
    value = split_rule(validate)[2]
    condition = lambda cell: "validate" if as_text(cell) == value else "train"  # noqa: E731
    return {"split": _split, "condition": condition, "sensor": _text, "time": _iso, "level": _levels, "label": _text}


def _text(cell: Any) -> str | None:
    return as_text(cell) or None


def _split(cell: Any) -> str:
    if cell in UNSTATED:
        return ""
    split = str(cell).casefold()
    if (split := SYNONYMS.get(split, split)) not in SPLITS:
        raise EdgeseaError(f"split {cell!r} is not one of {', '.join(SPLITS)}")
    return split


def folder_split(clip: str) -> str:
    """The split that the folder of a clip is named as, or ""."""
    return folder if (folder := clip.partition("/")[0]) in SPLITS else ""


def _join(source: Path, listing: Listing, columns: dict[str, NDArray[Any]], rows: list[int]) -> list[int]:
    """Give one of the rows of a recording what any says; returns the others. EdgeseaError if they contradict."""
    least = min(rows, key=lambda row: _unusual(str(columns["clip"][row])))
    for name in ("sensor", "time", "split", "level", "label"):
        values = {value: row for row in reversed(rows) if (value := columns[name][row]) not in (None, "")}
        if len(values) > 1:
            (one, first), (two, second), *_ = sorted(values.items(), key=itemgetter(1))
            both = f"{name} {one!r} and {two!r} of one recording, {columns['clip'][least]}"
            places = f"{source}: {listing.place(first)} and {listing.place(second)}"
            raise EdgeseaError(f"{places}: {both}; correct one of them")
        for value in values:
            columns[name][least] = value
    return [row for row in rows if row != least]


def _unusual(clip: str) -> tuple[Any, ...]:
    """Of the names that a recording has, the least counts."""
    parts = Path(clip).parts
    return Path(clip).is_absolute(), parts[0] == "..", any(part[0] == "." for part in parts), clip


def _divide(source: Path, entries: Manifest, share: float, wanted: bool, published: bool) -> None:
    """Divide the clips without a split by their names; EdgeseaError if none trains (published: a warning).

    Of two clips or more, at least one trains and one validates.
    """
    names, splits = entries.columns["clip"], entries.columns["split"]
    free = np.flatnonzero(splits == "")
    blocks = np.array_split(free, range(BLOCK, len(free), BLOCK))
    positions = np.concatenate([_positions(names[block].tolist()) for block in blocks])
    splits[free] = "train"
    splits[free[positions < _limit(share)]] = "validate"
    if len(free) and "train" not in splits:
        splits[free[positions.argmax()]] = "train"
    if share and len(free) > 1 and "validate" not in splits:
        splits[free[positions.argmin()]] = "validate"
    counts = Counter(splits)
    if not counts["train"]:
        found = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
        problem = f"{source}: no clip is in the split train, which everything is learned from ({found})"
        if not published:
            raise EdgeseaError(problem)
        say(problem, logging.WARNING)
    if wanted and not counts["validate"]:
        say(f"{source}: {counts['train']} clip(s) train, none validates; see the option validate", logging.WARNING)


def hash_split(clip: str, validate: float) -> str:
    """``validate`` for a share `validate` of all names, else ``train``; a function of the name alone."""
    return "validate" if _positions([clip])[0] < _limit(validate) else "train"


def _positions(clips: Iterable[str]) -> NDArray[np.uint64]:
    hashes = (hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest() for clip in clips)
    return np.frombuffer(b"".join(hashes), ">u8")


def _limit(share: float) -> np.uint64:
    return np.uint64(math.ceil(share * 2**64))


def _iso(cell: Any) -> str | None:
    if cell in UNSTATED:
        return None
    text: str = cell.isoformat() if hasattr(cell, "isoformat") else str(cell).strip()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise EdgeseaError(f"time {text!r} is not ISO 8601, e.g. 2019-05-01T13:45:00") from None
    return text


def _levels(value: Any) -> tuple[float, ...] | None:
    if value in UNSTATED:
        return None
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


def manifest_digest(entries: Manifest) -> str:
    """sha256 of what the manifest says of all clips, labels excepted, and of their sizes: the identity of a table."""
    return sha256(map(repr, entries.rows("clip", "sensor", "time", "split", "level", "size")))


def sha256(texts: Iterable[str]) -> str:
    """Hash of texts one behind the other, in which bytes of file names need not be UTF-8."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode("utf-8", "surrogateescape"))
    return found.hexdigest()
