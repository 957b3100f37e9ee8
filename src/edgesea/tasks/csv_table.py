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
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, skipinitialspace=True)
                rows = [(reader.line_num, [value.strip() for value in row]) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise EdgeseaError(f"{path}: cannot be read as a CSV table in UTF-8: {error}") from error
        (_, header), *rows = [row for row in rows if any(row[1])] or [(0, [""])]
        if not rows:
            raise EdgeseaError(f"{path}: no rows below a header")
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            raise EdgeseaError(f"{path}: column {some(twice)} is there twice; delete one")
        if uneven := [line for line, values in rows if len(values) != len(header)]:
            raise EdgeseaError(f"{path}: line {some(uneven)}: must have {len(header)} values, as the header has")
        lines, values = zip(*rows, strict=True)
        table = cls(path, pd.DataFrame(list(values), lines, header))
        table.require(required)
        return table

    def require(self, names: Iterable[str]) -> None:
        """Raise EdgeseaError unless there are columns of these names."""
        if missing := [name for name in names if name not in self.rows]:
            raise EdgeseaError(f"{self.path}: no column {some(missing)}; it has {some(list(self.rows))}")

    def has(self, names: Sequence[str]) -> bool:
        """Whether there are columns of these names; EdgeseaError if there are some, but not all."""
        if found := any(name in self.rows for name in names):
            self.require(names)
        return found

    def numbers(self, names: Iterable[str]) -> pd.DataFrame:
        """Some columns as numbers, exact to the last bit; NaN for what is not a number."""
        numbers: pd.DataFrame = self.rows[list(names)].apply(pd.to_numeric, errors="coerce").astype(float)
        return numbers

    def check(self, valid: "pd.DataFrame | pd.Series[bool]", wanted: str) -> None:
        """Raise EdgeseaError with lines, columns and values where columns of this table are not `valid`."""
        valid = pd.DataFrame(valid)
        if len(wrong := np.argwhere(~valid.to_numpy(bool))):
            places = [(row, str(valid.columns[column])) for row, column in wrong]
            values = [f"line {valid.index[row]}, {name}: {self.rows[name].iloc[row]!r}" for row, name in places]
            raise EdgeseaError(f"{self.path}: {some(values, '; ')}: must be {wanted}")


def some(values: Sequence[object], between: str = ", ") -> str:
    """The first few values, and how many more there are."""
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return between.join(map(str, values[:NAMED])) + more
