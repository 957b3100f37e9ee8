"""``report``: a run, a reduction or a model selection as one page to look at."""

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def report(folder: Path, *, table: Path | None = None) -> dict[str, Any]:
    """Write a page about a run, a reduction or a selection that works offline: FOLDER/report.html.

    Parameters
    ----------
    folder : Path
        Run directory of `edgesea run`, folder of `edgesea reduce` or folder of `edgesea select`. Artifacts that were
        deleted from a run to save space (table, student) are left out of its page.
    table : Path, optional
        Of a reduction: the table that it was fitted on, for a map of its windows; default: the one of its run.

    Returns
    -------
    dict
        report: the file.

    EdgeseaError: `folder` is none of these, the run is not finished, a file is damaged, or the table has other
    embeddings.
    """
    from edgesea.report.pages import write_report

    return {"report": write_report(Path(folder), table)}


def report_if_possible(folder: Path, table: Path | None = None) -> dict[str, Any]:
    """`report` at the end of a stage: hours of work must not end in an error for the sake of a plot."""
    try:
        return report(folder, table=table)
    except Exception as error:
        log.warning("%s is finished, but its report is not (%s); try: edgesea report %s", folder, error, folder)
        return {}
