"""CSV tables as text: names of clips may look like numbers, and errors name the line of a bad value."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from edgesea.errors import EdgeseaError

NAMED = 5  # of many bad values, so many are named


@dataclass(frozen=True)
class CsvTable:
    """A CSV file with a header."""

    path: Path
    rows: pd.DataFrame  # text without spaces around it; the index is the line in the file

    @classmethod
    def read(cls, path: Path, required: Iterable[str] = ()) -> "CsvTable":
        """Read a table in UTF-8 that has some columns; empty lines are left out."""
        try:
            raw = pd.read_csv(
                path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False,
                encoding="utf-8-sig", engine="python",  # which tells missing values from empty ones
            )  # fmt: skip
        except pd.errors.EmptyDataError:
            raw = pd.DataFrame()
        except OSError as error:
            raise EdgeseaError(f"{path}: {error.strerror or error}") from error
        except (UnicodeDecodeError, pd.errors.ParserError, csv.Error) as error:
            raise EdgeseaError(f"{path}: not a CSV table in UTF-8: {error}") from error
        raw = raw.apply(lambda column: column.str.strip()).set_axis(raw.index + 1)
        raw = raw[(raw.notna() & (raw != "")).any(axis=1)]
        if len(raw) < 2:
            raise EdgeseaError(f"{path}: no rows below a header")
        rows = raw.iloc[1:].set_axis(raw.iloc[0].tolist(), axis=1)
        if (twice := rows.columns.duplicated() & (rows.columns != "")).any():
            raise EdgeseaError(f"{path}: column {some(rows.columns[twice])} is there twice; delete one")
        if (short := rows.isna().any(axis=1)).any():
            raise EdgeseaError(f"{path}: line {some(rows.index[short])}: fewer values than the {len(raw.T)} columns")
        table = cls(path, rows)
        table.require(required)
        return table

    def require(self, names: Iterable[str]) -> None:
        """Raise EdgeseaError unless there are columns of these names."""
        if missing := [name for name in names if name not in self.rows]:
            raise EdgeseaError(f"{self.path}: no column {some(missing)}; it has {some(list(self.rows))}")

    def numbers(self, names: Sequence[str]) -> pd.DataFrame:
        """Some columns as numbers, exact to the last bit; NaN for what is not a number."""
        columns = {name: self.rows[name] for name in names}
        values = {
            name: column.map({text: _number(text) for text in column.unique()}) for name, column in columns.items()
        }
        return pd.DataFrame(values, dtype=float)

    def check(self, valid: "pd.DataFrame | pd.Series[bool]", wanted: str) -> None:
        """Raise EdgeseaError with lines, columns and values where columns of this table are not `valid`."""
        valid = pd.DataFrame(valid)
        lines, names = valid.index, [str(name) for name in valid.columns]
        if len(wrong := np.argwhere(~valid.to_numpy(bool))):
            values = [f"line {lines[row]}, {names[k]}: {self.rows[names[k]].iloc[row]!r}" for row, k in wrong]
            raise EdgeseaError(f"{self.path}: {some(values, '; ')}: must be {wanted}")


def some(values: Sequence[object] | pd.Index, between: str = ", ") -> str:
    """The first few values, and how many more there are."""
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return between.join(map(str, values[:NAMED])) + more


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
