"""The students in torch, with a configurable input representation, filters and head."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from edgesea.audio.logmel import LogMel
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import StudentFile
from edgesea.models.torch_model import InvertedResidual, TorchModel, conv_norm, l3_blocks, load_arrays


class ReluMax(nn.Module):
    """Maximum of the rectified feature map (B, C, H, W) -> (B, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features).amax((2, 3))


class LinearHead(nn.Module):
    """Linear layer on the maximum and the mean of the rectified feature map (B, C, H, W) -> (B, D)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, size)

    def forward(self, features: Tensor) -> Tensor:
        features = torch.relu(features)
        pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1)
        return cast(Tensor, self.linear(pooled))


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": LinearHead, "relu_max": lambda *_: ReluMax()}


class Student(TorchModel):
    """A student f_S: windows (B, W) at ``config.sample_rate`` -> embeddings (B, D).

    Log-mel spectrogram, batch normalisation, the convolutions that `student_config` describes, and a head that takes
    the last batch normalisation's output.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config, self.id = config, "student"
        self.sample_rate, self.window, self.embedding_size = config.sample_rate, config.window, config.embedding_size
        self.log_mel = LogMel(config.front_end())
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3)
        # the last ReLU belongs to the head
        self.features = nn.Sequential(*(_edge_blocks(config) if config.stages else l3_blocks(config.filters)[:-1]))
        self.head = HEADS[config.head](config.filters[-1], config.embedding_size)
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs and GPUs

    def spectrogram(self, windows: Tensor) -> Tensor:
        """Normalised log-mel spectrograms (B, 1, bands, frames) of windows (B, W)."""
        return cast(Tensor, self.input_norm(self.log_mel(windows)[:, None]))

    def embed_spectrogram(self, spectrogram: Tensor) -> Tensor:
        """Embeddings (B, D) of what `spectrogram` gives."""
        return cast(Tensor, self.head(self.features(spectrogram)))


def _edge_blocks(config: StudentConfig) -> list[nn.Module]:
    channels, last = config.filters
    blocks: list[nn.Module] = [conv_norm(1, channels, 3, 2, 1, nn.ReLU())]
    for outputs, expansion, count, stride, kernel in config.stages:
        for step in (stride, *[1] * (count - 1)):
            blocks.append(InvertedResidual(channels, kernel, channels * expansion, outputs, step))
            channels = outputs
    return [*blocks, conv_norm(channels, last, 1, 1, 1)]


def torch_student(file: StudentFile) -> Student:
    """The student of a file, on the CPU and in evaluation mode; EdgeseaError if its arrays do not fit."""
    student = load_arrays(Student(file.config), file.arrays, file.path)
    student.id = file.id
    return student.eval()
