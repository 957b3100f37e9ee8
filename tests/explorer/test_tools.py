"""The real Embedding Atlas and Spotlight open `explore.parquet`, each in an environment of its own."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import pandas as pd
import pytest
import soundfile

from edgesea.explorer import explore

pytestmark = pytest.mark.slow
# Without the libraries that only its models of text need.
ATLAS = ["click", "cryptography", "duckdb", "fastapi", "inquirer", "narwhals", "pandas", "platformdirs", "pyarrow"]
ATLAS += ["tqdm", "uvicorn", "websockets"]


def installed(folder: Path, *steps: list[str]) -> Path:
    """The programs of an environment with some packages; the test is skipped where they cannot be had."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for step in steps:
        done = subprocess.run([folder / "bin" / "pip", "install", "--quiet", *step], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot install {' '.join(step)}: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin"


@contextmanager
def serving(command: list[Any], needed: str = "") -> Iterator[str]:
    """The address of a server that a command, with a port, starts; it gives the page that is needed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process, begun = subprocess.Popen([*map(str, command), "--port", str(port)], start_new_session=True), monotonic()
    try:
        while True:
            try:
                urlopen(f"http://localhost:{port}/{needed}").close()
                break
            except OSError:
                assert process.poll() is None
                assert monotonic() < begun + 300
                sleep(0.5)
        yield f"http://localhost:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # Spotlight has processes of its own
        process.wait()


@pytest.fixture(scope="module")
def parquet(small_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(explore(small_table, tmp_path_factory.mktemp("tools"), layout="pca")["parquet"])


def test_embedding_atlas_has_points_sound_and_filters(parquet, chromium, tmp_path):
    programs = installed(tmp_path / "env", ["--no-deps", "embedding-atlas"], ATLAS)
    command = [programs / "embedding-atlas", parquet, "--x", "x", "--y", "y", "--neighbors", "neighbors"]
    with serving(command) as address:
        page = chromium.new_page()
        page.goto(address)
        page.get_by_text("90 points").first.wait_for(timeout=120_000)  # of the map
        page.locator("audio").first.wait_for(state="attached")
        page.wait_for_function("document.querySelector('audio').duration === 1")
        page.get_by_text("s1", exact=True).first.click()  # of the chart of sensors
        page.get_by_text("30 / 90").or_(page.get_by_text("30", exact=True)).first.wait_for()
        page.close()


def test_spotlight_has_points_and_sound(parquet, tmp_path):
    programs = installed(tmp_path / "env", ["renumics-spotlight"])
    frame = pd.read_parquet(parquet)
    with serving([programs / "spotlight", parquet, "--dtype", "audio=Audio", "--no-browser"], "api/table/") as address:
        with urlopen(f"{address}/api/table/") as answer:
            table = json.load(answer)
        columns = {column["name"]: column for column in table["columns"]}
        kinds = {name: column["dtype"]["name"] for name, column in columns.items()}
        assert kinds.items() >= {"x": "float", "time": "datetime", "sensor": "str", "audio": "Audio"}.items()
        assert columns["y"]["values"] == pytest.approx(frame["y"].tolist())
        with urlopen(f"{address}/api/table/audio/7?generation_id={table['generation_id']}") as answer:
            sound, _ = soundfile.read(io.BytesIO(answer.read()))
        assert sound == pytest.approx(soundfile.read(io.BytesIO(frame["audio"][7]))[0], abs=1e-4)
