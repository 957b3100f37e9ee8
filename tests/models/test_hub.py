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
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

import edgesea
from edgesea.artifact import read_json, write_json
from edgesea.errors import EdgeseaError
from edgesea.hub import from_pretrained, push_to_hub, student_card
from edgesea.models import download, load_model
from edgesea.models.student_config import FILTERS, StudentConfig, macs
from edgesea.models.student_files import model_card, save_student, without_folders
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
needs_hub = pytest.mark.skipif(
    not find_spec("huggingface_hub"),
    reason="huggingface-hub is not installed (pip install 'edgesea[hub]')",
)


def save(folder: Path, provenance: dict | None = None) -> Path:
    torch.manual_seed(0)
    save_student(Student(CONFIG), folder, PROVENANCE if provenance is None else provenance, "card")
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
    assert yaml.safe_load(front) == {
        "library_name": "edgesea",
        "license": "cc-by-4.0",
        "pipeline_tag": "feature-extraction",
        "tags": ["audio", "audio-embedding", "knowledge-distillation", "tinyml"],
    }
    found = facts(body)
    parameters = sum(parameter.numel() for parameter in Student(CONFIG).parameters())
    assert "| teacher | `efficientat/mn04`, 384 dimensions |" in body
    assert found["trained on"] == "`esc50.csv`, 400 clips, 7201 windows"
    assert found["reduction"] == "pca, to 5 dimensions"
    assert found["parameters"] == str(parameters)
    assert found["weights as float32 / int8"] == f"{parameters * 4 / 1024:.0f} KiB / {parameters / 1024:.0f} KiB"
    assert found["R2 on validation clips"].startswith("0.471 ")
    assert found["cosine similarity on validation clips"] == "0.682"
    assert found["student"] == "0.887 (0.812 to 0.950)"
    assert "| teacher | 0.963 (0.912 to 1.000) |" in body
    assert 'edgesea.load_student("owner/name")' in body
    assert "someone" not in card


def test_the_code_in_the_card_runs(run):
    card = student_card(run / "student", str(run / "student"))
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {"windows": np.zeros((2, 8000), np.float32)}
    exec(code, names)
    assert names["embeddings"].shape == (2, 5)


def test_what_is_not_known_is_left_out(tmp_path):
    card = student_card(save(tmp_path / "student", {}), "owner/name", domain="street corners in Oslo")
    assert "license" not in card
    found = facts(card)
    assert found["trained on"] == "street corners in Oslo"
    assert not {"teacher", "reduction", "student", "R2 on validation clips"} & found.keys()
    assert not re.search(r"None|nan|\{|\}", card.replace("load_student", ""))


def test_the_card_of_distill_needs_no_run():
    card = model_card(StudentConfig.named("sea-512", head="relu_max"), PROVENANCE)
    assert facts(card)["parameters"] == "4 688 066"
    assert 'load_student("PATH")' in card


@pytest.mark.parametrize(
    ("name", "millions"), [("sea-512", 636.5), ("sea-256", 159.6), ("sea-128", 131.3), ("sea-64", 122.4)]
)
def test_multiplications_of_the_published_students(name, millions):
    assert macs(StudentConfig.named(name, head="relu_max")) / 1e6 == pytest.approx(millions, abs=0.05)
    linear = StudentConfig.named(name)
    head = 2 * FILTERS[name][-1] * linear.embedding_size
    assert macs(linear) - macs(StudentConfig.named(name, head="relu_max")) == head


def test_multiplications_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = StudentConfig(7, (3, 4, 5), "linear", 16000, 40, 512, 200, 7000.0, 0.96)
    student = Student(config).eval()
    spectrogram = student.spectrogram(torch.zeros(1, round(config.window * config.sample_rate)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.embed_spectrogram(spectrogram.float())
    assert counter.get_total_flops() == 2 * macs(config)


def test_scores_of_another_run_are_not_taken(run, caplog):
    results = {**RESULTS, "distill": {"mse": 1.0}}
    write_json(run / "results.json", results)
    assert "accuracy" not in student_card(run / "student", "owner/name")
    with pytest.raises(EdgeseaError, match=r"results\.json: not the results of the run that made .*student"):
        student_card(run / "student", "owner/name", run=run)


def test_a_run_elsewhere_is_named(run, tmp_path):
    moved = (run / "student").rename(tmp_path / "elsewhere")
    assert "accuracy" not in student_card(moved, "owner/name")
    assert "accuracy" in student_card(moved, "owner/name", run=run)
    with pytest.raises(EdgeseaError, match=r"gone/results\.json: no such file"):
        student_card(moved, "owner/name", run=tmp_path / "gone")


def test_a_damaged_student_gets_no_card(run):
    with pytest.raises(EdgeseaError, match="gone: no such folder"):
        student_card(run / "gone", "owner/name")
    config = read_json(run / "student" / "config.json")
    config["architecture"]["filters"] = [4, 8]
    write_json(run / "student" / "config.json", config)
    with pytest.raises(EdgeseaError, match="were trained with"):
        student_card(run / "student", "owner/name")
    weights = run / "student" / "model.safetensors"
    save_file(load_file(weights), weights)  # without the architecture
    with pytest.raises(EdgeseaError, match="these are the weights of another model"):
        student_card(run / "student", "owner/name")


# --- names


@pytest.mark.parametrize("name", ["owner/name", "o-w.n_er/na-m.e_", "owner/name@v1.0", "owner/name@refs/pr/1"])
def test_names_of_the_hub(name):
    assert download.is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "edgel3/sea-64",
        "efficientat/mn04",
        "openl3/env-mel256-512",
        "a/b/c",
        "/a/b",
        "./a",
        "../a",
        "a/",
        "a b/c",
    ],
)
def test_names_of_other_things(name):
    assert not download.is_hub_id(name)


def test_a_folder_that_is_here_goes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "owner" / "name")
    assert not download.is_hub_id("owner/name")
    assert edgesea.load_student("owner/name").id == "owner/name"
    with pytest.raises(EdgeseaError, match="no student here"):
        edgesea.load_student(Path("owner/gone"))  # a Path is never a name of the Hub


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "runs").mkdir()
    for load in (edgesea.load_student, load_model):
        with pytest.raises(
            EdgeseaError, match=r"^runs/cty: no student here \(no such file or folder\); .*owner/name@main"
        ):
            load("runs/cty")
    assert download.is_hub_id("run/cty")
    assert download.is_hub_id("runs/cty@main")
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").touch()
    assert download.is_hub_id("runs/cty")


def test_without_the_library_its_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    remedy = r"huggingface-hub is not installed; it comes with: pip install 'edgesea\[hub\]'"
    with pytest.raises(EdgeseaError, match=f"owner/name: looks like a model on the Hugging Face Hub.*{remedy}"):
        from_pretrained("owner/name")
    with pytest.raises(EdgeseaError, match=remedy):
        push_to_hub(run / "student", "owner/name")


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

    def sha(self) -> str:
        return f"{len(self.commits):040x}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/owner/name"})
        elif self.path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            added = {it["value"]["path"]: it["value"]["content"] for it in lines if it["key"] == "file"}
            before = self.commits[-1] if self.commits else {}
            self.commits.append({**before, **{name: base64.b64decode(text) for name, text in added.items()}})
            url = f"http://{self.headers['Host']}/owner/name/commit/{self.sha()}"
            self.answer({"success": True, "commitOid": self.sha(), "commitUrl": url})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if "owner/name" not in path or not self.commits:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return
        resolve = re.fullmatch(r"/owner/name/resolve/(\w+)/(.+)", path)
        if resolve is None:
            revision = path.rpartition("/")[2]
            if revision == "gone":
                self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
                return
            number = len(self.commits) if revision == "main" else int(revision, 16)
            files = self.commits[number - 1]
            if "/tree/" in path:
                blobs = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
                self.answer([{"type": "file", "path": n, "size": len(files[n]), "oid": o} for n, o in blobs.items()])
                return
            siblings = [{"rfilename": name} for name in files]
            self.answer(
                {"id": "owner/name", "sha": f"{number:040x}", "siblings": siblings, "tags": [], "private": False}
            )
            return
        content = self.commits[int(resolve[1], 16) - 1][resolve[2]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(content, ETag=etag, X_Repo_Commit=resolve[1], Accept_Ranges="none")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub():
    """The server; `hub.commits` are the files of each commit, `hub.address` is where it is."""
    handler = type("OwnHub", (Hub,), {"commits": [], "created": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.address = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()


def python(code: str, hub: type[Hub] | None, cache: Path, *arguments: object, **changes: str):
    """Run code in a process of its own, for the library reads the Hub's address when it is imported."""
    settings = {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "secret", "HF_HUB_DISABLE_TELEMETRY": "1"}
    place = {"HF_HUB_OFFLINE": "1"} if hub is None else {"HF_ENDPOINT": hub.address}
    command = [sys.executable, "-c", f"import sys, json, numpy as np, edgesea\n{code}", *map(str, arguments)]
    environment = {**os.environ, **settings, **place, **changes}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


PUSH = "from edgesea import push_to_hub\nprint(push_to_hub(sys.argv[1], 'owner/name', **json.loads(sys.argv[2])))"
LOAD = """
student = edgesea.load_student(sys.argv[1], 'cpu')
assert not {'torch', 'lightning'} & set(sys.modules)
print(student.id)
np.save(sys.argv[2], student.embed(np.load(sys.argv[3])))
"""


@needs_hub
def test_a_student_comes_back_from_the_hub_as_it_was_pushed(run, hub, tmp_path):
    done = python(PUSH, hub, tmp_path / "a", run / "student", json.dumps({"private": True}))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.address}/owner/name"
    assert hub.created[0]["name"] == "name"
    assert hub.created[0].get("private", hub.created[0].get("visibility") == "private")
    (files,) = hub.commits
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert files["model.safetensors"] == (run / "student" / "model.safetensors").read_bytes()
    assert files["config.json"] == (run / "student" / "config.json").read_bytes()
    assert files["README.md"].decode() == student_card(run / "student", "owner/name")

    windows = np.random.default_rng(0).uniform(-1, 1, (2, 8000)).astype(np.float32)
    np.save(tmp_path / "windows.npy", windows)
    expected = edgesea.load_student(run / "student").embed(windows)
    load = (LOAD, hub, tmp_path / "b", "owner/name", tmp_path / "found.npy", tmp_path / "windows.npy")
    done = python(*load)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "owner/name"
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)

    (tmp_path / "found.npy").unlink()
    done = python(LOAD, None, *load[2:])  # from the cache, without the Hub
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("onnx:/home/me/x.onnx@8000", "onnx:x.onnx@8000"),
        (r"onnx:C:\models\some model.onnx", "onnx:some model.onnx"),
        ("hear:package.module:/home/me/x.pt", "hear:package.module:x.pt"),
        ("hear:edgesea.hear:efficientat/mn04@/home/me/x.pt", "hear:edgesea.hear:efficientat/mn04@x.pt"),
        ("/data/table", "table"),
        *(
            (text, text)
            for text in ("openl3/env-mel256-512", "hear:edgesea.hear:edgel3/sea-64", "https://x.org/a", "a/b")
        ),
    ],
)
def test_where_files_lie_is_not_published(text, public):
    assert without_folders({"teacher": {"id": text}, "n": [1, text, None]}) == {
        "teacher": {"id": public},
        "n": [1, public, None],
    }


@needs_hub
def test_the_teachers_place_is_not_pushed(run, hub, tmp_path):
    save(run / "student", {**PROVENANCE, "teacher": {"id": "onnx:/home/me/x.onnx@8000", "embedding_size": 384}})
    done = python(PUSH, hub, tmp_path / "a", run / "student", "{}")
    assert done.returncode == 0, done.stderr
    (files,) = hub.commits
    assert not any(b"/home/me" in content for content in files.values())
    assert b"# Student of onnx:x.onnx@8000" in files["README.md"]


@needs_hub
def test_an_edited_configuration_is_refused_at_either_end(run, hub, tmp_path):
    config = read_json(run / "student" / "config.json")
    assert python(PUSH, hub, tmp_path / "a", run / "student", "{}").returncode == 0
    config["architecture"]["sample_rate"] = 16000
    write_json(run / "student" / "config.json", config)
    done = python(PUSH, hub, tmp_path / "a", run / "student", "{}")
    assert 'config.json: it has "sample_rate": 16000, but the weights' in done.stderr
    assert len(hub.commits) == 1
    hub.commits[0]["config.json"] = (run / "student" / "config.json").read_bytes()  # edited on the website
    done = python("edgesea.load_student('owner/name')", hub, tmp_path / "b")
    assert 'config.json: it has "sample_rate": 16000, but the weights' in done.stderr


@needs_hub
def test_a_network_that_swallows_packets_does_not_keep_one_waiting(run, hub, tmp_path):
    assert python(PUSH, hub, tmp_path / "a", run / "student", "{}").returncode == 0
    code = "print(edgesea.load_student('owner/name', 'cpu').digest)"
    expected = python(code, hub, tmp_path / "b").stdout
    assert expected
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        changes = {"HF_ENDPOINT": address, "HF_HUB_ETAG_TIMEOUT": "1"}
        began = time.monotonic()
        done = python(code, hub, tmp_path / "b", **changes)  # from the cache
        assert done.stdout == expected, done.stderr
        done = python(code, hub, tmp_path / "c", **changes)
        assert re.search(r"EdgeseaError: owner/name: no such folder here, and it cannot be fetched", done.stderr)
        assert time.monotonic() - began < 60  # two processes that each wait a second


@needs_hub
def test_the_cache_is_used_only_where_the_hub_does_not_answer_and_only_if_it_is_whole(run, hub, tmp_path):
    assert python(PUSH, hub, tmp_path / "a", run / "student", "{}").returncode == 0
    code = "print(edgesea.load_student('owner/name', 'cpu').digest)"
    assert python(code, hub, tmp_path / "b").returncode == 0
    hub.commits.clear()  # the repository was deleted
    done = python(code, hub, tmp_path / "b")
    assert re.search(r"EdgeseaError: owner/name: no such folder here, and it cannot be fetched .*404", done.stderr)
    assert python(code, None, tmp_path / "b").returncode == 0
    (weights,) = (tmp_path / "b").rglob("snapshots/*/model.safetensors")
    weights.unlink()
    done = python(code, None, tmp_path / "b")
    assert re.search(r"EdgeseaError: owner/name: no such folder here, and it cannot be fetched", done.stderr)


@needs_hub
def test_a_revision_is_an_older_student(run, hub, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_student(Student(CONFIG), run / "student", PROVENANCE, "card")
        assert python(PUSH, hub, tmp_path / "a", run / "student", "{}").returncode == 0
    code = "print(edgesea.from_pretrained('@'.join(['owner/name', *sys.argv[1:]])).digest)"
    digests = [python(code, hub, tmp_path / "b", *words).stdout.strip() for words in ([], ["main"], [f"{1:040x}"])]
    expected = [hashlib.sha256(hub.commits[number]["model.safetensors"]).hexdigest() for number in (1, 1, 0)]
    assert digests == expected
    assert expected[0] != expected[2]
    done = python(code, hub, tmp_path / "b", "gone")
    assert re.search(r"EdgeseaError: owner/name@gone: no such folder here, and it cannot be fetched", done.stderr)


@needs_hub
def test_a_card_of_ones_own_is_pushed_instead(run, hub, tmp_path):
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n# Mine, naïvely\n", "utf-8")
    done = python(PUSH, hub, tmp_path / "a", run / "student", json.dumps({"card": str(tmp_path / "card.md")}))
    assert done.returncode == 0, done.stderr
    assert hub.commits[0]["README.md"] == (tmp_path / "card.md").read_bytes()
    done = python(PUSH, hub, tmp_path / "a", run / "student", json.dumps({"card": "gone.md"}))
    assert "EdgeseaError: gone.md: no such file" in done.stderr
    assert len(hub.commits) == 1


@needs_hub
def test_what_the_hub_refuses_is_said(run, hub, tmp_path):
    done = python(PUSH, hub, tmp_path / "a", run / "student", "{}", HF_TOKEN="wrong")
    assert re.search(r"EdgeseaError: \S+student: cannot be uploaded to owner/name: .*401.*HF_TOKEN", done.stderr)
    done = python("edgesea.load_student('owner/name')", hub, tmp_path / "b")
    assert re.search(r"EdgeseaError: owner/name: no such folder here, and .*Hub: .*404.*owner/name", done.stderr)
    done = python("edgesea.load_student('owner/name')", None, tmp_path / "b")
    assert re.search(r"EdgeseaError: owner/name: no such folder here, and it cannot be fetched", done.stderr)


@needs_hub
def test_a_damaged_student_is_not_pushed(run, hub, tmp_path):
    (run / "student" / "model.safetensors").write_bytes(b"nothing")
    done = python(PUSH, hub, tmp_path / "a", run / "student", "{}")
    assert "EdgeseaError" in done.stderr
    assert "model.safetensors: cannot be read" in done.stderr
    assert not hub.created


@needs_hub
def test_a_repository_of_something_else_is_no_student(hub, tmp_path):
    hub.commits.append({"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})
    done = python("edgesea.load_student('owner/name')", hub, tmp_path)
    assert re.search(r"EdgeseaError: .*config\.json: not the configuration of an edgesea student", done.stderr)
