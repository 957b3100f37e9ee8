"""``data``: the labelled data sets of `evaluate`, downloaded, checked and laid out.

Not by soundata: it has no SONYC-UST (1.0.1), takes a broken download for the whole file, and brings librosa, jams and
py7zr. A table of addresses and a GET with a range do more with the libraries of the base install.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import yaml
from tqdm import tqdm

from edgesea.artifact import check_file, locked, walk
from edgesea.errors import EdgeseaError, error_of, explained
from edgesea.tasks.options import ProbeOptions, TaggingOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What data.yaml says of a data set."""

    folder: str
    gigabytes: float
    license: str
    layout: str
    files: dict[str, str]


SOURCES = {
    task: Source(**facts)
    for task, facts in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8")).items()
}


def data(
    task: Literal["esc50", "urbansound8k", "sonyc_ust"], dest: Path, *, mirror: str | None = None, keep: bool = False
) -> dict[str, Any]:
    """Download a labelled data set, check it, and lay it out as `edgesea evaluate` reads it.

    A command that was interrupted, or lost the network, resumes. Without a network it says which files to put where;
    files that are there are checked and unpacked, not downloaded.

    Parameters
    ----------
    task : {"esc50", "urbansound8k", "sonyc_ust"}
        ESC-50 (0.65 GB), UrbanSound8K (6 GB), SONYC-UST v2.3 (13.3 GB); unpacking needs as much again, and more.
    dest : Path
        Folder for the data set.
    mirror : str, optional
        Address of a folder with the same files, to download from there.
    keep : bool
        Do not delete the archives once all clips are there.

    Returns
    -------
    dict
        task, data (the folder), clips (how many `evaluate` uses), license.

    EdgeseaError: no network, not enough room, or a file that is not the published one.
    """
    dest, source = Path(dest), SOURCES[task]
    check_file(dest / source.layout.partition(",")[0])
    with locked(dest):
        if error_of(_clips, task, dest):
            there, need = sum(path.stat().st_size for path in walk(dest)), 2.5e9 * source.gigabytes
            if (free := shutil.disk_usage(dest).free) + there < need:
                text = f"{task} needs {need / 1e9:.0f} GB while it is unpacked, and {free / 1e9:.0f} GB are free"
                raise EdgeseaError(f"{dest}: {text}; choose another folder")
            log.info("%s: %g GB to download, license %s", task, source.gigabytes, source.license)
            for name in source.files:
                _fetch(name, source, dest, mirror or source.folder)
            for name in source.files:
                _unpack(dest / name, dest, is_flat=task == "sonyc_ust")
        clips = _clips(task, dest)
        for name in source.files:
            if not keep and _is_archive(name):
                (dest / name).unlink(missing_ok=True)
    return {"task": task, "data": str(dest), "clips": clips, "license": source.license}


def _clips(task: str, data: Path) -> int:
    """The number of clips that `evaluate` uses; EdgeseaError if one is missing or cannot be opened."""
    from edgesea.tasks.evaluate import load_task
    from edgesea.tasks.skipped import check_openable

    found = load_task(task, data, ProbeOptions(), TaggingOptions(), None)
    check_openable(found, data, 0.0, None, None)
    return len(found.paths)


def _fetch(name: str, source: Source, dest: Path, folder: str) -> None:
    """Download a file if it is not there, beginning where an earlier call ended, and compare its md5."""
    import pooch
    import requests

    path, url = dest / name, f"{folder.rstrip('/')}/{name}"
    part, had = path.with_name(f"{name}.part"), 0
    while not path.is_file():
        try:
            _download(url, part)
            part.rename(path)
        except requests.RequestException as error:
            came = part.stat().st_size if part.is_file() else 0
            if not isinstance(error, requests.HTTPError) and came > had:  # it broke off, but some of it came
                had = came
                time.sleep(1)
                continue
            lacking = ", ".join(one for one in source.files if not (dest / one).is_file())
            reason = shorten(str(error), 150, placeholder=" ...")
            raise EdgeseaError(
                f"{url}: cannot be downloaded ({reason}). Run the same command again later: it resumes. Without a "
                f"network, bring {lacking} from {source.folder} to {dest} and run it then, or lay out {dest} yourself: "
                f"{source.layout}"
            ) from error
    if source.files[name] and (md5 := pooch.file_hash(str(path), "md5")) != source.files[name]:
        raise EdgeseaError(f"{path}: not the published file (md5 {md5} instead of {source.files[name]}); delete it")


def _download(url: str, part: Path) -> None:
    """Append to `part` what it lacks of a file; a server without ranges sends all of it again."""
    import requests

    start = part.stat().st_size if part.is_file() else 0
    # Without Accept-Encoding a server may send a .gz file decompressed
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=30, headers=headers) as answer:
        if start and answer.status_code == 416:  # nothing is left; the md5 says whether it is the file
            return
        answer.raise_for_status()
        start = start if answer.status_code == 206 else 0
        total = start + int(answer.headers.get("Content-Length", 0)) or None
        bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, disable=None, leave=False)
        with part.open("ab" if start else "wb") as file, bar:
            for block in answer.iter_content(1 << 14):  # a connection that breaks off loses the last block
                bar.update(file.write(block))


def _is_archive(name: str) -> bool:
    return name.endswith((".zip", ".tar.gz"))


def _unpack(archive: Path, dest: Path, *, is_flat: bool) -> None:
    """Move the files of an archive to the data set's folder, without its top folder, or, if flat, to audio/."""
    if not _is_archive(archive.name):
        return
    log.info("%s: unpacking", archive)
    scratch = dest / f".{archive.name}.unpacked"
    safe = {"filter": "data"} if archive.suffix == ".gz" else {}
    with explained(f"{archive}: cannot be unpacked; delete it and run the same command again"):
        shutil.unpack_archive(archive, scratch, **safe)  # type: ignore[arg-type]
    for path in walk(scratch):
        if not path.name.startswith("."):
            parts = path.relative_to(scratch).parts
            target = dest / "audio" / path.name if is_flat else dest.joinpath(*parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(scratch)
