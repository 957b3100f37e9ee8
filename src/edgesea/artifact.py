"""Artifacts on disk: claimed by a plan, resumed or refused, locked while written; each file is whole or not there."""

import errno
import hashlib
import json
import logging
import os
import shlex
import shutil
import socket
import stat
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

from edgesea.errors import FULL, EdgeseaError, say

log = logging.getLogger(__name__)
PLAN_FILE = "plan.json"
LOCK_FILE = ".lock"
DIGESTS_FILE = "digests.json"  # what `Digests` remembers
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # errors of a lock that another process has
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # errors of file systems without locks
UNLOCKED: set[Path] = set()  # folders on such file systems
WAIT = "EDGESEA_WAIT"  # environment variable: wait for locks
LONGEST_VALUE = 60  # characters of a value in a message; ids and file names fit, lists and hashes are shortened
VERSIONS = ("edgesea", "versions")  # keys of plans and provenances that name versions, which make no other artifact
TEMPORARY = "." + "[0-9a-f]" * 32 + ".tmp"  # how names of temporary files end
BLOCK, BLOCKS = 1 << 16, 64  # of a file larger than 4 MiB, 64 blocks of 64 KiB are digested


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
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value`, made plain, as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
        # What is not UTF-8 in the name of a file becomes an escape of JSON, and is read back as it was.
        temporary.write_text(text + "\n", "utf-8", "backslashreplace")


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


@contextmanager
def claimed(
    folder: Path, plan: Mapping[str, Any], kind: str, *, is_begun: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Hold a folder, new or with the same `plan` (JSON values: all that decides the result, but no versions), locked.

    EdgeseaError if the folder holds an artifact of another plan that `is_begun` (the values that differ are named), or
    something else, or if another command works there (see `locked`); then nothing is written.
    """
    path, plan = folder / PLAN_FILE, plain(plan)

    def is_there() -> bool:
        if not path.exists():
            check_vacant(folder, f"no {kind}")
            return False
        changed = list(differences(read_json(path), plan))
        if changed and is_begun():
            text = f"{folder}: holds a {kind} made from other input or options ({'; '.join(changed)})"
            raise EdgeseaError(f"{text}; choose another folder or delete it")
        return not changed

    is_there()  # a folder that is refused gets no lock
    with locked(folder):
        if not is_there():
            write_json(path, plan)
        yield


def is_helper() -> bool:
    """Whether Lightning has started this process, by the same command, only to help another one on a further device."""
    return "RANK" not in os.environ and int(os.environ.get("LOCAL_RANK") or 0) > 0


@contextmanager
def locked(folder: Path, *, stale: Sequence[str] = (".*", "*/.*")) -> Iterator[None]:
    """Hold a folder's lock, which ends with this process at the latest; helpers leave it to the process they help.

    Another holder is named in an EdgeseaError, or waited for if the environment variable EDGESEA_WAIT is set. The
    temporary files of the names `stale` that killed holders left are deleted.
    """
    if is_helper():
        yield
        return
    path, is_new = folder / LOCK_FILE, not folder.exists()
    lock = _acquire(path)
    try:
        for left in [left for name in stale for left in folder.glob(name + TEMPORARY)]:
            delete(left)
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                if _is_at(lock, path):
                    path.unlink()
            os.close(lock)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # if nothing has been written


def _acquire(path: Path) -> int | None:
    """An open file that is locked; None where nothing can be written, and so nothing must be locked."""
    waits = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the last holder has just deleted the folder, which was empty
        except OSError:
            if os.access(path.parent, os.W_OK):
                raise
            return None
        holder = _lock(lock, path)
        if not holder and _is_at(lock, path):
            command = shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "edgesea"), *sys.argv[1:]])
            since = datetime.now().isoformat(" ", "seconds")
            text = f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"
            with suppress(OSError):  # on a full disk
                os.ftruncate(lock, 0)
                os.write(lock, text.encode("utf-8", "surrogateescape")[:1000])
            return lock
        os.close(lock)  # unless it is taken, its last holder has deleted it meanwhile
        if holder and os.environ.get(WAIT, "0") in ("", "0"):
            remedy = "wait until it ends, add --wait, or choose another folder"
            raise EdgeseaError(f"{path.parent}: in use by {holder}; {remedy}")
        if holder:
            if not waits:
                log.info("%s: waiting for %s", path.parent, holder)
            waits = True
            time.sleep(0.3)


def _lock(file: int, path: Path) -> str:
    """Lock an open file; returns who has locked it already."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return os.read(file, 1000).decode("utf-8", "surrogateescape") or "another command"
        if error.errno not in NO_LOCKS:
            raise
        if path.parent not in UNLOCKED:
            log.warning("%s: this file system has no locks; do not start two commands on one folder", path.parent)
        UNLOCKED.add(path.parent)
    return ""


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is (still) the one at this path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def move_aside(path: Path, keep: bool = True) -> Path:
    """Rename a file or folder, unless a command works there, to the first of ``NAME.old-1``, ``-2`` ... not taken.

    Or, if it is not to be kept, to a temporary name, which the next holder of the folder's lock deletes.
    """
    names = (path.with_name(f"{path.name}.old-{number}") for number in count(1))
    new = next(name for name in names if not os.path.lexists(name))
    new = new if keep else path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}.tmp")
    with locked(path) if path.is_dir() else nullcontext():
        path.rename(new)
        (new / LOCK_FILE).unlink(missing_ok=True) if new.is_dir() else None
    return new


def delete(path: Path) -> None:
    """Delete a file or folder, unless it is gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def differences(found: Any, plan: Any, name: str = "") -> Iterator[str]:
    """Describe the values that differ, e.g. ``training.lr: 0.001 there, 0.01 here``; versions do not count."""
    if isinstance(found, Mapping) and isinstance(plan, Mapping):
        for key in sorted((found.keys() | plan.keys()) - {*VERSIONS}):
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
        say(f"{error.filename}: not searched: {error.strerror}", logging.WARNING)

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
                say(f"{path}: left out: a link that leads nowhere", logging.WARNING)


def file_state(path: Path | str) -> tuple[int, int] | None:
    """Size in bytes and modification time in ns of a file; None where there is none, or can be none of this name."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


class Digests:
    """Digests of the contents of files, remembered in a folder by size and time: what was touched is read again."""

    def __init__(self, folder: Path) -> None:
        self.path = path = folder / DIGESTS_FILE
        self.changed: list[str] = []  # files whose contents are not those that were remembered
        self.new: list[str] = []  # files of which nothing was remembered
        self.reads = True  # False: files that are not remembered are not read, and have no digest
        self._ways: dict[str, str] = {}  # to folders
        self._known: dict[str, str] = {}
        if path.is_file():
            with suppress(EdgeseaError, AttributeError):  # damaged: all files are read
                self._known = dict(read_json(path).items())

    def of(self, files: Iterable[Path | str]) -> list[str]:
        """A digest for each file; empty for one that is not there or cannot be read."""
        from tqdm import tqdm

        paths = [os.fspath(path) for path in files if self.reads or self._known]
        found = [self._remembered(path) for path in paths]
        unread = [path for path, one in zip(paths, found, strict=True) if one is None and self.reads]
        with ThreadPoolExecutor(8) as pool:  # for the delays of network drives
            reading = pool.map(self._of, unread)
            read = iter([*tqdm(reading, "contents", len(unread), unit="file", disable=None, leave=False)])
        return [next(read, "") if one is None else one for one in found]

    def _remembered(self, path: str) -> str | None:
        """The digest of a file that has not been touched; empty where there is none, None if it must be read."""
        if (state := file_state(path)) is None:
            return ""
        before = self._known.get(self._name(path), "")
        return before.rpartition(" ")[2] if before.startswith("{} {} ".format(*state)) else None

    def _name(self, path: str) -> str:
        """The way to a path from the folder of this file, which stays the same if both are moved."""
        folder, name = os.path.split(path)
        if folder not in self._ways:
            try:
                self._ways[folder] = os.path.relpath(folder or os.curdir, self.path.parent)
            except ValueError:  # another drive
                self._ways[folder] = os.path.abspath(folder)  # noqa: PTH100
        return name if self._ways[folder] == os.curdir else f"{self._ways[folder]}/{name}"

    def _of(self, path: str) -> str:
        state = file_state(path) or (0, 0)
        try:
            found = file_content(Path(path))
        except OSError as error:
            log.warning("%s: cannot be read: %s", path, error.strerror)
            return ""
        before = self._known.get(name := self._name(path), "")
        if not before.endswith(f" {found}"):
            (self.changed if before else self.new).append(path)
        young = state[1] > (time.time() - 2) * 1e9  # it may change again without its time showing it
        self._known[name] = f"{'young' if young else '{} {}'.format(*state)} {found}"
        return found

    def save(self) -> None:
        """Write what is remembered."""
        write_json(self.path, self._known)


def file_content(path: Path) -> str:
    """Hash of a file's size and contents; of a file larger than 4 MiB, of 64 blocks of 64 KiB spread evenly over it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = hashlib.sha256(b"%d " % size)
        if size <= BLOCK * BLOCKS:
            found.update(file.read())
        else:
            for number in range(BLOCKS):
                file.seek((size - BLOCK) * number // (BLOCKS - 1))
                found.update(file.read(BLOCK))
    return found.hexdigest()[:24]


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
