import http.server
import subprocess
import threading
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO

import pytest

from edgesea.errors import EdgeseaError
from edgesea.models.base import file_digest
from edgesea.models.download import fetch, git_blob_id

CONTENT = bytes(range(256)) * 2000
BLOB = "85ca3d5aeed19f818566b9244ef5ad7d1d11174a"


class Handler(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source: BinaryIO, target: BinaryIO) -> None:
        content = source.read()
        target.write(content[: len(content) // 2] if "cut" in self.path else content)  # after the whole length

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder that is served."""
    (tmp_path / "site").mkdir()
    for name in ("weights.h5.gz", "cut.h5.gz"):
        (tmp_path / "site" / name).write_bytes(CONTENT)
    return tmp_path / "site"


@pytest.fixture
def url(site):
    """Where `site` is served."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGESEA_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


def contents(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_a_file_is_downloaded_once_and_has_the_id_of_git(url, cache):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz", git_blob=BLOB)
    assert path == cache / "weights.h5.gz"
    assert path.read_bytes() == CONTENT
    assert git_blob_id(path) == BLOB == subprocess.check_output(["git", "hash-object", path], text=True).strip()
    assert contents(cache) == ["weights.h5.gz"]
    assert fetch("http://127.0.0.1:9/unused", "weights.h5.gz", git_blob=BLOB) == path  # also if put there by hand


def test_parallel_downloads_do_not_disturb_each_other(url, cache):
    with ThreadPool(4) as pool:
        paths = pool.map(lambda _: fetch(f"{url}/weights.h5.gz", "w.h5.gz", git_blob=BLOB), range(4))
    assert paths == [cache / "w.h5.gz"] * 4
    assert contents(cache) == ["w.h5.gz"]


def test_a_wrong_download_is_not_stored(url, site, cache):
    (site / "weights.h5.gz").write_text("<html>sign in</html>")
    with pytest.raises(EdgeseaError, match=f"{url}/weights.h5.gz: .*{BLOB}.*weights=FILE"):
        fetch(f"{url}/weights.h5.gz", "weights.h5.gz", git_blob=BLOB)
    assert contents(cache) == []


@pytest.mark.parametrize("git_blob", [BLOB, None])
def test_a_cached_file_that_changed_is_refused(url, git_blob):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz", git_blob=git_blob)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(EdgeseaError, match=f"{path}: .*delete"):
        fetch(f"{url}/weights.h5.gz", "weights.h5.gz", git_blob=git_blob)


def test_the_first_download_is_recorded_and_a_later_one_must_equal_it(url, site, cache):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz")
    assert (cache / "weights.h5.gz.sha256").read_text() == f"{file_digest(path)}  weights.h5.gz\n"
    subprocess.run(["sha256sum", "--check", "weights.h5.gz.sha256"], cwd=cache, check=True, capture_output=True)
    assert fetch("http://127.0.0.1:9/unused", "weights.h5.gz") == path
    path.unlink()
    (site / "weights.h5.gz").write_bytes(b"new")
    with pytest.raises(EdgeseaError, match=r"sha256 .*weights\.h5\.gz\.sha256"):
        fetch(f"{url}/weights.h5.gz", "weights.h5.gz")
    assert contents(cache) == ["weights.h5.gz.sha256"]
    (cache / "weights.h5.gz.sha256").unlink()
    assert fetch(f"{url}/weights.h5.gz", "weights.h5.gz").read_bytes() == b"new"


def test_failed_downloads_name_the_url_and_the_remedy(url, cache):
    for address in (f"{url}/absent.h5.gz", f"{url}/cut.h5.gz", "http://127.0.0.1:9/closed", "no url"):
        with pytest.raises(EdgeseaError, match=f"{address}: .*{cache}/weights.h5.gz .*weights=FILE"):
            fetch(address, "weights.h5.gz", git_blob=BLOB)
        assert contents(cache) == []


def test_a_cache_that_cannot_be_written(url, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EdgeseaError, match="EDGESEA_CACHE"):
        fetch(f"{url}/weights.h5.gz", "weights.h5.gz")
