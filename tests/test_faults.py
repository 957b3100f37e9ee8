"""A short form of the benchmark of its name, in a process of its own, because that forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

CODE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faults import measure
names = ["worker killed", "scheduler killed", "part cut off", "bit changed"]
print(json.dumps(measure(1, names, 0, Path(sys.argv[2]))))
"""


@pytest.mark.slow
def test_what_breaks_is_noticed_and_mended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, REPOSITORY / "benchmarks", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    faults = json.loads(done.stdout.splitlines()[-1])
    assert [faults[name]["noticed"] for name in ("part cut off", "bit changed")] == [1, 1]
    wrong = ("bytes different", "files different", "parts lost", "results lost", "tracebacks", "wrong exits")
    assert [(name, what) for name, counts in faults.items() for what in wrong if counts[what]] == [], done.stdout
