import http.server
import re
import subprocess
import threading
from pathlib import Path

import pytest

from edgesea.errors import EdgeseaError
from edgesea.models.base import file_digest
from edgesea.models.download import GIT_BLOBS, cache_folder, fetch, git_blob_id

CONTENT = bytes(range(256)) * 2000
BLOB = "85ca3d5aeed19f818566b9244ef5ad7d1d11174a"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; counts the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/weights.h5.gz": CONTENT}
        self.requests: list[str] = []
        self.cut = False  # announce the whole file and send half of it

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path == "/moved.h5.gz":
            self.send_response(302)
            self.send_header("Location", "/weights.h5.gz")
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.cut else content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGESEA_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


def contents(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_git_blob_id_is_that_of_git(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    expected = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert git_blob_id(path) == expected == BLOB


def test_cache_folder(monkeypatch, cache):
    assert cache_folder() == cache
    monkeypatch.delenv("EDGESEA_CACHE")
    assert cache_folder().name == "edgesea"


def test_published_ids_are_well_formed():
    assert len(GIT_BLOBS) == len(set(GIT_BLOBS.values())) == 10
    assert all(re.fullmatch("[0-9a-f]{40}", blob) for blob in GIT_BLOBS.values())


def test_a_file_is_downloaded_once(server, cache):
    for _ in range(2):
        path = fetch(server.url("moved.h5.gz"), "weights.h5.gz", git_blob=BLOB)
        assert path == cache / "weights.h5.gz"
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/moved.h5.gz", "/weights.h5.gz"]
    assert contents(cache) == ["weights.h5.gz"]


def test_parallel_downloads_do_not_disturb_each_other(server, cache):
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(server.url("weights.h5.gz"), "w.h5.gz", git_blob=BLOB)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [cache / "w.h5.gz"] * 4
    assert contents(cache) == ["w.h5.gz"]


def test_a_wrong_download_is_not_kept(server, cache):
    server.files["/weights.h5.gz"] = b"<html>sign in</html>"
    message = f"{server.url('weights.h5.gz')}: not the expected file: git blob id [0-9a-f]{{40}} instead of {BLOB}"
    with pytest.raises(EdgeseaError, match=message + ".*weights=FILE"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz", git_blob=BLOB)
    assert contents(cache) == []


@pytest.mark.parametrize("git_blob", [BLOB, None])
def test_a_cached_file_that_changed_is_refused(server, cache, git_blob):
    path = fetch(server.url("weights.h5.gz"), "weights.h5.gz", git_blob=git_blob)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(EdgeseaError, match=re.escape(str(path)) + ".* instead of .*delete it to download it again"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz", git_blob=git_blob)


def test_the_first_download_is_recorded(server, cache):
    path = fetch(server.url("weights.h5.gz"), "weights.h5.gz")
    record = cache / "weights.h5.gz.sha256"
    assert record.read_text() == f"{file_digest(path)}  weights.h5.gz\n"
    subprocess.run(["sha256sum", "--check", record.name], cwd=cache, check=True, capture_output=True)
    assert fetch(server.url("weights.h5.gz"), "weights.h5.gz") == path
    assert len(server.requests) == 1


def test_a_later_download_must_equal_the_first(server, cache):
    fetch(server.url("weights.h5.gz"), "weights.h5.gz").unlink()
    server.files["/weights.h5.gz"] = b"new"
    with pytest.raises(EdgeseaError, match=r"not the expected file: sha256 .*if it was changed, delete .*\.sha256"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz")
    assert contents(cache) == ["weights.h5.gz.sha256"]
    (cache / "weights.h5.gz.sha256").unlink()
    assert fetch(server.url("weights.h5.gz"), "weights.h5.gz").read_bytes() == b"new"


def test_a_file_put_into_the_cache_by_hand_needs_no_network(cache):
    cache.mkdir()
    (cache / "weights.h5.gz").write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:9/unused", "weights.h5.gz", git_blob=BLOB) == cache / "weights.h5.gz"


def test_failed_downloads_name_the_url_and_the_remedy(server, cache):
    server.cut = True
    for url in (server.url("absent.h5.gz"), server.url("weights.h5.gz"), "http://127.0.0.1:9/closed", "no url"):
        with pytest.raises(EdgeseaError, match=re.escape(f"{url}: cannot be downloaded") + ".*weights=FILE") as error:
            fetch(url, "weights.h5.gz", git_blob=BLOB)
        assert str(cache / "weights.h5.gz") in str(error.value)
        assert contents(cache) == []


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EdgeseaError, match=r"cannot be used .*EDGESEA_CACHE"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz")
