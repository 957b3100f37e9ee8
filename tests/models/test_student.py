"""Students: all engines give the published references and each other's numbers; checkpoints are checked."""

import json
import math
import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

import edgesea
from edgesea.artifact import read_json, write_json
from edgesea.audio.logmel_numpy import OverlappingLogMel
from edgesea.errors import EdgeseaError
from edgesea.models.base import LogMelModel, file_digest
from edgesea.models.cost import sizes
from edgesea.models.student_config import EDGE, FILTERS, StudentConfig, array_shapes
from edgesea.models.student_files import read_student, save_student
from edgesea.models.student_torch import Student
from edgesea.models.torch_model import InvertedResidual

SMALL = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)
OTHER = StudentConfig(7, (3, 4, 5), "linear", 16000, 40, 512, 200, 7000.0, 0.96)
CONFIGS = [
    SMALL,
    replace(SMALL, head="relu_max", embedding_size=6),
    StudentConfig.named("sea-64", head="relu_max"),
    OTHER,
    StudentConfig(4, (3, 4, 5, 4, 4), "relu_max", 8000, 33, 256, 100, None, 0.5),  # sizes that 2 does not divide
    StudentConfig(3, (8,), "linear", 8000, 4, 64, 320, None, 0.04),  # one block, one frame
    *(StudentConfig.named(name) for name in EDGE),
    StudentConfig.named("edge-3", head="relu_max", embedding_size=192, sample_rate=8000, n_mels=33),
    StudentConfig.named("edge-10", sample_rate=32000, window=0.5, stages=((12, 2, 2, 2, 5), (12, 1, 2, 1, 3))),
]
ENGINES = ("torch", "onnx", "openvino")


def noise(config: StudentConfig = SMALL, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    windows = rng.uniform(-0.5, 0.5, (count, round(config.window * config.sample_rate))).astype(np.float32)
    windows[0] = 0.0
    windows[1] *= 1e-3
    return windows


def make_student(config: StudentConfig = SMALL) -> Student:
    """Random weights, with normalisations far from the identity."""
    torch.manual_seed(0)
    student = Student(config)
    for name, value in student.state_dict().items():
        if value.ndim == 1:  # biases and normalisations
            value.uniform_(*((0.2, 3.0) if name.endswith("running_var") else (-1.5, 1.5)))
    return student.eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    save_student(make_student(), tmp_path / "student", {"teacher": {"id": "spectral"}}, "# A card")
    return tmp_path / "student"


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- the published students


@pytest.mark.parametrize("engine", ENGINES)
def test_a_published_student_gives_the_reference(shared_data, engine):
    weights = shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"
    student, config = edgesea.load_student(weights, "cpu", engine), read_student(weights).config
    assert (student.id, student.sample_rate, student.window) == ("edgel3/sea-64", 8000, 1.0)
    assert config == StudentConfig.named("sea-64", head="relu_max")
    with np.load(shared_data / "edgel3" / "sea_emb_64_reference.npz") as reference:
        error = np.abs(OverlappingLogMel(config.front_end())(reference["windows"]) - reference["log_mel"])
        # The reference was computed in single precision; the definition in double precision deviates as much.
        assert np.count_nonzero(error > 1e-2) <= 1
        assert error.max() <= 0.0145
        np.testing.assert_allclose(student.embed(reference["windows"]), reference["embedding"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "parameters", "millions"),
    [(512, 4688066, 636.5), (256, 1173602, 159.6), (128, 583010, 131.3), (64, 398306, 122.4)],
)
def test_sizes_of_the_published_students(size, parameters, millions):
    config = StudentConfig.named(f"sea-{size}", head="relu_max")
    assert (config.embedding_size, sizes(config)["parameters"]) == (size, parameters)
    assert sizes(config)["macs"] / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("name", "most"), [("edge-3", 1e5), ("edge-10", 3e5), ("edge-25", 4e5)])
def test_students_for_microcontrollers_are_as_large_as_their_names_say(name, most):
    config, size = StudentConfig.named(name), sizes(StudentConfig.named(name))
    assert size["parameters"] <= most
    assert size["macs"] / 1e6 == pytest.approx(int(name.removeprefix("edge-")), rel=0.2)
    assert (config.name(), config.frames(), config.front_end().levels) == (name, 97, "absolute")


def test_the_page_on_students_shows_their_sizes():
    text = (REPOSITORY / "docs" / "students.md").read_text()
    for name in (*EDGE, *FILTERS):
        config, size = StudentConfig.named(name, embedding_size=64), sizes(StudentConfig.named(name, embedding_size=64))
        shape = f"{config.sample_rate // 1000} kHz | {config.n_mels} x {config.frames()}"
        parameters, kib = f"{size['parameters']:,}".replace(",", " "), size["activation_bytes"] / 1024
        assert f"| `{name}` | {shape} | {size['macs'] / 1e6:.1f} M | {parameters} | {kib:.0f} KiB |" in text


# --- engines


def held(student: Student, spectrogram: torch.Tensor) -> int:
    """Values of a window's feature maps that convolutions take, make and leave for later, where they are most."""
    waiting: list[torch.Tensor] = []
    counts: list[int] = []

    def count(module: torch.nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        counts.append(sum({id(values): values[0].numel() for values in (*waiting, *given, made)}.values()))

    for module in student.features.modules():
        if isinstance(module, InvertedResidual) and module.residual:
            module.register_forward_pre_hook(lambda _, given: waiting.extend(given))
            module.register_forward_hook(lambda *_: waiting.clear())
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    student.embed_spectrogram(spectrogram)
    return max(counts)


@pytest.mark.parametrize("config", CONFIGS, ids=StudentConfig.name)
def test_a_saved_student_gives_the_same_numbers_on_all_engines(tmp_path, config):
    student, windows = make_student(config), noise(config)
    assert array_shapes(config) == {name: tuple(value.shape) for name, value in student.state_dict().items()}
    student.train()(torch.from_numpy(windows))  # the statistics follow
    spectrogram = student.eval().spectrogram(torch.from_numpy(windows)).detach()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.embed_spectrogram(spectrogram)
    found = sizes(config)
    weights = sum(math.prod(shape) for name, shape in array_shapes(config).items() if len(shape) in (2, 4))
    assert weights < found["flash_int8"] < found["flash_float32"] / 2
    assert (
        found.items()
        >= {
            "parameters": sum(map(torch.numel, student.parameters())),
            "macs": counter.get_total_flops() / 2 / len(windows),
            "activation_bytes": held(make_student(config), spectrogram),
        }.items()
    )
    save_student(student, tmp_path / "a" / "b", {}, "card")
    with torch.no_grad():
        expected = student(torch.from_numpy(windows)).numpy()
    assert np.ptp(expected[2:], axis=0).min() > 1e-4 * np.abs(expected).max() or config.head == "relu_max"
    assert (expected.min() < 0) == (config.head == "linear")
    for engine in ENGINES:
        model = edgesea.load_student(tmp_path / "a" / "b", "cpu", engine)
        about = (str(tmp_path / "a" / "b"), file_digest(tmp_path / "a" / "b" / "model.safetensors"), config.window)
        assert (model.id, model.digest, model.window) == about
        assert (model.sample_rate, model.embedding_size) == (config.sample_rate, config.embedding_size)
        assert_same(model.embed(windows), expected)
        assert isinstance(model, LogMelModel) == (engine != "torch")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("head", ["linear", "relu_max"])
def test_any_batch_gives_the_same_and_bad_windows_show(tmp_path, engine, head):
    save_student(make_student(replace(SMALL, head=head, embedding_size=6)), tmp_path, {}, "card")
    student = edgesea.load_student(tmp_path, "cpu", engine)
    windows = noise(SMALL, 150)  # more than are computed at once
    embedding = student.embed(windows)
    assert (embedding.shape, embedding.dtype) == ((150, 6), np.float32)
    for first, count in ((0, 1), (3, 7), (149, 1)):
        assert_same(student.embed(windows[first : first + count]), embedding[first : first + count])
    assert student.embed(windows[:0]).shape == (0, 6)
    windows[2, 4000] = np.nan
    assert np.flatnonzero(np.isnan(student.embed(windows)).all(1)).tolist() == [2]
    for shape in ((8000,), (1, 7999), (2, 1, 8000)):
        with pytest.raises(EdgeseaError, match="windows"):
            student.embed(np.zeros(shape, np.float32))


def test_the_engine_is_chosen_by_the_device(saved):
    assert edgesea.load_student(saved, "cpu").engine == "onnx"
    assert isinstance(edgesea.load_student(saved, "cpu", engine="torch"), Student)
    for path, options, words in (
        (saved, {"device": "cuda", "engine": "onnx"}, "cuda"),
        (saved, {"engine": "tensorflow"}, "'tensorflow'.* auto, torch, onnx, openvino"),
        ("edgel3/sea-32", {}, "edgel3/sea-32.*sea-512, .*sea-64"),
    ):
        with pytest.raises(EdgeseaError, match=words):
            edgesea.load_student(path, **options)


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("2,1", 2), ("", None), ("many", None), ("0", None)])
def test_threads_are_those_of_openmp_also_after_pickling(saved, monkeypatch, setting, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    for given in (None, 2):
        student = edgesea.load_student(saved, threads=given)
        again = pickle.loads(pickle.dumps(student))
        assert student.threads == again.threads == (given or threads or len(os.sched_getaffinity(0)))
        np.testing.assert_array_equal(student.embed(noise()), again.embed(noise()))


# --- configurations


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("sea-32", {}, "sea-32.*sea-512, sea-256, sea-128, sea-64"),
        ("sea-64", {"head": "softmax"}, "'softmax'.*linear, relu_max"),
        ("sea-64", {"head": "relu_max", "embedding_size": 10}, "64 .* 10"),
        ("sea-64", {"embedding_size": 0}, "0"),
        ("sea-64", {"filters": (32, 0)}, "32, 0"),
        ("sea-64", {"hop_length": -1}, "hop_length.*-1"),
        ("sea-64", {"fmax": float("nan")}, "fmax.*nan"),
        ("sea-64", {"n_mels": 7}, r"\(7, 50\).* 8 "),
        ("sea-64", {"window": 0.1}, r"\(64, 5\).* 8 "),
        ("edge-4", {}, "edge-4.*edge-3, edge-10, edge-25"),
        ("edge-3", {"filters": (4, 4, 8, 8)}, r"first and last.*\(4, 4, 8, 8\)"),
        ("edge-3", {"stages": ((8, 0, 1, 1),)}, "expansion=0"),
        ("edge-3", {"window": 0.03}, r"\(64, 0\).* 1 "),
    ],
)
def test_configurations_that_cannot_work_are_refused(name, changes, words):
    with pytest.raises(EdgeseaError, match=words):
        StudentConfig.named(name, **changes)


# --- on disk


def test_a_saved_student_carries_its_provenance_and_has_the_same_bytes(saved):
    config = read_json(saved / "config.json")
    assert config["provenance"] == {"teacher": {"id": "spectral"}}
    assert StudentConfig(**config["architecture"]) == SMALL
    assert "stages" not in config["architecture"]  # an earlier edgesea can read it
    assert (saved / "README.md").read_text() == "# A card"
    assert len(list(saved.iterdir())) == 3
    with safe_open(saved / "model.safetensors", "numpy") as file:
        assert list(file.metadata()) == ["architecture"]  # safetensors would write several keys in a random order
    save_student(make_student(), saved.with_name("again"), {}, "card")
    assert file_digest(saved / "model.safetensors") == file_digest(saved.with_name("again") / "model.safetensors")


def refused(student: Path, path: Path, words: str = "", engine: str = "auto") -> None:
    with pytest.raises(EdgeseaError, match=f"{path}: .*{words}"):
        edgesea.load_student(student, "cpu", engine)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample_rate": 16000}, "sample_rate.* 16000 .* 8000"),
        ({"filters": [4, 8], "fmax": 3e3}, r"filters.* \(4, 8\) .* \(4, 6\).*fmax.* 3000.0 .* None"),
    ],
)
def test_an_edited_configuration_is_refused(saved, changes, words):
    write_json(saved / "config.json", {"model": "edgesea.student", "architecture": {**asdict(SMALL), **changes}})
    refused(saved, saved / "config.json", words)


def test_what_does_not_change_the_student_is_accepted(saved):
    """Values written in another way, weights without metadata or of another program's, half precision."""
    weights, expected = saved / "model.safetensors", edgesea.load_student(saved).embed(noise())
    write_json(saved / "config.json", {"model": "edgesea.student", "architecture": {**asdict(SMALL), "window": 1}})
    for metadata in ({"architecture": json.dumps(asdict(SMALL))}, None, {"format": "pt"}):
        save_file(load_file(weights), weights, metadata=metadata)
        np.testing.assert_array_equal(edgesea.load_student(saved).embed(noise()), expected)
    half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in load_file(weights).items()}
    save_file(half, weights)
    assert_same(*(edgesea.load_student(saved, "cpu", engine).embed(noise()) for engine in ENGINES[:2]))


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_that_do_not_fit_are_named(saved, engine):
    weights = saved / "model.safetensors"
    arrays = load_file(weights)
    for name, value in (("head.linear.bias", None), ("extra", np.zeros(2)), ("head.linear.bias", np.zeros(4))):
        save_file({k: v for k, v in {**arrays, name: value}.items() if v is not None}, weights)
        refused(saved, weights, f"{name} has", engine)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", *(f'{{"filters": {values}}}' for values in ("3", "[]", '[4], "depth": 3', '[4], "window": "a"'))],
)
def test_damaged_files_are_named(saved, content):
    weights, config = saved / "model.safetensors", saved / "config.json"
    right = config.read_bytes()
    for text in (content, f'{{"model": "edgesea.student", "architecture": {content}}}'):
        config.write_text(text)
        refused(saved, config)
    config.write_bytes(right)
    save_file(load_file(weights), weights, metadata={"architecture": content})
    refused(saved, weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(saved, weights)
    weights.unlink()
    refused(saved, weights)
