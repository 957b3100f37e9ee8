"""How should UMAP place windows that it was not fitted on? Compares three maps of validation windows into one layout.

    edgesea run examples/esc10.yaml --out runs/esc10
    python benchmarks/umap_out_of_sample.py --table runs/esc10/table

nearest: the fuzzy-weighted mean of the nearest references (edgesea's). regressor: a small network from the
standardised embedding to the coordinates. umap-learn: its own transform, which moves the points by gradient descent
and so depends on the batch. pca is there to compare with. Each is measured by the neighbours of the teacher's
space that it preserves, among the validation windows. Prints a Markdown table.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import cast

import numpy as np
import umap
from numpy.typing import NDArray
from sklearn.neural_network import MLPRegressor

from edgesea.reduction.base import Reduction
from edgesea.reduction.pca import PCA
from edgesea.reduction.quality import quality
from edgesea.reduction.umap import Umap
from edgesea.reduction.windows import find_windows
from edgesea.table.reader import Table

Rows = NDArray[np.float32]
NEIGHBORS = 10
MOST = 2000  # validation windows: the ranks of all pairs are compared


def maps(train: Rows, size: int, seed: int) -> dict[str, Callable[[Rows], Rows]]:
    """Name -> map of embeddings; all but pca share one layout of the training windows."""
    pca, phi = PCA(size), Umap(size, references=len(train), seed=seed)
    pca.fit([train])
    phi.fit([train])
    model = umap.UMAP(n_neighbors=phi.n_neighbors, n_components=size, min_dist=phi.min_dist, random_state=seed)
    coordinates = model.fit_transform(phi.standardise(train).astype(np.float32))
    network = MLPRegressor(hidden_layer_sizes=(512, 512), random_state=seed)
    network.fit(phi.standardise(train), coordinates)
    return {
        "pca": pca.transform,
        "nearest": phi.transform,
        "regressor": lambda rows: network.predict(phi.standardise(rows)),
        "umap-learn": lambda rows: model.transform(phi.standardise(rows).astype(np.float32)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="a table with training and validation windows")
    parser.add_argument("--windows", type=int, default=3000, help="training windows to fit on")
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table, rng = Table(arguments.table), np.random.default_rng(arguments.seed)
    windows = find_windows(table)
    train, validate = windows["fitted"].draw(arguments.windows, rng), windows["validate"].draw(MOST, rng)
    print(
        f"{len(train)} training, {len(validate)} validation windows, {train.shape[1]} to {arguments.size} dimensions\n"
    )
    print(f"| map | kNN overlap ({NEIGHBORS}) | trustworthiness | continuity | windows/s |\n|---|---|---|---|---|")
    for name, apply in maps(train, arguments.size, arguments.seed).items():
        apply(validate[:100])  # compiles what is compiled
        begin = perf_counter()
        apply(validate)
        rate = len(validate) / (perf_counter() - begin)
        measured = quality(cast(Reduction, SimpleNamespace(transform=apply)), train, validate, neighbors=NEIGHBORS)
        scores = [measured[key] for key in ("knn_overlap", "trustworthiness", "continuity")]
        print(f"| {name} | {' | '.join(f'{score:.3f}' for score in scores)} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
