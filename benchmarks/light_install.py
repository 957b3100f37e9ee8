"""What does `pip install edgesea` bring, without the extras? Needs the network: it installs into a fresh environment.

    python benchmarks/light_install.py ../shared/data/edgel3

The folder holds `edgel3_sea_ust_audio_emb_64.h5.gz` and `chirp_8k_reference.npz`. Prints the size of the environment
and of its largest packages, the time to import edgesea (median of 5 processes), which libraries of the training are
absent, how far the embedding of the reference's audio is from the reference, and what the command line answers. Ends
with 1 if anything of it is not as it should be.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
ABSENT = ("torch", "lightning", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "joblib")
MOST_SECONDS = 0.5
RTOL, ATOL = 1e-4, 1e-3


def run(command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, check=check, env=clean)


def size(folder: Path) -> float:
    """MB of the files below a folder (1e6 bytes)."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


def import_seconds(python: str, module: str) -> float:
    """Median of five processes, less what an empty one takes."""
    took: dict[str, list[float]] = {"pass": [], f"import {module}": []}
    for _ in range(6):  # the first one fills the caches and does not count
        for code, seconds in took.items():
            start = time.perf_counter()
            run([python, "-c", code])
            seconds.append(time.perf_counter() - start)
    empty, full = (statistics.median(seconds[1:]) for seconds in took.values())
    return full - empty


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--source", default=str(ROOT), help="what pip installs")
    arguments = parser.parse_args()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([sys.executable, "-m", "venv", str(folder / "venv")])
        python, edgesea = (str(folder / "venv" / "bin" / program) for program in ("python", "edgesea"))
        site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
        before = size(site)
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", arguments.source])
        packages = sorted(((size(path), path.name) for path in site.iterdir() if path.is_dir()), reverse=True)
        print(f"installed: {size(site) - before:.0f} MB besides {before:.0f} MB of pip")
        print("largest:   " + ", ".join(f"{package} {mb:.0f}" for mb, package in packages[:8]))
        print(run([python, "-m", "pip", "freeze"]).stdout.replace("\n", " "))

        code = f"from importlib.util import find_spec; print(*(n for n in {ABSENT} if find_spec(n)))"
        if present := run([python, "-c", code]).stdout.split():
            problems.append(f"installed: {present}")
        print(f"absent:    {', '.join(set(ABSENT) - set(present))}")
        for module in ("edgesea", "edgesea, numpy; edgesea.load_student"):
            seconds = import_seconds(python, module)
            print(f"import {module}: {seconds:.3f} s")
            if seconds > MOST_SECONDS:
                problems.append(f"import {module} takes {seconds:.2f} s")

        weights = arguments.data / "edgel3_sea_ust_audio_emb_64.h5.gz"
        with np.load(arguments.data / "chirp_8k_reference.npz") as reference:
            audio, expected = reference["audio"], reference["embedding"]
        soundfile.write(folder / "chirp.wav", audio, 8000, subtype="FLOAT")
        start = time.perf_counter()
        done = run([edgesea, "embed", str(folder / "chirp.wav"), str(weights)], check=False)
        print(
            f"edgesea embed: code {done.returncode} in {time.perf_counter() - start:.1f} s {done.stderr.strip()[-300:]}"
        )
        if done.returncode:
            problems.append("edgesea embed fails")
        else:
            print("  " + json.dumps(json.loads(done.stdout)))
            with np.load(folder / "chirp.npz") as result:
                error = np.abs(result["embedding"] - expected)
            print(f"  largest deviation from the reference: {error.max():.2e} (values up to {expected.max():.1f})")
            if (error > ATOL + RTOL * np.abs(expected)).any():
                problems.append("the embedding is not the reference's")
        done = run([edgesea, "--help"], check=False)
        print(f"edgesea --help: code {done.returncode}, {len(done.stdout.splitlines())} lines {done.stderr.strip()}")
        if done.returncode:
            problems.append("edgesea --help fails")
        done = run([edgesea, "distill", "table", "reduction", "student"], check=False)
        print(f"edgesea distill: code {done.returncode}: {done.stderr.strip()}")
        if done.returncode != 1 or "edgesea[train]" not in done.stderr:
            problems.append("edgesea distill does not name edgesea[train]")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
