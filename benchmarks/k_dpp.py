"""One frame's k-DPP against DPPy's, each in a process of its own: seconds and memory.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install dppy==0.3.3
    python benchmarks/k_dpp.py --peer /tmp/peer/bin/python --sizes 2000 5000 10000 20000

Features are unit vectors of 512 dimensions with the spectrum of real embeddings (a few strong directions); 91
windows are chosen, as 500 000 a year from 15 sensors are. DPPy is given what its documentation asks for: the n x n
kernel (likelihood), or the d x n factor of it, from which it works in the dual like edgesea, but cannot add a
ridge. Seconds are those of decomposition and one sample, without making the features; memory is the peak of the
process less that of one that only imports and makes the features. Each is measured three times, the fastest counts;
above 60 s, once.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

D, K = 512, 91
CASES = ("edgesea", "edgesea, ridge 1e-6", "DPPy, factor", "DPPy, kernel")


def features(n: int) -> "object":
    import numpy as np

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, D)) * np.exp(-np.arange(D) / 60)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measure(case: str, n: int) -> dict[str, float]:
    """Run one case in this process."""
    import numpy as np

    x: np.ndarray = features(n)  # type: ignore[assignment]
    if case.startswith("edgesea"):
        from edgesea.sampling.dpp import KDPP
    elif case.startswith("DPPy"):
        from dppy.finite_dpps import FiniteDPP
    kernel = x @ x.T if case == "DPPy, kernel" else None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = np.inf
    for attempt in range(3):
        began = time.perf_counter()
        if case.startswith("edgesea"):
            chosen = KDPP(x, K, ridge=1e-6 if "ridge" in case else 0.0).sample(np.random.default_rng(attempt))
        elif case == "DPPy, kernel":
            chosen = FiniteDPP("likelihood", L=kernel).sample_exact_k_dpp(size=K, random_state=attempt)
        else:
            chosen = FiniteDPP("likelihood", L_gram_factor=x.T).sample_exact_k_dpp(size=K, random_state=attempt)
        best = min(best, time.perf_counter() - began)
        assert len(set(map(int, chosen))) == K
        if best > 60:
            break
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = 0 if kernel is None else kernel.nbytes // 1024
    return {"seconds": best, "megabytes": (after - before + held) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python with DPPy")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000, 10000, 20000])
    parser.add_argument("--kernel-most", type=int, default=10000, help="largest n for DPPy with the n x n kernel")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.sizes[0])))
        return
    print(f"{os.cpu_count()} cores, d = {D}, k = {K}\n")
    print("| n | " + " | ".join(f"{case}: s | MB" for case in CASES) + " | ratio to DPPy, kernel | to DPPy, factor |")
    print("|" + "---|" * (2 * len(CASES) + 3))
    for n in arguments.sizes:
        found: dict[str, dict[str, float]] = {}
        for case in CASES:
            python = arguments.peer if case.startswith("DPPy") else sys.executable
            if python is None or (case == "DPPy, kernel" and n > arguments.kernel_most):
                continue
            command = [python, __file__, "--case", case, "--sizes", str(n)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                found[case] = json.loads(result.stdout.splitlines()[-1])
            else:  # -9: killed for its memory
                print(f"{case}, n = {n}: exit {result.returncode} {result.stderr[-500:]}", file=sys.stderr, flush=True)
        cells = [
            f"{found[case]['seconds']:.3f} | {found[case]['megabytes']:.0f}" if case in found else "- | -"
            for case in CASES
        ]
        own = found["edgesea"]["seconds"]
        ratios = [
            f"{found[peer]['seconds'] / own:.0f}" if peer in found else "-" for peer in ("DPPy, kernel", "DPPy, factor")
        ]
        print(f"| {n} | {' | '.join(cells)} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
