import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.foreign import load_hear

TORCH = """
import torch

class Model(torch.nn.Module):
    sample_rate = 22050
    scene_embedding_size = 4
    timestamp_embedding_size = 4

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 4)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, audio):
        return self.dropout(self.linear(audio.mean(1, keepdim=True)))

def load_model(model_file_path=""):
    torch.manual_seed(0)
    model = Model()
    if model_file_path:
        model.load_state_dict(torch.load(model_file_path, weights_only=True))
    return model

def get_scene_embeddings(audio, model):
    assert isinstance(audio, torch.Tensor) and not torch.is_grad_enabled()
    return model(audio)
"""
OTHER = """
class Model:
    sample_rate = 8000
    scene_embedding_size = 1

def load_model(model_file_path=""):
    return Model()

def get_scene_embeddings(audio, model):
    return audio.numpy().std(1, keepdims=True)
"""
MODULES = {
    "hear_torch": TORCH,
    "hear_other": OTHER,
    "hear_wrong_size": OTHER.replace("keepdims=True)", "keepdims=True).repeat(2, 1)"),
    "hear_by_name": OTHER.replace("return Model()", 'return {"small": Model()}[model_file_path]').replace(
        "    sample_rate", '    digest = "0123"\n    sample_rate'
    ),
    "hear_no_functions": "load_model = print",
    "hear_no_rate": OTHER.replace("sample_rate", "rate"),
}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_torch_model_with_weights(tmp_path: Path):
    weights = tmp_path / "weights.pt"
    state = {"linear.weight": torch.arange(4.0)[:, None], "linear.bias": torch.ones(4)}
    torch.save(state, weights)
    model = load_hear(f"hear:hear_torch:{weights}")
    assert isinstance(model, EmbeddingModel)
    assert (model.id, model.sample_rate, model.window) == (f"hear:hear_torch:{weights}", 22050, None)
    assert (model.embedding_size, model.digest) == (4, file_digest(weights))
    embeddings = model.embed(np.full((3, 100), 0.5, np.float32))
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, np.tile([1.0, 1.5, 2.0, 2.5], (3, 1)))  # and no dropout


def test_model_of_another_framework_without_weights():
    model = load_hear("hear_other")
    assert (model.id, model.digest) == ("hear:hear_other", "")
    windows = np.random.default_rng(0).standard_normal((2, 800)).astype(np.float32)
    np.testing.assert_allclose(model.embed(windows), windows.std(1, keepdims=True), rtol=1e-6)


def test_a_module_may_know_its_models_by_name():
    model = load_hear("hear:hear_by_name:small")
    assert (model.id, model.digest) == ("hear:hear_by_name:small", "0123")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", r"hear:package\.module\[:weights\]"),
        ("absent_module", r"hear:absent_module: cannot import absent_module .*PYTHONPATH"),
        ("hear_torch:absent.pt", r"hear:hear_torch:absent\.pt: no such weight file: absent\.pt"),
        ("hear_other:absent.PT", r"hear:hear_other:absent\.PT: no such weight file"),  # which it overlooks
        ("hear_other:/absent/weights", "hear:hear_other:/absent/weights: no such weight file"),
        ("hear_by_name:smal", r"hear:hear_by_name:smal: load_model failed \(KeyError: 'smal'\); there is no file smal"),
        ("hear_no_functions", "has no get_scene_embeddings, which the HEAR API asks for"),
        ("hear_no_rate", "the model of hear_no_rate has no sample_rate"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(EdgeseaError, match=message):
        load_hear(f"hear:{spec}")


def test_weights_that_do_not_load(tmp_path):
    (tmp_path / "weights.pt").write_text("nothing")
    with pytest.raises(EdgeseaError, match="load_model failed"):
        load_hear(f"hear:hear_torch:{tmp_path / 'weights.pt'}")


def test_embeddings_of_another_size_than_announced():
    with pytest.raises(EdgeseaError, match="2 dimensions instead of 1"):
        load_hear("hear:hear_wrong_size").embed(np.zeros((2, 800), np.float32))


def test_a_torch_model_is_moved_to_the_device_and_another_is_not(caplog):
    model = load_hear("hear_torch", "meta")  # torch's device without memory is everywhere
    _, moved = model.function.args
    assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}
    with caplog.at_level("INFO", "edgesea"):
        load_hear("hear_other", "cuda:1")
    assert (
        "hear:hear_other: not a torch module, so it chooses its device itself; cuda:1 is not passed on" in caplog.text
    )
