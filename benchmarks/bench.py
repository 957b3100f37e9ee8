"""One command, one page: every row against its peer or limit, in the same run on the same machine.

    make bench                                                # all rows; half an hour on two cores
    python benchmarks/bench.py --only sea64 cold              # some of them
    python benchmarks/bench.py --quick --out /tmp/bench       # tiny sizes: does everything run?

Each case runs in a process of its own (cases.py), the cases of a row take turns, and the fastest run of each counts,
for other work on the machine only slows down. Peers have environments of their own (peers.py), which the first run
installs below `--cache`; their sources come from GitHub, or from clones or mirrors below `--sources`. A row that fails
says why, and the others run. Writes results/bench.json and the table in docs/benchmarks.md, and compares with what is
committed: `--check` ends with 1 if a ratio fell below 0.8 of the committed one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from measuring import Bench, Line
from peers import ROOT, site_of
from rows import ROWS

RESULTS, PAGE = Path("benchmarks/results/bench.json"), Path("docs/benchmarks.md")
BEGIN, END = "<!-- bench: written by `make bench` -->", "<!-- bench: end -->"
LIBRARIES = ("numpy", "torch", "onnxruntime", "openvino", "soxr", "soundfile", "pyarrow", "scikit-learn")
WORSE = 0.8  # of the committed ratio


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    about = {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "has": has}
    return {**about, "threads": threads, "system": platform.platform(terse=True), "python": platform.python_version()}


def versions(cache: Path) -> dict[str, str]:
    """Of our libraries, and of the peers'."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for environment, package in (("openl3", "tensorflow"), ("openl3", "tf_keras"), ("openvino", "openvino")):
        folder = cache / "environments" / environment
        if (folder / "requirements").exists():
            for path in site_of(str(folder / "bin" / "python")).glob(f"{package}*.dist-info"):
                name, _, number = path.name.removesuffix(".dist-info").partition("-")
                found[name] = number
    return found


def committed() -> dict[str, Any]:
    """The results of the last commit."""
    shown = subprocess.run(["git", "show", f"HEAD:{RESULTS}"], cwd=ROOT, capture_output=True, text=True, check=False)
    return dict(json.loads(shown.stdout)) if shown.returncode == 0 else {}


def measure(name: str, bench: Bench, before: dict[tuple[str, str], float]) -> list[Line]:
    """The lines of a row; if it fails, its error is the last one."""
    lines: list[Line] = []
    try:
        for line in ROWS[name](bench):
            line.committed = before.get((line.what, line.against))
            lines.append(line)
    except Exception as error:
        lines.append(Line(name, measured=f"{type(error).__name__}: {error}"[:400]))
    return lines


def number(value: float) -> str:
    return f"{value:.1e}" if value < 1e-3 else f"{value:.4f}" if 0.99 < value < 1 else f"{value:.3g}"


def table(lines: list[Line]) -> str:
    """Markdown."""
    rows = ["| what | against | measured | ratio | bar | met | before |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        ratio = "" if line.ratio is None else number(line.ratio)
        bar = "" if line.bar is None else ("<= " if line.at_most else ">= ") + number(line.bar)
        met = {True: "yes", False: "**no**", None: ""}[line.met]
        before = "" if line.committed is None else number(line.committed)
        before += " **worse**" if line.change and line.change < WORSE else ""
        measured = line.measured.replace("|", "/").replace("\n", " ")
        measured += f" (±{line.spread:.0%})" if line.spread > 0.05 else ""
        rows.append(f"| {line.what} | {line.against} | {measured} | {ratio} | {bar} | {met} | {before} |")
    return "\n".join(rows)


def text(value: Any, depth: int = 3, indent: str = "") -> str:
    """JSON with what lies so deep in one line."""
    if depth == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    inner = indent + " "
    named = isinstance(value, dict)
    items = [f"{json.dumps(key)}: {text(value[key], depth - 1, inner)}" for key in value] if named else []
    items = items or [text(item, depth - 1, inner) for item in value]
    body = ",\n".join(inner + item for item in items)
    return f"{'[{'[named]}\n{body}\n{indent}{']}'[named]}"


def write(results: dict[str, Any], out: Path) -> None:
    """The JSON, and the table between the marks of the page."""
    (out / RESULTS).parent.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).write_text(text(results) + "\n", "utf-8")
    place = results["machine"]
    about = f"{place['processor']}, {place['threads']} threads, {', '.join(place['has'])}; "
    about += ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    parts = [table([Line(**line) for line in lines]) for lines in results["rows"].values()]
    head = parts[0].splitlines()[:2]
    shown = "\n".join(
        [BEGIN, "", f"{about}.", "", *head, *(row for part in parts for row in part.splitlines()[2:]), "", END]
    )
    page = (ROOT / PAGE).read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    (out / PAGE).parent.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(before + shown + rest.partition(END)[2], "utf-8")


def main() -> int:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgesea-bench"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=" ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once; needs --out")
    parser.add_argument("--full", action="store_true", help="large sizes, where a row has any")
    parser.add_argument("--out", type=Path, default=ROOT, help="where the results are written; default: this tree")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the project's real data")
    parser.add_argument("--sources", type=Path, help="folder with clones (NAME) or mirrors (OWNER+NAME/repo) of peers")
    parser.add_argument("--cache", type=Path, default=cache, help="for the environments and sources of peers")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="end with 1 if a ratio fell below 0.8 of the committed")
    given = parser.parse_args()
    if given.quick and given.out == ROOT:
        parser.error("--quick measures nothing; choose another folder for its results with --out")
    last = committed()
    before = {(line["what"], line["against"]): line["ratio"] for rows in last.get("rows", {}).values() for line in rows}
    there = json.loads((given.out / RESULTS).read_text()) if (given.out / RESULTS).exists() else last
    rows, figures = ({} if given.only == list(ROWS) else dict(there.get(key, {})) for key in ("rows", "figures"))
    began, found = time.perf_counter(), []
    for name in given.only:
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            places = (Path(folder), given.cache.resolve(), given.data, given.sources)
            repeats, extent = (1, 0) if given.quick else (given.repeats, 1 + given.full)
            bench = Bench(*places, given.threads, repeats, extent)
            lines = measure(name, bench, before)
        print(table(lines), flush=True)
        found += lines
        rows[name], figures[name] = [asdict(line) for line in lines], bench.figures()
        about = {"machine": machine(given.threads), "versions": versions(given.cache)}
        about["minutes"] = round((time.perf_counter() - began) / 60, 1)
        parts = {"rows": rows, "figures": figures}
        write(
            {**about, **{key: {each: part[each] for each in ROWS if each in part} for key, part in parts.items()}},
            given.out,
        )
    worse = [line for line in found if line.change and line.change < WORSE]
    missed = sum(line.met is False for line in found)
    print(f"{len(found)} lines: {missed} missed or failed, {len(worse)} worse than committed", file=sys.stderr)
    return int(given.check and bool(worse))


if __name__ == "__main__":
    sys.exit(main())
