#!/usr/bin/env python3
"""Install the built wheel in fresh environments and use it there; prints a table with a row for each.

Needs uv. Environments and uv's cache are in a temporary folder (3 GB), which is deleted.
torch is the CPU's build of the version in constraints.txt; where there is none, the commands that train are left out.
It may lie in a folder, UV_FIND_LINKS, or in an index, UV_EXTRA_INDEX_URL with UV_INDEX_STRATEGY=unsafe-best-match.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
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
    try:
        run("uv", "venv", "--python", python, place, env=env)
    except RuntimeError:
        return row_of(cells, "", "no such Python here")
    try:
        try:
            install(place, extras, resolution, [f"{TORCH}+cpu", *more], [], wheel, env)
            level = extras
        except RuntimeError as error:
            if "torch" not in str(error) or extras == "base":
                raise
            level = f"{extras} without torch"
            install(place, extras, resolution, list(more), ["torch; python_version < '0'"], wheel, env)
        listed = run("uv", "pip", "freeze", "--python", place, env=env).split()
        frozen = dict(line.split("==") for line in listed if "==" in line)
        shown = ", ".join(f"{name} {frozen[name]}" for name in SHOWN if name in frozen)
        cells.append(f"{shown}; {len(frozen)} packages")
        env["PATH"] = os.pathsep.join([str(place / "bin"), env["PATH"]])
        (folder / "job").mkdir()
        text = run(place / "bin" / "python", ROOT / "tools/package_job.py", level, cwd=folder / "job", env=env)
        return row_of(cells, text.strip().splitlines()[-1], "passed")
    except RuntimeError as error:
        if more and "no usable wheels" in str(error):
            return row_of(cells, "", f"no wheels of {', '.join(more)} for this Python")
        print(error, file=sys.stderr)
        return row_of(cells, "", f"FAILED: {str(error).splitlines()[-1][:200]}")
    finally:
        for name in ("env", "job"):
            shutil.rmtree(folder / name, ignore_errors=True)


def install(
    place: Path, extras: str, resolution: str, constraints: list[str], overrides: list[str], wheel: Path, env: Env
) -> None:
    """Install the wheel and what it and its extras need; the lowest versions are those that pyproject.toml names."""
    files = {"constraint": constraints, "override": overrides}
    for name, lines in files.items():
        (place / name).write_text("\n".join(lines) + "\n")
    extra = () if extras == "base" else ("--extra", extras)
    rules = ("--python", place, "--no-build", "--constraint", place / "constraint", "--override", place / "override")
    needed = run("uv", "pip", "compile", ROOT / "pyproject.toml", *extra, "--resolution", resolution, *rules, env=env)
    (place / "requirements").write_text(needed)
    run("uv", "pip", "install", "--no-deps", wheel, "--requirement", place / "requirements", *rules, env=env)


def row_of(cells: list[str], tried: str, result: str) -> str:
    return " | ".join(["", *cells, *[""] * (4 - len(cells)), tried, result, ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"])
    parser.add_argument("--only", nargs="+", default=["base", "train", "all"], help="extras")
    parser.add_argument("--resolution", nargs="+", default=["highest", "lowest-direct"])
    parser.add_argument("--dist", type=Path, help="folder with the built wheel")
    parser.add_argument("--cache", type=Path, help="folder for uv's cache, which is not deleted")
    options = parser.parse_args()
    failed = False
    os.environ.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))  # where torch's CPU wheel may lie
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.dist is None:
            run("uv", "build", "--out-dir", folder / "dist", ROOT, "--quiet")
        wheel = next((options.dist or folder / "dist").resolve().glob("*.whl"))
        print(
            f"{wheel.name}\n\n| Python | extras | versions | installed | tried | result |\n|---|---|---|---|---|---|",
            flush=True,
        )
        for python in options.python:
            for row in ROWS:
                if row[0] in options.only and row[1] in options.resolution:
                    text = try_row(python, row, wheel, folder, (options.cache or folder / "cache").resolve())
                    failed |= "FAILED" in text
                    print(text, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
