"""Run the notebooks in fresh kernels and store what they show: python tools/notebooks.py [NOTEBOOK ...]."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.font_manager  # noqa: F401  makes its cache here, because kernels would print that they make one
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook that has been run in a folder, without times and versions; an error in it is raised."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=place, kernel_name="python3", record_timing=False).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


if __name__ == "__main__":
    with TemporaryDirectory() as folder:  # one for all: the later ones find the student of the first
        for path in [*map(Path, sys.argv[1:])] or NOTEBOOKS:
            nbformat.write(execute(path, Path(folder)), path)
