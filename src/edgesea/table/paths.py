"""Which recording a path of a manifest means, on this computer and with the spelling of another one."""

import os
import re
import stat
import unicodedata
from collections.abc import Hashable, Iterator
from pathlib import Path
from urllib.parse import unquote

from edgesea.errors import EdgeseaError

# The name of a clip, its file ("": the same below the root), the bytes of that, and what tells recordings apart: text,
# where there is no file
Location = tuple[str, str, int, Hashable]


def locate(text: str, root: Path) -> Location:
    """What recording a path means that is relative to the folder `root`."""
    if not text:
        raise EdgeseaError("a recording needs one")
    is_plain = text.isascii() and text[0] not in "/." and text[-1] not in "/." and "//" not in text and "/." not in text
    if is_plain and (found := identity(f"{root}/{text}")):  # nearly always, and many times as fast
        return text, "", found[2], found
    tried = ((one, identity(root / one)) for one in _spellings(text))
    spelling, state = next((found for found in tried if found[1]), (text, None))
    base, full = normal(root), normal(root / spelling)
    if state and ".." in Path(spelling).parts and identity(full) != state:
        full = (root / spelling).resolve()  # .. behind a link
    size, key = state[2] if state else -1, state or str(full)
    if not full.is_relative_to(base):  # unless by a link
        base, full = base.resolve(), full.parent.resolve() / full.name
    if not full.is_relative_to(base):
        return clip_name(Path(os.path.normpath(spelling))), str(root / spelling), size, key
    return clip_name(full.relative_to(base)), str(root / full.relative_to(base)), size, key


def normal(path: Path) -> Path:
    """An absolute path without dots; links are left as they are."""
    return Path(os.path.normpath(path.absolute()))


def _spellings(text: str) -> Iterator[str]:
    """A path as it is, and where there is no such file, as it may be meant: by another system's slashes or accents."""
    yield text
    slashed = unquote(text.removeprefix("file://")) if text.startswith("file:///") else text.replace("\\", "/")
    paths = os.path.expandvars(expanded(slashed)), text
    yield from dict.fromkeys(unicodedata.normalize(form, path) for path in paths for form in ("NFC", "NFD"))
    if not text.isascii():
        yield os.fsdecode(slashed.encode("cp1252", "ignore"))


def expanded(text: str) -> str:
    return f"{Path.home()}{text[1:]}" if text.startswith("~/") else text


def identity(path: Path | str) -> tuple[int, ...] | None:
    """What the file system tells files apart by; None where there is none."""
    try:
        state = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    size = state.st_size if stat.S_ISREG(state.st_mode) else -1
    return state.st_dev, state.st_ino, size, state.st_mtime_ns


def hint(path: str, root: Path) -> str:
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
