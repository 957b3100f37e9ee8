"""CSV tables as text, whose errors name the lines that are wrong."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesea.errors import EdgeseaError

CLIP = "audio_filename"
NAMED = 5  # of many that are wrong, so many are named in a message


@dataclass(frozen=True)
class Rows:
    """A CSV table, as text: clips may have names that look like numbers, and which line is wrong must be told.

    Attributes
    ----------
    path : Path
        Where it was read.
    lines : ndarray, (R,) int64
        The line of the file that each row begins in; the header is line 1.
    columns : dict
        Name -> the R values.
    """

    path: Path
    lines: NDArray[np.int64]
    columns: dict[str, tuple[str, ...]]

    def require(self, names: Collection[str]) -> None:
        """Raise an `EdgeseaError` unless there are columns of these names."""
        if missing := [name for name in names if name not in self.columns]:
            raise EdgeseaError(f"{self.path}: no column {some(missing)}; it has {some(list(self.columns))}")

    def text(self, name: str) -> NDArray[np.str_]:
        """The values of a column without spaces around them, (R,)."""
        return np.array([value.strip() for value in self.columns[name]], np.str_)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The values of some columns, (R, columns); NaN for what is no number."""
        result = np.empty((len(self.lines), len(names)))
        for column, name in enumerate(names):
            values = {text: _number(text) for text in set(self.columns[name])}
            result[:, column] = [values[text] for text in self.columns[name]]
        return result

    def refuse(self, wrong: NDArray[np.bool_], names: Sequence[str], wanted: str) -> None:
        """Raise an `EdgeseaError` that names lines, columns and values where `wrong`, (R, columns), if anywhere."""
        places = np.argwhere(wrong)
        if len(places):
            found = [
                f"line {self.lines[row]}, {names[column]}: {self.columns[names[column]][row]!r}"
                for row, column in places[:NAMED]
            ]
            more = f"; {len(places) - NAMED} more" if len(places) > NAMED else ""
            raise EdgeseaError(f"{self.path}: {'; '.join(found)}{more}; it must be {wanted}")

    def clips(self) -> NDArray[np.str_]:
        """Names of the clips, (R,).

        Raises
        ------
        EdgeseaError
            If there is no such column, or a name is empty.
        """
        self.require([CLIP])
        clips = self.text(CLIP)
        self.refuse((clips == "")[:, None], [CLIP], "the name of a clip")
        return clips

    def distinct_clips(self) -> NDArray[np.str_]:
        """Names of the clips, (R,), where each clip has one row.

        Raises
        ------
        EdgeseaError
            As `clips`; or if a clip has several rows.
        """
        clips = self.clips()
        _, first, owner = np.unique(clips, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[owner] != np.arange(len(clips)))
        if len(again):
            pairs = [f"{clips[row]} in lines {self.lines[first[owner[row]]]} and {self.lines[row]}" for row in again]
            raise EdgeseaError(f"{self.path}: a clip must have one row: {some(pairs, '; ')}")
        return clips


def some(names: Sequence[str] | NDArray[np.str_], between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return between.join(map(str, names[:NAMED])) + more


def _number(text: str) -> float:
    """As Python reads it, to the last bit; NaN if it is no number."""
    try:
        return float("nan") if "_" in text else float(text)
    except ValueError:
        return float("nan")


def read_rows(path: Path) -> Rows:
    """Read a CSV table in UTF-8; lines that are empty are left out.

    Raises
    ------
    EdgeseaError
        If it cannot be read, has no rows, names a column twice, or a row has not as many values as there are columns.
    """
    try:
        # With a byte order mark or not, and lines ended in any way.
        with path.open(newline="", encoding="utf-8-sig") as file:
            records = _records(file)
            header = [name.strip() for name in next(records, (1, []))[1]]
            rows = list(records)
    except FileNotFoundError:
        raise EdgeseaError(f"{path}: no such file") from None
    except OSError as error:
        raise EdgeseaError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgeseaError(f"{path}: not a CSV table in UTF-8: {error}") from error
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise EdgeseaError(f"{path}: column {some(twice)} is there twice; delete one")
    if not rows:
        raise EdgeseaError(f"{path}: no rows in it" if header else f"{path}: the file is empty")
    if ragged := [f"line {line} has {len(row)}" for line, row in rows if len(row) != len(header)]:
        raise EdgeseaError(f"{path}: there are {len(header)} columns, but {some(ragged)} values")
    values = zip(*(row for _, row in rows), strict=True)
    return Rows(path, np.array([line for line, _ in rows]), dict(zip(header, values, strict=True)))


def _records(file: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file that are not empty, each with the line that it begins in."""
    reader = csv.reader(file, skipinitialspace=True, strict=True)
    line = 1
    for record in reader:
        if any(map(str.strip, record)):
            yield line, record
        line = reader.line_num + 1
