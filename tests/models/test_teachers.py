"""Teachers give the numbers of the originals; ids, devices and weights that do not fit are refused by name."""

import os
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from openl3_random import VARIANTS, random_layers, windows, write_keras_h5

from edgesea.audio.logmel import KaldiLogMel
from edgesea.audio.logmel_numpy import OverlappingKaldi
from edgesea.errors import EdgeseaError
from edgesea.models import load_model, load_student, load_teacher, resolve_device, shared_model
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.teachers import BANDS, EFFICIENTAT, OPENL3, EfficientAT, OpenL3, load_openl3, read_state_dict

SEA, MN04 = "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz", "efficientat/mn04_as_mAP_432.pt"
ENGINES = ("torch", "onnx", "openvino")
RATE = 16000  # Hz, of the spectral teacher


@pytest.fixture(params=ENGINES)
def efficientat(shared_data, request) -> EmbeddingModel:
    return load_teacher("efficientat/mn04", shared_data / MN04, engine=request.param)


@pytest.fixture(scope="module")
def openl3_weights(tmp_path_factory) -> Path:
    return write_keras_h5(tmp_path_factory.mktemp("openl3") / "random.h5", random_layers())


def test_a_shared_model_goes_with_its_last_reference_and_is_the_same_in_another_process():
    model, load, _ = shared_model(load_teacher, "spectral", None, "cpu")
    gone, elsewhere = weakref.ref(model), pickle.loads(pickle.dumps(load))
    assert load() is model
    assert elsewhere() is elsewhere() is not model
    del model, load
    assert gone() is None
    loader, (digest, *recipe) = elsewhere.func, elsewhere.args
    with pytest.raises(EdgeseaError, match="spectral"):
        loader(f"not {digest}", *recipe)


# --- numbers


def test_efficientat_gives_the_numbers_of_the_original(shared_data, efficientat):
    with np.load(shared_data / "efficientat" / "mn04_reference.npz") as reference:
        audio, log_mel, embedding = (reference[name] for name in ("windows", "log_mel", "embedding"))
    for front_end in (OverlappingKaldi(), lambda windows: KaldiLogMel()(torch.from_numpy(windows)).numpy()):
        np.testing.assert_allclose(front_end(audio), log_mel, atol=1e-3)
    assert np.abs(efficientat.embed(audio) - embedding).max() <= 1e-5
    assert isinstance(efficientat, EmbeddingModel)
    assert (efficientat.id, efficientat.sample_rate) == ("efficientat/mn04", 32000)
    assert efficientat.digest == file_digest(shared_data / MN04)


@pytest.mark.parametrize("variant", VARIANTS)
def test_openl3_gives_the_numbers_of_tensorflow(openl3_weights, variant):
    model = load_openl3(f"music-{variant}", openl3_weights)
    with np.load(Path(__file__).with_name("openl3_golden.npz")) as golden:
        embedding, log_mel = golden[f"{variant}/embedding"], golden[f"{variant}/log_mel"]
    np.testing.assert_allclose(model.log_mel(torch.from_numpy(windows()))[:, ::7, ::7], log_mel, atol=1e-4)
    assert model.digest == file_digest(openl3_weights)
    for engine in ENGINES:
        model = load_teacher(f"openl3/music-{variant}", openl3_weights, engine=engine)
        error = np.abs(model.embed(windows()) - embedding).max(1)
        assert (error <= 1e-5 * np.abs(embedding).max(1)).all()


@pytest.mark.parametrize(
    ("name", "engine", "shortest"), [("spectral", "torch", 1), *(("efficientat/mn04", name, 1000) for name in ENGINES)]
)
def test_windows_have_any_length_and_do_not_depend_on_their_batch(shared_data, name, engine, shortest):
    teacher = load_teacher(name, None if name == "spectral" else shared_data / MN04, engine=engine)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 64000)).astype(np.float32)
    for samples in (shortest, 20000, 64000):
        for audio in (noise[:, :samples], np.zeros((3, samples), np.float32)):
            together = teacher.embed(audio)
            assert (together.shape, together.dtype) == ((3, teacher.embedding_size), np.float32)
            one_by_one = np.concatenate([teacher.embed(audio[i : i + 1]) for i in range(3)])
            np.testing.assert_allclose(together, one_by_one, atol=1e-4)
            assert np.isfinite(together).all()


def test_the_spectral_teacher_finds_tones_whatever_their_level():
    tone = np.sin(2 * np.pi * 2000 * np.arange(RATE) / RATE).astype(np.float32)
    embedding, quiet = load_teacher("spectral").embed(np.stack([tone, 0.01 * tone]))
    mean, deviation, low, high, *_ = embedding.reshape(8, BANDS)
    band = mean.argmax()
    # Of 64 bands that are equally wide on the HTK scale up to 8 kHz, the one around 2 kHz
    assert abs(band - (np.log10(1 + 2000 / 700) / np.log10(1 + 8000 / 700) * (BANDS + 1) - 1)) <= 1
    assert deviation[band] < 3.0
    assert (low <= high).all()
    assert high[band] == pytest.approx(0.0, abs=0.1)
    np.testing.assert_allclose(quiet, embedding, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "size", "parameters"),
    # Millions of parameters as published, with the classifier that the teacher leaves out
    [("mn04", 384, 0.983), ("mn05", 480, 1.43), ("mn10", 960, 4.88), ("mn20", 1920, 17.91), ("mn40", 3840, 68.43)],
)
def test_sizes_of_efficientat(variant, size, parameters):
    with torch.device("meta"):  # shapes only
        model = EfficientAT(variant)
    hidden = round(1280 * EFFICIENTAT[variant][0])
    classifier = size * hidden + hidden + hidden * 527 + 527
    assert model.embedding_size == size
    assert (sum(map(torch.numel, model.parameters())) + classifier) / 1e6 == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("variant", OPENL3)
def test_sizes_of_openl3(variant):
    with torch.device("meta"):
        model = OpenL3(variant)
    assert (model.id, model.sample_rate, model.window) == (f"openl3/{variant}", 48000, 1.0)
    assert model.embedding_size == int(variant.rpartition("-")[2])
    assert sum(map(torch.numel, model.parameters())) == 4_687_042
    shape = (model.log_mel.settings.bands, model.log_mel.settings.layout(48000)[0])
    assert shape == {"mel128": (128, 199), "mel256": (256, 199), "linear": (257, 197)}[variant.split("-")[1]]
    # The last feature map is a whole number of pools, where 'same' and 'valid' are one
    pools = [size // 8 / pool for size, pool in zip(shape, model.pool.kernel_size, strict=True)]
    assert all(count.is_integer() for count in pools)
    assert 512 * np.prod(pools) == model.embedding_size


# --- names, devices and weights


def test_unknown_teachers_and_unwanted_weights_are_refused(tmp_path):
    for ids, known in (
        (("", "vggish", "efficientat", "openl3", "Spectral", "hear", "pickle:x"), "spectral, efficientat/"),
        (("efficientat/mn03", "efficientat/mn10_as", "efficientat/"), "mn04, mn05, mn10, mn20, mn40"),
        (("openl3/env-mel512-512", "openl3/mel256-512", "openl3/"), " env-mel128-512, "),
    ):
        for id in ids:
            with pytest.raises(EdgeseaError, match=f"'{id}'.*{known}"):
                load_teacher(id)
    (tmp_path / "a.pt").touch()
    for id, path in (("efficientat/mn04", "gone.pt"), ("efficientat/mn04", "."), ("spectral", "a.pt")):
        with pytest.raises(EdgeseaError, match=id):
            load_teacher(id, tmp_path / path)


def test_students_and_teachers_are_distinguished_by_name(tmp_path, shared_data):
    assert load_model(str(shared_data / SEA)).id == "edgel3/sea-64"
    model = load_model("spectral")
    assert (model.id, load_model(model)) == ("spectral", model)
    for name in (str(tmp_path / "gone.h5"), str(tmp_path), tmp_path / "spectral"):  # a Path means a place
        with pytest.raises(EdgeseaError, match=f"{name}: no student here"):
            load_model(name)
    for wrong, words in (("vggish", "vggish.*folder.*spectral"), (None, "NoneType"), (64, "int")):
        with pytest.raises(EdgeseaError, match=words):
            load_model(wrong)
    with pytest.raises(EdgeseaError, match="weights"):
        load_model(shared_data / SEA, weights=shared_data / SEA)


def test_unusable_devices_are_refused():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda", "mps"}
    # torch makes tensors on the device meta, but they hold no numbers
    for device in ["foo", "meta", "gpu"] + ["cuda"] * (not torch.cuda.is_available()):
        with pytest.raises(EdgeseaError, match=f"'{device}'"):
            load_teacher("spectral", device=device)


def test_weights_of_another_model_are_refused(tmp_path, shared_data, openl3_weights):
    sea, mn04 = shared_data / SEA, shared_data / MN04
    pt, h5, cut, renamed = (tmp_path / name for name in ("a.pt", "a.h5", "c.h5.gz", "mn04.h5"))
    for notes in (pt, h5):
        notes.write_text("these are no weights\n" * 100)
    renamed.write_bytes(mn04.read_bytes())
    cut.write_bytes(sea.read_bytes()[:100_000])
    others = [tmp_path / name for name in ("openl3_audio_mel128_env.h5", "openl3_audio_mel256_music-v0_4_0.h5")]
    for link in others:
        link.symlink_to(openl3_weights)
    wrong = {"efficientat/mn04": [sea], "efficientat/mn10": [pt, mn04]}
    wrong |= {"openl3/env-mel256-512": [sea, mn04, h5, *others]}
    for id, path in [(id, path) for id, paths in wrong.items() for path in paths]:
        with pytest.raises(EdgeseaError, match=f"{path}: "):
            load_teacher(id, path)
    for path in (mn04, renamed, cut, openl3_weights, h5):
        with pytest.raises(EdgeseaError, match=f"{path}: "):
            load_student(path)


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_executed(tmp_path, legacy):
    path, executed = tmp_path / "bad.pt", tmp_path / "executed"
    torch.save({"0.weight": Malicious(executed)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(EdgeseaError, match=r"bad\.pt") as error:
        read_state_dict(path)
    assert "weights_only" not in str(error.value)  # torch's advice to unpickle it
    assert not executed.exists()
    torch.load(path, weights_only=False)
    assert executed.exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, {"a": {"b": torch.zeros(3)}}, {0: torch.zeros(3)}])
def test_what_is_not_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(EdgeseaError, match=r"other\.pt"):
        read_state_dict(tmp_path / "other.pt")
