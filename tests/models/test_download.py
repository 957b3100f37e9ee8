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
from edgesea.models.published import fetch

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
    (tmp_path / "site").mkdir()
    for name, content in (("weights", CONTENT), ("cut", CONTENT), ("other", b"<html>sign in</html>")):
        (tmp_path / "site" / f"{name}.h5.gz").write_bytes(content)
    return tmp_path / "site"


@pytest.fixture
def url(site):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def test_a_file_is_downloaded_once_and_has_the_id_of_git(url, cache):
    with ThreadPool(4) as pool:  # which do not disturb each other
        paths = pool.map(lambda _: fetch(f"{url}/weights.h5.gz", "w.h5.gz", git_blob=BLOB), range(4))
    assert paths == [cache / "w.h5.gz"] * 4
    assert paths[0].read_bytes() == CONTENT
    assert subprocess.check_output(["git", "hash-object", paths[0]], text=True).strip() == BLOB
    assert list(cache.iterdir()) == paths[:1]
    assert fetch("http://127.0.0.1:9/unused", "w.h5.gz", git_blob=BLOB) == paths[0]  # also if put there by hand


def refused(words: str, url: str, **options: str) -> None:
    with pytest.raises(EdgeseaError, match=words):
        fetch(url, "weights.h5.gz", **options)


@pytest.mark.parametrize("options", [{"git_blob": BLOB}, {}])
def test_a_cached_file_that_changed_is_refused(url, options):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz", **options)
    path.write_bytes(CONTENT[:-1])
    refused(str(path), f"{url}/weights.h5.gz", **options)
    assert path.is_file()


def test_the_first_download_is_recorded_and_a_later_one_must_equal_it(url, site, cache):
    path = fetch(f"{url}/weights.h5.gz", "weights.h5.gz")
    assert (cache / "weights.h5.gz.sha256").read_text() == f"{file_digest(path)}  weights.h5.gz\n"
    subprocess.run(["sha256sum", "--check", "weights.h5.gz.sha256"], cwd=cache, check=True, capture_output=True)
    assert fetch("http://127.0.0.1:9/unused", "weights.h5.gz") == path
    path.unlink()
    (site / "weights.h5.gz").write_bytes(b"new")
    refused(r"weights\.h5\.gz\.sha256", f"{url}/weights.h5.gz")
    assert not path.exists()
    (cache / "weights.h5.gz.sha256").unlink()
    assert fetch(f"{url}/weights.h5.gz", "weights.h5.gz").read_bytes() == b"new"


def test_failed_and_wrong_downloads_name_the_url_and_leave_nothing(url, site, cache, monkeypatch):
    for address in (*(f"{url}/{name}.h5.gz" for name in ("absent", "cut", "other")), "http://127.0.0.1:9/x", "no url"):
        for words in (address, f"{cache}/weights.h5.gz", "weights=FILE"):
            refused(words, address, git_blob=BLOB)
        assert list(cache.iterdir()) == []
    monkeypatch.setenv("EDGESEA_CACHE", str(site / "other.h5.gz" / "cache"))  # which cannot be made
    refused("EDGESEA_CACHE", f"{url}/weights.h5.gz")
