"""What models written in torch share: `embed`, blocks of convolutions, and loading weights safely."""

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgesea.models.base import Float32, check_shapes, check_windows, file_digest
from edgesea.models.engine import Engine, Precision

LAUNCH = threading.Lock()  # one model at a time hands work to a device; results may be waited for together


class TorchModel(nn.Module):
    """An `EmbeddingModel` whose ``forward`` maps windows (B, W) to embeddings (B, D): a front end, then a network."""

    id: str = ""
    sample_rate: int
    window: float | None
    embedding_size: int
    digest: str = ""
    engine: Engine = "torch"
    precision: Precision = "float32"  # of the network
    threads = 1  # that call `embed`
    compiled: Callable[[Tensor], Tensor] | None = None  # `embed_spectrogram`
    most = 0  # windows of a batch so far

    def spectrogram(self, windows: Tensor) -> Tensor:
        """What the network takes, (B, 1, bands, frames), of windows (B, W)."""
        raise NotImplementedError

    def embed_spectrogram(self, spectrogram: Tensor) -> Tensor:
        """Embeddings (B, D) of what `spectrogram` gives."""
        raise NotImplementedError

    def forward(self, windows: Tensor) -> Tensor:
        """Embeddings (B, D) of windows (B, W)."""
        return self.embed_spectrogram(self.spectrogram(windows))

    def embed(self, windows: Float32) -> Float32:
        """Embeddings (B, D) float32 of windows (B, W) in [-1, 1], computed on the device that holds the weights."""
        windows = np.require(windows, np.float32, ["C", "W"])  # torch takes no read-only arrays
        check_windows(self, windows)
        self.eval()
        if not len(windows):
            return np.zeros((0, self.embedding_size), np.float32)
        device, audio = next(self.buffers()).device, torch.from_numpy(windows)
        with LAUNCH, torch.inference_mode():
            if self.compiled is not None:  # it would be compiled anew for each number of windows
                self.most = max(self.most, len(windows))
                audio = functional.pad(audio, (0, 0, 0, self.most - len(windows)))
            audio = audio.pin_memory() if device.type == "cuda" else audio
            spectrogram = self.spectrogram(audio.to(device, non_blocking=True)).to(getattr(torch, self.precision))
            result = (self.compiled or self.embed_spectrogram)(spectrogram)[: len(windows)]
        return cast(Float32, result.float().cpu().numpy())


Model = TypeVar("Model", bound=TorchModel)


def fold(model: Model) -> Model:
    """Fold batch normalisations into the convolutions before them, in place; for inference that is the same."""
    for parent in list(model.eval().modules()):
        if isinstance(parent, nn.Sequential):
            for index, child in enumerate(parent):
                if isinstance(child, nn.BatchNorm2d):
                    parent[index - 1] = fuse_conv_bn_eval(cast(nn.Conv2d, parent[index - 1]), child)
                    parent[index] = nn.Identity()
    return model


def for_inference(model: Model, device: str, precision: Precision) -> Model:
    """Move a model to a device and make it faster, in place: folded, its network in `precision`, on a GPU compiled."""
    for name, part in fold(model).to(device).named_children():
        if name not in ("log_mel", "input_norm"):  # the front end
            part.to(getattr(torch, precision), memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.precision = precision
    if device.startswith("cuda"):
        model.threads = 2  # one prepares a batch while the other waits for the device
    # Triton needs a compiler of C
    if device.startswith("cuda") and find_spec("triton") and any(map(which, ("cc", "gcc", "clang"))):
        model.compiled = torch.compile(model.embed_spectrogram, dynamic=False)
    return model


def l3_blocks(filters: Sequence[int]) -> list[nn.Module]:
    """Blocks of two 3x3 'same' convolutions, each with bias, batch normalisation and ReLU; 2x2 max pools between them.

    From one channel to ``filters[-1]``: this stack is what OpenL3 and the students share.
    """
    layers: list[nn.Module] = []
    channels = 1
    for block, outputs in enumerate(filters):
        if block:
            layers.append(nn.MaxPool2d(2))
        for _ in range(2):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU()]
            channels = outputs
    return layers


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride, whose gradient CPUs compute ten times as fast in single precision."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(input.dtype)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int, *act: nn.Module) -> nn.Sequential:
    """A convolution without bias, its batch normalisation, and what follows."""
    kind = StridedDepthwise if groups > 1 and stride > 1 else nn.Conv2d
    conv = kind(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3), *act)


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, convolve each channel, project by a 1x1 convolution (MobileNetV2).

    Where the input has the shape of the result, it is added. `gates` go before the projection.
    """

    def __init__(
        self,
        inputs: int,
        kernel: int,
        expanded: int,
        outputs: int,
        stride: int,
        act: type[nn.Module] = nn.ReLU,
        gates: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        layers = [conv_norm(inputs, expanded, 1, 1, 1, act())] if expanded != inputs else []
        layers.append(conv_norm(expanded, expanded, kernel, stride, expanded, act()))
        self.block = nn.Sequential(*layers, *gates, conv_norm(expanded, outputs, 1, 1, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


def load_arrays(model: Model, arrays: Mapping[str, Tensor | NDArray[Any]], path: Path) -> Model:
    """Give `model` the arrays of a file, and its digest; EdgeseaError unless every name and shape fits."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_shapes({name: tuple(value.shape) for name, value in arrays.items()}, expected, path)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()}, strict=False)
    model.digest = file_digest(path)
    return model
