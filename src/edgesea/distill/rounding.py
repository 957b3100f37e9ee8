"""Training as int8 will compute: weights and feature maps are rounded, and gradients pass as if they were not.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgesea.errors import EdgeseaError
from edgesea.export import check_student, quantized_on
from edgesea.export.quantize import Float32, QuantizedStudent, Scale
from edgesea.export.windows import choose_windows
from edgesea.models.graph import EPSILON, folded
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import StudentFile, read_student
from edgesea.models.student_torch import Student
from edgesea.models.torch_model import InvertedResidual
from edgesea.table.reader import Table

WINDOWS = 512  # whose feature maps tell the scales


class _RoundedWeights(nn.Module):
    """Weights (outputs, ...) to the integers that `export` will store, times their scale."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = (weight.detach().abs().flatten(1).amax(1) / 127).clamp_min(1e-9)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class _Fixed(nn.BatchNorm2d):
    """A batch normalisation whose statistics no longer change."""

    def train(self, mode: bool = True) -> "_Fixed":
        return super().train(False)


def start_of(path: Path, config: StudentConfig, reduction: str) -> StudentFile:
    """The student that is trained further; EdgeseaError if it is none of this configuration and reduction (sha256)."""
    file = read_student(path)
    given, wanted = file.config.stored(), config.stored()
    if differ := [f"{key} {given.get(key)}, not {wanted.get(key)}" for key in wanted if given.get(key) != wanted[key]]:
        remedy = "give distill the options that it was made with"
        raise EdgeseaError(f"quantize={path}: {file.config.name()}, with {', '.join(differ)}; {remedy}")
    if (file.provenance.get("reduction") or {}).get("sha256") not in (None, reduction):
        raise EdgeseaError(f"quantize={path}: learned another reduction; give that one, or train a new student")
    if (file.provenance.get("training") or {}).get("projector"):
        raise EdgeseaError(f"quantize={path}: learned behind a projector, which is gone; train a student without one")
    check_student(file.config, f"quantize={path}", "tflite", 1.0, None)
    return file


def rounded_on(student: Student, file: StudentFile, table: Table) -> None:
    """Make a student that of a file, which rounds as it would in int8, with scales by training windows of a table."""
    audio = choose_windows(table, None, WINDOWS, file.config.sample_rate).calibrate
    round_student(student, quantized_on(file, audio))


def round_student(student: Student, quantized: QuantizedStudent) -> None:
    """Make a student that which was quantized, with folded normalisations, and let it round as its quantized form does.

    Scales of feature maps stay; those of weights follow the weights.
    """
    start: dict[str, Any] = dict(quantized.arrays)
    for layer, kernel, bias in folded(quantized.config, quantized.arrays):
        ones = np.ones_like(bias)
        norm = {"weight": ones, "bias": bias, "running_mean": 0 * ones, "running_var": (1 - EPSILON) * ones}
        start |= {f"{layer.norm}.{key}": value for key, value in norm.items()} | {f"{layer.name}.weight": kernel}
        start |= {f"{layer.name}.bias": 0 * bias} if layer.bias else {}
    student.load_state_dict({name: torch.as_tensor(value) for name, value in start.items()}, strict=False)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _Fixed
            module.eval().weight.requires_grad_(False)
    student.input_norm.bias.requires_grad_(False)
    _round(student.input_norm, quantized.input)
    sums = [one for one in student.features if isinstance(one, InvertedResidual) and one.residual]
    for one in quantized.convolutions:
        parametrize.register_parametrization(student.get_submodule(one.layer.name), "weight", _RoundedWeights())
        is_embedding = quantized.head is None and one is quantized.convolutions[-1]
        units = quantized.units[:, None, None] if is_embedding else None
        _round(student.get_submodule(one.layer.norm), one.made, one.least, units)
        if one.total is not None:
            _round(sums.pop(0), one.total)
    if quantized.head is not None:
        linear, given = student.get_submodule("head.linear"), quantized.head.given
        parametrize.register_parametrization(linear, "weight", _RoundedWeights())
        linear.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0], given, -128),))
        _round(linear, quantized.head.made, units=quantized.units)


def keep_rounded(student: Student) -> None:
    """Give a student of `round_student` the weights that it rounds to."""
    for module in [*student.modules()]:
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")


def _round(module: nn.Module, scale: Scale, least: int = -128, units: Float32 | None = None) -> None:
    """Let a module's results be rounded, in `units`."""

    def hook(_: nn.Module, inputs: Any, made: Tensor) -> Tensor:
        if units is None:
            return _rounded(made, scale, least)
        by = torch.as_tensor(units, device=made.device)
        return _rounded(made / by, scale, least) * by

    module.register_forward_hook(hook)


def _rounded(values: Tensor, scale: Scale, least: int) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(values, scale.scale, scale.zero, least, 127)
