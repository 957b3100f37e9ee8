"""Downloads from a real server that has small archives in the layout of the published ones."""

import hashlib
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import make_esc50
from test_sonyc_ust import write_tags

from edgesea.errors import EdgeseaError
from edgesea.tasks import data as module
from edgesea.tasks.data import SOURCES, data
from edgesea.tasks.evaluate import evaluate


class Server(ThreadingHTTPServer):
    """Serves the files of a folder, by ranges if asked for; breaks each answer off after `limit` bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.limit, self.has_ranges = folder, 1 << 30, True
        self.asked: list[tuple[str, str]] = []  # names and ranges
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, span = self.path.strip("/"), self.headers.get("Range", "")
        self.server.asked.append((name, span))
        if not (self.server.folder / name).is_file():
            return self.send_error(404)
        content = (self.server.folder / name).read_bytes()
        start = int(span[6:-1]) if span and self.server.has_ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.limit])

    def log_message(self, *words: object) -> None:
        pass


def pack(folder: Path, archive: Path, top: str) -> None:
    """An archive of a folder, below a folder `top`."""
    shutil.move(folder, archive.parent / top)
    (archive.parent / top / ".DS_Store").touch()
    kind = "zip" if archive.suffix == ".zip" else "gztar"
    shutil.make_archive(str(archive).removesuffix(".zip").removesuffix(".tar.gz"), kind, archive.parent, top)
    shutil.rmtree(archive.parent / top)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Has all data sets; the sums that are expected are those of its files."""
    folder = tmp_path / "published"
    folder.mkdir()
    pack(make_esc50(tmp_path / "esc50"), folder / next(iter(SOURCES["esc50"].files)), "ESC-50-33c8")
    urban = make_esc50(tmp_path / "urban")
    rows = [line.split(",") for line in (urban / "meta" / "esc50.csv").read_text().split()][1:]
    (urban / "metadata").mkdir()
    listing = "\n".join(["slice_file_name,fsID,fold,class", *(f"{name},{name},{fold},{of}" for name, fold, of in rows)])
    (urban / "metadata" / "UrbanSound8K.csv").write_text(f"{listing}\n")
    for name, fold, _ in rows:
        (urban / "audio" / f"fold{fold}").mkdir(exist_ok=True)
        (urban / "audio" / name).rename(urban / "audio" / f"fold{fold}" / name)
    pack(urban, folder / "UrbanSound8K.tar.gz", "UrbanSound8K")
    tagged = write_tags(make_esc50(tmp_path / "tagged"))
    for name in ("annotations.csv", "dcase-ust-taxonomy.yaml"):
        (tagged / name).rename(folder / name)
    for part in range(19):
        (tmp_path / "part").mkdir()
        for clip in sorted((tagged / "audio").iterdir())[part::19]:
            shutil.copy(clip, tmp_path / "part")
        pack(tmp_path / "part", folder / f"audio-{part}.tar.gz", f"audio-{part}")
    for task, source in SOURCES.items():
        sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in source.files}
        monkeypatch.setitem(SOURCES, task, replace(source, gigabytes=1e-3, files=sums))
    found = Server(folder)
    thread = threading.Thread(target=found.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.mark.parametrize("task", SOURCES)
def test_what_is_downloaded_can_be_evaluated(server, tmp_path, task):
    dest = tmp_path / "new" / "dåta <1>"
    result = data(task, dest, mirror=f"{server.url}/", keep=task == "esc50")
    assert (result["clips"], result["license"][:5]) == (20, "CC BY")
    archives = [(dest / name).is_file() for name in SOURCES[task].files if module._is_archive(name)]
    assert {*archives} == {task == "esc50"}
    left = {path.name for path in dest.iterdir()} - {*SOURCES[task].files, ".lock"}
    assert left == {"esc50": {"audio", "meta"}, "urbansound8k": {"audio", "meta", "metadata"}}.get(task, {"audio"})
    asked = len(server.asked)
    assert data(task, dest) == result  # there is nothing left to do, not even to ask
    assert len(server.asked) == asked
    if task != "sonyc_ust":
        assert evaluate(task, dest, "spectral", resamples=0, workers=1)["clips"] == 20


def test_a_connection_that_breaks_off_is_resumed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    name = next(iter(SOURCES["esc50"].files))
    size = (server.folder / name).stat().st_size
    server.limit = size // 3
    data("esc50", tmp_path / "resumed", mirror=server.url)
    starts = [int(span[6:-1] or 0) for _, span in server.asked]
    assert starts[0] == 0 < starts[1] < starts[2]
    assert max(starts) > size // 2
    server.limit, server.has_ranges = 1 << 30, False
    for kept in (1000, size):  # of an earlier command
        server.has_ranges = kept == size
        dest = tmp_path / f"after{kept}"
        dest.mkdir()
        (dest / f"{name}.part").write_bytes((server.folder / name).read_bytes()[:kept])
        assert data("esc50", dest, mirror=server.url)["clips"] == 20


def test_without_a_network_files_can_be_brought(server, tmp_path):
    dest, name = tmp_path / "data", next(iter(SOURCES["esc50"].files))
    with pytest.raises(EdgeseaError) as error:
        data("esc50", dest, mirror="http://127.0.0.1:9/")
    for word in (name, SOURCES["esc50"].folder, str(dest), "meta/esc50.csv", "audio/"):
        assert word in str(error.value)
    dest.mkdir()
    shutil.copy(server.folder / name, dest)
    assert data("esc50", dest)["clips"] == 20
    assert not server.asked


def test_what_is_not_the_published_data_is_refused(server, tmp_path, monkeypatch):
    (server.folder / "UrbanSound8K.tar.gz").write_bytes(b"<html>not here</html>")
    with pytest.raises(EdgeseaError, match=r"UrbanSound8K\.tar\.gz: not the published file \(md5 .*delete it"):
        data("urbansound8k", tmp_path / "urban", mirror=server.url)
    (server.folder / "audio-3.tar.gz").unlink()
    with pytest.raises(EdgeseaError, match=r"audio-3\.tar\.gz: cannot be downloaded \(404"):
        data("sonyc_ust", tmp_path / "tags", mirror=server.url)
    name = next(iter(SOURCES["esc50"].files))
    cut = (server.folder / name).read_bytes()[:-2000]
    (server.folder / name).write_bytes(cut)
    monkeypatch.setitem(SOURCES, "esc50", replace(SOURCES["esc50"], files={name: ""}))
    with pytest.raises(EdgeseaError, match=r"\.zip: cannot be unpacked; delete it"):
        data("esc50", tmp_path / "esc", mirror=server.url)
    monkeypatch.setitem(SOURCES, "esc50", replace(SOURCES["esc50"], gigabytes=1e9))
    with pytest.raises(EdgeseaError, match=r"esc50 needs .* GB .* are free"):
        data("esc50", tmp_path / "room", mirror=server.url)
    with pytest.raises(EdgeseaError, match=f"{name}: a file, where a folder is needed"):
        data("esc50", server.folder / name)


def test_archives_cannot_write_elsewhere(server, tmp_path, monkeypatch):
    path = server.folder / "UrbanSound8K.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "../../escaped.py")
    source = SOURCES["urbansound8k"]
    monkeypatch.setitem(SOURCES, "urbansound8k", replace(source, files=dict.fromkeys(source.files, "")))
    with pytest.raises(EdgeseaError, match="cannot be unpacked"):
        data("urbansound8k", tmp_path / "d", mirror=server.url)
    assert not [*tmp_path.rglob("escaped.py")]
