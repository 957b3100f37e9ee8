"""A run directory, read for the report."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesea.artifact import read_json
from edgesea.errors import EdgeseaError
from edgesea.reduction.base import REDUCTION_FILE

if TYPE_CHECKING:
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Table

# The pipeline's own names; it imports the report, so the report cannot import them from there.
RESULTS, STAMPS = "results.json", "stages.json"
TABLE, SUBSET, REDUCTION, STUDENT = "table", "subset.parquet", "reduction", "student"
SYSTEMS = ("teacher", "reduced", "student")


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds; the artifacts of stages may have been deleted to save space.

    Attributes
    ----------
    folder : Path
        The run directory.
    results : dict
        results.json.
    table : Table or None
        The table.
    skipped : list of (clip, reason)
        The table's skipped.csv.
    subset : Subset or None
        The windows that the reduction was fitted on.
    reduction : dict
        reduction.json; empty if it is missing.
    student : dict
        The student's config.json; empty if it is missing.
    history : list of dict
        Rows of metrics.csv.
    """

    folder: Path
    results: dict[str, Any]
    table: "Table | None"
    skipped: list[tuple[str, str]]
    subset: "Subset | None"
    reduction: dict[str, Any]
    student: dict[str, Any]
    history: list[dict[str, float]]

    def stage(self, name: str) -> dict[str, Any]:
        """What a stage returned; empty if it was not run."""
        result: dict[str, Any] = self.results.get(name) or {}
        return result

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores of each system; empty if the run has no task."""
        found = self.stage("evaluate")
        return {system: found[system] for system in SYSTEMS if system in found}


def read_run(folder: Path) -> RunFiles:
    """Read a finished run.

    Raises
    ------
    EdgeseaError
        If `folder` holds no run, the run is not finished, or a file is damaged.
    """
    from edgesea.sampling.subset import Subset
    from edgesea.table.reader import Table
    from edgesea.table.schema import SKIPPED_FILE, TABLE_FILE

    results = _read_results(folder)
    table = Table(folder / TABLE) if (folder / TABLE / TABLE_FILE).is_file() else None
    return RunFiles(
        folder,
        results,
        table,
        _read_skipped(folder / TABLE / SKIPPED_FILE),
        Subset.load(folder / SUBSET) if (folder / SUBSET).is_file() else None,
        _optional_json(folder / REDUCTION / REDUCTION_FILE),
        _optional_json(folder / STUDENT / "config.json"),
        _read_history(folder / STUDENT / "metrics.csv"),
    )


def _read_results(folder: Path) -> dict[str, Any]:
    """results.json of a run whose stages are all finished and are the ones that results.json speaks of."""
    if not (folder / RESULTS).is_file() and not (folder / STAMPS).is_file():
        what = "no run directory" if folder.is_dir() else "no such folder"
        raise EdgeseaError(f"{folder}: {what} (it has no {RESULTS}); make one: edgesea run")
    stamps = _optional_json(folder / STAMPS).get("stages", {})
    results = _optional_json(folder / RESULTS)
    # A run that was changed and killed leaves the results of the earlier one behind.
    open_stages = [
        name
        for name, stamp in stamps.items()
        if name in results and (not stamp.get("finished") or stamp.get("result") != results[name])
    ]
    if not results or open_stages:
        missing = ", ".join(open_stages) or f"no {RESULTS}"
        raise EdgeseaError(f"{folder}: unfinished run ({missing}); finish it by running the same `edgesea run` again")
    if not isinstance(results.get("extract"), dict) or not isinstance(results.get("config"), dict):
        raise EdgeseaError(f"{folder}: no run directory (its {RESULTS} is not a run's); make one: edgesea run")
    return results


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise EdgeseaError(f"{path}: not what edgesea wrote; delete it and run the same `edgesea run` again")
    return found


def _read_skipped(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [(row["clip"], row["reason"]) for row in csv.DictReader(file)]


def _read_history(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except (TypeError, ValueError, AttributeError) as error:
            raise EdgeseaError(
                f"{path}: damaged ({error}); delete {path.parent} and run `edgesea run` again"
            ) from error
