"""The row of a run in a Google Sheet, found by its key and written by the names of the columns.

An update reads the header and the column of the key, and then writes all at once. Cells are written with their types,
the strictest kind of RAW input: a text stays a text, even if it begins with =. Until it is written, a row lies in a
file of the `outbox`, in the user's cache.
"""

import logging
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from edgesea.artifact import digest, locked, plain, read_json, write_json
from edgesea.config import cache_folder, read_yaml
from edgesea.errors import EdgeseaError, needs
from edgesea.tracking.tracker import Run, Tracker, flat

SCOPES = ["https://www.googleapis.com/auth/spreadsheets"]
Place = tuple[dict[str, int], int, list[str], int | None]  # id and width of a tab, its header, and the index of a row
TIMEOUT = 60.0  # s without an answer; shorter ones risk that a row is added twice by a server that is only slow


@cache
def tabs() -> dict[str, Any]:
    """The tab of each command: its name (tab), its key, its columns and what is in them."""
    return read_yaml(Path(__file__).with_name("columns.yaml"))


def outbox() -> Path:
    """Folder of the rows that have not been written yet."""
    return cache_folder() / "track"


class Spreadsheet:
    """A Google Sheet that rows are written to."""

    def __init__(self, sheet: str | None, credentials: Path | None, interactive: bool = False) -> None:
        if not (sheet := sheet or os.environ.get("GSHEET_ID")):
            raise EdgeseaError("sheets: which sheet? Give --sheet, or GSHEET_ID in the environment: its id or address")
        self.id = re.sub(r"^https?://.*/d/([\w-]+).*", r"\1", sheet)
        self._http, self.account = _log_in(credentials, interactive)

    def put(self, tab: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Write the row of a run, but no cells that are None; make tab, header and row where they are absent."""
        place, width, header, index = self._find(tab, row) or self._add(tab)
        missing, requests = [name for name in tab["columns"] if name not in header], []
        if missing:
            if (more := len(header) + len(missing) - width) > 0:
                requests.append({"appendDimension": {**place, "dimension": "COLUMNS", "length": more}})
            requests.append(_cells(missing, **place, rowIndex=0, columnIndex=len(header)))
        values = {(header + missing).index(name): value for name, value in row.items() if value is not None}
        if index is None:
            requests.append(_cells([values.get(column) for column in range(max(values) + 1)], **place))
        else:
            values.pop(header.index(tab["key"]))
            for _, group in groupby(enumerate(sorted(values)), lambda pair: pair[1] - pair[0]):
                block = [column for _, column in group]
                cells = [values[column] for column in block]
                requests.append(_cells(cells, **place, rowIndex=index, columnIndex=block[0]))
        self._http.batch_update(self.id, {"requests": requests})

    def remove(self, tab: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Remove the row with the key of this one."""
        place, _, _, index = self._find(tab, row) or ({}, 0, [], None)
        if index is not None:
            rows = {**place, "dimension": "ROWS", "startIndex": index, "endIndex": index + 1}
            self._http.batch_update(self.id, {"requests": [{"deleteDimension": {"range": rows}}]})

    def _find(self, tab: Mapping[str, Any], row: Mapping[str, Any]) -> Place | None:
        """A tab, and the row with this key in it; None if there is no tab."""
        from gspread.utils import rowcol_to_a1

        name, key, fields = tab["tab"], tab["key"], "sheets.properties(sheetId,title,gridProperties.columnCount)"
        found = [one["properties"] for one in self._http.spreadsheets_get(self.id, {"fields": fields})["sheets"]]
        if not (about := next((one for one in found if one["title"] == name), None)):
            return None
        lines = self._http.values_get(self.id, f"'{name}'!1:1").get("values") or [[]]
        header, keys = [text.strip() for text in lines[0]], list[Any]()
        if key in header:
            letters = rowcol_to_a1(1, header.index(key) + 1)[:-1]
            keys = self._http.values_get(self.id, f"'{name}'!{letters}:{letters}").get("values") or []
        index = keys.index([row[key]]) if [row[key]] in keys else None
        return {"sheetId": about["sheetId"]}, about["gridProperties"]["columnCount"], header, index

    def _add(self, tab: Mapping[str, Any]) -> Place:
        """Make a tab and its header at once, which fails if another run has just made it."""
        place, columns = {"sheetId": random.getrandbits(31)}, list(tab["columns"])
        grid = {"columnCount": len(columns), "frozenRowCount": 1}  # frozen: whoever sorts the sheet spares the header
        add = {"addSheet": {"properties": {**place, "title": tab["tab"], "gridProperties": grid}}}
        header = _cells(columns, **place, rowIndex=0, columnIndex=0)
        self._http.batch_update(self.id, {"requests": [add, header]})
        return place, len(columns), columns, None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """In this block, errors that only a user can help become an EdgeseaError with the remedy."""
        from google.auth.exceptions import RefreshError
        from gspread.exceptions import APIError

        try:
            yield
        except APIError as error:
            status, text = error.response.status_code, error.error["message"]
            if status not in (401, 403, 404):
                raise
            todo = f"share the sheet with {self.account}, as an editor"
            if status == 404:
                todo = "the id of a sheet is the part of its address between /d/ and /edit"
            elif "has not been used" in text or "disabled" in text:
                todo = "enable the Google Sheets API of the project that the credentials belong to"
            raise EdgeseaError(f"sheet {self.id}: {text.rstrip('.')}; {todo}") from error
        except RefreshError as error:
            if error.retryable:
                raise
            raise EdgeseaError(f"Google refuses the credentials of {self.account}: {error}; make a new key") from error


def _cells(values: Sequence[Any], **place: int) -> dict[str, Any]:
    """A request that writes values side by side, in a new row unless `place` says where; None empties a cell."""
    kinds = {bool: "boolValue", int: "numberValue", float: "numberValue"}
    typed = [one if one is None else {kinds.get(type(one), "stringValue"): one} for one in values]
    cells = [{"userEnteredValue": one} if one else {} for one in typed]
    rows = {"rows": [{"values": cells}], "fields": "userEnteredValue"}
    return {"updateCells": {"start": place, **rows}} if "rowIndex" in place else {"appendCells": {**place, **rows}}


@needs("gspread", "track")
def _log_in(given: Path | None, interactive: bool) -> tuple[Any, str]:
    """A client, and the account that a sheet must be shared with; nothing is sent, unless a user may be asked."""
    import gspread
    from gspread import auth

    named = given or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    usual = [auth.DEFAULT_SERVICE_ACCOUNT_FILENAME, auth.DEFAULT_CREDENTIALS_FILENAME]
    path = Path(named) if named else next(filter(Path.is_file, usual), None)
    if path is None:
        raise EdgeseaError(
            f"sheets: no credentials; give --credentials: the JSON file of a service account or {usual[0]}"
        )
    info = read_json(path)
    try:
        if info.get("type") == "service_account":
            client = gspread.service_account(path, SCOPES)
        elif interactive or auth.DEFAULT_AUTHORIZED_USER_FILENAME.is_file():
            client = gspread.oauth(SCOPES, credentials_filename=path)
        else:
            raise EdgeseaError("nobody has agreed yet; call `edgesea track test` where a browser can ask you")
    except (ValueError, LookupError, AttributeError) as error:
        raise EdgeseaError(f"{path}: not usable as credentials: {error}") from error
    client.set_timeout(TIMEOUT)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of each retry
    return client.http_client, info.get("client_email", "the account that you log in with")


class SheetRow(Tracker):
    """The row of a run."""

    later = "`edgesea track sync` sends the row"
    pause, patience = 8.0, 30.0  # two runs of a user may make 60 reads and 60 writes a minute; these make 54 and 18

    def __init__(self, about: Run, sheet: Spreadsheet) -> None:
        super().__init__("sheets", about)
        self._sheet = sheet

    def send(self, ended: bool) -> None:
        """Write the row, and then one that another run could not."""
        command, row = self.about.command, cells(self.about)
        path = outbox() / f"{digest([self._sheet.id, command, row[tabs()[command]['key']]])[:24]}.json"
        write_json(path, {"sheet": self._sheet.id, "command": command, "row": row})
        deliver(self._sheet, path)
        with suppress(Exception):
            if any(deliver(self._sheet, other) for other in outbox().glob("*.json")) and not ended:
                self.ended.wait(self.pause)


def cells(run: Run) -> dict[str, Any]:
    """What is in the columns for a run; None: nothing yet."""
    best = {name: min(row[name] for row in run.history if name in row) for row in run.history[:1] for name in row}
    areas = run.results.get("coarse", run.results).get("class_auprc", {})
    tags = ", ".join(f"{tag} {area:.4f}" for tag, area in areas.items() if area is not None)
    latest = {"latest": {**run.history[-1]} if run.history else {}, "best": best, "coarse_tags": tags or None}
    known = flat(plain({**run.facts, "folder": run.folder, **run.results, **latest}))

    def value(text: str) -> Any:
        sign, _, name = text.partition(" ")
        if "{" in text:
            return text.format_map(known)
        return {"not": not known.get(name), "any": bool(known.get(name))}.get(sign, known.get(text))

    return {column: value(text) for column, text in tabs()[run.command]["columns"].items()}


def deliver(sheet: Spreadsheet, path: Path) -> bool:
    """Write the row in a file of the outbox, unless it is of another sheet or gone, and delete the file."""
    with ExitStack() as turn:
        while True:  # of two processes that send the same row, the second one shall find it there
            with suppress(EdgeseaError):
                turn.enter_context(locked(path.parent, stale=()))
                break
            time.sleep(0.2)
        entry = read_json(path) if path.is_file() else {}
        if entry.get("sheet") != sheet.id:
            return False
        with sheet.explained():
            sheet.put(tabs()[entry["command"]], entry["row"])
        if read_json(path) == entry:
            path.unlink()
        return True


def test(sheet: Spreadsheet) -> dict[str, Any]:
    """Write a row and remove it again."""
    tab, row = tabs()["distill"], {"Model Dir": f"edgesea track test {uuid4()}"}
    try:
        with sheet.explained():
            sheet.put(tab, row)
            sheet.remove(tab, row)
    except EdgeseaError:
        raise
    except Exception as error:
        text = f"Google Sheets does not answer ({error}); a proxy is named by HTTPS_PROXY in the environment"
        raise EdgeseaError(text) from error
    return {"sheet": sheet.id, "account": sheet.account, "test": "a row was written and removed"}


def sync(credentials: Path | None) -> dict[str, Any]:
    """Write all rows of the outbox."""
    paths, left = sorted(outbox().glob("*.json")), []
    for path in paths:
        time.sleep(1.0 if path != paths[0] else 0.0)  # within the quota
        try:
            deliver(Spreadsheet(read_json(path)["sheet"], credentials), path)
        except Exception as error:
            left.append(str(error))
    if left:
        raise EdgeseaError(f"{len(left)} of {len(paths)} rows could not be sent and stay in {outbox()}: {left[0]}")
    return {"sent": len(paths)}
