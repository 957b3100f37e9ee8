"""The search in a table of ten million windows: seconds, memory, and whether it finds what brute force finds.

    OMP_NUM_THREADS=2 python benchmarks/search.py --folder /tmp/search      # 4 GB of disk; some minutes

Makes a table of random embeddings in clips of 20 windows and its index, and asks for the ten nearest clips and windows
of recordings of one and of 20 windows, in a process of its own. The limit is to read the bytes of the index, with as
many threads, from the same (warm) page cache. Processor seconds are those of all threads: on a machine that has other
work, half of them is what two idle cores would take. Prints a Markdown table and writes results/search.json.
"""

import argparse
import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from edgesea.artifact import write_json
from edgesea.nearest.index import ROWS, Index
from edgesea.parallel import thread_count
from edgesea.table.clips import ClipEntry, Piece
from edgesea.table.reader import Table
from edgesea.table.writer import write_part

SIZE, PART, CLIP = 64, 100_000, 20  # dimensions; windows of a part, and of a clip
TOP, RUNS = 10, 5


def make_table(folder: Path, windows: int, dtype: str) -> None:
    """Random embeddings, no audio."""
    rng = np.random.default_rng(0)
    base, nothing = rng.standard_normal((PART, SIZE), np.float32), np.zeros(1, np.int16)
    starts, levels = np.arange(CLIP) * 8000, np.zeros(CLIP, np.float32)
    for part in range(windows // PART):
        rows = base[:, rng.permutation(SIZE)] * rng.choice([-1, 1], SIZE).astype(np.float32)
        with write_part(folder, part, SIZE, dtype) as writer:
            for first in range(0, PART, CLIP):
                entry = ClipEntry(f"{part}/{first}.wav", Path("x"), None, "2025-01-01T00:00:00", "train", None)
                writer.add(Piece(entry, 0, nothing, starts, levels), rows[first : first + CLIP])
    framing = {"window": 1.0, "hop": 1.0, "center": False}
    about = {"teacher": {"embedding_size": SIZE}, "manifest_sha256": "", "part_clips": PART // CLIP, "dtype": dtype}
    counts = {"windows": windows, "parts": windows // PART, "windows_by_split": {"train": windows}}
    write_json(folder / "table.json", {**about, **counts, "sample_rate": 8000, "framing": framing})


def read_all(path: Path, threads: int) -> None:
    """Read a file, as the search does, and nothing else."""

    def read(begin: int, end: int) -> None:
        buffer = bytearray(1 << 21)
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while file.tell() < end and file.readinto(buffer):
                pass

    cuts = np.linspace(0, path.stat().st_size, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, cuts[:-1], cuts[1:]))


def timed(function: Any) -> tuple[Any, dict[str, float]]:
    """What it gives, and the seconds of the fastest of some runs."""
    runs = []
    for _ in range(RUNS):
        began, used = perf_counter(), process_time()
        result = function()
        runs.append((perf_counter() - began, process_time() - used))
    seconds, processor = (min(column) for column in zip(*runs, strict=True))
    return result, {"seconds": seconds, "processor_seconds": processor}


def brute_force(index: Index, query: np.ndarray, windows: bool) -> set[int]:
    """The best clips or windows, in double precision."""
    exact = query / np.linalg.norm(query.astype(np.float64), axis=1, keepdims=True)
    scores = []
    for first in range(0, len(index.rows), PART):
        rows = index.rows[first : first + PART].astype(np.float64)
        cosines = rows @ exact.T / np.linalg.norm(rows, axis=1, keepdims=True)
        scores.append(cosines.max(1) if windows else cosines.reshape(-1, CLIP, len(exact)).max(1).mean(1))
    return set(np.argsort(-np.concatenate(scores), kind="stable")[:TOP].tolist())


def measure(folder: Path) -> dict[str, Any]:
    """All figures, of the table and index in a folder."""
    table = Table(folder / "table")
    rng, results = np.random.default_rng(1), []

    def answer(query: np.ndarray, windows: bool) -> list[int]:
        index = Index(table, folder / "index")
        hits = index.search(query, TOP, windows)
        for hit in hits:
            table.chunk(*index.place(hit.row)[:2])
        return [hit.row if windows else hit.row // CLIP for hit in hits]

    read_all(Index(table, folder / "index").folder / ROWS, thread_count())  # into the page cache
    for vectors in (1, 20):
        query = rng.standard_normal((vectors, SIZE)).astype(np.float32)
        for windows in (False, True):
            found, seconds = timed(partial(answer, query, windows))
            results.append({"windows_of_query": vectors, "lists": "windows" if windows else "clips", **seconds})
            results[-1]["found"] = found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    index, rng = Index(table, folder / "index"), np.random.default_rng(1)
    _, limit = timed(partial(read_all, index.folder / ROWS, thread_count()))
    for result in results:
        if result["lists"] == "clips":
            query = rng.standard_normal((result["windows_of_query"], SIZE)).astype(np.float32)
        expected = brute_force(index, query, result["lists"] == "windows")
        result["recall"] = len(expected & {*result.pop("found")}) / TOP
        result["times_the_limit"] = result["seconds"] / limit["seconds"]
    began = perf_counter()
    parts = range(min(10, table.parts))
    for part in parts:
        table.embeddings(part, 0)
    parquet = (perf_counter() - began) * table.parts / len(parts)
    facts = {"windows": len(index.rows), "dtype": str(index.rows.dtype), "threads": thread_count()}
    return {**facts, "limit": limit, "peak_megabytes": peak, "parquet_seconds": parquet, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the table and its index; what is there is used")
    parser.add_argument("--windows", type=int, default=10_000_000)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.folder)))
        return
    if not (arguments.folder / "table" / "table.json").exists():
        make_table(arguments.folder / "table", arguments.windows, arguments.dtype)
    began = perf_counter()
    Index(Table(arguments.folder / "table"), arguments.folder / "index")
    built = perf_counter() - began
    done = subprocess.run([sys.executable, *sys.argv, "--measure"], check=True, capture_output=True, text=True)
    found = {**json.loads(done.stdout), "index_seconds": built}
    print("| query | lists | seconds | processor seconds | times the limit | recall |\n|---|---|---|---|---|---|")
    for row in found["results"]:
        numbers = [f"{row[name]:.2f}" for name in ("seconds", "processor_seconds", "times_the_limit", "recall")]
        print(f"| {row['windows_of_query']} windows | {row['lists']} | {' | '.join(numbers)} |")
    print({name: value for name, value in found.items() if name != "results"})
    out = Path(__file__).parent / "results" / "search.json"
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
