"""Published weight files: downloaded once into a cache folder and verified on every use."""

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from types import ModuleType

from edgesea.errors import EdgeseaError, missing_extra
from edgesea.models.weights import file_digest

logger = logging.getLogger(__name__)

OPENL3_URL = "https://github.com/marl/openl3/raw/models/"
EDGEL3_URL = "https://github.com/ksangeeta2429/edgel3/raw/models/"

# git's ids of the published files in the branches behind the two URLs
GIT_BLOBS = {
    "openl3_audio_linear_env-v0_4_0.h5.gz": "7837407f033f3564c7e8d53fc4a4241fe160478b",
    "openl3_audio_linear_music-v0_4_0.h5.gz": "4e2e61beb17865481c8b8791c72eac8307e2753a",
    "openl3_audio_mel128_env-v0_4_0.h5.gz": "8c3dfee140f7776373841e5938a3e76c54f28942",
    "openl3_audio_mel128_music-v0_4_0.h5.gz": "73ff29de441865318c4b3a3f98c40763c4773e7c",
    "openl3_audio_mel256_env-v0_4_0.h5.gz": "34dbd7a91cdd2de6a3d6d036ac0a24d27d78e3cc",
    "openl3_audio_mel256_music-v0_4_0.h5.gz": "15e483646fa3d4091a463f0affbb706e6bbbb098",
    "edgel3_sea_ust_audio_emb_512.h5.gz": "116703e97997cc316d7163ede5d2f5e4d4018f87",
    "edgel3_sea_ust_audio_emb_256.h5.gz": "6be46fee2c278b79d9f77f064146a9493eff2f83",
    "edgel3_sea_ust_audio_emb_128.h5.gz": "162576876259e8267eb6cefe09470dbf153ed6fc",
    "edgel3_sea_ust_audio_emb_64.h5.gz": "f3535405c91fe8da71f6456adb8a061213324239",
}

OWN_PREFIXES = ("edgel3/", "efficientat/", "openl3/")
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?", re.ASCII)


def cache_folder() -> Path:
    """Where downloads are kept: ``EDGESEA_CACHE`` if it is set, otherwise the system's cache folder for edgesea."""
    folder = os.environ.get("EDGESEA_CACHE")
    if folder:
        return Path(folder).expanduser()
    return Path(_pooch().os_cache("edgesea"))


def git_blob_id(path: Path) -> str:
    """The id of a file in git: sha1 of ``blob``, a space, the size, a zero byte and the content, in hexadecimal."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, name: str, *, git_blob: str | None = None) -> Path:
    """A file from the cache, downloaded first if it is not there.

    A file without a known id is trusted the first time: its sha256 is written to ``NAME.sha256`` beside it (a line that
    ``sha256sum --check`` reads) and compared on every later use.

    Parameters
    ----------
    url : str
        Where the file is published (http or https).
    name : str
        Its name in the cache folder.
    git_blob : str, optional
        The git blob id that it must have.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    EdgeseaError
        If it cannot be downloaded, or is not the expected file.
    """
    path = cache_folder() / name
    try:
        if path.is_file():
            _verify(path, path, git_blob, f"{path}: not the published file", "delete it to download it again")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _store(url, path, git_blob)
    except OSError as error:
        raise EdgeseaError(
            f"{path}: cannot be used ({error.strerror or error}); set EDGESEA_CACHE to a folder that can be written"
        ) from error
    return path


def _store(url: str, path: Path, git_blob: str | None) -> None:
    """Download, verify, and only then give the file its name."""
    incoming = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # another process may be fetching the same file
    try:
        _download(url, incoming, path)
        _verify(incoming, path, git_blob, f"{url}: not the expected file", _by_hand(path))
        incoming.replace(path)
    finally:
        incoming.unlink(missing_ok=True)


def _download(url: str, target: Path, path: Path) -> None:
    """Store what `url` gives in `target`; `path` is where it will be kept."""
    pooch = _pooch()
    import requests  # comes with pooch

    logger.info("downloading %s to %s", url, path)
    # Without the header a server may send a .gz file as an encoded .h5 file, which would arrive decompressed
    download = pooch.HTTPDownloader(
        progressbar=True, chunk_size=2**16, timeout=30, headers={"Accept-Encoding": "identity"}
    )
    try:
        download(url, str(target), None)
    except requests.RequestException as error:
        raise EdgeseaError(f"{url}: cannot be downloaded ({error}); {_by_hand(path)}") from error


def _by_hand(path: Path) -> str:
    return (
        f"get the file in another way and put it there: {path} (or name it: of a teacher as weights=FILE, of a student "
        "as the model)"
    )


def _verify(file: Path, path: Path, git_blob: str | None, problem: str, remedy: str) -> None:
    """Raise EdgeseaError unless `file` has the git blob id, or else the sha256 recorded beside `path`.

    Without a record, that of `file` becomes the record.
    """
    if git_blob is not None:
        kind, expected, found = "git blob id", git_blob, git_blob_id(file)
    else:
        record = path.with_name(f"{path.name}.sha256")
        kind, found = "sha256", file_digest(file)
        words = record.read_text().split() if record.is_file() else []
        if not words:
            record.write_text(f"{found}  {path.name}\n")
            logger.info("%s: no published hash is known; sha256 %s recorded in %s", path, found, record.name)
        expected = words[0] if words else found
        remedy += f"; if it was changed on purpose, delete {record}"
    if found != expected:
        raise EdgeseaError(f"{problem}: {kind} {found} instead of {expected}; {remedy}")


def _pooch() -> ModuleType:
    try:
        import pooch
    except ImportError as error:
        raise missing_extra("pooch", "train") from error
    module: ModuleType = pooch
    return module


def is_hub_id(name: str) -> bool:
    """Whether `name` is ``owner/name[@revision]`` of the Hugging Face Hub.

    It is not if it is a path here or one of our own ids. Where ``owner`` is a folder here, as in ``runs/cty``, it was
    probably meant as one and mistyped; ``owner/name@main`` is of the Hub all the same.
    """
    match = HUB_ID.fullmatch(name)
    if not match or name.startswith(OWN_PREFIXES) or Path(name).exists():
        return False
    return bool(match[2]) or not Path(name.partition("/")[0]).is_dir()


def fetch_hub(id: str, files: Sequence[str]) -> Path:
    """Files of a repository of the Hugging Face Hub, from its cache if they have not changed, or it does not answer.

    Parameters
    ----------
    id : str
        ``owner/name``, or ``owner/name@revision`` with a branch, a tag or a commit.
    files : sequence of str
        Their names; those that the repository lacks are left out.

    Returns
    -------
    Path
        The folder with the files.

    Raises
    ------
    EdgeseaError
        If there is no such repository, it cannot be fetched and is not in the cache, or huggingface-hub is missing.
    """
    hub = huggingface_hub(id)
    match = HUB_ID.fullmatch(id)
    repository, revision = match.groups() if match else (id, None)
    download = partial(hub.snapshot_download, repository, revision=revision, allow_patterns=list(files))
    try:
        # Asked first, because snapshot_download would wait without end for a network that swallows packets
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT  # 10 s, unless the environment says otherwise
        hub.HfApi().repo_info(repository, revision=revision or hub.constants.DEFAULT_REVISION, timeout=timeout)
        return Path(download())
    except Exception as error:  # of several libraries
        refused = isinstance(error, hub.errors.RepositoryNotFoundError | hub.errors.RevisionNotFoundError)
        folder = None if refused else _cached(download, files)
        if folder is None:
            raise EdgeseaError(
                f"{id}: no such folder here, and it cannot be fetched from the Hugging Face Hub: {hub_reason(error)}"
            ) from error
        logger.warning("%s: taken from the cache, for the Hugging Face Hub cannot be asked: %s", id, hub_reason(error))
        return folder


def _cached(download: Callable[..., str], files: Sequence[str]) -> Path | None:
    """The folder of the cache of the Hugging Face Hub, if it has all `files`."""
    try:
        folder = Path(download(local_files_only=True))
    except (OSError, ValueError):  # there is none; other versions of the library raise the second
        return None
    return folder if all((folder / name).is_file() for name in files) else None


def hub_reason(error: Exception) -> str:
    """What the library of the Hugging Face Hub says of a failure, in one line."""
    return shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def huggingface_hub(id: str) -> ModuleType:
    """The library of the Hugging Face Hub, which `id` needs."""
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        remedy = missing_extra("huggingface-hub", "hub")
        raise EdgeseaError(f"{id}: taken for the name of a model on the Hugging Face Hub, but {remedy}") from error
