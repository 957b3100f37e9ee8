import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgesea
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.student_config import FILTERS, StudentConfig
from edgesea.models.student_files import save_student
from edgesea.models.student_torch import Student

SMALL = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)


def noise(count: int, config: StudentConfig = SMALL) -> np.ndarray:
    samples = round(config.window * config.sample_rate)
    return np.random.default_rng(0).uniform(-0.5, 0.5, (count, samples)).astype(np.float32)


def make_student(config: StudentConfig = SMALL) -> Student:
    """Random weights, with the normalisations away from the identity."""
    torch.manual_seed(0)
    student = Student(config)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return student.eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    save_student(make_student(), tmp_path / "student", {"teacher": {"id": "spectral"}}, "# A card")
    return tmp_path / "student"


# --- the published students


def test_published_student_gives_the_reference_embeddings(shared_data):
    student = edgesea.load_student(shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", backend="torch")
    with np.load(shared_data / "edgel3" / "sea_emb_64_reference.npz") as reference:
        windows, log_mel, embedding = (reference[name] for name in ("windows", "log_mel", "embedding"))
    error = np.abs(student.log_mel(torch.from_numpy(windows)).numpy() - log_mel)
    assert error.size == 28800
    # The reference was computed in single precision; the definition in double precision deviates as much.
    assert np.count_nonzero(error > 1e-2) <= 1
    assert error.max() <= 0.0145
    np.testing.assert_allclose(student.embed(windows), embedding, rtol=1e-4, atol=1e-3)
    assert (student.id, student.sample_rate, student.window) == ("edgel3/sea-64", 8000, 1.0)
    assert student.config == StudentConfig.named("sea-64", head="relu_max")


@pytest.mark.parametrize(
    ("name", "parameters"), [("sea-512", 4688066), ("sea-256", 1173602), ("sea-128", 583010), ("sea-64", 398306)]
)
def test_parameters_of_the_published_students(name, parameters):
    with torch.device("meta"):  # shapes only
        student = Student(StudentConfig.named(name, head="relu_max"))
    assert sum(parameter.numel() for parameter in student.parameters()) == parameters
    assert student.embedding_size == FILTERS[name][-1] == int(name.removeprefix("sea-"))


def test_the_relu_head_gives_no_negative_number_and_the_linear_one_does():
    relu = make_student(replace(SMALL, head="relu_max", embedding_size=6)).embed(noise(4))
    assert relu.min() == 0 < relu.max()
    assert make_student().embed(noise(4)).min() < 0


# --- any student


def test_a_student_is_an_embedding_model():
    student = make_student()
    assert isinstance(student, EmbeddingModel)
    embedding = student.embed(noise(3))
    assert (embedding.shape, embedding.dtype) == ((3, 5), np.float32)


def test_embeddings_do_not_depend_on_the_batch():
    student = make_student(StudentConfig.named("sea-64"))
    windows = noise(5)
    one_by_one = np.concatenate([student.embed(windows[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(student.embed(windows), one_by_one, atol=1e-5)


def test_silence_gives_finite_embeddings():
    assert np.isfinite(make_student().embed(np.zeros((1, 8000), np.float32))).all()


@pytest.mark.parametrize("shape", [(8000,), (1, 7999), (2, 1, 8000)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(EdgeseaError, match=r"windows must have (shape \(B, W\)|8000 samples)"):
        make_student().embed(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "softmax"}, "unknown head 'softmax'; known: linear, relu_max"),
        (
            {"head": "relu_max", "embedding_size": 10},
            r"as many dimensions as the last block has filters \(64\), not 10",
        ),
        ({"embedding_size": 0}, "embedding_size and filters must be positive"),
        ({"filters": (32, 0)}, "embedding_size and filters must be positive"),
        ({"hop_length": -1}, "hop_length must be a whole number"),
        ({"fmax": 4001.0}, r"fmax must lie in \(0, 4000\.0\] Hz, not 4001\.0"),
        ({"fmax": float("nan")}, "fmax must lie in"),
        ({"n_mels": 7}, r"the spectrogram \(7 on its shorter side\) is too small for 3 2x2 pools"),
        ({"window": 0.1}, r"the spectrogram \(5 on its shorter side\) is too small"),
    ],
)
def test_configurations_that_cannot_work_are_refused(changes, message):
    with pytest.raises(EdgeseaError, match=message):
        StudentConfig.named("sea-64", **changes)


def test_unknown_students_get_the_known_ones():
    with pytest.raises(EdgeseaError, match="unknown student 'sea-32'; known: sea-512, sea-256, sea-128, sea-64"):
        StudentConfig.named("sea-32")
    with pytest.raises(EdgeseaError, match="published: edgel3/sea-512, edgel3/sea-256"):
        edgesea.load_student("edgel3/sea-32")


@pytest.mark.parametrize("head", ["linear", "relu_max"])
def test_batches_are_computed_with_folded_normalisations_and_never_with_stale_ones(head):
    """More windows than a batch are computed in another way; both are compared with the definition, `forward`."""
    student = make_student(replace(SMALL, head=head, embedding_size=6))
    windows = noise(40)
    log_mel = student.numpy_log_mel(windows)

    def check() -> None:
        student.eval()
        with torch.no_grad():
            expected = student(torch.from_numpy(windows)).numpy()
        np.testing.assert_allclose(student.embed_log_mel(log_mel), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(student.embed_log_mel(log_mel[:3]), expected[:3], rtol=1e-4, atol=1e-5)

    check()
    before = student.embed_log_mel(log_mel)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(2):  # embedding leaves training as it is, and is of the weights as they have become
        student.train()
        optimizer.zero_grad()
        student(torch.from_numpy(windows)).square().mean().backward()
        optimizer.step()
        check()
    student.load_state_dict({name: value * 0.5 for name, value in student.state_dict().items()})
    check()
    student.features[1].running_mean.data += 1.0  # counts as no change of the tensor
    check()
    assert np.abs(student.embed_log_mel(log_mel) - before).max() > 1e-3
    assert [type(module).__name__ for module in student.features[:3]] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert not student.features[2].inplace
    assert all(parameter.requires_grad for parameter in student.parameters())


# --- on disk


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        StudentConfig.named("sea-64", head="relu_max"),
        StudentConfig(7, (3, 4, 5), "linear", 16000, 40, 512, 200, 7000.0, 0.96),
    ],
)
def test_a_saved_student_gives_identical_embeddings(tmp_path, config):
    student = make_student(config)
    save_student(student, tmp_path / "a" / "b", {}, "card")
    again = edgesea.load_student(tmp_path / "a" / "b", backend="torch")
    assert again.config == config
    assert again.digest == file_digest(tmp_path / "a" / "b" / "model.safetensors")
    np.testing.assert_array_equal(again.embed(noise(3, config)), student.embed(noise(3, config)))


def test_a_saved_student_carries_its_provenance(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["provenance"] == {"teacher": {"id": "spectral"}}
    assert StudentConfig.from_dict(config["architecture"]) == SMALL
    assert (saved / "README.md").read_text() == "# A card"
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_same_student_gives_the_same_bytes(tmp_path):
    """In other processes, too: safetensors writes the keys of its metadata in a random order."""
    code = """if True:
        import sys, torch
        from pathlib import Path
        from edgesea.models.student_config import StudentConfig
        from edgesea.models.student_torch import Student
        from edgesea.models.student_files import save_student
        torch.manual_seed(0)
        save_student(Student(StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)), Path(sys.argv[1]), {}, "card")
    """
    for index in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / str(index))], check=True)
    assert len({file_digest(tmp_path / str(index) / "model.safetensors") for index in range(3)}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 16000}, r'"sample_rate": 16000, but the weights in .* with "sample_rate": 8000; write'),
        (
            {"hop_length": 100, "fmax": 3000.0},
            r'"hop_length": 100, "fmax": 3000\.0, .* "hop_length": 160, "fmax": null;',
        ),
        ({"filters": [4, 8]}, r'"filters": \[4, 8\], but .* "filters": \[4, 6\]'),
        ({"window": 2}, r'"window": 2, but the weights in model\.safetensors were trained with "window": 1\.0'),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_an_edited_configuration_is_refused(saved, changes, message, backend):
    config = json.loads((saved / "config.json").read_text())
    config["architecture"] |= changes
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(EdgeseaError, match=rf"student/config\.json: it has {message}"):
        edgesea.load_student(saved, "cpu", backend)


def test_what_does_not_change_the_architecture_may_be_edited(saved):
    """Also, a value may be written in another way, and one that is the default be left out."""
    expected = edgesea.load_student(saved).embed(noise(2))
    config = json.loads((saved / "config.json").read_text())
    config["provenance"]["note"] = "ours"
    config["architecture"]["window"] = 1
    del config["architecture"]["fmax"]
    (saved / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(edgesea.load_student(saved).embed(noise(2)), expected)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_that_do_not_tell_their_architecture_are_read(saved, metadata):
    """Those of the first edgesea, and those that another program has written."""
    expected = edgesea.load_student(saved).embed(noise(2))
    weights = saved / "model.safetensors"
    save_file(load_file(weights), weights, metadata=metadata)
    np.testing.assert_array_equal(edgesea.load_student(saved).embed(noise(2)), expected)


@pytest.mark.parametrize("text", ["{", "[]", '{"depth": 3}'])
def test_metadata_that_is_no_architecture_is_refused(saved, text):
    weights = saved / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"architecture": text})
    with pytest.raises(EdgeseaError, match=r"model\.safetensors: cannot be read"):
        edgesea.load_student(saved)


@pytest.mark.parametrize("damage", ["cut", "text", "gone"])
def test_damaged_weights_are_refused(saved, damage):
    weights = saved / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "text":
        weights.write_text("hello")
    else:
        weights.unlink()
    with pytest.raises(EdgeseaError, match=r"model\.safetensors: cannot be read"):
        edgesea.load_student(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("head.linear.bias"), r"missing head\.linear\.bias \(5,\)"),
        (lambda arrays: arrays.update(extra=torch.zeros(2)), r"unexpected extra \(2,\)"),
        (
            lambda arrays: arrays.update({"head.linear.bias": torch.zeros(4)}),
            r"head\.linear\.bias has shape \(4,\) instead of \(5,\)",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(saved, change, message):
    weights = saved / "model.safetensors"
    arrays = load_file(weights)
    change(arrays)
    save_file(arrays, weights)
    with pytest.raises(EdgeseaError, match=rf"model\.safetensors: these are the weights of another model: {message}"):
        edgesea.load_student(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not the configuration of an edgesea student"),
        ('{"model_type": "bert"}', "not the configuration of an edgesea student"),
        ('{"model": "edgesea.student"}', "not the configuration of a student"),
        ('{"model": "edgesea.student", "architecture": {"filters": [4], "depth": 3}}', "unexpected keyword.*depth"),
        ('{"model": "edgesea.student", "architecture": {"filters": []}}', "not the configuration of a student"),
        (
            '{"model": "edgesea.student", "architecture": {"filters": [4], "window": "a"}}',
            "not the configuration of a student",
        ),
        ('{"model": "edgesea.student", "architecture": {"filters": [4], "head": "x"}}', "unknown head 'x'"),
    ],
)
def test_foreign_configurations_are_refused(saved, content, message):
    (saved / "config.json").write_text(content)
    with pytest.raises(EdgeseaError, match=rf"student/config\.json: .*{message}"):
        edgesea.load_student(saved)


@pytest.mark.parametrize("name", ["gone", "empty", "gone.h5"])
def test_a_place_without_a_student_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    missing = "" if name == "empty" else r" \(no such file or folder\)"
    with pytest.raises(EdgeseaError, match=rf"{name}: no student here{missing}; expected a folder with config\.json"):
        edgesea.load_student(tmp_path / name)
