"""How much of lwlrap the order of equal scores is: that of edgesea against that of the reference's unstable sort.

    python benchmarks/lwlrap_ties.py path/to/sonyc_ust

The folder holds the published predictions (``predictions_*.csv``) and verified coarse labels of 538 validation clips.
The labels of the 23 fine tags are not published with them; here each has that of its coarse tag, which is enough to see
what ties do. Scores are as published, and rounded as a microcontroller or a spreadsheet would. Takes seconds; prints a
Markdown table.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from edgesea.tasks.annotations import read_taxonomy
from edgesea.tasks.metrics import lwlrap
from edgesea.tasks.sonyc_ust import read_predictions


def main(folder: Path) -> None:
    """Print the table."""
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    truth = pd.read_csv(folder / "validate_ground_truth_coarse.csv", index_col="audio_filename")
    fine = ~taxonomy.incomplete
    print(
        "| predictions | scores | clips with ties | lwlrap | published ties | difference |\n|---|---|---|---|---|---|"
    )
    for path in sorted(folder.glob("predictions_*.csv")):
        scores = read_predictions(path, taxonomy, ["fine"])["fine"].loc[truth.index].to_numpy()[:, fine]
        labels = truth.to_numpy()[:, taxonomy.parent[fine]]
        for name, digits in (("as published", 17), ("3 digits", 3), ("2 digits", 2), ("8 bits", None)):
            shown = np.rint(scores * 255) / 255 if digits is None else scores.round(digits)
            tied = sum(len(np.unique(row)) < len(row) for row in shown)
            ours, theirs = lwlrap(labels, shown) or 0.0, lwlrap(labels, shown, "published") or 0.0
            print(f"| {path.stem} | {name} | {tied} | {ours:.4f} | {theirs:.4f} | {ours - theirs:+.4f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
