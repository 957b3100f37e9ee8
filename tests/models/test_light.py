"""A world without torch: students work, and what needs torch names the extra."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import edgesea
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import save_student
from edgesea.models.student_torch import Student

LIGHT = """
import importlib.abc, json, sys

BLOCKED = {"torch", "lightning", "pandas", "pyarrow", "sklearn", "scipy", "joblib", "matplotlib", "umap", "tensorflow"}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=package)

sys.meta_path.insert(0, Block())
"""
CLI = "from edgesea import cli; sys.exit(cli.main(sys.argv[1:]))"


def run_light(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIGHT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_student(Student(StudentConfig(5, (4, 6), n_mels=16)), tmp_path / "student", {}, "card")
    windows = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 8000)).astype(np.float32)
    np.save(tmp_path / "windows.npy", windows)
    soundfile.write(tmp_path / "sound.wav", windows[0], 8000)
    return tmp_path


def test_students_need_no_torch(folder):
    code = """
import numpy as np
import edgesea
student = edgesea.load_student("student")
np.save("embedding.npy", student.embed(np.load("windows.npy")))
assert not BLOCKED & set(sys.modules)
"""
    done = run_light(code)
    assert done.returncode == 0, done.stderr
    expected = edgesea.load_student(folder / "student", backend="torch").embed(np.load("windows.npy"))
    np.testing.assert_allclose(np.load("embedding.npy"), expected, rtol=0, atol=1e-5)


def test_the_command_embeds_without_torch(shared_data, folder):
    with np.load(shared_data / "edgel3" / "chirp_8k_reference.npz") as reference:
        soundfile.write("chirp.wav", reference["audio"], 8000, subtype="FLOAT")
        done = run_light(CLI, "embed", "chirp.wav", shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] == 1
        with np.load("chirp.npz") as result:
            np.testing.assert_allclose(result["embedding"], reference["embedding"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        "distill table phi student",
        "embed sound.wav spectral",
        "embed sound.wav efficientat/mn04",
        "embed sound.wav student --backend torch",
        "embed sound.wav student --device cuda",
        "select table out --size 3",
    ],
)
def test_what_needs_torch_names_the_extra(folder, words):
    done = run_light(CLI, *words.split())
    assert done.returncode == 1
    assert "edgesea[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_all_commands_without_torch():
    done = run_light(CLI, "--help")
    assert done.returncode == 0, done.stderr
    assert all(f" {command} " in done.stdout for command in ("embed", "extract", "distill", "select", "import"))


def test_importing_edgesea_is_light():
    for imported, heavy in (
        ("edgesea", {"numpy", "torch", "onnxruntime", "onnx", "h5py"}),
        ("edgesea.models.openl3, edgesea.models.foreign", {"tensorflow", "keras", "h5py", "onnxruntime", "pooch"}),
    ):
        code = f"import sys, {imported}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not heavy & set(done.stdout.split())
