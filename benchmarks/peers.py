"""Environments of peers: a venv each, below a cache folder, made at the first use and kept; and their sources."""

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {"openl3": "marl/openl3", "edgel3": "ksangeeta2429/edgel3", "EfficientAT": "fschmid56/EfficientAT"}


@dataclass(frozen=True)
class Environment:
    """What is installed, beside what a parent has: another environment, or this one ("edgesea")."""

    requirements: tuple[str, ...]
    parent: str = ""
    compiled: bool = True  # False: without shared libraries, which want CUDA, and which the peer does not use


TENSORFLOW = ("tensorflow-cpu; sys_platform != 'darwin'", "tensorflow; sys_platform == 'darwin'")
ENVIRONMENTS = {
    # openl3's requirements, as far as audio needs them; tf-keras is the Keras 2 that it was written for
    "openl3": Environment((*TENSORFLOW, "tf-keras", "kapre>=0.3.6", "resampy", "soundfile", "librosa", "scikit-learn")),
    "edgel3": Environment(("kapre==0.1.4",), "openl3"),
    "EfficientAT": Environment(("torchaudio==2.11.0", "torchvision==0.28.0"), "edgesea", compiled=False),
    "dppy": Environment(("dppy==0.3.3", "numpy", "scipy")),
    "light": Environment(("-e", str(ROOT))),  # pip install edgesea, and nothing else
    "openvino": Environment(("openvino>=2025.0",), "edgesea"),
}


def call(command: list[str], seconds: float = 1800) -> None:
    """Run a command, without our own modules; an error holds the end of what it wrote."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ...: {(done.stderr or done.stdout)[-500:].strip()}")


def site_of(python: str) -> Path:
    """Where an environment's packages are."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def megabytes(python: str) -> float:
    """Size of an environment's packages but pip (1e6 bytes)."""
    files = (path for path in site_of(python).rglob("*") if path.is_file() and "pip" not in path.parts)
    return sum(path.stat().st_size for path in files) / 1e6


def python_of(name: str, cache: Path) -> str:
    """The interpreter of an environment, which is installed if it is not there or its requirements have changed."""
    if name == "edgesea" or (name == "openvino" and find_spec("openvino")):
        return sys.executable
    wanted, folder = ENVIRONMENTS[name], cache / "environments" / name
    python, stamp = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python"), folder / "requirements"
    if not stamp.exists() or stamp.read_text("utf-8") != repr(wanted):
        print(f"installing the environment of {name}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        alone = ["--no-deps"] if wanted.parent else []
        call([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *alone, *wanted.requirements])
        site = site_of(python)
        if wanted.parent == "edgesea":
            (site / "parent.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
        elif wanted.parent:
            (site / "parent.pth").write_text(str(site_of(python_of(wanted.parent, cache))), "utf-8")
        for library in [] if wanted.compiled else [*site.glob("torch*/**/*.so"), *site.glob("torch*/**/*.dylib")]:
            library.unlink()
        stamp.write_text(repr(wanted), "utf-8")
    return python


def source_of(name: str, cache: Path, given: Path | None) -> Path:
    """A checkout of a peer's repository: from GitHub, or a clone or mirror below the folder `given`."""
    folder, address = cache / "sources" / name, SOURCES[name]
    if not folder.exists():
        here = [given / name, given / address.replace("/", "+") / "repo"] if given else []
        origin = next((str(path.resolve()) for path in here if path.exists()), f"https://github.com/{address}")
        call(["git", "clone", "--quiet", "--depth", "1", origin if "//" in origin else f"file://{origin}", str(folder)])
    return folder
