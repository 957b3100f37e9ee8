"""Models by name, and the weights of one model given to another."""

import pytest
import torch
from openl3_random import random_layers, write_keras_h5

from edgesea.errors import EdgeseaError
from edgesea.models import load_model, load_student, load_teacher, resolve_device

SEA = "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz"


def test_unknown_teachers_and_unwanted_weights_are_refused(tmp_path):
    for id in ("", "vggish", "efficientat", "openl3", "Spectral", "hear", "pickle:x"):
        with pytest.raises(EdgeseaError, match=f"{id!r}.*spectral, efficientat/"):
            load_teacher(id)
    for id, known in (
        *((f"efficientat/{variant}", "mn04, mn05, mn10, mn20, mn40") for variant in ("mn03", "mn10_as", "")),
        *((f"openl3/{variant}", " env-mel128-512, ") for variant in ("env-mel512-512", "mel256-512", "")),
    ):
        with pytest.raises(EdgeseaError, match=f"'{id}'.*{known}"):
            load_teacher(id)
    (tmp_path / "a.pt").touch()
    for id, path in (("efficientat/mn04", tmp_path / "gone.pt"), ("efficientat/mn04", tmp_path)):
        with pytest.raises(EdgeseaError, match=f"{path}: .*{id}"):
            load_teacher(id, path)
    with pytest.raises(EdgeseaError, match="spectral"):
        load_teacher("spectral", tmp_path / "a.pt")


def test_weights_of_another_model_are_refused(tmp_path, shared_data):
    sea, mn04 = (shared_data / name for name in (SEA, "efficientat/mn04_as_mAP_432.pt"))
    pt, h5, cut, openl3, renamed = (tmp_path / name for name in ("a.pt", "a.h5", "c.h5.gz", "openl3.h5", "mn04.h5"))
    for notes in (pt, h5):
        notes.write_text("these are no weights\n" * 100)
    renamed.write_bytes(mn04.read_bytes())
    cut.write_bytes(sea.read_bytes()[:100_000])
    write_keras_h5(openl3, random_layers())
    wrong = {"efficientat/mn04": [sea], "efficientat/mn10": [pt, mn04], "openl3/env-mel256-512": [sea, mn04, h5]}
    for id, path in [(id, path) for id, paths in wrong.items() for path in paths]:
        with pytest.raises(EdgeseaError, match=f"{path}: "):
            load_teacher(id, path)
    for path in (mn04, renamed, cut, openl3, h5):
        with pytest.raises(EdgeseaError, match=f"{path}: "):
            load_student(path)


def test_students_and_teachers_are_distinguished_by_name(tmp_path, shared_data):
    assert load_model(str(shared_data / SEA)).id == "edgel3/sea-64"
    model = load_model("spectral")
    assert (model.id, load_model(model)) == ("spectral", model)
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "gone.h5"), str(tmp_path / "empty"), tmp_path / "spectral"):  # a Path means a place
        with pytest.raises(EdgeseaError, match=f"{name}: no student here"):
            load_model(name)
    with pytest.raises(EdgeseaError, match=r"vggish.*folder.*spectral"):
        load_model("vggish")
    with pytest.raises(EdgeseaError, match="weights"):
        load_model(shared_data / SEA, weights=shared_data / SEA)
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
