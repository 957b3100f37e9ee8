"""Published figures, which stand beside our own in tables."""

import csv
from pathlib import Path

from edgesea.errors import EdgeseaError
from edgesea.report.tables_systems import STUDENTS, TEACHER
from edgesea.sampling.methods import METHODS

COLUMNS = ("table", "row", "column", "value")
AUPRC = {"micro_auprc": "micro AUPRC", "macro_auprc": "macro AUPRC"}  # columns of table 2
OUT_OF_DOMAIN = {"urbansound8k": "UrbanSound8K", "esc50": "ESC-50", "esc10": "ESC-10"}  # columns of table 3
Published = dict[tuple[str, str, str], float]


def read_published(path: Path) -> Published:
    """Read published figures.

    Parameters
    ----------
    path : Path
        CSV; see `tables`.

    Returns
    -------
    dict of (table, row, column) to float

    Raises
    ------
    EdgeseaError
        If a column is missing, a table has no such row or column, or a value is no number in 0 ... 1 or given twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise EdgeseaError(f"{path}: no column {', '.join(missing)}; needed: {', '.join(COLUMNS)}")
            lines = [(reader.line_num, {name: (row[name] or "").strip() for name in COLUMNS}) for row in reader]
    except OSError as error:
        raise EdgeseaError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgeseaError(f"{path}: not CSV: {error}") from error
    found: Published = {}
    for line, row in lines:
        try:
            key, value = _place(row["table"], row["row"], row["column"]), _figure(row["value"])
            if key in found:
                raise EdgeseaError(f"table {key[0]} has {row['row']}, {row['column']} twice")
        except EdgeseaError as error:
            raise EdgeseaError(f"{path}, line {line}: {error}") from None
        found[key] = value
    return found


def _figure(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise EdgeseaError(f"value must be a number, not {text!r}") from None
    if not 0 <= value <= 1:
        raise EdgeseaError(f"value must lie in 0 ... 1, not {text}; write 72.5 % as 0.725")
    return value


def _place(table: str, row: str, column: str) -> tuple[str, str, str]:
    """Where a published figure belongs: table, row, column."""
    systems = (TEACHER, *STUDENTS)
    rows = {"2": systems, "3": systems, "4": tuple(METHODS)}
    if table not in rows:
        raise EdgeseaError(f"unknown table {table!r}; known: {', '.join(rows)}")
    if row not in rows[table]:
        raise EdgeseaError(f"table {table} has no row {row!r}; its rows: {', '.join(rows[table])}")
    if table != "4":
        columns = tuple(AUPRC if table == "2" else OUT_OF_DOMAIN)
        if column not in columns:
            raise EdgeseaError(f"table {table} has no column {column!r}; its columns: {', '.join(columns)}")
        return table, row, column
    system, _, size = column.partition("-")
    if system not in ("reduced", "student") or not size.isdecimal() or int(size) < 1:
        raise EdgeseaError(f"table 4 has no column {column!r}; its columns: reduced-N and student-N for N dimensions")
    return table, f"{row} {system}", str(int(size))
