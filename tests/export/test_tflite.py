from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from export.integers import embed

import edgesea
from edgesea.errors import EdgeseaError
from edgesea.export.quantize import equalized, quantize
from edgesea.export.tflite import float_tflite, others_than_int8, quantized_tflite, reversed_axes
from edgesea.models import tflite_student
from edgesea.models.graph import student_graph
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_torch import Student

CONFIGS = {
    "edge": {"name": "edge-3"},
    "even frames": {
        "name": "edge-3",
        "window": 0.99,
        "stages": [(8, 2, 2, 2, 5), (12, 2, 2, 2, 3)],
    },
    "sea": {"name": "sea-64", "filters": (4, 6, 8, 10)},
    "published": {"name": "sea-64", "filters": (4, 6, 8), "head": "relu_max", "embedding_size": 8},
}


def random_student(changes):
    """A configuration, arrays with statistics as of a trained student, and spectrograms."""
    torch.manual_seed(0)
    network = Student(StudentConfig.named(**{"n_mels": 32, "embedding_size": 12, **changes}))
    for name, array in network.state_dict().items():
        if name.endswith(("running_mean", "norm.bias", "1.bias")):
            array += 0.3 * torch.randn_like(array)
        if name.endswith(("running_var", "1.weight")):
            array *= torch.rand_like(array) + 0.5
    arrays = {name: array.numpy() for name, array in network.state_dict().items()}
    arrays["input_norm.running_mean"][:], arrays["input_norm.running_var"][:] = -40, 400
    shape = 24, network.config.n_mels, network.config.frames()
    return network.config, arrays, np.random.default_rng(0).normal(-40, 20, shape).astype(np.float32)


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def student(request):
    return random_student(request.param)


def test_integers_are_those_of_the_reference_kernels(student):
    config, arrays, log_mel = student
    quantized = quantize(config, arrays, [log_mel])
    found = tflite_student(content := quantized_tflite(quantized, {}), "test", 1).embed_log_mel(log_mel)
    integers = embed(quantized, log_mel)
    assert len(np.unique(integers)) > 60
    np.testing.assert_array_equal(found, quantized.output.real(integers) * quantized.units)
    assert set(others_than_int8(content)) == {"int32", "float32"}


def test_channels_are_made_equal_where_that_costs_nothing(monkeypatch):
    config, arrays, log_mel = random_student({"name": "edge-3", "stages": [(8, 2, 1, 1, 3)], "filters": (8, 16)})
    spread = np.geomspace(1, 1 / 60, 16).astype(np.float32)  # of the channels before the depthwise convolution
    for name in ("features.1.block.0.1.weight", "features.1.block.0.1.bias"):
        arrays[name] = arrays[name] * spread
    arrays["features.1.block.1.0.weight"] = arrays["features.1.block.1.0.weight"] / spread[:, None, None, None]

    def single(arrays):
        return onnxruntime.InferenceSession(student_graph(config, arrays)).run(None, {"log_mel": log_mel})[0]

    def error():
        content = quantized_tflite(quantize(config, arrays, [log_mel]), {})
        return np.square(tflite_student(content, "test", 1).embed_log_mel(log_mel) - exact).mean()

    exact = single(arrays)
    np.testing.assert_allclose(single(equalized(config, arrays, [log_mel])), exact, atol=1e-4 * exact.std())
    equal = error()
    monkeypatch.setattr("edgesea.export.quantize.equalized", lambda config, arrays, spectrograms: arrays)
    assert equal < 0.5 * error()


def test_silence_is_refused():
    config, arrays, log_mel = random_student(CONFIGS["edge"])
    with pytest.raises(EdgeseaError, match="all windows to calibrate on have the same embedding, as silence has"):
        quantize(config, arrays, [np.full_like(log_mel, -100)])


def test_float_is_the_student(student):
    config, arrays, log_mel = student
    exact = onnxruntime.InferenceSession(student_graph(config, arrays)).run(None, {"log_mel": log_mel})[0]
    found = tflite_student(float_tflite(config, arrays, {}), "test", 1).embed_log_mel(log_mel)
    np.testing.assert_allclose(found, exact, atol=1e-4 * exact.std())


def test_a_graph_takes_audio(student):
    config, arrays, _ = student
    samples = round(config.window * config.sample_rate)
    audio = np.random.default_rng(0).normal(0, 0.1, (3, samples)).astype(np.float32)
    session = onnxruntime.InferenceSession(student_graph(config, arrays, audio=True))
    exact = tflite_student(float_tflite(config, arrays, {}), "test", 1).embed(audio)
    np.testing.assert_allclose(session.run(None, {"audio": audio})[0], exact, atol=1e-4 * exact.std())


def test_axes_are_reversed_where_the_padding_of_torch_is_not_that_of_tensorflow():
    assert reversed_axes(StudentConfig.named("edge-10")) == ["bands"]
    assert reversed_axes(StudentConfig.named("edge-10", window=0.98)) == ["frames", "bands"]
    assert reversed_axes(StudentConfig.named("sea-64")) == []
    for stage in ((8, 2, 1, 3, 3), (8, 2, 1, 2, 4)):
        with pytest.raises(EdgeseaError, match=r"features\.1\.block\.1\.0: a .* cannot be exported; use kernels"):
            reversed_axes(StudentConfig.named("edge-3", stages=[stage]))


def test_what_is_no_student_is_refused(tmp_path: Path):
    config, arrays, _ = random_student(CONFIGS["edge"])
    content = float_tflite(config, arrays, {})
    path = tmp_path / "x.tflite"
    for wrong, reason in (
        (b"", "not a .tflite file"),
        (b"RIFF" * 100, "not a .tflite file"),
        (content[:20], "not a .tflite file"),
        (content[: len(content) // 2], "not a .tflite file|LiteRT cannot read it"),
        (content.replace(b"\0edgesea\0", b"\0another\0"), "no student of edgesea"),
        (content.replace(b'["bands"]', b'["bandz"]'), "its tensors and its metadata"),
        (content.replace(b'"embedding_size": 12', b'"embedding_size": -2'), "damaged, or of another edgesea"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(EdgeseaError, match=rf"{path}: ({reason}).*export"):
            edgesea.load_model(str(path))
    with pytest.raises(EdgeseaError, match="no such file; write one: edgesea export"):
        edgesea.load_model("missing.tflite")
    with pytest.raises(EdgeseaError, match="LiteRT computes it, on the CPU"):
        edgesea.load_model(str(path), engine="torch")
