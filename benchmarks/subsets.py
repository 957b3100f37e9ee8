"""How diverse are the subsets of each method? On a real table, against random subsets of the same size.

    edgesea extract ... TABLE                          # see docs/benchmarks.md
    python benchmarks/subsets.py TABLE --clusters 200

Log determinant: of the cosine similarities of the windows chosen (+ 1e-6), in nats; one number a draw. Coverage:
share of the clusters of all candidates (scikit-learn's MiniBatchKMeans on unit-length embeddings, one fixed
clustering) in which at least one window was chosen. Effect: difference to random in standard deviations of random
(Cohen's d with random's deviation), with the 95 % interval of a bootstrap over draws.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.sampling import sample
from edgesea.sampling.methods import normalized
from edgesea.sampling.subset import Subset
from edgesea.table.reader import Table

METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "spl": {"method": "spl"},
    "kmeans": {"method": "kmeans"},
    "dpp": {"method": "dpp"},
    "dpp_div": {"method": "dpp_div"},
    "dpp_div, ridge 0.1": {"method": "dpp_div", "ridge": 0.1},
    "dpp_map": {"method": "dpp_map"},
    "dpp_div_map": {"method": "dpp_div_map"},
}


def unit_rows(table: Table, split: str) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """Embeddings of a split at unit length, and the row of each (part, window)."""
    blocks, place = [], {}
    for chunk in table.chunks():
        rows = chunk.select(split)
        for row in rows.tolist():
            place[chunk.part, chunk.first_window + row] = len(place)
        blocks.append(table.embeddings(chunk.part, chunk.group)[rows].astype(np.float64))
    return normalized(np.concatenate(blocks)), place


def interval(values: np.ndarray, random: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Effect against random and its 95 % bootstrap interval."""

    def effect(own: np.ndarray, base: np.ndarray) -> float:
        return float((own.mean() - base.mean()) / base.std(ddof=1))

    draws = [effect(rng.choice(values, len(values)), rng.choice(random, len(random))) for _ in range(2000)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return effect(values, random), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    logging.getLogger("edgesea").setLevel(logging.ERROR)
    from sklearn.cluster import MiniBatchKMeans

    rows, place = unit_rows(Table(arguments.table), "train")
    cluster = MiniBatchKMeans(arguments.clusters, n_init=3, random_state=0, batch_size=4096).fit_predict(rows)
    found: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method, options in METHODS.items():
            values = []
            for seed in range(1 if method.endswith("_map") else arguments.draws):
                path = Path(folder) / "subset.parquet"
                sample(arguments.table, path, **options, size=arguments.size, stratum="none", seed=seed)
                subset = Subset.load(path)
                own = [place[key] for key in zip(subset.part.tolist(), subset.window.tolist(), strict=True)]
                covered = len(set(cluster[own].tolist())) / arguments.clusters
                log_det = np.linalg.slogdet(rows[own] @ rows[own].T + 1e-6 * np.eye(len(own)))[1]
                values.append((log_det, covered))
            found[method] = dict(zip(("log_det", "coverage"), np.array(values).T, strict=True))
    rng = np.random.default_rng(0)
    print(f"{len(rows)} windows of {rows.shape[1]} dimensions, {arguments.size} chosen, {arguments.clusters} clusters,")
    print(f"{arguments.draws} draws of each method (the greedy ones have one)\n")
    print("| method | log det | range | effect (95 %) | coverage | range | effect (95 %) |")
    print("|---|---|---|---|---|---|---|")
    result = {}
    for method, measures in found.items():
        cells, result[method] = [], {}
        for name, digits in (("log_det", 0), ("coverage", 3)):
            values = measures[name]
            cells += [f"{values.mean():.{digits}f}", f"{values.min():.{digits}f} ... {values.max():.{digits}f}"]
            effect = interval(values, found["random"][name], rng)
            cells.append("" if method == "random" else "{:+.1f} ({:+.1f} ... {:+.1f})".format(*effect))
            result[method][name] = {"values": values.tolist(), "effect": effect}
        print(f"| {method} | {' | '.join(cells)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"arguments": str(arguments), "methods": result}) + "\n")


if __name__ == "__main__":
    main()
