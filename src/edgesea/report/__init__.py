"""``report``: a run as one page to look at."""

from pathlib import Path
from typing import Any

from edgesea.errors import missing_extra
from edgesea.files import atomic_path

REPORT_FILE = "report.html"


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
    try:
        import matplotlib  # noqa: F401
        import pyarrow  # noqa: F401
        import yaml  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train") from error
    from edgesea.reduction import load_reduction
    from edgesea.report.data import sample_windows, summarise
    from edgesea.report.html import page
    from edgesea.report.run import REDUCTION, read_run
    from edgesea.report.scores import result_section, summary, task_section
    from edgesea.report.sections import data_section, provenance_section, reduction_section, training_section

    folder = Path(run)
    files = read_run(folder)
    counts = None if files.table is None else summarise(files.table, files.subset)
    sample = None
    if files.table is not None and counts is not None and files.reduction:
        sample = sample_windows(files.table, counts, load_reduction(folder / REDUCTION))
    sections = [
        ("Result", result_section(files)),
        ("Data", data_section(files, counts)),
        ("Reduction", reduction_section(files, sample)),
        ("Training", training_section(files)),
        ("Task", task_section(files)),
        ("Provenance", provenance_section(files)),
    ]
    path = folder / REPORT_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(page(folder.resolve().name, summary(files), sections), "utf-8")
    return {"report": str(path)}
