"""A short form of the benchmark of its name, in a process of its own, because that forks."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

CODE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from kill_and_race import measure
print(json.dumps(measure(5, 3, 0, Path(sys.argv[2]))))
"""


def test_what_is_killed_or_meets_another_process_is_as_if_it_had_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, REPOSITORY / "benchmarks", tmp_path]
    environment = {"PYTHONPATH": str(REPOSITORY / "src"), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert sum(counts[f"kills during {name}"] for name in ("extract", "distill", "run")) == 5
    assert counts["races"] == 3
    wrong = ("bytes different", "files different", "results lost", "tracebacks", "wrong exits")
    assert [name for name in wrong if counts[name]] == [], done.stdout
