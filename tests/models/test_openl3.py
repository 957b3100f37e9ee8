from pathlib import Path

import numpy as np
import pytest
import torch
from openl3_random import VARIANTS, random_layers, windows, write_keras_h5

from edgesea.errors import EdgeseaError
from edgesea.models.base import EmbeddingModel, file_digest
from edgesea.models.openl3 import VARIANTS as ALL_VARIANTS
from edgesea.models.openl3 import OpenL3, load_openl3

GOLDEN = Path(__file__).with_name("openl3_golden.npz")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_keras_h5(tmp_path_factory.mktemp("openl3") / "random.h5", random_layers())


@pytest.mark.parametrize("variant", VARIANTS)
def test_embeddings_are_those_of_tensorflow(weights, variant):
    model = load_openl3(f"music-{variant}", weights)
    with np.load(GOLDEN) as golden:
        embedding, log_mel = golden[f"{variant}/embedding"], golden[f"{variant}/log_mel"]
    np.testing.assert_allclose(model.log_mel(torch.from_numpy(windows()))[:, ::7, ::7], log_mel, atol=1e-4)
    assert model.digest == file_digest(weights)
    error = np.abs(model.embed(windows()) - embedding).max(1)
    assert (error <= 1e-5 * np.abs(embedding).max(1)).all()


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_variants(variant):
    with torch.device("meta"):  # shapes only
        model = OpenL3(variant)
    assert len(ALL_VARIANTS) == 12
    assert isinstance(model, EmbeddingModel)
    assert (model.id, model.sample_rate, model.window) == (f"openl3/{variant}", 48000, 1.0)
    assert model.embedding_size == int(variant.rpartition("-")[2])
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_687_042
    bands, frames = model.log_mel.settings.bands, model.log_mel.settings.frames(48000)
    assert (bands, frames) == {"mel128": (128, 199), "mel256": (256, 199), "linear": (257, 197)}[variant.split("-")[1]]
    # The last feature map is a whole number of pools, where 'same' and 'valid' are one
    pools = [size / pool for size, pool in zip((bands // 8, frames // 8), model.pool.kernel_size, strict=True)]
    assert all(count.is_integer() for count in pools)
    assert 512 * np.prod(pools) == model.embedding_size


@pytest.mark.parametrize("name", ["openl3_audio_mel128_env.h5", "openl3_audio_mel256_music-v0_4_0.h5"])
def test_the_file_of_another_variant_is_refused(weights, tmp_path, name):
    (tmp_path / name).symlink_to(weights)
    with pytest.raises(EdgeseaError, match=f"{tmp_path / name}: "):
        load_openl3("env-mel256-512", tmp_path / name)
