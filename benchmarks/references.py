"""How far are the models from their original implementations? Prints the largest deviations from stored references.

    EDGESEA_DATA=path/to/data python benchmarks/references.py

Needs, below $EDGESEA_DATA (default ./data): edgel3/ and efficientat/ with the published weights and the reference files
that the original implementations computed from them. OpenL3 is compared by tests/models/test_teachers.py.
"""

import os
from pathlib import Path

import numpy as np
import torch

import edgesea
from edgesea.models.student_config import FILTERS, StudentConfig
from edgesea.models.student_torch import Student
from edgesea.models.teachers import OpenL3

DATA = Path(os.environ.get("EDGESEA_DATA", "data"))


def parameters(model: torch.nn.Module) -> int:
    return sum(array.numel() for array in model.parameters())


def main() -> None:
    print("| what | deviation |\n|---|---|")
    teacher = edgesea.load_teacher("efficientat/mn04", weights=DATA / "efficientat" / "mn04_as_mAP_432.pt")
    with np.load(DATA / "efficientat" / "mn04_reference.npz") as reference:
        error = np.abs(teacher.embed(reference["windows"]) - reference["embedding"]).max()
        print(f"| EfficientAT mn04, embedding: largest absolute error | {error:.1e} |")
    student = edgesea.load_student(DATA / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz", engine="torch")
    with np.load(DATA / "edgel3" / "sea_emb_64_reference.npz") as reference:
        windows, expected = reference["windows"], reference["embedding"]
        decibels = np.abs(student.log_mel(torch.from_numpy(windows)).numpy() - reference["log_mel"])
        error = np.abs(student.embed(windows) - expected)
        print(f"| SEA-64, log-mel: largest error in dB | {decibels.max():.4f} |")
        print(f"| SEA-64, log-mel: values off by more than 0.01 dB | {(decibels > 1e-2).sum()} of {decibels.size} |")
        print(f"| SEA-64, log-mel: median error in dB | {np.median(decibels):.1e} |")
        print(f"| SEA-64, embedding: largest absolute error | {error.max():.1e} (values up to {expected.max():.0f}) |")
    print(f"| OpenL3 mel256, trainable parameters | {parameters(OpenL3('env-mel256-512'))} |")
    for name in FILTERS:
        print(f"| {name}, parameters with the published head | {count(name, 'relu_max')} |")
        print(f"| {name}, parameters with the linear head | {count(name, 'linear')} |")


def count(name: str, head: str) -> int:
    return parameters(Student(StudentConfig.named(name, head=head)))


if __name__ == "__main__":
    main()
