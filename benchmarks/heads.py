"""Which head should a student end in? Trains each variant on the table of a run of examples/esc10.yaml.

    edgesea run examples/esc10.yaml --out runs/esc10
    python benchmarks/heads.py runs/esc10 --out runs/heads

Every variant has the run's options but for its head and a shorter schedule, the same for all. R2 is measured on the
clips of fold 5; accuracy is that of a logistic probe trained on folds 1 to 4 and tested on the 80 clips of fold 5.
Finished variants are not trained again. Prints a Markdown table and writes benchmarks/results/heads.json.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from edgesea import load_student
from edgesea.artifact import write_json
from edgesea.distill import distill
from edgesea.models import student_config as architecture
from edgesea.models.student_torch import HEADS
from edgesea.tasks.evaluate import evaluate

RESULTS = Path(__file__).parent / "results" / "heads.json"


class MaxHead(nn.Module):
    """Maximum of the feature map before its ReLU: the published head without the ReLU."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return features.amax((2, 3))


class LinearNoReluHead(nn.Module):
    """Linear layer on maximum and mean of the feature map before its ReLU."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, size)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1))


HEADS.update({"max": MaxHead, "linear_no_relu": LinearNoReluHead})
architecture.HEADS.extend(["max", "linear_no_relu"])
VARIANTS = {
    "linear": "ReLU, max and mean, linear (default)",
    "relu_max": "ReLU, max (published)",
    "max": "max",
    "linear_no_relu": "max and mean, linear",
}


def measure(run: Path, out: Path, head: str, epochs: int) -> dict[str, Any]:
    """Train and judge one variant."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    options = {**config["distill"], "head": head, "epochs": epochs}
    fitted = distill(table=run / "table", reduction=run / "reduction", out=out / head, **options)
    judged = evaluate(**{**config["evaluate"], "data": Path(config["evaluate"]["data"])}, model=str(out / head))
    count = sum(array.numel() for array in load_student(out / head, engine="torch").parameters())
    scores = {**{key: fitted[key] for key in ("r2", "cosine", "mse")}, "parameters": count}
    return {"head": head, **scores, "accuracy": judged["accuracy"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of examples/esc10.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/heads"))
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    rows = [measure(arguments.run, arguments.out, head, arguments.epochs) for head in VARIANTS]
    write_json(RESULTS, {"torch": torch.__version__, "epochs": arguments.epochs, "rows": rows})
    print("| head | R2 | cosine | accuracy | parameters |\n|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row["r2"]):
        scores = " | ".join(f"{row[key]:.3f}" for key in ("r2", "cosine", "accuracy"))
        print(f"| {VARIANTS[row['head']]} | {scores} | {row['parameters']:,} |")


if __name__ == "__main__":
    main()
