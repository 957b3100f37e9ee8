#!/usr/bin/env python3
"""Install the built wheel in fresh environments and use it there; prints a table with a row for each.

The wheel is built from the sdist, and must equal the one built from the checkout. Needs uv. Environments and uv's cache
are in a temporary folder, which is deleted: 4 GB with UV_TORCH_BACKEND=cpu, 20 GB with PyPI's torch, which brings CUDA.
With the highest versions, torch is that of constraints.txt.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Extras, how versions are chosen, what else is installed
ROWS = (
    ("base", "highest", ()),
    ("base", "highest", ("numpy<2",)),
    ("base", "lowest-direct", ()),
    ("train", "highest", ()),
    ("train", "highest", ("numpy<2", "pyarrow<26")),  # 26 fails with numpy 1 without saying so
    ("train", "lowest-direct", ()),
    ("all", "highest", ()),
    ("all", "lowest-direct", ()),
)
SHOWN = ("numpy", "onnxruntime", "torch", "lightning", "pandas", "scikit-learn", "pyarrow")


Env = dict[str, str]
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch"))


def run(*words: object, **options: object) -> str:
    """The output of a command; RuntimeError with its last lines if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError("\n".join((done.stdout + done.stderr).strip().splitlines()[-12:]))
    return str(done.stdout)


def try_row(python: str, row: tuple[str, str, tuple[str, ...]], wheel: Path, folder: Path, cache: Path) -> str:
    """Install, run the job, delete; the cells of the table's row."""
    extras, resolution, more = row
    place, cells = folder / "env", [python, extras, ", ".join([resolution, *more])]
    found = [str(path) for path in Path.home().glob(f".pyenv/versions/{python}*/bin")]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PATH": os.pathsep.join([env["PATH"], *found]), "UV_CACHE_DIR": str(cache), "UV_PYTHON_DOWNLOADS": "never"}
    env["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")  # once for all rows
    try:
        run("uv", "venv", "--python", python, place, env=env)
    except RuntimeError:
        return row_of(cells, "", "no such Python here")
    try:
        install(place, extras, resolution, [*more, *([TORCH] if resolution == "highest" else [])], wheel, env)
        listed = run("uv", "pip", "freeze", "--python", place, env=env).split()
        frozen = dict(line.split("==") for line in listed if "==" in line)
        shown = ", ".join(f"{name} {frozen[name]}" for name in SHOWN if name in frozen)
        size = sum(path.lstat().st_size for path in place.rglob("*") if path.is_file()) / 1e6
        cells.append(f"{shown}; {len(frozen)} packages, {size:.0f} MB")
        env["PATH"] = os.pathsep.join([str(place / "bin"), env["PATH"]])
        (folder / "job").mkdir()
        text = run(place / "bin" / "python", ROOT / "tools/package_job.py", extras, cwd=folder / "job", env=env)
        return row_of(cells, text.strip().splitlines()[-1], "passed")
    except RuntimeError as error:
        if more and "no usable wheels" in str(error):
            return row_of(cells, "", f"no wheels of {', '.join(more)} for this Python")
        print(error, file=sys.stderr)
        return row_of(cells, "", f"FAILED: {str(error).splitlines()[-1][:200]}")
    finally:
        for name in ("env", "job"):
            shutil.rmtree(folder / name, ignore_errors=True)


def install(place: Path, extras: str, resolution: str, constraints: list[str], wheel: Path, env: Env) -> None:
    """Install the wheel and what it and its extras need; the lowest versions are those that pyproject.toml names."""
    (place / "constraint").write_text("\n".join(constraints) + "\n")
    extra = () if extras == "base" else ("--extra", extras)
    rules = ("--python", place, "--no-build", "--constraint", place / "constraint")
    needed = run("uv", "pip", "compile", ROOT / "pyproject.toml", *extra, "--resolution", resolution, *rules, env=env)
    (place / "requirements").write_text(needed)
    run("uv", "pip", "install", "--no-deps", wheel, "--requirement", place / "requirements", *rules, env=env)


def row_of(cells: list[str], tried: str, result: str) -> str:
    return " | ".join(["", *cells, *[""] * (4 - len(cells)), tried, result, ""]).strip()


def build(folder: Path) -> Path:
    """The wheel, built from the sdist outside of git; RuntimeError if that of the checkout differs from it."""
    run("uv", "build", "--out-dir", folder / "dist", ROOT, "--quiet")
    run("uv", "build", "--wheel", "--out-dir", folder / "direct", ROOT, "--quiet")
    (wheel,), (direct,) = ([*(folder / name).glob("*.whl")] for name in ("dist", "direct"))
    held = [{name: file.read(name) for name in file.namelist()} for file in map(zipfile.ZipFile, (wheel, direct))]
    if wheel.name != direct.name or held[0] != held[1]:
        raise RuntimeError(f"the wheel of the sdist, {wheel.name}, is not that of the checkout, {direct.name}")
    return wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"])
    parser.add_argument("--only", nargs="+", default=["base", "train", "all"], help="extras")
    parser.add_argument("--resolution", nargs="+", default=["highest", "lowest-direct"])
    parser.add_argument("--dist", type=Path, help="folder with the built wheel")
    parser.add_argument("--cache", type=Path, help="folder for uv's cache, which is not deleted")
    parser.add_argument("--out", type=Path, help="file to write the table to as well, row by row")
    options = parser.parse_args()
    os.environ.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))  # where wheels may lie
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = next(options.dist.resolve().glob("*.whl")) if options.dist else build(folder)
        head = f"`{wheel.name}` on {platform.system()} {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}."
        lines = [head, "", "| Python | extras | versions | installed | tried | result |", "|---|---|---|---|---|---|"]
        print("\n".join(lines), flush=True)
        for python in options.python:
            for row in ROWS:
                if row[0] in options.only and row[1] in options.resolution:
                    lines.append(try_row(python, row, wheel, folder, (options.cache or folder / "cache").resolve()))
                    print(lines[-1], flush=True)
                    if options.out:
                        options.out.write_text("\n".join(lines) + "\n")
    sys.exit("FAILED" in "".join(lines) or "| passed |" not in "".join(lines))


if __name__ == "__main__":
    main()
