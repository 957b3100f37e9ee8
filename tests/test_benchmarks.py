"""The benchmark runs: its smallest row, in tiny; and a row that became slower is marked."""

import json
import subprocess
import sys

from conftest import REPOSITORY

BENCH = REPOSITORY / "benchmarks"


def test_a_row_is_measured_and_shown(tmp_path):
    options = ["--quick", "--only", "scores", "--out", tmp_path, "--cache", tmp_path, "--threads", "1"]
    command = [sys.executable, BENCH / "bench.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "benchmarks" / "results" / "bench.json").read_text())
    lines = results["rows"]["scores"]
    assert [line["against"] for line in lines] == ["the direct algorithm"] * 2
    assert lines[0]["ratio"] > 1
    assert lines[1]["ratio"] <= 1e-12
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert lines[0]["measured"] in page
    assert page.startswith((REPOSITORY / "docs" / "benchmarks.md").read_text()[:200])


def test_what_became_slower_or_failed_is_marked(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import bench
    from measuring import Line, Measured, compared

    slower = Line("a", "b", 1.5, 1.0, committed=2.0)
    failed = compared("a", "b", Measured([{"seconds": 1.0}]), Measured(error="no peer"), 2.0)
    faster = compared("a", "b", Measured([{"seconds": 2.0}, {"seconds": 1.0}]), Measured([{"seconds": 3.0}]), 2.0)
    assert (slower.met, failed.met, faster.met, faster.ratio) == (True, False, True, 3.0)
    assert Line("load", "alone", 3.0, 2.5, at_most=True, committed=2.0).change == 2 / 3
    rows = bench.table([slower, failed, faster]).splitlines()[2:]
    assert ["worse" in row for row in rows] == [True, False, False]
    assert "no peer" in rows[1]
