"""README and docs hold what they say: commands, names, links, pictures. `make docs` checks the links of the site."""

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

import edgesea
from edgesea import cli
from edgesea.demo.city import make_city

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]
SHELL = ("", "bash", "sh")
ELSEWHERE = {".", "cd", "cp", "export", "arecord", "srun", "torchrun", "sbatch", "gcc", "git"}  # programs of others
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>"}
MAKE_TARGETS = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Blocks of code, fenced or indented: what stands behind the fence, and the text."""
    text = path.read_text("utf-8")
    fence = re.compile(r"^ *```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    yield from ((found[1].strip(), found[2]) for found in fence.finditer(text))
    for found in re.finditer(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", fence.sub("", text)):
        yield "", found[0]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a block, without variables that are set for them."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = [*lexer, ";"]
        except ValueError:  # an odd quote: no command
            continue
        while words:
            end = next(place for place, word in enumerate(words) if word in OPERATORS)
            command, words = words[:end], words[end + 1 :]
            while command and re.match(r"\w+=", command[0]):
                del command[0]
            if command:
                yield command


def shell_commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    for info, text in blocks(path):
        language = info.partition(" ")[0]
        if language in SHELL:
            yield from ((language, command) for command in commands(text))


def of_edgesea(command: list[str]) -> list[str] | None:
    """The arguments of edgesea, also of one that srun or torchrun starts."""
    if "edgesea" in command and command[0] in ("edgesea", "srun", "torchrun"):
        return command[command.index("edgesea") + 1 :]
    return None


CALLS = [
    pytest.param(arguments, id=f"{path.stem}: {' '.join(arguments)}")
    for path in PAGES
    for _, command in shell_commands(path)
    if (arguments := of_edgesea(command)) is not None
]


@pytest.mark.parametrize("arguments", CALLS)
def test_commands_are_understood(arguments, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)  # of examples/...
    monkeypatch.setenv("EDGESEA_DATA", "data")
    assert cli.main([*arguments, "--print-config"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_other_commands_and_names_are_there(path):
    for language, command in shell_commands(path):
        name = command[0]
        if name == "make" and len(command) > 1 and command[1] != "-C":
            assert command[1] in MAKE_TARGETS
        elif name.startswith("python") and command[1].endswith(".py"):
            assert (REPOSITORY / command[1]).is_file()
        elif language:
            assert name in {"make", "python3", "pip", "edgesea", *ELSEWHERE}, f"{path}: {' '.join(command)}"
    text = path.read_text("utf-8")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for found in re.findall(r"(?:edgesea|'\.)\[([a-z,]+)\]", text):
        assert set(found.split(",")) <= {*extras}
    for found in re.findall(r"\b((?:examples|benchmarks|tests|tools|src)/[\w./*-]*\w)", text):
        assert list(REPOSITORY.glob(found)), f"{path}: {found} is not there"
    for found in re.findall(r"`edgesea ([a-z]+)[ `]", text):
        assert found in cli.COMMANDS, f"{path}: edgesea {found}"


def test_the_reference_has_every_public_name_and_every_stage():
    there = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert {f"edgesea.{name}" for name in edgesea.__all__} <= {*there}
    for place in cli.COMMANDS.values():
        assert {place.replace(":", "."), f"edgesea.{place.partition(':')[2]}"} & {*there}, place


def test_links_of_the_readme_lead_somewhere():
    text = (REPOSITORY / "README.md").read_text()
    links = re.findall(r'(?:\]\(|src="|srcset=")([^):"]+)[)"]', text)
    assert len(links) > 5
    for link in links:
        name, _, anchor = link.partition("#")
        target = REPOSITORY / name if name else REPOSITORY / "README.md"
        assert target.exists(), link
        heads = re.findall(r"^#+ (.+)$", target.read_text() if anchor else "", re.MULTILINE)
        assert anchor in ["", *(re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads)], link


def test_pictures_are_drawn_by_the_script():
    drawn = runpy.run_path(str(REPOSITORY / "tools" / "pictures.py"))
    for name, draw in drawn["PICTURES"].items():
        for theme in drawn["THEMES"]:
            assert (DOCS / f"{name}-{theme}.svg").read_text("utf-8") == str(draw(theme)), "run tools/pictures.py"


@pytest.mark.slow
def test_the_start_page_runs_as_it_stands(tmp_path):
    """A stranger's first student: thirty recordings, and the commands of the page in their order."""
    city = make_city(tmp_path / "city", sensors=3, days=1, clips_per_day=10, seconds=10.0)
    (city / "audio").rename(tmp_path / "recordings")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    scripts = [text for info, text in blocks(DOCS / "start.md") if info == "bash"]
    assert 4 <= sum(len([*commands(text)]) for text in scripts) <= 10
    for script in scripts:
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    assert (tmp_path / "runs" / "mine" / "student" / "model.safetensors").is_file()
    assert len(list((tmp_path / "embeddings").rglob("*.npz"))) == 30
