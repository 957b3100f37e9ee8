"""Models of other programs: Python functions, HEAR modules and ONNX files."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgesea.errors import EdgeseaError
from edgesea.models import load_teacher
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.foreign import FunctionModel, load_hear

FUNCTIONS = """
import numpy as np

calls = []
number = 3

def levels(windows):
    calls.append((windows.shape, windows.dtype))
    return np.stack([windows.mean(1), windows.std(1)], 1).astype(np.float64)

class Model:
    embed = staticmethod(lambda windows: windows[:, :5].tolist())

def fails(windows):
    raise RuntimeError("no weights")

flat = lambda windows: windows.mean(1)
one = lambda windows: np.zeros((1, 2))
changing = lambda windows: np.zeros((len(windows), len(windows)))
"""
TORCH = """
import torch

loaded = []

class Model(torch.nn.Module):
    sample_rate = 22050
    scene_embedding_size = 4

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 4)
        self.dropout = torch.nn.Dropout(0.5)

def load_model(model_file_path=""):
    model = Model()
    loaded.append(model)
    if model_file_path:
        model.load_state_dict(torch.load(model_file_path, weights_only=True))
    return model

def get_scene_embeddings(audio, model):
    assert isinstance(audio, torch.Tensor) and not torch.is_grad_enabled()
    return model.dropout(model.linear(audio.mean(1, keepdim=True)))
"""
OTHER = """
class Model:
    sample_rate = 8000
    scene_embedding_size = 1

load_model = lambda model_file_path="": Model()
get_scene_embeddings = lambda audio, model: audio.numpy().std(1, keepdims=True)
"""
MODULES = {
    "functions": FUNCTIONS,
    "broken": "raise OSError('no GPU')",
    "hear_torch": TORCH,
    "hear_other": OTHER,
    "hear_wrong_size": OTHER.replace("keepdims=True)", "keepdims=True).repeat(2, 1)"),
    "hear_by_name": OTHER.replace(": Model()", ': {"small": Model()}[model_file_path]').replace(
        "    sample_rate", '    digest = "0123"\n    sample_rate'
    ),
    "hear_no_functions": "load_model = print",
    "hear_no_rate": OTHER.replace("sample_rate", "rate"),
}
MODEL = """<ir_version: 10, opset_import: ["" : 17]{metadata}>
test ({kind}[{shape}] windows) => ({kind}[B, {size}] embedding{more})
<int64[1] start = {{2}}, int64[1] end = {{-9999}}, int64[1] axis = {{1}}, int64[1] step = {{-1}}>
{{ copy = Identity(windows)  embedding = Slice(windows, start, end, axis, step) }}"""
ONNX_FILES = {
    "plain": {},
    "rated": {"rate": 8000},
    "with_unit": {"rate": "8 kHz"},
    "three_axes": {"shape": "B, 1, W"},
    "double": {"kind": "double"},
    "two_outputs": {"more": ", float[B, W] copy"},
}
WINDOWS = np.random.default_rng(0).standard_normal((5, 4000)).astype(np.float32)


def write_onnx(path: Path, shape="B, W", size="D", kind="float", more="", rate=None) -> Path:
    """A model that gives the first three samples of a window, reversed."""
    metadata = f', metadata_props: ["sample_rate": "{rate}"]' if rate else ""
    onnx.save(onnx.parser.parse_model(MODEL.format(**locals())), path)
    return path


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    for name, options in ONNX_FILES.items():
        write_onnx(tmp_path / f"{name}.onnx", **options)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_a_function_is_a_model():
    model = load_teacher("callable:functions:levels@16000")
    assert isinstance(model, EmbeddingModel)
    assert (model.id, model.sample_rate, model.window) == ("callable:functions:levels@16000", 16000, None)
    assert (model.embedding_size, model.digest) == (2, file_digest(Path("functions.py")))
    embeddings = model.embed(WINDOWS.astype(np.float64))
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, np.stack([WINDOWS.mean(1), WINDOWS.std(1)], 1), rtol=1e-4, atol=1e-6)
    assert model.embed(WINDOWS[:0]).shape == (0, 2)
    assert sys.modules["functions"].calls == [((1, 16000), np.float32), ((5, 4000), np.float32)]
    np.testing.assert_array_equal(load_teacher("callable:functions:Model.embed@8000").embed(WINDOWS), WINDOWS[:, :5])
    fixed = FunctionModel("fixed", lambda windows: windows[:, :4], 100, window=0.5)
    assert fixed.embedding_size == 4
    with pytest.raises(EdgeseaError, match=r"fixed: .* 50 samples"):
        fixed.embed(np.zeros((1, 100), np.float32))


def test_hear_with_weights_of_another_framework_and_by_name(tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save({"linear.weight": torch.arange(4.0)[:, None], "linear.bias": torch.ones(4)}, weights)
    model = load_teacher(f"hear:hear_torch:{weights}")
    assert isinstance(model, EmbeddingModel)
    assert (model.sample_rate, model.window, model.digest) == (22050, None, file_digest(weights))
    expected = np.tile(np.float32([1.0, 1.5, 2.0, 2.5]), (3, 1))  # and no dropout
    np.testing.assert_allclose(model.embed(np.full((3, 100), 0.5, np.float32)), expected, strict=True)
    model = load_teacher("hear:hear_other")
    assert (model.id, model.digest) == ("hear:hear_other", "")
    np.testing.assert_allclose(model.embed(WINDOWS), WINDOWS.std(1, keepdims=True), rtol=1e-6)
    assert load_teacher("hear:hear_by_name:small").digest == "0123"
    load_hear("hear:hear_torch", "meta")  # torch's device without memory is everywhere
    assert sys.modules["hear_torch"].loaded[-1].linear.weight.device.type == "meta"


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("callable:functions:levels", "function@RATE"),
        ("callable:functions:levels@16k", "function@RATE"),
        ("callable:functions:levels@0", "0 Hz"),
        ("callable:absent:levels@16000", "PYTHONPATH"),
        ("callable:broken:levels@16000", "OSError: no GPU"),
        ("callable:functions:absent@16000", "'absent'"),
        ("callable:functions:number@16000", "int"),
        ("callable:functions:flat@16000", r"shape \(1,\)"),
        ("callable:functions:fails@16000", "RuntimeError: no weights"),
        ("hear:", "package.module"),
        ("hear:absent", "PYTHONPATH"),
        ("hear:hear_other:absent.PT", "absent.PT"),  # which it would overlook
        ("hear:hear_torch:/absent/weights", "/absent/weights"),
        ("hear:hear_torch:functions.py", "load_model"),
        ("hear:hear_by_name:smal", "KeyError: 'smal'"),
        ("hear:hear_no_functions", "get_scene_embeddings"),
        ("hear:hear_no_rate", "sample_rate"),
        *((f"callable:functions:{name}", rf"\(5, {size}\)") for name, size in (("one@16000", 2), ("changing@8", 1))),
        ("hear:hear_wrong_size", r"\(5, 1\)"),
        ("onnx:absent.onnx@8000", "absent.onnx"),
        ("onnx:functions.py@8000", "functions.py"),
        ("onnx:plain.onnx", "None"),
        ("onnx:plain.onnx@0", "0 Hz"),
        ("onnx:rated.onnx@16000", "8000.*16000"),
        ("onnx:with_unit.onnx", "8 kHz"),
        ("onnx:three_axes.onnx@8000", "windows"),
        ("onnx:double.onnx@8000", "double"),
        ("onnx:two_outputs.onnx@8000", "copy"),
    ],
)
def test_mistakes_are_named(id, words):
    with pytest.raises(EdgeseaError, match=words) as error:
        load_teacher(id).embed(WINDOWS)
    assert id.split("@")[0].removeprefix("onnx:") in str(error.value)


@pytest.mark.parametrize(
    ("shape", "size", "window", "suffix", "rate"),
    [
        ("B, W", "D", None, "", 8000),
        ("B, W", "D", None, "@8000", 8000),
        ("B, 4000", 3, 0.5, "@8000", None),
        *((f"{batch}, 4000", "D", 0.5, "@8000", None) for batch in (1, 2, 5, 8)),
    ],
)
def test_an_onnx_file_with_open_or_fixed_sizes(tmp_path, shape, size, window, suffix, rate):
    path = write_onnx(tmp_path / "model@home.onnx", shape, size, rate=rate)
    model = load_teacher(f"onnx:{path}{suffix}", device="auto")
    assert isinstance(model, EmbeddingModel)
    assert (model.id, model.sample_rate, model.window) == (f"onnx:{path}{suffix}", 8000, window)
    assert (model.embedding_size, model.digest) == (3, file_digest(path))
    np.testing.assert_array_equal(model.embed(WINDOWS), WINDOWS[:, 2::-1])
    assert model.embed(WINDOWS[:0]).shape == (0, 3)


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_devices_that_onnxruntime_lacks_are_refused(monkeypatch, device):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EdgeseaError, match=rf"plain\.onnx.*{device}.*CPUExecutionProvider"):
        load_teacher("onnx:plain.onnx@8000", device=device)
