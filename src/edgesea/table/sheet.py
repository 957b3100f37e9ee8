"""Tables that people write, as text: CSV from spreadsheets, pandas and R, or Parquet; errors name the line."""

import codecs
import csv
import gzip
import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edgesea.artifact import atomic_path
from edgesea.errors import EdgeseaError, say

SUFFIXES = (".csv", ".tsv", ".txt", ".gz", ".parquet")  # of tables; what they are is seen in the files
NAMED = 5  # of many bad values, so many are named
BLANKS = " \t\r\n\f\v\xa0\ufeff\u200b"
MISSING = frozenset(("nan", "NaN", "NaT", "<NA>", "#N/A", "null", "NULL"))
UNKNOWN = ("NA", "N/A", "n/a", "None")  # mean the same, except where they may be names
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx, .ods and .xls begin
SEPARATORS = ",;\t|"
END = "\x1e"  # stands behind the last line; an open quotation mark swallows it
# Cells that `as_text` may change, and numbers with a decimal comma
ODD = rf"^[{BLANKS}]|[{BLANKS}]$|^({'|'.join(map(re.escape, sorted(MISSING)))})$|\.0+$|^[+-]?\d+,\d+$"
_WHOLE = re.compile(r"-?(0|[1-9]\d*)\.0+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_FIELD = re.compile(r"\{([^{}]+)\}")


def some(values: Sequence[object], between: str = ", ") -> str:
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return between.join(map(str, values[:NAMED])) + more


def write_skipped(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write a list of clips that cannot be used, and why."""
    with atomic_path(path) as temporary, temporary.open("w", -1, "utf-8", "surrogateescape", "") as file:
        csv.writer(file, lineterminator="\n").writerows([("clip", "reason"), *rows])


def as_text(value: Any) -> str:
    """A cell as text: whole numbers without decimals, whoever made floats of them; "" for NaN and the like."""
    if type(value) is not str:  # most are
        if isinstance(value, float) and not math.isnan(value):
            return str(int(value)) if value.is_integer() else repr(value)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        if value is None or hasattr(value, "isoformat"):
            return "" if value is None else str(value.isoformat())
        value = json.dumps(value) if isinstance(value, list) else str(value)
    text: str = value.strip(BLANKS)
    if text in MISSING:
        return ""
    return text.partition(".")[0] if text[-1:] == "0" and _WHOLE.fullmatch(text) else text


@dataclass(frozen=True)
class Sheet:
    """A table with a header."""

    path: Path
    rows: pd.DataFrame  # cells, see `as_text`; the index is the line in the file
    unit: str = "line"  # what the index counts; row, of Parquet

    @classmethod
    def read(cls, path: Path, required: Iterable[str] = (), known: Iterable[str] = ()) -> "Sheet":
        """Read a table; the columns that `required` and `known` names mean get these names. Empty rows are left out.

        CSV may be in UTF-8, UTF-16 or Windows-1252, separated by commas, semicolons, tabs or bars, and gzipped.
        """
        try:
            text = None if path.suffix == ".parquet" else _read_text(path)
            sheet = cls(path, _read_parquet(path), "row") if text is None else cls(path, _read_csv(path, text))
        except FileNotFoundError:
            raise EdgeseaError(f"{path}: no such file") from None
        except EdgeseaError as error:
            raise EdgeseaError(f"{path}: {error}") from error.__cause__
        except (OSError, EOFError, ValueError, csv.Error) as error:  # of files, gzip, codecs and pyarrow
            raise EdgeseaError(f"{path}: cannot be read as a table in CSV or Parquet: {error}") from error
        rows = sheet.rows
        empty = (rows.loc[:, [bool(name) for name in rows]] == "").all(axis=1)
        again = (rows == [*rows]).all(axis=1)  # of several files joined to one
        for left_out, what in ((empty, "empty rows"), (again, "repetitions of the header")):
            if left_out.any():
                say(f"{path}: {what} left out: {left_out.sum()} ({sheet.places(rows.index[left_out])})")
        if (left_out := empty | again).any():
            rows = rows[~left_out]
        if rows.empty:
            raise EdgeseaError(f"{path}: no rows below a header; give a table in CSV or Parquet")
        meant = {sheet.find(name): name for name in (*required, *known)}
        sheet = cls(path, rows.rename(columns={header: name for header, name in meant.items() if header}), sheet.unit)
        sheet.require(required)
        return sheet

    def places(self, index: Iterable[object]) -> str:
        """Lines of the file, for a message."""
        return f"{self.unit} {some(list(index))}"

    def find(self, name: str) -> str | None:
        """The header that is meant by `name`, whatever its capitals, spaces, hyphens and underscores; None: none is."""
        headers = [str(header) for header in self.rows]
        found = [header for header in headers if header == name]
        found = found or [header for header in headers if header and _plain(header) == _plain(name)]
        if len(found) > 1:
            raise EdgeseaError(f"{self.path}: column {some(found)} is there twice; delete one")
        return found[0] if found else None

    def column(self, pattern: str) -> "tuple[pd.Series[str], list[str]]":
        """A column by its header, or one made as ``fold{fold}/{file}`` says; and the headers of what it is made of."""
        parts = [pattern] if self.find(pattern) else _FIELD.findall(pattern) or [pattern]
        self.require(parts)
        headers = [str(self.find(part)) for part in parts]
        if parts == [pattern]:
            return self.rows[headers[0]], headers
        texts: pd.Series[str] = pd.Series("", self.rows.index, dtype=object)
        given = pd.Series(True, self.rows.index)
        for place, piece in enumerate(_FIELD.split(pattern)):  # every second one is the name of a column
            cells = self.rows[self.find(piece)] if place % 2 else piece
            texts, given = texts + cells, given & (cells != "" if place % 2 else True)
        return texts.where(given, ""), headers

    def report(self, used: Iterable[str]) -> None:
        used = list(dict.fromkeys(used))
        ignored = some([header for header in self.rows if header and header not in used]) or "none"
        shown = some(used) if len(used) > 2 * NAMED else ", ".join(used)
        say(f"{self.path}: rows: {len(self.rows)}; columns used: {shown}; ignored: {ignored}")

    def require(self, names: Iterable[str]) -> None:
        if missing := [name for name in names if self.find(name) is None]:
            raise EdgeseaError(f"{self.path}: no column {some([*map(repr, missing)])}; it has {some([*self.rows])}")

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
            values = [f"{self.unit} {valid.index[row]}, {name}: {self.rows[name].iloc[row]!r}" for row, name in places]
            raise EdgeseaError(f"{self.path}: {some(values, '; ')}: must be {wanted}")


def _plain(header: str) -> str:
    return re.sub(r"[\s_-]+", "_", header.strip().casefold())


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = ["" if name.startswith("__index_level_") else as_text(name) for name in table.column_names]  # of pandas
    return _texts(table, as_text, 1).set_axis(names, axis=1)


def _texts(table: Any, text_of: Callable[[Any], str], first: int) -> pd.DataFrame:
    """The cells of a table of pyarrow as text, as they nearly always are; its rows are numbered from `first`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def texts(column: Any) -> Any:
        if pa.types.is_string(column.type) and not pc.any(pc.match_substring_regex(column, ODD)).as_py():
            return column.fill_null("").to_pandas().array
        return pd.array([text_of(cell) for cell in column.to_pylist()], dtype=object)

    index = range(first, first + table.num_rows)
    return pd.DataFrame({place: texts(column) for place, column in enumerate(table.columns)}, index)


def _read_plain(text: str, separator: str, text_of: Callable[[Any], str]) -> pd.DataFrame | None:
    """CSV without quotation marks and empty lines, read many times as fast; None of other CSV."""
    import pyarrow as pa
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    is_odd = "\r" in text and (text.count("\r") != text.count("\r\n") or "\n\r" in text)
    if is_odd or text.startswith(("\r", "\n")) or '"' in text or "\n\n" in text:
        return None
    width = text.partition("\n")[0].count(separator) + 1
    names = list(map(str, range(width)))
    layout = ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False)
    as_they_are = ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    try:
        options = ReadOptions(column_names=names, use_threads=False), layout, as_they_are
        table = read_csv(pa.py_buffer(text.encode()), *options)
    except pa.ArrowInvalid:  # not as many values in each line
        return None
    rows = _texts(table, text_of, 1)
    header = rows.iloc[0].tolist()
    return rows[1:].set_axis(header, axis=1) if any(header) else None


def _read_csv(path: Path, text: str) -> pd.DataFrame:
    first = found[0] if (found := re.search(r"\S[^\r\n]*", text)) else ""
    given = re.fullmatch(r'"?sep=(.)"?[,;\s]*', first)  # for Excel
    if given:
        text = text.replace(first, "", 1)
    separator = given[1] if given else max(SEPARATORS, key=re.sub(r'"[^"]*"', "", first).count)

    def with_point(cell: str) -> str:
        found = as_text(cell)
        return as_text(found.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(found) else found

    text_of = as_text if separator == "," else with_point  # else 1,5 may be a number
    if (plain := _read_plain(text, separator, text_of)) is not None:
        return plain
    lines, rows, line = list[int](), list[list[str]](), 1
    limit = csv.field_size_limit(1 << 30)  # lists of levels are long
    try:
        reader = csv.reader(io.StringIO(f"{text}\n{END}", ""), delimiter=separator, skipinitialspace=True)
        for row in reader:
            if row:
                lines.append(line)
                rows.append(row)
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)
    if rows.pop() != [END]:
        raise EdgeseaError(f"line {lines[-1]}: a quotation mark is opened and not closed")
    begin = next((place for place, row in enumerate(rows) if any(map(text_of, row))), len(rows))
    header, rows, lines = [*map(text_of, (rows[begin:] or [[]])[0])], rows[begin + 1 :], lines[begin + 1 : -1]
    width = len(header)
    odd = [(line, row) for line, row in zip(lines, rows, strict=True) if len(row) != width]
    other = [line for line, row in odd if len(row) < min(2, width) and any(mark in row[0] for mark in SEPARATORS)]
    if wide := [line for line, row in odd if any(map(text_of, row[width:]))] + other:
        raise EdgeseaError(f"line {some(wide)}: not {width} values separated by {separator!r}, as the header has")
    short = [line for line, row in odd if len(row) < width and any(map(text_of, row))]
    if short:  # Excel leaves out the last, if empty
        say(f"{path}: line {some(short)}: fewer values than the header has; the others are empty", logging.WARNING)
    for _, row in odd:
        row[:] = (row + [""] * width)[:width]
    columns = {place: [text_of(row[place]) for row in rows] for place in range(width)}
    return pd.DataFrame(columns, lines, dtype=object).set_axis(header, axis=1)


def _read_text(path: Path) -> str | None:
    """What a file holds, which may be a pipe; None of Parquet."""
    with path.open("rb") as raw:
        file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
        content = file.read(1 << 16)
        if content[:4] == b"PAR1":
            return None
        if content[:4] in WORKBOOKS:
            raise EdgeseaError("a workbook, not a table; save the sheet as CSV (UTF-8)")
        if content[:2] in UTF16:
            encoding = "utf-16"
        elif b"\0" in content[:2]:
            encoding = "utf-16-le" if content[0] else "utf-16-be"
        elif b"\0" in content:
            raise EdgeseaError("not a table in CSV or Parquet")
        else:
            encoding = "utf-8-sig"
        content += file.read()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8-sig":
            raise
    say(f"{path}: not UTF-8; what is not is read as Windows-1252", logging.WARNING)
    return content.decode(encoding, "windows")


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows", _as_windows)
