"""Models by name, and the weights of one model given to another."""

import re

import pytest
import torch
from openl3_random import random_layers, write_keras_h5

import edgesea
from edgesea.errors import EdgeseaError
from edgesea.models import TEACHERS, load_model, load_student, load_teacher, resolve_device


@pytest.fixture(scope="module")
def sea_h5(shared_data):
    return shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"


@pytest.fixture(scope="module")
def mn04_pt(shared_data):
    return shared_data / "efficientat" / "mn04_as_mAP_432.pt"


@pytest.mark.parametrize("id", ["", "vggish", "efficientat", "openl3", "Spectral", "hear", "pickle:x"])
def test_unknown_teachers_get_the_known_ones(id):
    with pytest.raises(EdgeseaError, match=re.escape(f"unknown teacher {id!r}; known: {', '.join(TEACHERS)}")):
        load_teacher(id)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(EdgeseaError, match=r"gone\.pt: no such weight file \(of teacher efficientat/mn04\)"):
        load_teacher("efficientat/mn04", tmp_path / "gone.pt")
    with pytest.raises(EdgeseaError, match="no such weight file"):
        load_teacher("efficientat/mn04", tmp_path)  # a folder


def test_teachers_without_weights_take_none(tmp_path):
    (tmp_path / "a.pt").touch()
    with pytest.raises(EdgeseaError, match="teacher spectral takes no weights option"):
        load_teacher("spectral", tmp_path / "a.pt")


def test_student_weights_are_no_teacher(sea_h5):
    with pytest.raises(EdgeseaError, match=r"sea_ust_audio_emb_64\.h5\.gz: not a torch state dict"):
        load_teacher("efficientat/mn04", sea_h5)
    with pytest.raises(EdgeseaError, match=r"sea_ust_audio_emb_64\.h5\.gz: these are the weights of another model"):
        load_teacher("openl3/env-mel256-512", sea_h5)


def test_teacher_weights_are_no_student(tmp_path, mn04_pt):
    with pytest.raises(EdgeseaError, match=r"mn04_as_mAP_432\.pt: no student here"):
        load_student(mn04_pt)
    with pytest.raises(EdgeseaError, match=r"openl3\.h5: these are the weights of another model: 16 layers"):
        load_student(write_keras_h5(tmp_path / "openl3.h5", random_layers()))
    (tmp_path / "mn04.h5").write_bytes(mn04_pt.read_bytes())
    with pytest.raises(EdgeseaError, match=r"mn04\.h5: not a readable HDF5 file"):
        load_student(tmp_path / "mn04.h5")


def test_openl3_does_not_take_torch_weights(mn04_pt):
    with pytest.raises(EdgeseaError, match=r"mn04_as_mAP_432\.pt: not a readable HDF5 file"):
        load_teacher("openl3/env-mel256-512", mn04_pt)


def test_a_text_file_is_no_weight_file(tmp_path):
    for name in ("notes.pt", "notes.h5"):
        (tmp_path / name).write_text("these are no weights\n" * 100)
    with pytest.raises(EdgeseaError, match=r"notes\.pt: not a torch state dict"):
        load_teacher("efficientat/mn10", tmp_path / "notes.pt")
    with pytest.raises(EdgeseaError, match=r"notes\.h5: not a readable HDF5 file"):
        load_teacher("openl3/music-linear-512", tmp_path / "notes.h5")
    with pytest.raises(EdgeseaError, match=r"notes\.h5: not a readable HDF5 file"):
        load_student(tmp_path / "notes.h5")


def test_a_truncated_published_file_is_refused(tmp_path, sea_h5):
    (tmp_path / "cut.h5.gz").write_bytes(sea_h5.read_bytes()[:100_000])
    with pytest.raises(EdgeseaError, match=r"cut\.h5\.gz: damaged or incomplete gzip file"):
        load_student(tmp_path / "cut.h5.gz")


def test_students_and_teachers_are_told_apart_by_name(tmp_path, sea_h5):
    assert load_model(str(sea_h5)).id == "edgel3/sea-64"
    assert load_model("spectral").id == "spectral"
    with pytest.raises(EdgeseaError, match=r"gone\.h5: no student here"):
        load_model(str(tmp_path / "gone.h5"))
    with pytest.raises(EdgeseaError, match="gone: no student here"):
        load_model(str(tmp_path / "gone"))
    with pytest.raises(
        EdgeseaError, match=r"^unknown teacher 'vggish'; known: .*; nor is there a student's folder of that name"
    ):
        load_model("vggish")
    model = load_model("spectral")
    assert load_model(model) is model
    with pytest.raises(EdgeseaError, match="spectral: no student here"):  # a Path means a place
        load_model(tmp_path / "spectral")
    for wrong in (None, 64, type(model)):
        with pytest.raises(EdgeseaError, match="model must be a loaded student or teacher, or a path or id of one"):
            load_model(wrong)


def test_unusable_devices_are_refused():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda", "mps"}
    with pytest.raises(EdgeseaError, match=r"^device 'foo' cannot be used: unknown; choose auto, cpu, cuda, mps, xpu"):
        resolve_device("foo")
    with pytest.raises(EdgeseaError, match="device 'meta' cannot be used: unknown"):
        resolve_device("meta")  # torch makes tensors there, but they hold no numbers
    unusable = ["gpu"] if torch.cuda.is_available() else ["gpu", "cuda"]
    for device in unusable:
        with pytest.raises(EdgeseaError, match=f"device '{device}' cannot be used"):
            edgesea.load_teacher("spectral", device=device)
