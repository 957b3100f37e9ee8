"""The notebooks run as they stand, in fresh kernels and one folder; what they show is what is stored."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY

SCRIPT = runpy.run_path(str(REPOSITORY / "tools" / "notebooks.py"))
SCORES = {  # in the last line that a notebook prints: the first number, and where it must lie
    "first_student": (0.4, 0.9),
    "subsets_and_reductions": (0.5, 0.97),
    "with_scikit_learn": (0.3, 0.9),  # guessing: 0.17
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


def shown(notebook: nbformat.NotebookNode) -> list[list[tuple[str, ...]]]:
    """The kinds of outputs of each cell."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return [
        [(each.output_type, each.get("name", ""), *sorted(each.get("data", {}))) for each in cell] for cell in outputs
    ]


@pytest.mark.parametrize("path", SCRIPT["NOTEBOOKS"], ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path: Path, folder: Path) -> None:
    stored, text = nbformat.read(path, as_version=4), path.read_text("utf-8")
    found = SCRIPT["execute"](path, folder)
    assert shown(found) == shown(stored), f"python tools/notebooks.py notebooks/{path.name}"
    assert "stderr" not in str(shown(found))
    assert len(text) < 150_000
    assert not re.search(r"/(?:home|tmp|work|root|Users)/", text)
    last = [output.text for cell in found.cells for output in cell.get("outputs", []) if "text" in output][-1]
    least, most = SCORES[path.stem]
    assert least < float(re.findall(r"0\.\d+", last)[0]) < most, last
