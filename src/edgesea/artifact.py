"""Artifacts on disk: claimed by a plan, resumed or refused, locked while written; each file is whole or not there."""

import errno
import hashlib
import json
import logging
import os
import stat
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)
PLAN_FILE = "plan.json"
LOCK_FILE = ".lock"
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk
LONGEST_VALUE = 60  # characters of a value in a message; ids and file names fit, lists and hashes are shortened


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it on success, removed on failure; errors of the disk name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not longer than the name itself may be: file systems allow 255 bytes.
    temporary = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in FULL and error.filename not in (None, str(temporary)):
            raise  # about another file, which could not be read
        code = error.errno or errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value`, made plain, as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def plain(value: Any) -> Any:
    """A value for JSON or YAML: groups of options become mappings, paths text, NaN and infinity null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return str(value) if isinstance(value, Path) else value


def read_json(path: Path) -> Any:
    """Read a JSON file; EdgeseaError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise EdgeseaError(f"{path}: no such file") from None
    except ValueError as error:
        raise EdgeseaError(f"{path}: not JSON: {error}") from error


def claim(folder: Path, plan: Mapping[str, Any], kind: str) -> None:
    """Write `plan` (JSON values: all that decides the result) into a new folder, or check that it is there already.

    EdgeseaError if the folder holds an artifact of another plan (the values that differ are named), or something else.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        check_vacant(folder, f"no {kind}")
        write_json(path, plan)
    elif (found := read_json(path)) != plan:
        raise EdgeseaError(
            f"{folder}: holds a {kind} made from other input or options ({'; '.join(differences(found, plan))}); "
            "choose another folder or delete it"
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; EdgeseaError if another command does. Processes that train together share it."""
    if os.environ.get("LOCAL_RANK"):
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise EdgeseaError(f"{folder}: another edgesea command writes here; wait or choose another folder") from None


def differences(found: Any, plan: Any, name: str = "") -> Iterator[str]:
    """Describe the values that differ, e.g. ``training.lr: 0.001 there, 0.01 here``."""
    if isinstance(found, Mapping) and isinstance(plan, Mapping):
        for key in sorted(found.keys() | plan.keys()):
            yield from differences(found.get(key), plan.get(key), f"{name}.{key}" if name else key)
    elif found != plan:
        yield f"{name or PLAN_FILE}: {_shortened(found)} there, {_shortened(plan)} here"


def _shortened(value: Any) -> str:
    text, half = str(value), LONGEST_VALUE // 2 - 2
    return text if len(text) <= LONGEST_VALUE else f"{text[:half]}...{text[-half:]}"


def check_file(path: Path) -> None:
    """EdgeseaError if a file cannot be written at `path`: it is a folder, or a folder above it is a file."""
    if path.is_dir():
        raise EdgeseaError(f"{path}: a folder, where a file is to be written; choose another name")
    place = next(place for place in path.parents if place.exists() or place.is_symlink())
    if not place.is_dir():
        raise EdgeseaError(f"{place}: a file, where a folder is needed; choose another name")


def check_vacant(folder: Path, lacks: str, besides: Collection[str] = ()) -> None:
    """EdgeseaError unless a folder for an artifact can be made, or is there and empty but for temporary files.

    `lacks` says what is not there (``no table``); `besides` are names that may be there as well.
    """
    check_file(folder / PLAN_FILE)
    allowed = {LOCK_FILE, *besides}
    if folder.is_dir() and any(entry.suffix != ".tmp" and entry.name not in allowed for entry in folder.iterdir()):
        raise EdgeseaError(f"{folder}: not empty and {lacks}; choose another folder")


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are followed, each folder once; what cannot be read is logged."""

    def skip(error: OSError) -> None:
        log.warning("%s: not searched: %s", error.filename, error.strerror)

    seen = set()
    for base, folders, names in os.walk(folder, followlinks=True, onerror=skip):
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # so that of two links to a folder it is always the same one that counts
        for name in names:
            path = Path(base, name)
            if path.is_file():
                yield path
            elif path.is_symlink() and not path.exists():
                log.warning("%s: left out: a link that leads nowhere", path)


def file_state(path: Path) -> tuple[int, int] | None:
    """Size in bytes and modification time in ns of a file; None where there is none, or can be none of this name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def digest(value: Any) -> str:
    """Hash (sha256) of JSON values; others count as their text."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def versions() -> dict[str, str]:
    """Versions of edgesea and of the libraries that numbers depend on, where installed."""
    found = {}
    for name in ("edgesea", "numpy", "torch", "soxr", "soundfile", "scikit-learn", "umap-learn", "pyarrow"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
