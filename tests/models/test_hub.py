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
import yaml
from conftest import make_student

import edgesea
from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.hub import push_to_hub, student_card
from edgesea.models import load_model
from edgesea.models.cost import sizes
from edgesea.models.published import is_hub_id
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import model_card, read_student, without_folders

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


def save(folder: Path, **options: int) -> Path:
    return make_student(folder, provenance=PROVENANCE, **options)


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
    size = sizes(read_student(run / "student").config)
    expected = {
        "trained on": "`esc50.csv`, 400 clips, 7201 windows",
        "reduction": "pca, to 5 dimensions",
        "parameters": str(size["parameters"]),
        "weights as float32 / int8": f"{size['flash_float32'] / 1024:.0f} KiB / {size['flash_int8'] / 1024:.0f} KiB",
        "feature maps in int8": f"{size['activation_bytes'] / 1024:.0f} KiB at a time",
        "R2 on validation clips": "0.471 (share of the target's variance explained)",
        "cosine similarity on validation clips": "0.682",
        "teacher": "0.963 (0.912 to 1.000)",
        "student": "0.887 (0.812 to 0.950)",
    }
    assert expected.items() <= facts(body).items()
    assert "| teacher | `efficientat/mn04`, 384 dimensions |" in body
    assert 'edgesea.load_student("owner/name")' in body
    assert "someone" not in card


def test_the_card_of_a_student_for_microcontrollers_names_it_and_its_front_end():
    shown = facts(model_card(StudentConfig.named("edge-10"), {}))
    assert shown["input"] == "log-mel spectrogram, 64 bands, 32 ms frames every 10 ms, levels absolute"
    assert shown["architecture, head"] == "edge-10, linear"


def test_what_is_not_known_is_left_out_and_the_code_in_the_card_runs(random_student):
    card = student_card(random_student, str(random_student), domain="street corners in Oslo")
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
    for other in (run, tmp_path / "gone"):
        with pytest.raises(EdgeseaError, match=str(other / "results.json")):
            student_card(run / "student", "owner/name", run=other)


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

    commits: list[dict[str, bytes]]  # contents of the files of each
    created: list[dict]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def do_POST(self) -> None:
        lines = [json.loads(line) for line in self.rfile.read(int(self.headers["Content-Length"])).splitlines()]
        url = f"http://{self.headers['Host']}/owner/name"
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer({"error": "Invalid username or password."}, 401)
        elif "/commit/" in self.path:
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.commits.append({file["path"]: base64.b64decode(file["content"]) for file in files})
            sha = f"{len(self.commits):040x}"
            self.answer({"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}"})
        else:
            if self.path == "/api/repos/create":
                self.created.extend(lines)
            modes = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in lines[0].get("files", [])]
            self.answer({"url": url, "files": modes, "warnings": [], "errors": []})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        revision = path.rpartition("/")[2]
        if not self.commits:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif revision == "gone":
            self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        elif resolve := re.fullmatch(r"/owner/name/resolve/(\w+)/(.+)", path):
            content = self.commits[int(resolve[1], 16) - 1][resolve[2]]
            self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=resolve[1])
        else:
            number = len(self.commits) if revision == "main" else int(revision, 16)
            files = self.commits[number - 1].items()
            tree = [{"type": "file", "path": name, "size": len(it), "oid": f"{name}{number}"} for name, it in files]
            self.answer(tree if "/tree/" in path else {"id": "owner/name", "sha": f"{number:040x}", "tags": []})

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path):
    """The server, and `hub.python`, which runs code in a process: the library reads the Hub's address once."""
    pytest.importorskip("huggingface_hub")
    handler = type("OneHub", (Hub,), {"commits": [], "created": []})

    def python(code: str, *arguments: object, cache: str = "a", **changes: str):
        settings = {"HF_ENDPOINT": handler.address, "HF_HOME": str(tmp_path / cache), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_TOKEN": "secret", "HF_HUB_DISABLE_TELEMETRY": "1", **changes}
        command = [sys.executable, "-c", f"import sys, json, edgesea\n{code}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=120)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.address = f"http://127.0.0.1:{server.server_port}"
        handler.python = staticmethod(python)
        yield handler
        server.shutdown()


PUSH = "print(edgesea.push_to_hub(sys.argv[1], 'owner/name', **json.loads(sys.argv[2])))"
DIGEST = "print(edgesea.from_pretrained(sys.argv[1], 'cpu').digest); assert 'torch' not in sys.modules"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def test_a_student_comes_back_from_the_hub_as_it_was_pushed(run, hub, tmp_path):
    done = hub.python(PUSH, run / "student", "{}", HF_TOKEN="wrong")
    assert re.search(r"EdgeseaError: \S+student: .*owner/name; .*HF_TOKEN.*401", done.stderr)
    for place, reason in (({}, "404"), (OFFLINE, "")):
        assert re.search(rf"EdgeseaError: owner/name: .*{reason}", hub.python(DIGEST, "owner/name", **place).stderr)
    done = hub.python(PUSH, run / "student", json.dumps({"private": True}))
    assert done.stdout.strip() == f"{hub.address}/owner/name", done.stderr
    assert hub.created[0]["name"] == "name"
    assert hub.created[0].get("private", hub.created[0].get("visibility") == "private")
    expected = {name: (run / "student" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    assert hub.commits == [{**expected, "README.md": student_card(run / "student", "owner/name").encode()}]
    digest = edgesea.load_student(run / "student").digest
    assert hub.python(DIGEST, "owner/name", cache="b").stdout.strip() == digest


def test_only_sound_students_are_pushed_and_loaded_and_no_paths(run, hub, tmp_path):
    student, card, h5 = run / "student", tmp_path / "card.md", tmp_path / "student.h5"
    card.write_text("---\nlicense: mit\n---\n# Mine, naïvely\n", "utf-8")
    h5.touch()

    def push(student: Path, **options: str) -> str:
        return hub.python(PUSH, student, json.dumps(options)).stderr

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
    (student / "model.safetensors").write_bytes(b"nothing")
    assert re.search(r"EdgeseaError: .*model\.safetensors", push(student))
    assert len(hub.commits) == 2
    hub.commits[1]["config.json"] = b'{"model_type": "bert"}'
    assert re.search(r"EdgeseaError: .*config\.json: ", hub.python(DIGEST, "owner/name").stderr)


def test_revisions_are_older_students_and_the_cache_serves_only_where_the_hub_does_not_answer(hub, tmp_path):
    for seed in (1, 2):
        hub.python(PUSH, save(tmp_path / "student", seed=seed), "{}")
    old, new = (hashlib.sha256(commit["model.safetensors"]).hexdigest() for commit in hub.commits)
    assert old != new

    def load(name: str = "owner/name", cache: str = "b", **place: str) -> str:
        done = hub.python(DIGEST, name, cache=cache, **place)
        return done.stdout.strip() or done.stderr

    assert [load(), load("owner/name@main"), load(f"owner/name@{1:040x}")] == [new, new, old]
    assert "EdgeseaError: owner/name@gone: " in load("owner/name@gone")
    hub.commits.clear()  # the repository was deleted
    assert "404" in load()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        swallow = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HUB_ETAG_TIMEOUT": "1"}
        for place in (OFFLINE, swallow):
            assert load(**place) == new
            assert "EdgeseaError: owner/name: " in load(cache="c", **place)
    for weights in (tmp_path / "b").rglob("snapshots/*/model.safetensors"):
        weights.unlink()
    assert "EdgeseaError: owner/name: " in load(**OFFLINE)
