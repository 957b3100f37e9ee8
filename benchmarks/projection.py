"""What 100 million clips of ten seconds would cost in each stage, from what was measured; for docs/scaling.md.

    python benchmarks/projection.py [--clips 1e8]

Reads benchmarks/results/*.json, nothing is measured here. Prints the constants, with the file and the name of the
measurement that each comes from, and the table. Times are those of one core of the machine that measured (see
docs/benchmarks.md), and of one GPU where results/gpu.json is there; they divide by the number of workers where a stage
is spread over workers, which the column says.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
CLIP, RATE, HOP, SIZE = 10, 8000, 0.5, 512  # seconds, Hz, seconds, dimensions of an embedding
WINDOWS = 1 + round((CLIP - 1) / HOP)  # of a clip
PART = 128  # clips
SOURCE_BYTES = CLIP * 44100 * 2  # of a clip's WAV file at 44.1 kHz
DISTILL_WINDOWS = 20_000_000  # that a student is trained on, all epochs together


def read(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


class Constants:
    """Numbers from the results, and where they come from."""

    def __init__(self) -> None:
        self.bench, self.scale, self.storage = read("bench"), read("scale"), read("storage")
        self.sources: list[tuple[str, str, str]] = []

    def note(self, what: str, value: float, unit: str, source: str) -> float:
        self.sources.append((what, f"{value:.3g} {unit}", source))
        return value

    def core(self, row: str, case: str, what: str) -> float:
        """Seconds of a core for each window (row, draw) of a case of bench.json."""
        run = self.bench["figures"][row][case]
        return self.note(what, 1000 * run["cpu"] / run["windows"], "ms", f"bench.json: {row}, {case}") / 1000

    def start(self, what: str, name: str) -> tuple[float, float]:
        """Seconds and bytes that a start grows by with each clip: all clips, less a tenth of them."""
        one, all_ = (self.scale["starts"][name][size] for size in ("tenth", "all"))
        more, source = 0.9 * self.scale["clips"], f"scale.json: starts, {name}, all less tenth"
        seconds = self.note(f"{what}, a clip", 1e6 * (all_["processor"] - one["processor"]) / more, "us", source) / 1e6
        size = max(0.0, 1e6 * (all_["megabytes"] - one["megabytes"]) / more)
        return seconds, self.note(f"{what}, memory for a clip", size, "B", source)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2g}" if seconds < 36000 else f"{seconds / 3600:,.0f}"


def terabytes(size: float) -> str:
    if not size:
        return "flat"
    return f"{size / 1e12:.2g} TB" if size > 1e11 else f"{size / 1e9:.2g} GB"


def project(clips: float) -> tuple[list[tuple[str, str, str]], list[list[str]]]:
    """The constants, and the rows of the table."""
    known, windows = Constants(), clips * WINDOWS
    spectral = known.core("distillation", "extract, spectral", "extract, spectral, a window")
    mn04 = known.core("efficientat", "onnx", "extract, EfficientAT mn04, a window")
    part = known.note("overhead of a part", known.scale["part"]["ms"], "ms", "scale.json: part") / 1000
    bytes_a_sample = median(row["bytes"] for row in known.storage["results"] if row["stored"] == "now")
    known.note("stored audio, a sample", bytes_a_sample, "B", "storage.json: bytes, now, median")
    listing, listing_bytes = known.start("reading the manifest", "extract")
    resume, _ = known.start("resume", "resume")
    counting, counting_bytes = known.start("sample, counting", "sample")
    finding, finding_bytes = known.start("reduce, finding windows", "reduce")
    footers, footers_bytes = known.start("distill, reading footers", "distill")
    kdpp = known.core("k_dpp", "edgesea, 20000", "sample, dpp, a window of 20 000, of which 91")
    moments = known.core("pca", "edgesea", "reduce, PCA, a window of 512 dimensions")
    train = known.core("distillation", "distill, sea-64", "distill, sea-64, a window, with the start")
    audio = clips * CLIP * RATE * bytes_a_sample
    embeddings = windows * SIZE * 2
    rows = [
        ["manifest", hours(clips * listing), "no", "", terabytes(clips * listing_bytes)],
        ["extract, spectral", hours(windows * spectral), "yes", terabytes(audio + embeddings), "0.6 GB a worker"],
        ["extract, mn04", hours(windows * mn04), "yes", terabytes(audio + windows * 384 * 2), "1 GB a worker"],
        ["overhead of the parts", hours(clips / PART * part), "yes", "", ""],
        ["resume", hours(clips * resume), "no", "", terabytes(clips * listing_bytes)],
        ["sample, random", hours(clips * counting), "no", "", terabytes(clips * counting_bytes)],
        ["sample, dpp", hours(clips * counting + windows * kdpp), "yes", "", "1 GB a worker"],
        ["reduce, PCA of all windows", hours(clips * finding + windows * moments), "yes", "", "0.2 GB a worker"],
        [
            "reduce, PCA of 10 million",
            hours(clips * finding + 1e7 * moments),
            "yes",
            "",
            terabytes(clips * finding_bytes),
        ],
        ["distill, begin", hours(clips * footers), "no", "", terabytes(clips * footers_bytes)],
        [f"distill, {DISTILL_WINDOWS / 1e6:.0f} million windows", hours(DISTILL_WINDOWS * train), "GPUs", "", "2 GB"],
    ]
    return known.sources, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=float, default=1e8)
    clips = parser.parse_args().clips
    sources, rows = project(clips)
    print(f"{clips:.0e} clips of {CLIP} s: {clips * WINDOWS:.2g} windows, {clips / PART:.2g} parts, ", end="")
    print(f"{terabytes(clips * SOURCE_BYTES)} of recordings\n")
    print("| stage | hours of a core | spread over workers | disk | memory |\n|---|---|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    print("\n| constant | value | from |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(source)} |" for source in sources))


if __name__ == "__main__":
    main()
