import numpy as np
import pytest
import torch

import edgesea
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.efficientat import VARIANTS, EfficientAT


@pytest.fixture(scope="module")
def teacher(shared_data):
    return edgesea.load_teacher("efficientat/mn04", shared_data / "efficientat" / "mn04_as_mAP_432.pt")


def test_embeddings_are_those_of_the_original(shared_data, teacher):
    with np.load(shared_data / "efficientat" / "mn04_reference.npz") as reference:
        windows, log_mel, embedding = (reference[name] for name in ("windows", "log_mel", "embedding"))
    np.testing.assert_allclose(teacher.log_mel(torch.from_numpy(windows)).numpy(), log_mel, atol=1e-3)
    assert np.abs(teacher.embed(windows) - embedding).max() <= 1e-5
    assert isinstance(teacher, EmbeddingModel)
    assert (teacher.id, teacher.sample_rate, teacher.embedding_size) == ("efficientat/mn04", 32000, 384)
    assert teacher.digest == file_digest(shared_data / "efficientat" / "mn04_as_mAP_432.pt")


def test_embeddings_do_not_depend_on_the_batch_and_windows_have_any_length(teacher):
    windows = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 32000)).astype(np.float32)
    one_by_one = np.concatenate([teacher.embed(windows[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(teacher.embed(windows), one_by_one, atol=1e-5)
    for samples in (32000, 20000, 64000):
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
