"""``report``: a run as one page to look at; also a reduction alone, and a model selection."""

from pathlib import Path
from typing import Any

from edgesea.artifact import atomic_path, read_json
from edgesea.errors import EdgeseaError, missing_extra

REPORT_FILE = "report.html"
SELECTION_FILE = "select.json"


def report(run: Path) -> dict[str, Any]:
    """Write a run's results, data and training as one page that needs no network: RUN/report.html.

    Parameters
    ----------
    run : Path
        Run directory of `edgesea run`. Artifacts that were deleted from it to save space (table, student) are left out
        of the report.

    Returns
    -------
    dict
        report: the file.

    Raises
    ------
    EdgeseaError
        If `run` is no run directory, the run is not finished, or a file in it is damaged.
    """
    _require()
    from edgesea.reduction import load_reduction
    from edgesea.report.data import level_unit, sample_windows, summarise
    from edgesea.report.reduction import reduction_section
    from edgesea.report.run import REDUCTION, read_run
    from edgesea.report.scores import result_section, summary, task_section
    from edgesea.report.sections import data_section, provenance_section, training_section

    folder = Path(run)
    files = read_run(folder)
    counts = None if files.table is None else summarise(files.table, files.subset)
    sample = None
    if files.table is not None and counts is not None and files.reduction:
        sample = sample_windows(files.table, counts, load_reduction(folder / REDUCTION))
    reduced = files.stage("reduce")
    sections = [
        ("Result", result_section(files)),
        ("Data", data_section(files, counts)),
        (
            "Reduction",
            reduction_section({**reduced, **files.reduction} if reduced else {}, sample, level_unit(files.table)),
        ),
        ("Training", training_section(files)),
        ("Task", task_section(files)),
        ("Provenance", provenance_section(files)),
    ]
    return {"report": str(_write(folder, folder.resolve().name, summary(files), sections))}


def reduction_page(folder: Path, table: Path, subset: Path | None = None) -> Path:
    """Write what a reduction keeps, with a map of the windows, as one page that needs no network: FOLDER/report.html.

    Parameters
    ----------
    folder : Path
        Folder of the reduction.
    table : Path
        Folder of the table that it was fitted on.
    subset : Path, optional
        The subset that it was fitted on, for the page to say how it was chosen.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EdgeseaError
        If the reduction, the table or the subset is missing or damaged, or the table has other embeddings.
    """
    _require()
    from edgesea.reduction import load_reduction
    from edgesea.reduction.base import REDUCTION_FILE
    from edgesea.report.data import level_unit, sample_windows, summarise
    from edgesea.report.reduction import reduction_section, subset_sentence
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Table

    folder = Path(folder)
    phi, info, source = load_reduction(folder), read_json(folder / REDUCTION_FILE), Table(table)
    if phi.input_size != source.embedding_size:
        raise EdgeseaError(
            f"{folder}: reduces embeddings of {phi.input_size} dimensions, and those of {table} have "
            f"{source.embedding_size}; give the table that it was fitted on"
        )
    chosen = None if subset is None else Subset.load(Path(subset))
    about = f"{phi.method}: the embeddings of {source.info['teacher'].get('id')} reduced from {phi.input_size} to "
    about += f"{phi.output_size} dimensions."
    if chosen is not None:
        about = f"{about} {subset_sentence(chosen.info, len(chosen))}"
    sample = sample_windows(source, summarise(source, chosen), phi)
    body = reduction_section(info, sample, level_unit(source))
    return _write(folder, folder.resolve().name, about, [("Reduction", body)])


def selection_page(folder: Path) -> Path:
    """Write the scores of a model selection as one page that needs no network: FOLDER/report.html.

    Parameters
    ----------
    folder : Path
        With ``select.json``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EdgeseaError
        If there is no ``select.json``, or it is not what `edgesea select` writes.
    """
    _require()
    from edgesea.report.selection import read_selection, selection_sections, selection_summary

    folder = Path(folder)
    selection = read_selection(folder / SELECTION_FILE)
    return _write(folder, folder.resolve().name, selection_summary(selection), selection_sections(selection))


def _require() -> None:
    try:
        import matplotlib  # noqa: F401
        import pyarrow  # noqa: F401
        import yaml  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train") from error


def _write(folder: Path, title: str, summary: object, sections: list[tuple[str, Any]]) -> Path:
    from edgesea.report.html import page

    path = folder / REPORT_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(page(title, summary, sections), "utf-8")
    return path
