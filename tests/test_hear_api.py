"""`edgesea.hear` against the HEAR API, with the checks of hear-validator and heareval's way of calling."""

import inspect
import warnings

import numpy as np
import pytest
import soxr
import torch

from edgesea import hear
from edgesea.errors import EdgeseaError
from edgesea.models.foreign import FunctionModel
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_torch import Student


@pytest.fixture(scope="module", params=["student", "spectral", "efficientat/mn04"])
def name(request, random_student) -> str:
    if request.param == "efficientat/mn04":
        return f"{request.param}@{request.getfixturevalue('shared_data') / 'efficientat' / 'mn04_as_mAP_432.pt'}"
    return str(random_student) if request.param == "student" else request.param


@pytest.fixture(scope="module")
def model(name) -> hear.HearModel:
    return hear.load_model(name)


def sounds(count: int, seconds: float, rate: int) -> torch.Tensor:
    return 2 * torch.rand(count, int(seconds * rate), generator=torch.Generator().manual_seed(0)) - 1


def at_model_rate(signal: torch.Tensor, model: hear.HearModel) -> np.ndarray:
    rates = model.sample_rate, model.model.sample_rate
    return signal.numpy() if rates[0] == rates[1] else soxr.resample(signal.numpy(), *rates)


def assert_same(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_functions_are_as_specified():
    functions = (hear.load_model, hear.get_scene_embeddings, hear.get_timestamp_embeddings)
    parameters = [inspect.signature(function).parameters for function in functions]
    assert [*map(list, parameters)] == [["model_file_path"], ["audio", "model"], ["audio", "model", "hop_size"]]
    assert parameters[2]["hop_size"].default <= 50


@pytest.mark.parametrize("seconds", [1.07, 1.98, 0.3])
def test_model_and_embeddings_are_what_hear_validator_asks_for(model, seconds):
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in {16000, 22050, 32000, 44100, 48000}
    assert model.scene_embedding_size == model.timestamp_embedding_size == model.model.embedding_size
    audio = sounds(2, seconds, model.sample_rate)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    scenes = hear.get_scene_embeddings(audio, model)
    assert embeddings.dtype == timestamps.dtype == scenes.dtype == torch.float32
    assert embeddings.shape == (2, timestamps.shape[1], model.timestamp_embedding_size)
    assert scenes.shape == (2, model.scene_embedding_size)
    assert torch.isfinite(embeddings).all()
    assert torch.isfinite(scenes).all()
    np.testing.assert_allclose(timestamps[0], 50 * np.arange(timestamps.shape[1]), atol=1e-3)
    np.testing.assert_array_equal(timestamps[0], timestamps[1])
    assert 1000 * seconds - 50 <= timestamps[0, -1] <= 1000 * seconds


def test_a_timestamp_is_the_middle_of_its_window(model):
    (signal,) = audio = sounds(1, 2.3, model.sample_rate)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    rate = model.model.sample_rate
    window = round(model.window * rate)
    padded = np.pad(at_model_rate(signal, model), (window, window))
    for k in (0, 7, 23, timestamps.shape[1] - 1):
        start = window + round(float(timestamps[0, k]) * rate / 1000) - window // 2
        assert_same(embeddings[0, k], model.model.embed(padded[start : start + window][None])[0])


def test_the_scene_is_the_mean_of_windows_that_overlap_by_half(model):
    (signal,) = audio = sounds(1, 2.3, model.sample_rate)
    resampled, window = at_model_rate(signal, model), round(model.window * model.model.sample_rate)
    padded = np.pad(resampled, (0, window))
    starts = range(0, len(resampled) - window + window // 2, window // 2)  # so that the last one holds the last sample
    windows = np.stack([padded[start : start + window] for start in starts])
    assert_same(hear.get_scene_embeddings(audio, model)[0], model.model.embed(windows).mean(0))


def test_windows_do_not_drift_where_the_hop_is_not_a_whole_number_of_samples():
    """Of a ramp, the model gives the time."""
    middle = FunctionModel("middle", lambda windows: windows[:, windows.shape[1] // 2, None], 22050, 1.0, 1)
    ramp = torch.arange(200 * 22050, dtype=torch.float64) / (200 * 22050)
    embeddings, timestamps = hear.get_timestamp_embeddings(ramp[None], hear.HearModel(middle), hop_size=50.0)
    assert timestamps.shape == (1, 4001)
    inside = (timestamps[0] > 500) & (timestamps[0] < 199_400)
    np.testing.assert_allclose(embeddings[0, :, 0][inside] * 200_000, timestamps[0, inside], atol=0.1)


def test_a_sound_gives_the_same_alone_and_among_others_in_any_precision(random_student):
    model = hear.load_model(random_student)
    audio = sounds(3, 1.6, model.sample_rate)
    for function in (lambda *of: hear.get_timestamp_embeddings(*of)[0], hear.get_scene_embeddings):
        together = function(audio, model)
        assert_same(function(audio[1:2], model)[0], together[1].numpy())
        found = function(audio.double().requires_grad_(), model.train())
        assert torch.equal(found, together)
        assert not found.requires_grad


def test_a_model_of_another_rate_is_given_audio_resampled():
    for rate, announced in ((8000, 16000), (16000, 16000), (24000, 32000), (48000, 48000), (96000, 48000)):
        student = Student(StudentConfig(embedding_size=5, filters=(4, 6), n_mels=16, sample_rate=rate))
        model = hear.HearModel(student)
        assert (model.sample_rate, model.model.sample_rate) == (announced, rate)
        assert hear.get_scene_embeddings(sounds(1, 1.3, announced), model).shape == (1, 5)
        for other in hear.RATES:
            model.sample_rate = other
            (signal,) = audio = sounds(1, 1.3, other)
            direct = at_model_rate(signal, model)
            padded = np.pad(direct, (0, 2 * rate - len(direct)))
            expected = student.embed(np.stack([padded[:rate], padded[rate // 2 : rate // 2 + rate]])).mean(0)
            assert_same(hear.get_scene_embeddings(audio, model)[0], expected)


@pytest.mark.parametrize(
    ("audio", "hop", "words"),
    [
        (torch.zeros(8000), 50, "(8000,)"),
        (torch.zeros(2, 0), 50, "(2, 0)"),
        ([[0.0, 0.5]], 50, "list"),
        (torch.tensor([[0.0, 0.0], [0.0, torch.nan]]), 50, "audio[1] holds NaN or Inf samples, the first at 0.000 s"),
        (torch.zeros(1, 16000), 0.0, "hop_size must be a positive number of milliseconds, not 0.0"),
        (torch.zeros(1, 16000), "50", "'50'"),
    ],
)
def test_bad_input(random_student, audio, hop, words):
    with pytest.raises(EdgeseaError) as error:
        hear.get_timestamp_embeddings(audio, hear.load_model(random_student), hop)
    assert words in str(error.value)


def test_errors_of_the_model_and_no_warnings(random_student):
    model = hear.load_model(random_student)
    broken = hear.HearModel(FunctionModel("broken", lambda windows: windows[:, :2] * np.nan, 16000, 1.0, 2))
    with pytest.raises(EdgeseaError, match="broken gave NaN or Inf"):
        hear.get_scene_embeddings(sounds(1, 1.2, 16000), broken)
    for name, words in (("gone", "gone"), ("efficientat/mn04@w.pt", "w.pt"), ("openl3/x", "x")):
        with pytest.raises(EdgeseaError, match=words):
            hear.load_model(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hear.get_scene_embeddings(torch.zeros(1, 100), model)  # silent and short
