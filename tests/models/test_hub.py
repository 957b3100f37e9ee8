"""Students on the Hugging Face Hub: the card, and upload and download with a small server that has the Hub's API."""

import base64
import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import edgesea
from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.hub import push_to_hub, student_card
from edgesea.models import load_model
from edgesea.models.download import is_hub_id
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import save_student, without_folders
from edgesea.models.student_torch import Student

CONFIG = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)
PROVENANCE = {
    "teacher": {"id": "efficientat/mn04", "embedding_size": 384},
    "reduction": {"method": "pca"},
    "scores": {"r2": 0.4713, "cosine": 0.6824, "mse": 2.388},
}
RESULTS = {
    "extract": {"clips": 400, "windows": 7201},
    "distill": {"mse": 2.388, "r2": 0.4713, "parameters": 500},
    "evaluate": {
        "teacher": {"task": "esc50", "clips": 80, "accuracy": 0.9625, "confidence": {"accuracy": [0.9125, 1.0]}},
        "student": {"task": "esc50", "clips": 80, "accuracy": 0.8875, "confidence": {"accuracy": [0.8125, 0.95]}},
    },
    "config": {"extract": {"source": "/home/someone/secret/esc50.csv"}},
}


def save(folder: Path, provenance: dict = PROVENANCE, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_student(Student(CONFIG), folder, provenance, "card")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with a student in it."""
    save(tmp_path / "run" / "student")
    write_json(tmp_path / "run" / "results.json", RESULTS)
    return tmp_path / "run"


def facts(card: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", card, re.MULTILINE))


# --- the card


def test_the_card_says_what_the_student_is(run):
    card = student_card(run / "student", "owner/name", license="cc-by-4.0")
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    parameters = sum(parameter.numel() for parameter in Student(CONFIG).parameters())
    expected = {
        "trained on": "`esc50.csv`, 400 clips, 7201 windows",
        "reduction": "pca, to 5 dimensions",
        "parameters": str(parameters),
        "weights as float32 / int8": f"{parameters * 4 / 1024:.0f} KiB / {parameters / 1024:.0f} KiB",
        "R2 on validation clips": "0.471 (share of the target's variance explained)",
        "cosine similarity on validation clips": "0.682",
        "teacher": "0.963 (0.912 to 1.000)",
        "student": "0.887 (0.812 to 0.950)",
    }
    assert expected.items() <= facts(body).items()
    assert "| teacher | `efficientat/mn04`, 384 dimensions |" in body
    assert 'edgesea.load_student("owner/name")' in body
    assert "someone" not in card


def test_what_is_not_known_is_left_out_and_the_code_in_the_card_runs(tmp_path):
    card = student_card(save(tmp_path / "student", {}), str(tmp_path / "student"), domain="street corners in Oslo")
    assert facts(card)["trained on"] == "street corners in Oslo"
    assert not {"teacher", "reduction", "student", "R2 on validation clips"} & facts(card).keys()
    assert not re.search(r"license|None|nan|\{|\}", card)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {"windows": np.zeros((2, 8000), np.float32)}
    exec(code, names)
    assert names["embeddings"].shape == (2, 5)


def test_scores_are_those_of_the_run_that_made_the_student(run, tmp_path):
    moved = save(tmp_path / "elsewhere")
    assert "accuracy" not in student_card(moved, "owner/name")
    assert "accuracy" in student_card(moved, "owner/name", run=run)
    write_json(run / "results.json", {**RESULTS, "distill": {"mse": 1.0}})
    assert "accuracy" not in student_card(run / "student", "owner/name")
    for student, other in ((run / "student", run), (run / "student", tmp_path / "gone"), (run / "gone", None)):
        with pytest.raises(EdgeseaError, match=str(run / "gone" if other is None else other / "results.json")):
            student_card(student, "owner/name", run=other)


# --- names


def test_what_is_here_goes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    save(tmp_path / "owner" / "name")
    assert all(map(is_hub_id, ["o-w.n_er/na-m.e_", "other/name@refs/pr/1", "owner/gone@main"]))
    ours = ["edgel3/sea-64", "efficientat/mn04", "openl3/env-mel256-512", "owner/gone"]
    assert not any(map(is_hub_id, [*ours, "name", "a/b/c", "/a/b", "./a", "../a", "a/", "a b/c"]))
    assert edgesea.load_student("owner/name").id == "owner/name"
    for load, name in ((edgesea.load_student, Path("owner/gone")), (load_model, "owner/gone")):
        with pytest.raises(EdgeseaError, match="owner/gone: no student here"):
            load(name)
    for call in (edgesea.from_pretrained, lambda name: push_to_hub(Path("owner/name"), name)):
        with pytest.raises(EdgeseaError, match=r"other/name: .*edgesea\[hub\]"):
            call("other/name")


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("onnx:/home/me/x.onnx@8000", "onnx:x.onnx@8000"),
        (r"onnx:C:\models\some model.onnx", "onnx:some model.onnx"),
        ("hear:package.module:/home/me/x.pt", "hear:package.module:x.pt"),
        ("hear:edgesea.hear:efficientat/mn04@/home/me/x.pt", "hear:edgesea.hear:efficientat/mn04@x.pt"),
        ("/data/table", "table"),
        *((text, text) for text in ("openl3/env-mel256-512", "hear:edgesea.hear:edgel3/sea-64", "https://x.org/a")),
    ],
)
def test_where_files_lie_is_not_published(text, public):
    assert without_folders({"id": text, "n": [1, text, None]}) == {"id": public, "n": [1, public, None]}


# --- upload and download


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as one repository needs: commits of small files, a listing, and the files."""

    commits: list[dict[str, bytes]]
    created: list[dict]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer({"error": "Invalid username or password."}, 401)
        elif "/commit/" in self.path:
            items = [json.loads(line) for line in body.splitlines()]
            files = [item["value"] for item in items if item["key"] == "file"]
            added = {file["path"]: base64.b64decode(file["content"]) for file in files}
            self.commits.append({**(self.commits[-1] if self.commits else {}), **added})
            sha = f"{len(self.commits):040x}"
            url = f"http://{self.headers['Host']}/owner/name/commit/{sha}"
            self.answer({"success": True, "commitOid": sha, "commitUrl": url})
        else:
            question = json.loads(body)
            if self.path == "/api/repos/create":
                self.created.append(question)
            modes = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in question.get("files", [])]
            url = f"http://{self.headers['Host']}/owner/name"
            self.answer({"url": url, "files": modes, "warnings": [], "errors": []})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        revision = path.rpartition("/")[2]
        if "owner/name" not in path or not self.commits:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif resolve := re.fullmatch(r"/owner/name/resolve/(\w+)/(.+)", path):
            content = self.commits[int(resolve[1], 16) - 1][resolve[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(content, ETag=etag, X_Repo_Commit=resolve[1], Accept_Ranges="none")
        elif revision == "gone":
            self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        else:
            number = len(self.commits) if revision == "main" else int(revision, 16)
            files = self.commits[number - 1].items()
            tree = [{"type": "file", "path": name, "size": len(it), "oid": f"{name}{number}"} for name, it in files]
            info = {"id": "owner/name", "sha": f"{number:040x}", "siblings": [{"rfilename": name} for name, _ in files]}
            self.answer(tree if "/tree/" in path else {**info, "tags": [], "private": False})

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub():
    """The server; `hub.commits` are the files of each commit, `hub.address` is where it is."""
    pytest.importorskip("huggingface_hub")
    handler = type("OneHub", (Hub,), {"commits": [], "created": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.address = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()


@pytest.fixture
def python(hub, tmp_path):
    """Run code in a process of its own, for the library reads the Hub's address when it is imported."""

    def python(code: str, *arguments: object, cache: str = "a", **changes: str):
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / cache), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_TOKEN": "secret", "HF_HUB_DISABLE_TELEMETRY": "1", **changes}
        command = [sys.executable, "-c", f"import sys, json, numpy as np, edgesea\n{code}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=120)

    return python


PUSH = "from edgesea import push_to_hub\nprint(push_to_hub(sys.argv[1], 'owner/name', **json.loads(sys.argv[2])))"
DIGEST = "print(edgesea.from_pretrained(sys.argv[1], 'cpu').digest)"
LOAD = """
student = edgesea.load_student(sys.argv[1], 'cpu')
assert not {'torch', 'lightning'} & set(sys.modules)
print(student.id)
np.save(sys.argv[2], student.embed(np.load(sys.argv[3])))
"""


OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.fixture
def push(python):
    """Push a student; returns the error."""
    return lambda student, **options: python(PUSH, student, json.dumps(options)).stderr


def test_a_student_comes_back_from_the_hub_as_it_was_pushed(run, hub, python, tmp_path):
    done = python(PUSH, run / "student", "{}", HF_TOKEN="wrong")
    assert re.search(r"EdgeseaError: \S+student: .*owner/name: .*401.*HF_TOKEN", done.stderr)
    for place, reason in (({}, "404"), (OFFLINE, "")):
        assert re.search(rf"EdgeseaError: owner/name: .*{reason}", python(DIGEST, "owner/name", **place).stderr)
    done = python(PUSH, run / "student", json.dumps({"private": True}))
    assert done.stdout.strip() == f"{hub.address}/owner/name", done.stderr
    assert hub.created[0]["name"] == "name"
    assert hub.created[0].get("private", hub.created[0].get("visibility") == "private")
    (files,) = hub.commits
    expected = {name: (run / "student" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    assert files == {**expected, "README.md": student_card(run / "student", "owner/name").encode()}

    windows = np.random.default_rng(0).uniform(-1, 1, (2, 8000)).astype(np.float32)
    np.save(tmp_path / "windows.npy", windows)
    done = python(LOAD, "owner/name", tmp_path / "found.npy", tmp_path / "windows.npy", cache="b")
    assert done.stdout.strip() == "owner/name", done.stderr
    expected = edgesea.load_student(run / "student").embed(windows)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


def test_only_sound_students_are_pushed_and_loaded_and_no_paths(run, hub, push, python, tmp_path):
    student, card, h5 = run / "student", tmp_path / "card.md", tmp_path / "student.h5"
    card.write_text("---\nlicense: mit\n---\n# Mine, naïvely\n", "utf-8")
    h5.touch()
    assert "EdgeseaError: gone.md" in push(student, card="gone.md")
    assert f"EdgeseaError: {h5}: " in push(h5)
    config = read_json(student / "config.json")
    config["provenance"]["teacher"]["id"] = "onnx:/home/me/x.onnx@8000"  # of an older version
    write_json(student / "config.json", config)
    push(student)
    assert not any(b"/home/me" in content for content in hub.commits[0].values())
    assert b"# Student of onnx:x.onnx@8000" in hub.commits[0]["README.md"]
    push(student, card=str(card))
    assert hub.commits[1]["README.md"] == card.read_bytes()
    config["architecture"]["sample_rate"] = 16000
    write_json(student / "config.json", config)
    assert re.search(r'EdgeseaError: .*config\.json: .*"sample_rate": 16000', push(student))
    (student / "model.safetensors").write_bytes(b"nothing")
    assert re.search(r"EdgeseaError: .*model\.safetensors", push(student))
    assert len(hub.commits) == 2
    for content in (b'{"model_type": "bert"}', (student / "config.json").read_bytes()):  # edited on the website
        hub.commits[1]["config.json"] = content
        assert re.search(r"EdgeseaError: .*config\.json: ", python(DIGEST, "owner/name").stderr)


def test_revisions_are_older_students_and_the_cache_serves_only_where_the_hub_does_not_answer(
    run, hub, push, python, tmp_path
):
    for seed in (1, 2):
        save(run / "student", seed=seed)
        push(run / "student")
    old, new = (hashlib.sha256(commit["model.safetensors"]).hexdigest() for commit in hub.commits)
    assert old != new
    for name, digest in (("", new), ("@main", new), (f"@{1:040x}", old)):
        assert python(DIGEST, f"owner/name{name}", cache="b").stdout.strip() == digest
    assert "owner/name@gone" in python(DIGEST, "owner/name@gone", cache="b").stderr
    hub.commits.clear()  # the repository was deleted
    assert "404" in python(DIGEST, "owner/name", cache="b").stderr
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        swallow = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HUB_ETAG_TIMEOUT": "1"}
        for place in (OFFLINE, swallow):
            assert python(DIGEST, "owner/name", cache="b", **place).stdout.strip() == new
            assert "EdgeseaError: owner/name: " in python(DIGEST, "owner/name", cache="c", **place).stderr
    for weights in (tmp_path / "b").rglob("snapshots/*/model.safetensors"):
        weights.unlink()
    assert "EdgeseaError: owner/name: " in python(DIGEST, "owner/name", cache="b", **OFFLINE).stderr
