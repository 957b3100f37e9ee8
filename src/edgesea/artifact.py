"""Writing files so that a killed or failed process leaves the old content or the new, never half of it."""

import errno
import json
import logging
import os
import re
import stat
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgesea.errors import EdgeseaError

log = logging.getLogger(__name__)
PLAN_FILE = "plan.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST_VALUE = 60  # characters of a value in a message; ids and file names fit, lists and hashes are cut


class WriteError(OSError):
    """A file could not be written; ``filename`` is its name, not that of a temporary file or of what was copied."""


def disk_error(text: str, path: Path) -> WriteError:
    """What a library says of a failed write of `path`, as an error of the system; EIO if it does not tell which."""
    number = _number(text) or errno.EIO
    return WriteError(number, os.strerror(number), str(path))


def _number(text: str) -> int:
    """The system's number of an error that a library wrote into its text; 0 if there is none."""
    found = re.search(r"(?:errno|os error) (\d+)", text, re.IGNORECASE)
    return int(found[1]) if found else errno.ENOSPC if "No space left" in text else 0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to it on success, removed on failure.

    Raises
    ------
    WriteError
        If the disk is full or broken; also where the error raised inside has text only, or another file's name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not longer than the name itself may be: file systems allow 255 bytes.
    temporary = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        named = _named(error, path, temporary) if isinstance(error, OSError) else None
        if named is None:
            raise
        raise named from error


def _named(error: OSError, path: Path, temporary: Path) -> WriteError | None:
    """The error of a disk with the name of the file that could not be written; None if it is about something else."""
    number = error.errno or _number(str(error))
    # A full disk is met only in writing, whatever is named: shutil names the source of a copy. But what is named by a
    # broken disk may be what could not be read.
    broken = number == errno.EIO and (error.filename is None or str(error.filename) == str(temporary))
    if isinstance(error, WriteError) or not (number in FULL or broken):
        return None
    return WriteError(number, os.strerror(number), str(path))


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; symbolic links to folders are followed, each folder once.

    A folder that may not be read is told of in the log, and so is a link that leads nowhere.
    """

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


def check_way(folder: Path) -> None:
    """Make sure that a folder is there or can be made.

    Raises
    ------
    EdgeseaError
        If it or a folder above it is a file.
    """
    for place in (folder, *folder.parents):
        if place.is_dir():
            break
        if place.exists() or place.is_symlink():
            raise EdgeseaError(f"{place}: a file, where a folder is needed; choose another name")


def check_file(path: Path) -> None:
    """Make sure that a file can be written: it is no folder, and its folder is there or can be made.

    Raises
    ------
    EdgeseaError
        If it cannot.
    """
    check_way(path.parent)
    if path.is_dir():
        raise EdgeseaError(f"{path}: a folder, where a file is to be written; choose another name")


def check_vacant(folder: Path, lacks: str, besides: Collection[str] = ()) -> None:
    """Make sure that a folder can be made for an artifact, or is there and holds nothing else; nothing is written.

    Parameters
    ----------
    folder : Path
        May exist if it is empty but for temporary files, which a process killed at its start leaves.
    lacks : str
        What is not there, for the message: ``no table``.
    besides : collection of str
        Names that may be there as well.

    Raises
    ------
    EdgeseaError
        If it is not empty, or it or a folder above it is a file.
    """
    check_way(folder)
    if folder.is_dir() and any(entry.suffix != ".tmp" and entry.name not in besides for entry in folder.iterdir()):
        raise EdgeseaError(f"{folder}: not empty and {lacks}; choose another folder")


def make_vacant(folder: Path, lacks: str) -> None:
    """Make a folder for an artifact, unless it holds something else; see `check_vacant`."""
    check_vacant(folder, lacks)
    folder.mkdir(parents=True, exist_ok=True)


def claim(folder: Path, plan: Mapping[str, Any], kind: str) -> None:
    """Make a folder for an artifact that is made by a plan, or make sure that it is this plan's already.

    Parameters
    ----------
    folder : Path
        What is new here gets the plan, as ``plan.json``.
    plan : mapping
        All that decides what the artifact will be, as JSON values.
    kind : str
        What the artifact is, for the messages: ``table``.

    Raises
    ------
    EdgeseaError
        If the folder holds an artifact of another plan (the values that differ are named), or something else.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        make_vacant(folder, f"no {kind}")
        write_json(path, plan)
    elif (found := read_json(path)) != plan:
        raise EdgeseaError(
            f"{folder}: holds a {kind} made from other input or options ({'; '.join(differences(found, plan))}); "
            "choose another folder or delete it"
        )


def differences(found: Any, plan: Any, name: str = "") -> Iterator[str]:
    """Describe the values that differ, as ``training.lr: 0.001 there, 0.01 here``."""
    if isinstance(found, Mapping) and isinstance(plan, Mapping):
        for key in sorted(found.keys() | plan.keys()):
            yield from differences(found.get(key), plan.get(key), f"{name}.{key}" if name else key)
    elif found != plan:
        yield f"{name or PLAN_FILE}: {_shortened(found)} there, {_shortened(plan)} here"


def _shortened(value: Any) -> str:
    text = str(value)
    half = LONGEST_VALUE // 2 - 2
    return text if len(text) <= LONGEST_VALUE else f"{text[:half]}...{text[-half:]}"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity become null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return str(value) if isinstance(value, Path) else value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    EdgeseaError
        If it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise EdgeseaError(f"{path}: no such file") from None
    except ValueError as error:
        raise EdgeseaError(f"{path}: not JSON: {error}") from error


def versions() -> dict[str, str]:
    """Versions of edgesea and of the libraries that numbers depend on, where installed."""
    found = {}
    for name in ("edgesea", "numpy", "torch", "soxr", "soundfile", "scikit-learn", "umap-learn", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
