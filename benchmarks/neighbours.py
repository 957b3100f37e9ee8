"""What does a demo take beside a process that keeps each core busy, against what it takes alone?

    python benchmarks/neighbours.py [--repeats 2] [--source /older/src]

The demo with a smaller city and fewer epochs, each time in a new process, alone and beside in turn. Beside one busy
process on each core, half the processor is left: 2 is the fair share. Prints the seconds of each stage and writes
benchmarks/results/neighbours.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "neighbours.json"
BUSY = "while True: pass"
MOST = 2.5  # times the time alone


def short_demo(folder: Path) -> dict[str, float]:
    """Seconds of each stage in this process."""
    from edgesea.parallel import sleep_when_idle

    sleep_when_idle()  # as the command does
    from edgesea.demo import STUDENT, TAGGING
    from edgesea.demo.city import make_city
    from edgesea.pipeline import checked_sections, run_stages

    began, seconds = perf_counter(), {}
    city = make_city(folder / "city", sensors=4, days=1, annotated=0.8)
    options = {
        "extract": {"source": city / "manifest.csv", "teacher": "spectral", "hop": 0.5, "part_clips": 16},
        "sample": {"size": 500},
        "reduce": {"method": "pca", "size": 32},
        "distill": {**STUDENT, "epochs": 3, "precision": "auto"},
        "evaluate": {"task": "sonyc_ust", "data": city, "hop": 1.0, "tagging": TAGGING},
    }
    seconds["city"] = perf_counter() - began
    for name in options:
        began = perf_counter()
        run_stages(checked_sections(options, "demo"), folder / "run", only=name)
        seconds[name] = perf_counter() - began
    return seconds


def measure(source: Path) -> dict[str, float]:
    """Seconds of each stage, and of all, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("OMP_NUM_THREADS", None)  # as users call it
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--folder", folder]
        began = perf_counter()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return {**json.loads(done.stdout.splitlines()[-1]), "all": perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(short_demo(arguments.folder)))
        return
    cores, found = os.cpu_count() or 1, {"alone": [], "beside": []}
    for _ in range(arguments.repeats):
        found["alone"].append(measure(arguments.source))
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(cores)]
        try:
            found["beside"].append(measure(arguments.source))
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print("| | alone | beside | ratio |\n|---|---|---|---|")
    ratios = {}
    for name in found["alone"][0]:
        alone, beside = (median(run[name] for run in found[way]) for way in ("alone", "beside"))
        ratios[name] = beside / alone
        print(f"| {name} | {alone:.1f} s | {beside:.1f} s | {ratios[name]:.2f} |")
    RESULTS.write_text(json.dumps({"cores": cores, "ratios": ratios, "at most": MOST, **found}, indent=1) + "\n")
    sys.exit(ratios["all"] > MOST)


if __name__ == "__main__":
    main()
