"""EfficientAT teachers: MobileNetV3-large with a width multiplier, pretrained on AudioSet (Schmid et al., 2023)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from edgesea.audio.logmel import KaldiLogMel
from edgesea.errors import EdgeseaError
from edgesea.models.base import file_digest
from edgesea.models.download import fetch
from edgesea.models.torch_model import TorchModel, load_arrays

# Multiplier of the channels, and the mAP on AudioSet that is in the file's name
VARIANTS = {"mn04": (0.4, 432), "mn05": (0.5, 443), "mn10": (1.0, 471), "mn20": (2.0, 478), "mn40": (4.0, 484)}
URL = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"

# MobileNetV3-large (Howard et al., 2019, table 1): kernel, expanded channels, channels out, squeeze-excite, stride;
# blocks up to the sixth use ReLU, the others hard-swish.
BLOCKS = [
    (3, 16, 16, False, 1),
    (3, 64, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, True, 1),
    (5, 960, 160, True, 1),
]
RELU_BLOCKS = 6


def _round_channels(channels: float) -> int:
    """Nearest multiple of 8, at least 8 and at least 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int, *act: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=0.001, momentum=0.01), *act)


class _SqueezeExcite(nn.Module):
    """Channel gates from the mean of the feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _round_channels(channels // 4)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))
        return x * gates[:, :, None, None]


class _InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, kernel: int, expanded: int, outputs: int, gated: bool, stride: int, act: type[nn.Module]
    ) -> None:
        super().__init__()
        layers = [_conv_norm(inputs, expanded, 1, 1, 1, act())] if expanded != inputs else []
        layers.append(_conv_norm(expanded, expanded, kernel, stride, expanded, act()))
        gates = [_SqueezeExcite(expanded)] if gated else []
        self.block = nn.Sequential(*layers, *gates, _conv_norm(expanded, outputs, 1, 1, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class EfficientAT(TorchModel):
    """An ``efficientat/mn*`` teacher: windows of any length at 32 kHz -> the globally averaged last feature map."""

    sample_rate = 32000
    window: float | None = None

    def __init__(self, variant: str) -> None:
        super().__init__()
        width = VARIANTS[variant][0]
        channels = _round_channels(16 * width)
        layers: list[nn.Module] = [_conv_norm(1, channels, 3, 2, 1, nn.Hardswish())]
        for index, (kernel, *sizes, gated, stride) in enumerate(BLOCKS):
            act = nn.ReLU if index < RELU_BLOCKS else nn.Hardswish
            expanded, outputs = (_round_channels(size * width) for size in sizes)
            layers.append(_InvertedResidual(channels, kernel, expanded, outputs, gated, stride, act))
            channels = outputs
        layers.append(_conv_norm(channels, 6 * channels, 1, 1, 1, nn.Hardswish()))
        self.id = f"efficientat/{variant}"
        self.embedding_size = 6 * channels
        self.log_mel = KaldiLogMel()
        self.features = nn.Sequential(*layers)

    def forward(self, windows: Tensor) -> Tensor:
        """Embeddings (B, D) of windows (B, W)."""
        features: Tensor = self.features(self.log_mel(windows)[:, None])
        return features.mean((2, 3))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A torch state dict; nothing but tensors is ever unpickled, anything else is an EdgeseaError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many types, and with the advice to unpickle it
        state = None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        reason = "damaged, of another kind, or with objects other than tensors, which are never loaded"
        raise EdgeseaError(f"{path}: not a torch state dict ({reason}); save one with torch.save(model.state_dict())")
    return state


def load_efficientat(variant: str, weights: Path | None = None) -> EfficientAT:
    """Load a published state dict, without its classifier; `weights` of None: download it."""
    if variant not in VARIANTS:
        raise EdgeseaError(f"unknown teacher 'efficientat/{variant}'; known: {', '.join(VARIANTS)}")
    name = f"{variant}_as_mAP_{VARIANTS[variant][1]}.pt"
    path = weights or fetch(URL + name, name)
    model = EfficientAT(variant)
    state = read_state_dict(path).items()
    arrays = {k.replace(".conc_se_layers.0.", "."): v for k, v in state if not k.startswith("classifier.")}
    load_arrays(model, arrays, path)
    model.digest = file_digest(path)
    return model
