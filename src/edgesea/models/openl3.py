"""OpenL3 teachers: look, listen and learn networks for one-second windows at 48 kHz (Cramer et al., ICASSP 2019)."""

import re
from pathlib import Path

from torch import Tensor, nn

from edgesea.audio.logmel import LogMel
from edgesea.audio.mel import LogMelSettings
from edgesea.errors import EdgeseaError
from edgesea.models.base import file_digest
from edgesea.models.download import GIT_BLOBS, OPENL3_URL, fetch
from edgesea.models.keras_h5 import keras_to_torch, read_keras_h5
from edgesea.models.torch_model import TorchModel, l3_blocks, load_arrays

# Size of the final max pool over (bands, frames) of the last feature map for each embedding size
POOLS = {
    "mel128": {512: (16, 24), 6144: (4, 8)},
    "mel256": {512: (32, 24), 6144: (8, 8)},
    "linear": {512: (32, 24), 6144: (8, 8)},
}
VARIANTS = tuple(
    f"{content}-{bands}-{size}" for content in ("env", "music") for bands in POOLS for size in POOLS[bands]
)
FILTERS = (64, 128, 256, 512)


class OpenL3(TorchModel):
    """An ``openl3/*`` teacher: log-spectrogram, batch normalisation, four blocks of two convolutions, max pool.

    A variant names content of the training videos, input representation and embedding size: ``env-mel256-512``.
    """

    sample_rate = 48000
    window: float | None = 1.0

    def __init__(self, variant: str) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise EdgeseaError(f"unknown teacher 'openl3/{variant}'; known: {', '.join(VARIANTS)}")
        self.id = f"openl3/{variant}"
        _, bands, size = variant.split("-")
        self.embedding_size = int(size)
        self.log_mel = LogMel(front_end(bands))
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3)
        # The last convolution is the embedding layer: no normalisation and no ReLU follow it
        self.features = nn.Sequential(*l3_blocks(FILTERS)[:-2])
        # It divides the feature map exactly, so that the 'same' padding of the original never comes into play
        self.pool = nn.MaxPool2d(POOLS[bands][self.embedding_size])

    def forward(self, windows: Tensor) -> Tensor:
        """Embeddings (B, D) of windows (B, 48000); their order is that of (band, frame, channel)."""
        features: Tensor = self.pool(self.features(self.input_norm(self.log_mel(windows)[:, None])))
        return features.permute(0, 2, 3, 1).flatten(1)


def front_end(bands: str) -> LogMelSettings:
    """The spectrogram of an input representation: ``mel128``, ``mel256`` or ``linear``."""
    if bands == "linear":
        return LogMelSettings(48000, 512, 242, None, root_of_power=False, padding="none")
    n_mels = int(bands.removeprefix("mel"))
    return LogMelSettings(48000, 2048, 242, n_mels, scale="slaney", root_of_power=False, padding="end")


def load_openl3(variant: str, weights: Path | None = None) -> OpenL3:
    """Load one of `VARIANTS` from a Keras weight file (``.h5`` or ``.h5.gz``); None: the published one."""
    model = OpenL3(variant)
    content, bands, _ = variant.split("-")
    name = f"openl3_audio_{bands}_{content}-v0_4_0.h5.gz"
    path = weights or fetch(OPENL3_URL + name, name, git_blob=GIT_BLOBS[name])
    # The published files of all variants have arrays of the same names and shapes
    published = re.match(r"openl3_audio_([a-z0-9]+)_([a-z]+)", path.name)
    if published and published.groups() != (bands, content):
        raise EdgeseaError(f"{path}: the name of another teacher's weights; openl3/{variant} has {name}")
    order = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    load_arrays(model, keras_to_torch(read_keras_h5(path), order, path), path)
    model.digest = file_digest(path)
    return model
