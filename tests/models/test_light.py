"""A world without torch: students work, and what needs torch names the extra."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import make_student, write_noise

from edgesea.cluster.elsewhere import may_have_gpu

LIGHT = """
import importlib.abc, sys

BLOCKED = {"torch", "lightning", "pandas", "pyarrow", "sklearn", "scipy", "joblib", "matplotlib", "umap", "tensorflow"}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Block())
"""
CLI = "from edgesea import cli; sys.exit(cli.main(sys.argv[1:]))"


def run_light(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIGHT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def sound(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_noise(tmp_path / "sound.wav")


def test_the_command_embeds_without_torch(shared_data, sound):
    with np.load(shared_data / "edgel3" / "chirp_8k_reference.npz") as reference:
        soundfile.write(sound, reference["audio"], 8000, subtype="FLOAT")
        done = run_light(CLI, "embed", sound, shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] == 1
        with np.load("sound.npz") as result:
            np.testing.assert_allclose(result["embedding"], reference["embedding"], rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(may_have_gpu(), reason="torch is asked for GPUs")
@pytest.mark.parametrize("name", ["", "edge-3"])
def test_embedding_on_a_cpu_loads_what_it_needs(sound, tmp_path, name):
    student = make_student(tmp_path / "student", name=name)
    code = "import sys; from edgesea import cli; cli.main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "embed", sound, student, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "pyarrow", "lightning", "scipy", "pooch", "h5py"} & set(done.stderr.split())
    assert "onnxruntime" in done.stderr.split()


@pytest.mark.parametrize(
    "words",
    [
        "distill table phi student",
        "embed sound.wav spectral",
        "embed sound.wav efficientat/mn04",
        "embed sound.wav STUDENT --engine torch",
        "embed sound.wav STUDENT --device cuda",
        "select table out --size 3",
    ],
)
def test_what_needs_torch_names_the_extra(sound, random_student, words):
    done = run_light(CLI, *words.replace("STUDENT", str(random_student)).split())
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
        ("edgesea.models.teachers, edgesea.models.foreign", {"tensorflow", "keras", "h5py", "onnxruntime", "pooch"}),
    ):
        code = f"import sys, {imported}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not heavy & set(done.stdout.split())
