import numpy as np
import pytest
import torch

import edgesea
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.efficientat import EfficientAT


@pytest.fixture(scope="module")
def weights(shared_data):
    return shared_data / "efficientat" / "mn04_as_mAP_432.pt"


@pytest.fixture(scope="module")
def teacher(weights):
    return edgesea.load_teacher("efficientat/mn04", weights=weights)


def test_embeddings_are_those_of_the_original(shared_data, teacher):
    with np.load(shared_data / "efficientat" / "mn04_reference.npz") as reference:
        windows, log_mel, embedding = (reference[name] for name in ("windows", "log_mel", "embedding"))
    np.testing.assert_allclose(teacher.log_mel(torch.from_numpy(windows)).numpy(), log_mel, atol=1e-3)
    assert np.abs(teacher.embed(windows) - embedding).max() <= 1e-4


def test_a_teacher_is_an_embedding_model(teacher, weights):
    assert isinstance(teacher, EmbeddingModel)
    assert (teacher.id, teacher.sample_rate, teacher.embedding_size) == ("efficientat/mn04", 32000, 384)
    assert teacher.digest == file_digest(weights)


def test_embeddings_do_not_depend_on_the_batch(teacher):
    windows = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 32000)).astype(np.float32)
    one_by_one = np.concatenate([teacher.embed(windows[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(teacher.embed(windows), one_by_one, atol=1e-5)


def test_silence_and_windows_of_another_length_give_finite_embeddings(teacher):
    for samples in (32000, 20000, 64000):
        embedding = teacher.embed(np.zeros((1, samples), np.float32))
        assert embedding.shape == (1, 384)
        assert np.isfinite(embedding).all()


@pytest.mark.parametrize(
    ("variant", "size", "parameters"),
    # Millions of parameters as published, with the classifier that the teacher leaves out
    [("mn04", 384, 0.983), ("mn05", 480, 1.43), ("mn10", 960, 4.88), ("mn20", 1920, 17.91), ("mn40", 3840, 68.43)],
)
def test_sizes_of_the_variants(variant, size, parameters):
    width = {"mn04": 0.4, "mn05": 0.5, "mn10": 1.0, "mn20": 2.0, "mn40": 4.0}[variant]
    with torch.device("meta"):  # shapes only
        model = EfficientAT(variant)
    hidden = round(1280 * width)
    classifier = size * hidden + hidden + hidden * 527 + 527
    total = sum(parameter.numel() for parameter in model.parameters()) + classifier
    assert model.embedding_size == size
    assert total / 1e6 == pytest.approx(parameters, rel=0.01)


def test_weights_of_another_width_are_refused(weights):
    with pytest.raises(
        EdgeseaError, match=r"mn04_as_mAP_432\.pt: these are the weights of another model: .* has shape"
    ):
        edgesea.load_teacher("efficientat/mn10", weights=weights)


@pytest.mark.parametrize("variant", ["mn03", "mn10_as", ""])
def test_unknown_variants_get_the_known_ones(variant):
    with pytest.raises(
        EdgeseaError, match=f"unknown teacher efficientat/{variant}; known: mn04, mn05, mn10, mn20, mn40"
    ):
        edgesea.load_teacher(f"efficientat/{variant}")
