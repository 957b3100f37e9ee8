"""The teachers whose networks are built here.

``spectral``: hand-crafted statistics of a log-mel spectrogram; it has no weights and works offline.
``openl3/*``: look, listen and learn networks for one-second windows at 48 kHz (Cramer et al., ICASSP 2019).
``efficientat/mn*``: MobileNetV3-large with a width multiplier, pretrained on AudioSet (Schmid et al., 2023).
"""

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgesea.audio.logmel import KaldiLogMel, LogMel
from edgesea.audio.logmel_numpy import FrontEnd, OverlappingKaldi, OverlappingLogMel
from edgesea.audio.mel import LogMelSettings
from edgesea.errors import EdgeseaError
from edgesea.models.base import Float32
from edgesea.models.engine import Engine, EngineModel, Precision
from edgesea.models.graph import OUTPUT, Graph
from edgesea.models.published import GIT_BLOBS, OPENL3_URL, fetch, keras_to_torch, read_keras_h5
from edgesea.models.torch_model import InvertedResidual, TorchModel, conv_norm, fold, l3_blocks, load_arrays

BANDS = 64  # of the spectral teacher
MODULATIONS = ((1.5, 4.0), (4.0, 8.0), (8.0, 16.0), (16.0, 32.0))  # Hz

# Size of OpenL3's final max pool over (bands, frames) of the last feature map, by input representation and dimensions
OPENL3_POOLS = {
    "mel128-512": (16, 24),
    "mel128-6144": (4, 8),
    "mel256-512": (32, 24),
    "mel256-6144": (8, 8),
    "linear-512": (32, 24),
    "linear-6144": (8, 8),
}
OPENL3 = [f"{content}-{shape}" for content in ("env", "music") for shape in OPENL3_POOLS]

# EfficientAT's multipliers of the channels, and the mAP on AudioSet that is in the file's name
EFFICIENTAT = {"mn04": (0.4, 432), "mn05": (0.5, 443), "mn10": (1.0, 471), "mn20": (2.0, 478), "mn40": (4.0, 484)}
EFFICIENTAT_URL = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
# The stages of MobileNetV3-large (Howard et al., 2019, table 1): kernel, channels out, whether with squeeze-excite,
# stride of the first block, activation, and the expanded channels of each block
STAGES = [
    (3, 16, False, 1, nn.ReLU, (16,)),
    (3, 24, False, 2, nn.ReLU, (64, 72)),
    (5, 40, True, 2, nn.ReLU, (72, 120, 120)),
    (3, 80, False, 2, nn.Hardswish, (240, 200, 184, 184)),
    (3, 112, True, 1, nn.Hardswish, (480, 672)),
    (5, 160, True, 2, nn.Hardswish, (672, 960, 960)),
]


class Spectral(TorchModel):
    """Windows of any length at 16 kHz -> 512 statistics, eight for each of 64 mel bands.

    Of the band's level in dB (relative to the window's maximum): mean, standard deviation, 10th and 90th percentile,
    and the strength of its modulation (in dB) at 1.5-4, 4-8, 8-16 and 16-32 Hz.
    """

    id = "spectral"
    sample_rate = 16000
    window: float | None = None
    embedding_size = 8 * BANDS

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel(LogMelSettings(self.sample_rate, n_fft=512, hop_length=160, n_mels=BANDS))
        self.front_end = OverlappingLogMel(self.log_mel.settings)

    def embed_log_mel(self, log_mel: Float32) -> Float32:
        """Statistics (B, 512) of what `front_end` gives."""
        frames = torch.from_numpy(log_mel.transpose(0, 2, 1).copy())  # laid out as those of `log_mel`, for equal sums
        with torch.inference_mode():
            return self.embed_spectrogram(frames.transpose(1, 2)[:, None]).numpy()

    def spectrogram(self, windows: Tensor) -> Tensor:
        return cast(Tensor, self.log_mel(windows)[:, None])

    def embed_spectrogram(self, spectrogram: Tensor) -> Tensor:
        """Statistics (B, 512)."""
        levels = spectrogram[:, 0]
        mean = levels.mean(-1)
        percentiles = torch.quantile(levels, torch.tensor([0.1, 0.9], dtype=levels.dtype, device=levels.device), dim=-1)
        centred = levels - mean[..., None]
        spectrum = torch.fft.rfft(centred * torch.hann_window(levels.shape[-1], device=levels.device)).abs()
        rates = torch.fft.rfftfreq(levels.shape[-1], self.log_mel.settings.hop_length / self.sample_rate)
        strengths = []
        for low, high in MODULATIONS:
            chosen = spectrum[..., (rates >= low) & (rates < high)]
            rms = chosen.square().mean(-1).sqrt() if chosen.shape[-1] else torch.zeros_like(mean)
            strengths.append(20.0 * torch.log10(rms / levels.shape[-1] + 1e-2))
        std = centred.square().mean(-1).sqrt()
        return torch.cat([mean, std, *percentiles, *strengths], -1)


class OpenL3(TorchModel):
    """An ``openl3/*`` teacher: log-spectrogram, batch normalisation, four blocks of two convolutions, max pool.

    A variant names content of the training videos, input representation and embedding size: ``env-mel256-512``.
    """

    sample_rate = 48000
    window: float | None = 1.0

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.id = f"openl3/{variant}"
        _, bands, size = variant.split("-")
        self.embedding_size = int(size)
        if bands == "linear":
            settings = LogMelSettings(48000, 512, 242, None, levels="openl3", padding="none")
        else:
            n_mels = int(bands.removeprefix("mel"))
            settings = LogMelSettings(48000, 2048, 242, n_mels, scale="slaney", levels="openl3", padding="end")
        self.log_mel = LogMel(settings)
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3)
        # The last convolution is the embedding layer: no normalisation and no ReLU follow it
        self.features = nn.Sequential(*l3_blocks((64, 128, 256, 512))[:-2])
        # It divides the feature map exactly, so that the 'same' padding of the original never comes into play
        self.pool = nn.MaxPool2d(OPENL3_POOLS[f"{bands}-{size}"])

    def spectrogram(self, windows: Tensor) -> Tensor:
        return cast(Tensor, self.input_norm(self.log_mel(windows)[:, None]))

    def embed_spectrogram(self, spectrogram: Tensor) -> Tensor:
        """Embeddings (B, D) whose order is that of (band, frame, channel)."""
        features: Tensor = self.pool(self.features(spectrogram))
        return features.permute(0, 2, 3, 1).flatten(1)


def load_openl3(variant: str, weights: Path | None = None) -> OpenL3:
    """Load one of `OPENL3` from a Keras weight file (``.h5`` or ``.h5.gz``); None: the published one."""
    model = OpenL3(variant)
    content, bands, _ = variant.split("-")
    name = f"openl3_audio_{bands}_{content}-v0_4_0.h5.gz"
    path = weights or fetch(OPENL3_URL + name, name, git_blob=GIT_BLOBS[name])
    # The published files of all variants have arrays of the same names and shapes
    published = re.match(r"openl3_audio_([a-z0-9]+)_([a-z]+)", path.name)
    if published and published.groups() != (bands, content):
        raise EdgeseaError(f"{path}: the name of another teacher's weights; openl3/{variant} has {name}")
    return load_arrays(model, keras_to_torch(read_keras_h5(path), model.state_dict(), path), path)


def _round_channels(channels: float) -> int:
    """Nearest multiple of 8, at least 8 and at least 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


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


class EfficientAT(TorchModel):
    """An ``efficientat/mn*`` teacher: windows of any length at 32 kHz -> the globally averaged last feature map."""

    sample_rate = 32000
    window: float | None = None

    def __init__(self, variant: str) -> None:
        super().__init__()
        width = EFFICIENTAT[variant][0]
        channels = _round_channels(16 * width)
        layers: list[nn.Module] = [conv_norm(1, channels, 3, 2, 1, nn.Hardswish())]
        for kernel, size, gated, stride, act, expansions in STAGES:
            outputs = _round_channels(size * width)
            for index, expanded in enumerate(_round_channels(size * width) for size in expansions):
                step, gates = 1 if index else stride, [_SqueezeExcite(expanded)] if gated else []
                layers.append(InvertedResidual(channels, kernel, expanded, outputs, step, act, gates))
                channels = outputs
        layers.append(conv_norm(channels, 6 * channels, 1, 1, 1, nn.Hardswish()))
        self.id = f"efficientat/{variant}"
        self.embedding_size = 6 * channels
        self.log_mel = KaldiLogMel()
        self.features = nn.Sequential(*layers)

    def spectrogram(self, windows: Tensor) -> Tensor:
        return cast(Tensor, self.log_mel(windows)[:, None])

    def embed_spectrogram(self, spectrogram: Tensor) -> Tensor:
        features: Tensor = self.features(spectrogram)
        return features.mean((2, 3))


def on_engine(model: TorchModel, engine: Engine, precision: Precision) -> EngineModel:
    """A teacher on an engine of the CPU."""
    about = model.id, model.digest, model.sample_rate, model.window, model.embedding_size
    count = sum(array.numel() for array in model.parameters())
    return EngineModel(*about, count, *teacher_graph(model), engine, precision)


def teacher_graph(model: TorchModel) -> tuple[FrontEnd, bytes]:
    """Front end and graph (see `graph.Graph.model`) of a teacher, whose normalisations are folded in place."""
    graph = Graph()
    fold(model)
    if isinstance(model, OpenL3):
        front_end: FrontEnd = OverlappingLogMel(model.log_mel.settings)
        frames: int | str = model.log_mel.settings.layout(model.sample_rate)[0]
        norm = model.input_norm  # not folded into the first convolution, which pads with zeros after it
        scale = norm.weight.detach() / (cast(Tensor, norm.running_var) + norm.eps).sqrt()
        shift = norm.bias.detach() - cast(Tensor, norm.running_mean) * scale
        end = _add(graph, model.features, graph.scaled(scale.numpy(), shift.numpy()))
        pool = cast(tuple[int, int], model.pool.kernel_size)
        end = graph.add("MaxPool", end, kernel_shape=pool, strides=pool)
        end = graph.add("Transpose", end, perm=[0, 2, 3, 1])
    else:
        front_end, frames = OverlappingKaldi(), "frames"
        end = graph.add("GlobalAveragePool", _add(graph, cast(EfficientAT, model).features, graph.channel()))
    graph.add("Flatten", end, result=OUTPUT)
    return front_end, graph.model(front_end.bands, frames, model.embedding_size)


def _add(graph: Graph, module: nn.Module, now: str) -> str:
    """Add a module to a graph after the node `now`; returns the name of what it gives."""

    def conv(name: str, weight: Tensor, bias: Tensor | None, **attributes: Any) -> str:
        return graph.add("Conv", name, weight.detach().numpy(), cast(Tensor, bias).detach().numpy(), **attributes)

    match module:
        case nn.Sequential():
            for child in module:
                now = _add(graph, child, now)
        case nn.Conv2d(weight=weight, bias=bias, stride=strides, padding=padding, groups=groups):
            now = conv(now, weight, bias, strides=strides, pads=(*padding, *padding), group=groups)
        case nn.ReLU() | nn.Hardswish():
            now = graph.add("Relu" if isinstance(module, nn.ReLU) else "HardSwish", now)
        case nn.MaxPool2d():
            now = graph.add("MaxPool", now, kernel_shape=[2, 2], strides=[2, 2])
        case _SqueezeExcite(fc1=fc1, fc2=fc2):
            squeezed = conv(graph.add("GlobalAveragePool", now), fc1.weight[:, :, None, None], fc1.bias)
            gates = conv(graph.add("Relu", squeezed), fc2.weight[:, :, None, None], fc2.bias)
            now = graph.add("Mul", now, graph.add("Sigmoid", gates))
        case InvertedResidual():
            inside = _add(graph, module.block, now)
            now = graph.add("Add", now, inside) if module.residual else inside
    return now


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


def load_network(id: str, weights: Path | None) -> TorchModel:
    """One of these teachers on the CPU; without `weights`, with the published ones."""
    family, variant = checked_id(id)
    if family == "spectral":
        return Spectral()
    if family == "openl3":
        return load_openl3(variant, weights)
    name, url = efficientat_file(variant)
    path = weights or fetch(url, name)
    state = read_state_dict(path).items()
    arrays = {k.replace(".conc_se_layers.0.", "."): v for k, v in state if not k.startswith("classifier.")}
    return load_arrays(EfficientAT(variant), arrays, path)


def efficientat_file(variant: str) -> tuple[str, str]:
    """Name and address of the published weights of one of `EFFICIENTAT`."""
    name = f"{variant}_as_mAP_{EFFICIENTAT[variant][1]}.pt"
    return name, EFFICIENTAT_URL + name


def untrained(id: str) -> TorchModel:
    """The network of an ``openl3/*`` or ``efficientat/*`` teacher with random weights."""
    family, variant = checked_id(id)
    return OpenL3(variant) if family == "openl3" else EfficientAT(variant)


def checked_id(id: str) -> tuple[str, str]:
    """Family and variant of one of these teachers."""
    family, _, variant = id.partition("/")
    known = {"spectral": [""], "openl3": OPENL3, "efficientat": list(EFFICIENTAT)}[family]
    if variant not in known:
        raise EdgeseaError(f"unknown teacher {id!r}; known: {', '.join(known)}")
    return family, variant
