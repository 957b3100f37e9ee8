import numpy as np
import pytest
import torch

import edgesea
from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.efficientat import VARIANTS, EfficientAT


@pytest.fixture(scope="module")
def weights(shared_data):
    return shared_data / "efficientat" / "mn04_as_mAP_432.pt"


@pytest.fixture(scope="module")
def teacher(weights):
    return edgesea.load_teacher("efficientat/mn04", weights=weights)


def test_embeddings_are_those_of_the_original(shared_data, teacher, weights):
    with np.load(shared_data / "efficientat" / "mn04_reference.npz") as reference:
        windows, log_mel, embedding = (reference[name] for name in ("windows", "log_mel", "embedding"))
    np.testing.assert_allclose(teacher.log_mel(torch.from_numpy(windows)).numpy(), log_mel, atol=1e-3)
    assert np.abs(teacher.embed(windows) - embedding).max() <= 1e-5
    assert isinstance(teacher, EmbeddingModel)
    assert (teacher.id, teacher.sample_rate, teacher.embedding_size) == ("efficientat/mn04", 32000, 384)
    assert teacher.digest == file_digest(weights)


def test_embeddings_do_not_depend_on_the_batch(teacher):
    windows = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 32000)).astype(np.float32)
    one_by_one = np.concatenate([teacher.embed(windows[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(teacher.embed(windows), one_by_one, atol=1e-5)


@pytest.mark.parametrize("samples", [32000, 20000, 64000])
def test_silence_of_any_length_gives_finite_embeddings(teacher, samples):
    assert np.isfinite(teacher.embed(np.zeros((1, samples), np.float32))).all()


@pytest.mark.parametrize(
    ("variant", "size", "parameters"),
    # Millions of parameters as published, with the classifier that the teacher leaves out
    [("mn04", 384, 0.983), ("mn05", 480, 1.43), ("mn10", 960, 4.88), ("mn20", 1920, 17.91), ("mn40", 3840, 68.43)],
)
def test_sizes_of_the_variants(variant, size, parameters):
    with torch.device("meta"):  # shapes only
        model = EfficientAT(variant)
    hidden = round(1280 * VARIANTS[variant][0])
    classifier = size * hidden + hidden + hidden * 527 + 527
    total = sum(parameter.numel() for parameter in model.parameters()) + classifier
    assert model.embedding_size == size
    assert total / 1e6 == pytest.approx(parameters, rel=0.01)


def test_weights_of_another_width_and_unknown_variants_are_refused(weights):
    with pytest.raises(EdgeseaError, match=r"mn04_as_mAP_432\.pt: "):
        edgesea.load_teacher("efficientat/mn10", weights=weights)
    for variant in ("mn03", "mn10_as", ""):
        with pytest.raises(EdgeseaError, match=f"'efficientat/{variant}'.*mn04, mn05, mn10, mn20, mn40"):
            edgesea.load_teacher(f"efficientat/{variant}")
