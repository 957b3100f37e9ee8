import http.server
import subprocess
import threading
from pathlib import Path

import pytest

from edgesea.errors import EdgeseaError
from edgesea.models.base import file_digest
from edgesea.models.download import fetch, git_blob_id

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


def test_a_file_is_downloaded_once(server, cache):
    for _ in range(2):
        path = fetch(server.url("moved.h5.gz"), "weights.h5.gz", git_blob=BLOB)
        assert path == cache / "weights.h5.gz"
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/moved.h5.gz", "/weights.h5.gz"]
    assert contents(cache) == ["weights.h5.gz"]
    assert git_blob_id(path) == BLOB == subprocess.check_output(["git", "hash-object", path], text=True).strip()
    assert fetch("http://127.0.0.1:9/unused", "weights.h5.gz", git_blob=BLOB) == path  # also if put there by hand


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
    with pytest.raises(EdgeseaError, match=f"{server.url('weights.h5.gz')}: .*{BLOB}.*weights=FILE"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz", git_blob=BLOB)
    assert contents(cache) == []


@pytest.mark.parametrize("git_blob", [BLOB, None])
def test_a_cached_file_that_changed_is_refused(server, cache, git_blob):
    path = fetch(server.url("weights.h5.gz"), "weights.h5.gz", git_blob=git_blob)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(EdgeseaError, match=f"{path}: .*delete"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz", git_blob=git_blob)


def test_the_first_download_is_recorded_and_a_later_one_must_equal_it(server, cache):
    path = fetch(server.url("weights.h5.gz"), "weights.h5.gz")
    assert (cache / "weights.h5.gz.sha256").read_text() == f"{file_digest(path)}  weights.h5.gz\n"
    subprocess.run(["sha256sum", "--check", "weights.h5.gz.sha256"], cwd=cache, check=True, capture_output=True)
    assert fetch(server.url("weights.h5.gz"), "weights.h5.gz") == path
    assert len(server.requests) == 1
    path.unlink()
    server.files["/weights.h5.gz"] = b"new"
    with pytest.raises(EdgeseaError, match=r"sha256 .*weights\.h5\.gz\.sha256"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz")
    assert contents(cache) == ["weights.h5.gz.sha256"]
    (cache / "weights.h5.gz.sha256").unlink()
    assert fetch(server.url("weights.h5.gz"), "weights.h5.gz").read_bytes() == b"new"


def test_failed_downloads_name_the_url_and_the_remedy(server, cache):
    server.cut = True
    for url in (server.url("absent.h5.gz"), server.url("weights.h5.gz"), "http://127.0.0.1:9/closed", "no url"):
        with pytest.raises(EdgeseaError, match=f"{url}: .*weights=FILE") as error:
            fetch(url, "weights.h5.gz", git_blob=BLOB)
        assert str(cache / "weights.h5.gz") in str(error.value)
        assert contents(cache) == []


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EdgeseaError, match="EDGESEA_CACHE"):
        fetch(server.url("weights.h5.gz"), "weights.h5.gz")
