"""Short forms of two benchmarks, `faults` and `kill_and_race`, in processes of their own, because these fork."""

import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

CODE = """
import json, sys
from importlib import import_module
from pathlib import Path
sys.path.insert(0, sys.argv[1])
print(json.dumps(import_module(sys.argv[3]).measure(*json.loads(sys.argv[4]), 0, Path(sys.argv[2]))))
"""
WRONG = ("bytes different", "files different", "parts lost", "results lost", "tracebacks", "wrong exits")


def measured(folder, benchmark, *arguments):
    """What a benchmark counts in a folder; nothing may be wrong."""
    command = [sys.executable, "-c", CODE, REPOSITORY / "benchmarks", folder, benchmark, json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    counts = found.values() if benchmark == "faults" else [found]
    assert [one for one in counts if any(one.get(name) for name in WRONG)] == [], done.stdout
    return found


def test_what_is_killed_or_meets_another_process_is_as_if_it_had_not(tmp_path):
    counts = measured(tmp_path, "kill_and_race", 5, 3)
    assert sum(counts[f"kills during {name}"] for name in ("extract", "distill", "run")) == 5
    assert counts["races"] == 3


@pytest.mark.slow
def test_what_breaks_is_noticed_and_mended(tmp_path):
    names = ["worker killed", "scheduler killed", "part cut off", "bit changed"]
    faults = measured(tmp_path, "faults", 1, names)
    assert [faults[name]["noticed"] for name in names[2:]] == [1, 1]
