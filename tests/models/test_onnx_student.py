"""The back end without torch gives the numbers of the one with torch, and the published references."""

import json
import multiprocessing
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

import edgesea
from edgesea.audio.framing import Framing
from edgesea.embed.engine import embed_files
from edgesea.errors import EdgeseaError
from edgesea.models import load_model
from edgesea.models.base import EmbeddingModel, LogMelModel
from edgesea.models.student_config import StudentConfig, array_shapes, keras_order
from edgesea.models.student_files import save_student
from edgesea.models.student_onnx import OnnxStudent
from edgesea.models.student_torch import Student

SMALL = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)
CONFIGS = [
    SMALL,
    replace(SMALL, head="relu_max", embedding_size=6),
    StudentConfig.named("sea-64", head="relu_max"),
    StudentConfig(7, (3, 4, 5), "linear", 16000, 40, 512, 200, 7000.0, 0.96),
    StudentConfig(4, (3, 4, 5, 4, 4), "relu_max", 8000, 33, 256, 100, None, 0.5),  # sizes that 2 does not divide
    StudentConfig(3, (8,), "linear", 8000, 4, 64, 320, None, 0.04),  # one block, one frame
]


def noise(config: StudentConfig, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    windows = rng.uniform(-0.5, 0.5, (count, round(config.window * config.sample_rate))).astype(np.float32)
    windows[0] = 0.0
    windows[1] *= 1e-3
    return windows


def save_random(config: StudentConfig, folder: Path) -> Path:
    """A student with random weights, and with normalisations far from the identity."""
    torch.manual_seed(0)
    student = Student(config)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.2, 3)
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)
            torch.nn.init.uniform_(module.bias, -1, 1)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.uniform_(module.bias, -1, 1)
    save_student(student, folder, {}, "card")
    return folder


@pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.head}-{len(config.filters)}-{config.sample_rate}")
def saved(request, tmp_path) -> Path:
    return save_random(request.param, tmp_path / "student")


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- the same numbers


def test_both_back_ends_give_the_same_numbers(saved):
    with_torch, without = edgesea.load_student(saved, backend="torch"), edgesea.load_student(saved, backend="onnx")
    assert isinstance(with_torch, Student)
    assert isinstance(without, OnnxStudent)
    for name in ("id", "digest", "config", "sample_rate", "window", "embedding_size"):
        assert getattr(with_torch, name) == getattr(without, name)
    windows = noise(with_torch.config)
    expected = with_torch.embed(windows)
    assert np.ptp(expected[2:], axis=0).min() > 1e-3 * np.abs(expected).max() or with_torch.config.head == "relu_max"
    assert_same(without.embed(windows), expected)
    for model in (with_torch, without):
        assert isinstance(model, LogMelModel)
        assert_same(model.embed_log_mel(model.front_end(windows)), expected)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_both_back_ends_give_the_reference_embeddings(shared_data, backend):
    student = edgesea.load_student(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", backend=backend)
    with np.load(shared_data / "edgel3" / "sea_emb_64_reference.npz") as reference:
        np.testing.assert_allclose(student.embed(reference["windows"]), reference["embedding"], rtol=1e-4, atol=1e-3)
    assert (student.id, student.embedding_size, student.window) == ("edgel3/sea-64", 64, 1.0)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_both_back_ends_embed_a_file_as_edgel3_does(shared_data, tmp_path, backend):
    folder = shared_data / "edgel3"
    student = load_model(str(folder / "edgel3_sea_ust_audio_emb_64.h5.gz"), backend=backend)
    with np.load(folder / "chirp_8k_reference.npz") as reference:
        soundfile.write(tmp_path / "chirp.wav", reference["audio"], 8000, subtype="FLOAT")
        (result,) = embed_files(student, [tmp_path / "chirp.wav"], Framing(1.0, 0.1, True))
        np.testing.assert_allclose(result.embedding, reference["embedding"], rtol=1e-4, atol=1e-3)


def test_any_batch_gives_the_same_and_none_gives_none(tmp_path):
    student = edgesea.load_student(save_random(SMALL, tmp_path), backend="onnx")
    windows = noise(SMALL, 150)  # more than are computed at once
    embedding = student.embed(windows)
    assert (embedding.shape, embedding.dtype) == ((150, 5), np.float32)
    for first, count in ((0, 1), (3, 7), (149, 1)):
        assert_same(student.embed(windows[first : first + count]), embedding[first : first + count])
    assert student.embed(windows[:0]).shape == (0, 5)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("head", ["linear", "relu_max"])
def test_a_window_that_is_not_all_numbers_gives_none(tmp_path, backend, head):
    config = replace(SMALL, head=head, embedding_size=6)
    student = edgesea.load_student(save_random(config, tmp_path), "cpu", backend=backend)
    windows = noise(config)
    windows[2, 4000] = np.nan
    embedding = student.embed(windows)
    assert np.isnan(embedding[2]).all()
    assert np.isfinite(embedding[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("shape", [(8000,), (1, 7999), (2, 1, 8000)])
def test_other_shapes_are_refused(tmp_path, shape):
    student = edgesea.load_student(save_random(SMALL, tmp_path), backend="onnx")
    assert isinstance(student, EmbeddingModel)
    with pytest.raises(EdgeseaError, match=r"windows must have (shape \(B, W\)|8000 samples)"):
        student.embed(np.zeros(shape, np.float32))


# --- names and shapes


def test_names_and_shapes_are_those_of_the_network_in_torch():
    for config in CONFIGS:
        student = Student(config)
        expected = {name: tuple(value.shape) for name, value in student.state_dict().items()}
        assert array_shapes(config) == expected
        layers = [n for n, m in student.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
        assert keras_order(config) == layers


def test_arrays_that_do_not_fit_are_named(tmp_path):
    weights = save_random(SMALL, tmp_path) / "model.safetensors"
    arrays = load_file(weights)
    save_file({name: array for name, array in arrays.items() if name != "features.0.bias"}, weights)
    with pytest.raises(EdgeseaError, match=r"model\.safetensors: these are the weights of another model: missing feat"):
        edgesea.load_student(tmp_path, backend="onnx")


def test_half_precision_weights_are_read(tmp_path):
    weights = save_random(SMALL, tmp_path) / "model.safetensors"
    kept = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in load_file(weights).items()}
    save_file(kept, weights)
    students = [edgesea.load_student(tmp_path, backend=backend) for backend in ("torch", "onnx")]
    assert_same(*(student.embed(noise(SMALL)) for student in students))


# --- which back end


def test_the_back_end_is_chosen_by_the_device(tmp_path):
    folder = save_random(SMALL, tmp_path)
    assert isinstance(edgesea.load_student(folder, "cpu"), OnnxStudent)
    assert isinstance(edgesea.load_student(folder, "cpu", backend="torch"), Student)
    assert isinstance(edgesea.load_student(folder, "auto", backend="onnx", threads=1), OnnxStudent)
    with pytest.raises(EdgeseaError, match="backend onnx runs on the CPU, not on cuda; choose backend=torch"):
        edgesea.load_student(folder, "cuda", backend="onnx")
    with pytest.raises(EdgeseaError, match="unknown backend 'tensorflow'; choose auto, torch, onnx"):
        edgesea.load_student(folder, backend="tensorflow")
    with pytest.raises(EdgeseaError, match="threads must be at least 1, not 0"):
        edgesea.load_student(folder, backend="onnx", threads=0)


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("2,1", 2), ("", 0), ("many", 0)])
def test_threads_are_those_of_openmp(tmp_path, monkeypatch, setting, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    student = edgesea.load_student(save_random(SMALL, tmp_path), backend="onnx")
    assert student._session.get_session_options().intra_op_num_threads == threads
    student = edgesea.load_student(tmp_path, backend="onnx", threads=2)
    assert student._session.get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize("threads", [None, 2])
def test_a_student_is_handed_to_another_process(tmp_path, monkeypatch, threads):
    student = edgesea.load_student(save_random(SMALL, tmp_path), "cpu", "onnx", threads)
    windows = noise(SMALL, 20)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        embedding = pool.apply(student.embed, (windows,))
    np.testing.assert_array_equal(embedding, student.embed(windows))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    copy = pickle.loads(pickle.dumps(student))
    assert (copy.id, copy.digest, copy.config) == (student.id, student.digest, student.config)
    assert copy._session.get_session_options().intra_op_num_threads == (threads or 3)


# --- a world without torch

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


def run_light(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LIGHT + code, *arguments], capture_output=True, text=True)


def test_students_need_no_torch(saved, tmp_path):
    windows = noise(edgesea.load_student(saved, backend="onnx").config)
    np.save(tmp_path / "windows.npy", windows)
    code = """
import numpy as np
import edgesea
student = edgesea.load_student(sys.argv[1])
np.save(sys.argv[2] + "/embedding.npy", student.embed(np.load(sys.argv[2] + "/windows.npy")))
assert not BLOCKED & set(sys.modules)
"""
    done = run_light(code, str(saved), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same(np.load(tmp_path / "embedding.npy"), edgesea.load_student(saved, backend="torch").embed(windows))


def test_the_command_embeds_without_torch(shared_data, tmp_path):
    folder = shared_data / "edgel3"
    with np.load(folder / "chirp_8k_reference.npz") as reference:
        soundfile.write(tmp_path / "chirp.wav", reference["audio"], 8000, subtype="FLOAT")
        code = "from edgesea import cli; sys.exit(cli.main(sys.argv[1:]))"
        model = str(folder / "edgel3_sea_ust_audio_emb_64.h5.gz")
        done = run_light(code, "embed", str(tmp_path / "chirp.wav"), model)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] == 1
        with np.load(tmp_path / "chirp.npz") as result:
            np.testing.assert_allclose(result["embedding"], reference["embedding"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["distill", "table", "phi", "student"], "torch"),
        (["embed", "sound.wav", "spectral"], "torch"),
        (["embed", "sound.wav", "efficientat/mn04"], "torch"),
        (["embed", "sound.wav", "student", "--backend", "torch"], "torch"),
        (["embed", "sound.wav", "student", "--device", "cuda"], "torch"),
        (["select", "table", "out", "--size", "[3]"], "sklearn"),
    ],
)
def test_what_needs_torch_names_the_extra(tmp_path, words, package):
    save_random(SMALL, tmp_path / "student")
    soundfile.write(tmp_path / "sound.wav", noise(SMALL)[2], 8000)
    words = [str(tmp_path / word) if word in ("student", "sound.wav") else word for word in words]
    done = run_light("from edgesea import cli; sys.exit(cli.main(sys.argv[1:]))", *words)
    assert done.returncode == 1
    assert f"{package} is not installed; it comes with: pip install 'edgesea[train]'" in done.stderr


def test_help_lists_all_commands_without_torch():
    done = run_light("from edgesea import cli; sys.exit(cli.main(['--help']))")
    assert done.returncode == 0, done.stderr
    for command in ("embed", "extract", "distill", "select", "tables", "import"):
        assert f"\n    {command} " in done.stdout


def test_importing_edgesea_is_light():
    code = "import edgesea; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "onnxruntime", "onnx", "h5py"} & set(done.stdout.split())
