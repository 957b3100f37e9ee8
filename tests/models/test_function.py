import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel
from edgesea.models.foreign import FunctionModel, load_callable, split_rate

MODULE = """
import numpy as np

calls = []
number = 3

def levels(windows):
    calls.append((windows.shape, windows.dtype))
    return np.stack([windows.mean(1), windows.std(1)], 1).astype(np.float64)

class Model:
    @staticmethod
    def embed(windows):
        return windows[:, :5].tolist()

def flat(windows):
    return windows.mean(1)

def one(windows):
    return np.zeros((1, 2))

def text(windows):
    return [["a"] * 2] * len(windows)

def fails(windows):
    raise RuntimeError("no weights")

def changing(windows):
    return np.zeros((len(windows), len(windows)))
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "user_model.py").write_text(MODULE)
    (tmp_path / "broken_model.py").write_text("raise OSError('no GPU')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(__import__("sys").modules, "user_model", raising=False)


def test_a_function_is_a_model():
    model = load_callable("callable:user_model:levels@16000")
    assert isinstance(model, EmbeddingModel)
    assert (model.id, model.sample_rate, model.window) == ("callable:user_model:levels@16000", 16000, None)
    assert (model.embedding_size, len(model.digest)) == (2, 64)
    windows = np.random.default_rng(0).standard_normal((3, 400))
    embeddings = model.embed(windows)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, np.stack([windows.mean(1), windows.std(1)], 1), rtol=1e-4, atol=1e-6)
    import user_model

    assert user_model.calls == [((1, 16000), np.float32), ((3, 400), np.float32)]


def test_no_windows_give_no_embeddings():
    assert load_callable("user_model:levels@16000").embed(np.zeros((0, 400), np.float32)).shape == (0, 2)


def test_attributes_of_classes_and_lists_are_accepted():
    model = load_callable("user_model:Model.embed@8000")
    assert model.embed(np.ones((2, 8000), np.float32)).tolist() == [[1.0] * 5] * 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("user_model:levels", "package.module:function@RATE"),
        ("user_model@16000", "package.module:function@RATE"),
        ("user_model:levels@16k", "package.module:function@RATE"),
        ("user_model:levels@0", "sample rate must be positive, not 0 Hz"),
        ("absent_model:levels@16000", "cannot import absent_model .*PYTHONPATH"),
        ("broken_model:levels@16000", r"cannot import broken_model \(OSError: no GPU\)"),
        ("user_model:absent@16000", "module user_model has no 'absent'"),
        ("user_model:number@16000", "'number' is a int, not a function"),
        ("user_model:flat@16000", r"must return numbers of shape \(1, D\) .*, not float32 of shape \(1,\)"),
        ("user_model:text@16000", "must return numbers of shape"),
        ("user_model:fails@16000", r"failed on a trial window of silence \(1, 16000\): RuntimeError: no weights"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(EdgeseaError, match=message) as error:
        load_callable(f"callable:{spec}")
    assert f"callable:{spec}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("one", r"shape \(3, D\) .* of shape \(1, 2\)"), ("changing", "embeddings of 3 dimensions instead of 1")],
)
def test_wrong_embeddings_are_named(name, message):
    model = load_callable(f"user_model:{name}@16000")
    with pytest.raises(EdgeseaError, match=message):
        model.embed(np.zeros((3, 400), np.float32))


def test_a_fixed_window_is_enforced():
    model = FunctionModel("fixed", lambda windows: windows[:, :4], 100, window=0.5)
    assert model.embedding_size == 4
    with pytest.raises(EdgeseaError, match="windows must have 50 samples"):
        model.embed(np.zeros((1, 100), np.float32))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b@16000", ("a/b", 16000)),
        ("a@b@1", ("a@b", 1)),
        ("a@b", ("a@b", None)),
        ("a@", ("a@", None)),
        ("a", ("a", None)),
    ],
)
def test_split_rate(text, expected):
    assert split_rate(text) == expected
