"""`edgesea.hear` against the HEAR API, with the checks of hear-validator and heareval's way of calling."""

import inspect
import warnings
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import soxr
import torch

from edgesea import hear
from edgesea.errors import EdgeseaError
from edgesea.models import load_student, load_teacher
from edgesea.models.base import EmbeddingModel
from edgesea.models.foreign import FunctionModel, load_hear
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import save_student
from edgesea.models.student_torch import Student

HEAR_RATES = {16000, 22050, 32000, 44100, 48000}
CONFIG = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16)


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    save_student(Student(CONFIG), folder, {}, "card")
    return folder


@pytest.fixture(scope="module", params=["student", "spectral", "efficientat/mn04"])
def model(request, student_folder):
    if request.param == "student":
        return hear.load_model(str(student_folder))
    if request.param == "spectral":
        return hear.load_model("spectral")
    weights = request.getfixturevalue("shared_data") / "efficientat" / "mn04_as_mAP_432.pt"
    return hear.load_model(f"efficientat/mn04@{weights}")


def sounds(count: int, seconds: float, rate: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(count, int(seconds * rate), generator=torch.Generator().manual_seed(seed)) - 1


# --- what the specification asks for


def test_the_functions_have_the_specified_arguments():
    assert [*inspect.signature(hear.load_model).parameters] == ["model_file_path"]
    assert [*inspect.signature(hear.get_scene_embeddings).parameters] == ["audio", "model"]
    timestamps = inspect.signature(hear.get_timestamp_embeddings).parameters
    assert [*timestamps][:2] == ["audio", "model"]
    assert all(p.default is not p.empty for p in [*timestamps.values()][2:])
    assert timestamps["hop_size"].default <= 50


def test_the_model_is_a_torch_module_with_the_specified_attributes(model):
    assert isinstance(model, torch.nn.Module)
    assert isinstance(model.model, EmbeddingModel)
    assert model.sample_rate in HEAR_RATES
    for name in ("scene_embedding_size", "timestamp_embedding_size"):
        assert type(getattr(model, name)) is int
        assert getattr(model, name) == model.model.embedding_size


@pytest.mark.parametrize("seconds", [1.07, 1.98, 4.0, 0.3])
def test_timestamp_embeddings_are_what_hear_validator_asks_for(model, seconds):
    audio = sounds(2, seconds, model.sample_rate)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.dtype == timestamps.dtype == torch.float32
    assert embeddings.device == timestamps.device == audio.device
    assert embeddings.shape == (2, timestamps.shape[1], model.timestamp_embedding_size)
    assert torch.isfinite(embeddings).all()
    steps = np.diff(timestamps.numpy())
    assert (steps > 0).all()
    assert steps.max() <= 50
    assert np.abs(steps - steps.mean()).max() < 1
    np.testing.assert_array_equal(timestamps[0], timestamps[1])
    assert timestamps[0, 0] == 0
    assert 1000 * seconds - 50 <= timestamps[0, -1] <= 1000 * seconds


def test_scene_embeddings_are_what_hear_validator_asks_for(model):
    audio = sounds(4, 2.74, model.sample_rate)
    embeddings = hear.get_scene_embeddings(audio, model)
    assert (embeddings.dtype, embeddings.device) == (torch.float32, audio.device)
    assert embeddings.shape == (4, model.scene_embedding_size)
    assert torch.isfinite(embeddings).all()


# --- what the embeddings are


def own_rate(signal: torch.Tensor, model: hear.HearModel) -> np.ndarray:
    array = signal.numpy()
    if model.sample_rate == model.model.sample_rate:
        return array
    return soxr.resample(array, model.sample_rate, model.model.sample_rate)


def assert_same(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_timestamp_is_the_middle_of_its_window(model):
    (signal,) = audio = sounds(1, 2.3, model.sample_rate)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    own, rate = own_rate(signal, model), model.model.sample_rate
    window = round(model.window * rate)
    padded = np.pad(own, (window, window))
    for k in (0, 7, 23, timestamps.shape[1] - 1):
        middle = window + round(float(timestamps[0, k]) * rate / 1000)
        cut = padded[middle - window // 2 : middle - window // 2 + window]
        assert_same(embeddings[0, k], model.model.embed(cut[None])[0])


def test_the_scene_is_the_mean_of_windows_that_overlap_by_half(model):
    (signal,) = audio = sounds(1, 2.3, model.sample_rate)
    own, window = own_rate(signal, model), round(model.window * model.model.sample_rate)
    padded = np.pad(own, (0, window))
    starts = range(0, len(own) - window + window // 2, window // 2)  # so that the last one holds the last sample
    windows = np.stack([padded[start : start + window] for start in starts])
    assert starts[-1] + window >= len(own) > starts[-2] + window
    assert_same(hear.get_scene_embeddings(audio, model)[0], model.model.embed(windows).mean(0))


def test_windows_do_not_drift_where_the_hop_is_no_whole_number_of_samples():
    model = hear.HearModel(Middle())
    ramp = torch.arange(200 * 22050, dtype=torch.float64) / (200 * 22050)
    embeddings, timestamps = hear.get_timestamp_embeddings(ramp[None], model, hop_size=50.0)  # 1102.5 samples
    assert timestamps.shape == (1, 4001)
    inside = (timestamps[0] > 500) & (timestamps[0] < 199_400)
    found = embeddings[0, :, 0].numpy()[inside] * 200_000  # ms
    np.testing.assert_allclose(found, timestamps[0, inside], atol=0.1)


class Middle:
    """Gives the sample in the middle of a window."""

    id, sample_rate, window, embedding_size, digest = "middle", 22050, 1.0, 1, ""

    def embed(self, windows: np.ndarray) -> np.ndarray:
        return windows[:, windows.shape[1] // 2, None]


def test_a_sound_has_the_same_embeddings_alone_and_among_others(model):
    audio = sounds(3, 1.6, model.sample_rate)
    together, scenes = hear.get_timestamp_embeddings(audio, model)[0], hear.get_scene_embeddings(audio, model)
    for i in range(3):
        assert_same(hear.get_timestamp_embeddings(audio[i : i + 1], model)[0][0], together[i].numpy())
        assert_same(hear.get_scene_embeddings(audio[i : i + 1], model)[0], scenes[i].numpy())


def test_the_same_sound_twice_gives_the_same_bits_even_from_a_model_in_training_mode(model):
    audio = sounds(2, 1.2, model.sample_rate)
    first = hear.get_timestamp_embeddings(audio, model)[0]
    model.train()
    assert torch.equal(hear.get_timestamp_embeddings(audio.requires_grad_(), model)[0], first)


def test_more_sounds_than_fit_a_batch(student_folder):
    model = hear.load_model(str(student_folder))
    audio = sounds(130, 0.4, model.sample_rate)
    embeddings, _ = hear.get_timestamp_embeddings(audio, model, hop_size=200.0)
    assert embeddings.shape == (130, 3, 5)
    assert_same(embeddings[129], hear.get_timestamp_embeddings(audio[129:], model, hop_size=200.0)[0][0].numpy())


def test_embeddings_come_to_the_device_of_the_audio(student_folder):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model = hear.load_model(str(student_folder))
    audio = sounds(2, 1.5, model.sample_rate)
    expected = hear.get_timestamp_embeddings(audio, model)[0]
    found, timestamps = hear.get_timestamp_embeddings(audio.cuda(), model.cuda())
    assert found.device.type == timestamps.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


def test_the_model_moves_its_weights(student_folder):
    model = hear.load_model(str(student_folder)).to("meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


# --- loading


def test_edgesea_loads_its_own_hear_module(student_folder):
    model = load_hear(f"hear:edgesea.hear:{student_folder}")
    assert (model.sample_rate, model.embedding_size) == (16000, 5)
    windows = sounds(3, 1.0, 16000).numpy()
    student = hear.load_model(str(student_folder)).model
    expected = student.embed(np.stack([soxr.resample(window, 16000, 8000) for window in windows]))
    np.testing.assert_allclose(model.embed(windows), expected, atol=2e-5 * np.abs(expected).max())


def test_a_student_by_way_of_the_module_is_the_teacher_that_it_is_itself(tmp_path):
    config = StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16, sample_rate=16000)
    torch.manual_seed(0)
    save_student(Student(config), tmp_path / "student", {}, "card")
    student = load_student(tmp_path / "student", "cpu", backend="torch")
    teacher = load_teacher(f"hear:edgesea.hear:{tmp_path / 'student'}")
    assert (teacher.sample_rate, teacher.embedding_size, teacher.digest) == (16000, 5, student.digest)
    windows = sounds(3, 1.0, 16000).numpy()
    assert_same(torch.from_numpy(teacher.embed(windows)), student.embed(windows))


def test_whatever_the_module_loads_is_a_teacher(shared_data, monkeypatch):
    monkeypatch.setenv("EDGESEA_CACHE", str(shared_data / "edgel3"))
    published = shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"
    weights = shared_data / "efficientat" / "mn04_as_mAP_432.pt"
    windows = sounds(1, 1.0, 16000).numpy()
    found = {}
    for name in ("edgel3/sea-64", str(published)):
        found[name] = load_teacher(f"hear:edgesea.hear:{name}").embed(windows)
    np.testing.assert_array_equal(found["edgel3/sea-64"], found[str(published)])
    for name in ("spectral", f"efficientat/mn04@{weights}"):
        own = hear.load_model(name).model
        teacher = load_teacher(f"hear:edgesea.hear:{name}")
        windows = sounds(1, 1.0, own.sample_rate).numpy()
        assert teacher.sample_rate == own.sample_rate
        assert_same(torch.from_numpy(teacher.embed(windows)), own.embed(windows))
    for name in ("gone", "edgel3/sea-65", f"efficientat/mn04@{weights}.gone", "gone.h5"):
        with pytest.raises(EdgeseaError, match=f"hear:edgesea.hear:{name}: .*{name}"):
            load_teacher(f"hear:edgesea.hear:{name}")


def test_a_model_of_another_rate_is_given_audio_resampled(student_folder):
    for rate, announced in ((8000, 16000), (16000, 16000), (24000, 32000), (48000, 48000), (96000, 48000)):
        student = Student(StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16, sample_rate=rate))
        model = hear.HearModel(student)
        assert (model.sample_rate, model.model.sample_rate) == (announced, rate)
        assert hear.get_scene_embeddings(sounds(1, 1.3, announced), model).shape == (1, 5)


def test_the_default_is_the_largest_published_student(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESEA_CACHE", str(tmp_path))
    (tmp_path / "edgel3_sea_ust_audio_emb_512.h5.gz").write_text("not the weights")
    with pytest.raises(EdgeseaError, match="edgel3_sea_ust_audio_emb_512"):
        hear.load_model()


def test_published_weights_are_loaded(shared_data):
    folder = shared_data / "edgel3"
    model = hear.load_model(str(folder / "edgel3_sea_ust_audio_emb_64.h5.gz"))
    assert (model.sample_rate, model.scene_embedding_size) == (16000, 64)
    with np.load(folder / "chirp_8k_reference.npz") as reference:
        audio, expected = reference["audio"], reference["embedding"]
    model.sample_rate = 8000
    embeddings, _ = hear.get_timestamp_embeddings(torch.from_numpy(audio)[None], model, hop_size=100.0)
    count = min(len(expected), embeddings.shape[1])
    assert count > 5
    np.testing.assert_allclose(embeddings[0, :count].numpy(), expected[:count], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientat/mn04@gone.pt", r"gone\.pt: no such weight file \(of teacher efficientat/mn04\)"),
        ("gone", "gone: no student here"),
        ("openl3/env-mel64-512", "mel64"),
    ],
)
def test_unknown_models_are_named(name, message):
    with pytest.raises(EdgeseaError, match=message):
        hear.load_model(name)


@pytest.mark.parametrize(
    "audio",
    [
        torch.zeros(8000),
        torch.zeros(1, 1, 8000),
        torch.zeros(2, 0),
        torch.zeros(0, 8000),
        torch.zeros(2, 8000, dtype=torch.int16),
        torch.zeros(2, 8000, dtype=torch.bool),
        torch.zeros(2, 8000, dtype=torch.complex64),
        np.zeros((2, 8000), np.float32),
        [[0.0, 0.5]],
        None,
    ],
    ids=lambda audio: f"{tuple(audio.shape)}-{audio.dtype}" if hasattr(audio, "shape") else type(audio).__name__,
)
def test_audio_of_another_shape_or_type_is_refused(student_folder, audio):
    model = hear.load_model(str(student_folder))
    for function in (hear.get_timestamp_embeddings, hear.get_scene_embeddings):
        with pytest.raises(EdgeseaError, match=r"audio must be a tensor \(n_sounds, n_samples\) of floats"):
            function(audio, model)


@pytest.mark.parametrize(
    ("hop", "message"),
    [
        *((hop, "hop_size must be a positive number of ms") for hop in (0.0, -1.0, float("nan"), float("inf"))),
        *((hop, "hop_size must be a positive number of ms") for hop in ("50", None, [50.0], 50j, torch.tensor([50.0]))),
        (0.01, "shorter than a sample at 8000 Hz"),
        (1e300, "hop must be at most 1e.09 s"),
    ],
)
def test_hops_that_cannot_be_are_refused(student_folder, hop, message):
    model = hear.load_model(str(student_folder))
    with pytest.raises(EdgeseaError, match=message.replace("ms", "milliseconds")):
        hear.get_timestamp_embeddings(torch.zeros(1, 16000), model, hop_size=hop)


def test_hops_of_any_numeric_type(student_folder):
    model = hear.load_model(str(student_folder))
    audio = sounds(1, 1.2, model.sample_rate)
    expected = hear.get_timestamp_embeddings(audio, model, 250.0)
    for hop in (250, np.float32(250), np.int64(250), Fraction(250)):
        for found, wanted in zip(hear.get_timestamp_embeddings(audio, model, hop), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_samples_that_are_no_numbers_are_named(student_folder, bad):
    model = hear.load_model(str(student_folder))
    audio = sounds(3, 1.5, model.sample_rate).double()
    audio[1, 8000] = bad
    for function in (hear.get_timestamp_embeddings, hear.get_scene_embeddings):
        with pytest.raises(EdgeseaError, match=r"audio\[1\] holds NaN or Inf samples, the first at 0\.500 s"):
            function(audio, model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_audio_of_any_precision_that_asks_for_gradients(student_folder, dtype):
    model = hear.load_model(str(student_folder))
    audio = sounds(2, 1.2, model.sample_rate).to(dtype)
    for function in (lambda audio: hear.get_timestamp_embeddings(audio, model)[0], partial(scenes, model)):
        found = function(audio.clone().requires_grad_())
        assert (found.dtype, found.requires_grad) == (torch.float32, False)
        assert torch.equal(found, function(audio.float()))


def scenes(model: hear.HearModel, audio: torch.Tensor) -> torch.Tensor:
    return hear.get_scene_embeddings(audio, model)


def test_what_is_no_hear_model_is_refused(student_folder):
    audio = sounds(1, 1.2, 16000)
    for function in (hear.get_timestamp_embeddings, hear.get_scene_embeddings):
        with pytest.raises(EdgeseaError, match=r"model must be what edgesea\.hear\.load_model gave, not Student"):
            function(audio, hear.load_model(str(student_folder)).model)


def test_embeddings_that_are_no_numbers_are_an_error():
    model = hear.HearModel(FunctionModel("broken", lambda windows: windows[:, :2] / 0, 16000, 1.0, 2))
    with np.errstate(all="ignore"):
        for function in (hear.get_timestamp_embeddings, hear.get_scene_embeddings):
            with pytest.raises(EdgeseaError, match="broken gave NaN or Inf"):
                function(sounds(1, 1.2, 16000), model)


def test_nothing_is_warned_of(student_folder):
    model = hear.load_model(str(student_folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hear.get_timestamp_embeddings(torch.zeros(1, 16000), model)
        hear.get_scene_embeddings(torch.zeros(1, 100), model)
