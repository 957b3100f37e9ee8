"""The list of clips: read from a CSV or Parquet manifest, or found below a folder."""

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesea.artifact import file_state, walk
from edgesea.audio.io import audio_suffixes, is_audio
from edgesea.errors import EdgeseaError

SPLITS = ("train", "validate", "test")
PART_BYTES = 1 << 30  # source bytes after which a part is closed early, so that long recordings do not pile up in one
COLUMNS = ("path", "sensor", "time", "split", "level", "label")


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a manifest.

    Attributes
    ----------
    clip : str
        Its name: the path below the root, with forward slashes.
    path : Path
        The file.
    sensor, time : str or None
        Sensor id; start as ISO 8601.
    split : str
        ``train``, ``validate`` or ``test``.
    level : tuple of float or None
        Measured sound levels in dB SPL, evenly spaced from the start of the clip (the rate is an option of `extract`).
    label : str or None
        What is heard in it, by which a report colours the map of windows. Nothing is learned from it.
    """

    clip: str
    path: Path
    sensor: str | None
    time: str | None
    split: str
    level: tuple[float, ...] | None
    label: str | None = None


def read_manifest(
    source: Path, root: Path | None = None, columns: Mapping[str, str] | None = None, validate: float | str = 0.1
) -> list[ClipEntry]:
    """List the clips of a folder or of a manifest, sorted by name, each once.

    Parameters
    ----------
    source : Path
        A folder (every decodable file below it) or a ``.csv`` / ``.parquet`` manifest.
    root : Path, optional
        Folder that the manifest's paths are relative to; default: the manifest's own.
    columns : mapping, optional
        The manifest's own names of the columns ``path``, ``sensor``, ``time``, ``split``, ``level``,
        ``label``.
    validate : float or str
        For clips without a split: the share that validates, chosen by a hash of the clip's name, or a condition
        ``column=value`` on the manifest (``fold=5``; the clips that do not fulfil it train).

    Returns
    -------
    list of ClipEntry

    Raises
    ------
    EdgeseaError
        If the source is missing or empty, or a column or a value is not what it should be.
    """
    unknown = set(columns or {}) - set(COLUMNS)
    if unknown:
        raise EdgeseaError(f"columns: unknown {', '.join(sorted(unknown))}; known: {', '.join(COLUMNS)}")
    if isinstance(validate, str) and "=" not in validate:
        try:
            validate = float(validate)
        except ValueError:
            raise EdgeseaError(f"validate: {validate!r} is neither a share nor a condition column=value") from None
    if not isinstance(validate, str) and not 0 <= validate < 1:
        raise EdgeseaError(f"validate: the share must lie in [0, 1), not {validate}")
    if not source.exists():
        raise EdgeseaError(f"{source}: no such file or folder")
    if source.is_dir():
        if isinstance(validate, str):
            raise EdgeseaError(f"validate: the condition {validate!r} needs a manifest, and {source} is a folder")
        rows: Iterable[Mapping[str, Any]] = _find_audio(source)
        root = source
    else:
        rows = _read_rows(source, dict(columns or {}), validate)
        root = root or source.parent
    entries: dict[str, ClipEntry] = {}
    for row in rows:
        entry = _entry(row, root, validate, source)
        entries.setdefault(entry.clip, entry)
    if not entries:
        raise EdgeseaError(f"{source}: no audio file found (endings: {' '.join(sorted(audio_suffixes()))})")
    return [entries[name] for name in sorted(entries)]


def _find_audio(folder: Path) -> Iterable[Mapping[str, Any]]:
    for path in walk(folder):
        if is_audio(path):
            name = path.relative_to(folder)
            split = name.parts[0] if name.parts[0] in SPLITS and len(name.parts) > 1 else None
            yield {"path": name.as_posix(), "split": split}


def _read_rows(source: Path, columns: dict[str, str], validate: float | str) -> list[dict[str, Any]]:
    if source.suffix == ".parquet":
        import pyarrow.parquet

        try:
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(source).to_pylist()
        except (OSError, ValueError) as error:
            raise EdgeseaError(f"{source}: not a Parquet file: {error}") from error
    else:
        try:
            with source.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise EdgeseaError(f"{source}: not a CSV manifest: {error}") from error
    if not rows:
        raise EdgeseaError(f"{source}: the manifest has no rows")
    wanted = {name: columns.get(name, name) for name in COLUMNS}
    required = [wanted["path"], *columns.values()]
    if isinstance(validate, str):
        column, value = (part.strip() for part in validate.split("=", 1))
        required.append(column)
    for name in required:
        if name not in rows[0]:
            raise EdgeseaError(f"{source}: no column {name!r}; it has {', '.join(map(str, rows[0]))}")
    for row in rows:
        if isinstance(validate, str) and not row.get(wanted["split"]):
            row[wanted["split"]] = "validate" if str(row[column]) == value else "train"
        row[wanted["path"]] = str(row[wanted["path"]] or "").strip()
    return [{name: row.get(own) for name, own in wanted.items()} for row in rows]


def _entry(row: Mapping[str, Any], root: Path, validate: float | str, source: Path) -> ClipEntry:
    name = str(row["path"])
    if not name:
        raise EdgeseaError(f"{source}: a row has an empty path")
    path = Path(name)
    clip = path.relative_to(root).as_posix() if path.is_absolute() and path.is_relative_to(root) else path.as_posix()
    # A file name may hold bytes that are no UTF-8 (surrogates here), which neither Parquet nor JSON can store.
    clip = clip.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    split = str(row.get("split") or "") or hash_split(clip, validate if not isinstance(validate, str) else 0.0)
    if split not in SPLITS:
        raise EdgeseaError(f"{source}: {clip}: split {split!r} is none of {', '.join(SPLITS)}")
    time = row.get("time")
    return ClipEntry(
        clip=clip,
        path=root / path,
        sensor=_known(row.get("sensor")),
        time=None if time in (None, "") else _iso(time, source, clip),
        split=split,
        level=_levels(row.get("level"), source, clip),
        label=_known(row.get("label")),
    )


def _known(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def hash_split(clip: str, validate: float) -> str:
    """``validate`` for a share `validate` of all names, else ``train``; a function of the name alone."""
    position = int.from_bytes(hashlib.blake2b(clip.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return "validate" if position < validate * 2**64 else "train"


def _iso(value: Any, source: Path, clip: str) -> str:
    from datetime import datetime

    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise EdgeseaError(f"{source}: {clip}: time {text!r} is not ISO 8601, as 2019-05-01T13:45:00") from None
    return text


def _levels(value: Any, source: Path, clip: str) -> tuple[float, ...] | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            value = json.loads(value) if value.lstrip().startswith("[") else re.split(r"[\s;,]+", value.strip())
        numbers = tuple(float(item) for item in (value if isinstance(value, list | tuple) else [value]))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise EdgeseaError(f"{source}: {clip}: level {value!r} is neither a number nor a list of numbers")
    return numbers or None


def cut_parts(entries: Sequence[ClipEntry], clips: int) -> list[list[ClipEntry]]:
    """Cut the manifest into parts; only names and file sizes matter, so every run cuts alike."""
    parts: list[list[ClipEntry]] = [[]]
    total = 0
    for entry in entries:
        size = max(0, _file_size(entry.path))
        if parts[-1] and (len(parts[-1]) >= clips or total + size > PART_BYTES):
            parts.append([])
            total = 0
        parts[-1].append(entry)
        total += size
    return parts


def _file_size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    state = file_state(path)
    return -1 if state is None else state[0]


def manifest_digest(entries: Sequence[ClipEntry]) -> str:
    """sha256 of what the manifest says of all clips, and of their sizes: the identity of a table.

    Labels do not count: neither the windows nor their embeddings depend on them, and tables made before there were
    labels stay valid.
    """
    digest = hashlib.sha256()
    for entry in entries:
        fields = (entry.clip, entry.sensor, entry.time, entry.split, entry.level, _file_size(entry.path))
        digest.update(repr(fields).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
