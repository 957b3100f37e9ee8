"""PCA of 500 000 x 512 against scikit-learn, each in a process of its own: seconds, memory, and the angle between
subspaces.

    python benchmarks/pca.py

All standardise the same float32 file and keep 64 components. edgesea and IncrementalPCA read it in blocks; the
others need it in memory. Seconds are from the open file to the components. Memory is the peak of the whole process.
Angle: sine of the largest principal angle to the subspace of the double-precision SVD.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

N, D, SIZE, BLOCK = 500_000, 512, 64, 8192
CASES = ("edgesea", "full SVD, float64", "full SVD, float32", "covariance_eigh, float32", "IncrementalPCA")


def make(path: Path, n: int) -> None:
    """Correlated dimensions of different scales and means, written block by block."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.standard_normal((D, D)))[0] * np.exp(-np.arange(D) / 50)[:, None]
    scale, mean = np.exp(rng.standard_normal(D)), 3 * rng.standard_normal(D)
    with path.open("wb") as file:
        for first in range(0, n, BLOCK):
            rows = rng.standard_normal((min(BLOCK, n - first), D)) @ mixing * scale + mean
            rows.astype(np.float32).tofile(file)


def blocks(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(rows := np.fromfile(file, np.float32, BLOCK * D)):
            yield rows.reshape(-1, D)


def components(case: str, path: Path) -> np.ndarray:
    """The 64 components of standardised rows."""
    if case == "edgesea":
        from edgesea.reduction.pca import PCA

        phi = PCA(SIZE)
        phi.fit(blocks(path))
        return phi.components
    from sklearn import decomposition
    from sklearn.preprocessing import StandardScaler

    if case == "IncrementalPCA":
        scaler, incremental = StandardScaler(), decomposition.IncrementalPCA(SIZE)
        for rows in blocks(path):
            scaler.partial_fit(rows)
        for rows in blocks(path):
            incremental.partial_fit(scaler.transform(rows))
        return incremental.components_
    solver, dtype = case.split(", ")
    x = np.fromfile(path, np.float32).reshape(-1, D).astype(dtype, copy=False)
    x = StandardScaler(copy=False).fit_transform(x)
    solver = "full" if solver == "full SVD" else solver
    return decomposition.PCA(SIZE, svd_solver=solver, copy=False).fit(x).components_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=N)
    parser.add_argument("--folder", type=Path, help="where the file is written; default: a temporary folder")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        from importlib import import_module

        import_module("edgesea.reduction.pca" if arguments.case == "edgesea" else "sklearn.decomposition")
        began = time.perf_counter()
        found = components(arguments.case, arguments.folder / "x.f32")
        seconds = time.perf_counter() - began
        np.save(arguments.folder / "components.npy", found)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "megabytes": peak}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        make(folder / "x.f32", arguments.windows)
        print(f"{os.cpu_count()} cores, {arguments.windows} x {D} float32, {SIZE} components\n")
        found, spans = {}, {}
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                print(f"{case}: {result.stderr[-300:]}", file=sys.stderr)
                continue
            found[case] = json.loads(result.stdout.splitlines()[-1])
            spans[case] = np.load(folder / "components.npy").astype(np.float64)
        own, exact = found["edgesea"], np.linalg.qr(spans["full SVD, float64"].T)[0]
        print("| method | s | ratio | MB | ratio | sine of the angle |\n|---|---|---|---|---|---|")
        for case, value in found.items():
            basis = np.linalg.qr(spans[case].T)[0]
            sine = np.linalg.norm(basis - exact @ (exact.T @ basis), 2)
            print(
                f"| {case} | {value['seconds']:.1f} | {value['seconds'] / own['seconds']:.1f} "
                f"| {value['megabytes']:.0f} | {value['megabytes'] / own['megabytes']:.1f} | {sine:.1e} |"
            )


if __name__ == "__main__":
    main()
