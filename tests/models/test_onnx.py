from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import edgesea  # noqa: E402
from edgesea.errors import EdgeseaError  # noqa: E402
from edgesea.models.base import EmbeddingModel, file_digest  # noqa: E402
from edgesea.models.foreign import load_onnx  # noqa: E402


def write_model(path: Path, shape=("B", "W"), size="D", outputs=1, kind=None, **metadata: str) -> Path:
    """A model that gives the first three samples of a window, reversed."""
    kind = kind or onnx.TensorProto.FLOAT
    helper = onnx.helper
    constants = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
        for name, value in {"start": 2, "end": -(2**60), "axis": 1, "step": -1}.items()
    ]
    nodes = [helper.make_node("Slice", ["windows", "start", "end", "axis", "step"], ["embedding"])]
    results = [helper.make_tensor_value_info("embedding", kind, [shape[0], size])]
    if outputs == 2:
        nodes.append(helper.make_node("Identity", ["windows"], ["copy"]))
        results.append(helper.make_tensor_value_info("copy", kind, shape))
    inputs = [helper.make_tensor_value_info("windows", kind, shape)]
    graph = helper.make_graph(nodes, "test", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


WINDOWS = np.random.default_rng(0).standard_normal((5, 4000)).astype(np.float32)


def test_rate_from_metadata_and_open_sizes(tmp_path):
    path = write_model(tmp_path / "model.onnx", sample_rate="8000")
    model = load_onnx(f"onnx:{path}")
    assert isinstance(model, EmbeddingModel)
    assert (model.id, model.sample_rate, model.window) == (f"onnx:{path}", 8000, None)
    assert (model.embedding_size, model.digest) == (3, file_digest(path))
    for samples in (3, 4000):
        np.testing.assert_array_equal(model.embed(WINDOWS[:, :samples]), WINDOWS[:, 2::-1])


def test_rate_from_the_user_and_fixed_window(tmp_path):
    path = write_model(tmp_path / "model@home.onnx", ("B", 4000), 3)
    model = load_onnx(f"{path}@16000")
    assert (model.id, model.sample_rate, model.window) == (f"onnx:{path}@16000", 16000, 0.25)
    np.testing.assert_array_equal(model.embed(WINDOWS), WINDOWS[:, 2::-1])
    with pytest.raises(EdgeseaError, match="windows must have 4000 samples"):
        model.embed(WINDOWS[:, :3999])


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_fixed_batch(tmp_path, batch):
    model = load_onnx(str(write_model(tmp_path / "model.onnx", (batch, 4000), 3, sample_rate="8000")))
    np.testing.assert_array_equal(model.embed(WINDOWS), WINDOWS[:, 2::-1])
    assert model.embed(WINDOWS[:0]).shape == (0, 3)


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_with_open_embedding_size(tmp_path, batch):
    model = load_onnx(str(write_model(tmp_path / "model.onnx", (batch, 4000), sample_rate="8000")))
    assert model.embedding_size == 3


def test_agreeing_rates(tmp_path):
    path = write_model(tmp_path / "model.onnx", sample_rate="8000")
    assert load_onnx(f"onnx:{path}@8000").sample_rate == 8000


@pytest.mark.parametrize(
    ("options", "suffix", "message"),
    [
        ({}, "", r"no sample_rate in its metadata; name it as onnx:.*model\.onnx@RATE"),
        ({"sample_rate": "8000"}, "@16000", "made for 8000 Hz according to its metadata, not for 16000 Hz"),
        ({"sample_rate": "8 kHz"}, "", "not a whole number of Hz: '8 kHz'"),
        ({}, "@0", "the sample rate must be positive"),
        ({"shape": ("B", 1, "W")}, "@8000", r"one input of shape \(B, W\) and type tensor\(float\), not windows"),
        ({"kind": 11}, "@8000", r"not windows tensor\(double\)"),
        ({"outputs": 2}, "@8000", r"one output of shape \(B, D\), not embedding .*, copy"),
    ],
)
def test_mistakes_are_named(tmp_path, options, suffix, message):
    path = write_model(tmp_path / "model.onnx", **options)
    with pytest.raises(EdgeseaError, match=message) as error:
        load_onnx(f"onnx:{path}{suffix}")
    assert str(path) in str(error.value)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(EdgeseaError, match=r"absent\.onnx: no such ONNX file"):
        load_onnx("onnx:absent.onnx@8000")
    (tmp_path / "text.onnx").write_text("not a protobuf")
    with pytest.raises(EdgeseaError, match=r"text\.onnx: onnxruntime cannot load it"):
        load_onnx(f"onnx:{tmp_path / 'text.onnx'}@8000")


def test_a_device_that_onnxruntime_cannot_use_is_refused(tmp_path, monkeypatch):
    path = write_model(tmp_path / "model.onnx", sample_rate="8000")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for device in ("cpu", "auto"):
        model = edgesea.load_teacher(f"onnx:{path}", device=device)
        np.testing.assert_array_equal(model.embed(WINDOWS), WINDOWS[:, 2::-1])
    message = "device '{}' cannot be used: this build of onnxruntime has CPUExecutionProvider; choose auto or cpu"
    for device, hint in (("cuda", " or install onnxruntime-gpu"), ("cuda:1", " or install"), ("mps", "$")):
        with pytest.raises(EdgeseaError, match=message.format(device) + hint):
            edgesea.load_teacher(f"onnx:{path}", device=device)
