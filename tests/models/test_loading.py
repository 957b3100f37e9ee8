"""Models by name, and the weights of one model given to another."""

import pytest
import torch
from openl3_random import random_layers, write_keras_h5

from edgesea.errors import EdgeseaError
from edgesea.models import load_model, load_student, load_teacher, resolve_device


@pytest.fixture(scope="module")
def sea_h5(shared_data):
    return shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"


@pytest.fixture(scope="module")
def mn04_pt(shared_data):
    return shared_data / "efficientat" / "mn04_as_mAP_432.pt"


def test_unknown_teachers_and_unwanted_weights_are_refused(tmp_path):
    for id in ("", "vggish", "efficientat", "openl3", "Spectral", "hear", "pickle:x"):
        with pytest.raises(EdgeseaError, match=f"{id!r}.*spectral, efficientat/"):
            load_teacher(id)
    for path in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(EdgeseaError, match=f"{path}: .*efficientat/mn04"):
            load_teacher("efficientat/mn04", path)
    (tmp_path / "a.pt").touch()
    with pytest.raises(EdgeseaError, match="spectral"):
        load_teacher("spectral", tmp_path / "a.pt")


def test_weights_of_another_model_are_refused(tmp_path, sea_h5, mn04_pt):
    for name in ("notes.pt", "notes.h5"):
        (tmp_path / name).write_text("these are no weights\n" * 100)
    for id, weights in (
        ("efficientat/mn04", sea_h5),
        ("efficientat/mn10", tmp_path / "notes.pt"),
        ("openl3/env-mel256-512", sea_h5),
        ("openl3/env-mel256-512", mn04_pt),
        ("openl3/music-linear-512", tmp_path / "notes.h5"),
    ):
        with pytest.raises(EdgeseaError, match=f"{weights}: "):
            load_teacher(id, weights)
    (tmp_path / "mn04.h5").write_bytes(mn04_pt.read_bytes())
    (tmp_path / "cut.h5.gz").write_bytes(sea_h5.read_bytes()[:100_000])
    write_keras_h5(tmp_path / "openl3.h5", random_layers())
    for student in (mn04_pt, *(tmp_path / name for name in ("mn04.h5", "cut.h5.gz", "openl3.h5", "notes.h5"))):
        with pytest.raises(EdgeseaError, match=f"{student}: "):
            load_student(student)


def test_students_and_teachers_are_distinguished_by_name(tmp_path, sea_h5):
    assert load_model(str(sea_h5)).id == "edgel3/sea-64"
    model = load_model("spectral")
    assert (model.id, load_model(model)) == ("spectral", model)
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "gone.h5"), str(tmp_path / "empty"), tmp_path / "spectral"):  # a Path means a place
        with pytest.raises(EdgeseaError, match=f"{name}: no student here"):
            load_model(name)
    with pytest.raises(EdgeseaError, match=r"vggish.*folder.*spectral"):
        load_model("vggish")
    with pytest.raises(EdgeseaError, match="weights"):
        load_model(sea_h5, weights=sea_h5)
    for wrong in (None, 64):
        with pytest.raises(EdgeseaError, match=type(wrong).__name__):
            load_model(wrong)


def test_unusable_devices_are_refused():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda", "mps"}
    # torch makes tensors on the device meta, but they hold no numbers
    for device in ["foo", "meta", "gpu"] + ["cuda"] * (not torch.cuda.is_available()):
        with pytest.raises(EdgeseaError, match=f"'{device}'"):
            load_teacher("spectral", device=device)
