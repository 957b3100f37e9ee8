"""A server that speaks what the tests need of the Sheets API v4, with a quota and with faults, and its credentials."""

import json
import re
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import gspread.http_client
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

API = "https://sheets.googleapis.com"
ACCOUNT = "bot@project.iam.gserviceaccount.com"
QUOTA = 60  # reads, and writes, in a minute


class ApiError(Exception):
    pass


@cache
def make_key() -> str:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class SheetsServer(ThreadingHTTPServer):
    """One spreadsheet with the id `book`; `faults` are what goes wrong with the next requests, None: nothing."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.tabs: dict[str, dict[str, Any]] = {}
        self.faults: list[Any] = []
        self.always: Any = None  # a fault of every request
        self.before_write: Callable[[], None] = lambda: None
        self.reads: list[float] = []
        self.writes: list[float] = []
        self.lock = Lock()
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def rows(self, tab: str) -> list[dict[str, Any]]:
        """The rows of a tab by the names of its header."""
        header, *rows = self.tabs[tab]["cells"]
        return [dict(zip(header, row + [None] * len(header), strict=False)) for row in rows if any(row)]

    def credentials(self, folder: Path) -> Path:
        """The JSON file of a service account with a key of its own."""
        info = {"type": "service_account", "client_email": ACCOUNT, "private_key": make_key(), "private_key_id": "1"}
        info |= {"token_uri": f"http://127.0.0.1:{self.server_port}/token", "project_id": "project"}
        (folder / "account.json").write_text(json.dumps(info))
        return folder / "account.json"

    def redirect(self, patch: pytest.MonkeyPatch) -> None:
        """Let gspread speak to this server."""
        for name, value in vars(gspread.http_client).items():
            if isinstance(value, str) and value.startswith(API):
                patch.setattr(gspread.http_client, name, value.replace(API, f"http://127.0.0.1:{self.server_port}"))

    def count(self, calls: list[float]) -> None:
        """Refuse what is beyond the quota."""
        calls.append(time.monotonic())
        if sum(call > calls[-1] - 60 for call in calls) > QUOTA:
            raise ApiError(429, "Quota exceeded for quota metric of service 'sheets.googleapis.com'")

    def values(self, place: str) -> list[list[Any]]:
        """Values in a range such as 'tab'!1:1 or 'tab'!B:B, without empty ends."""
        found = re.fullmatch(r"'(.+)'!(?:(1):1|([A-Z]+):\3)", place)
        if not found or found[1] not in self.tabs:
            raise ApiError(400, f"Unable to parse range: {place}")
        tab = self.tabs[found[1]]
        column = 0
        for letter in found[3] or "":
            column = column * 26 + ord(letter) - 64
        if column > tab["columns"]:
            raise ApiError(400, f"Range {place} exceeds grid limits")
        lines = tab["cells"][:1] if found[2] else [row[column - 1 : column] for row in tab["cells"]]
        shown = [[("" if cell is None else str(cell)) for cell in trimmed(line)] for line in lines]
        return trimmed(shown)

    def update(self, requests: list[dict[str, Any]]) -> None:
        """All of the requests, or none."""
        tabs = deepcopy(self.tabs)
        by_id = {tab["id"]: tab for tab in tabs.values()}
        for request in requests:
            ((kind, about),) = request.items()
            if kind == "addSheet":
                about = about["properties"]
                if about["title"] in tabs:
                    raise ApiError(400, f'A sheet with the name "{about["title"]}" already exists.')
                width = about["gridProperties"]["columnCount"]
                tabs[about["title"]] = by_id[about["sheetId"]] = {"id": about["sheetId"], "columns": width, "cells": []}
                continue
            place = about.get("start") or about.get("range") or about
            if place["sheetId"] not in by_id:
                raise ApiError(400, f"No grid with id: {place['sheetId']}")
            tab = by_id[place["sheetId"]]
            if kind == "appendDimension":
                tab["columns"] += about["length"]
            elif kind == "deleteDimension":
                assert place["dimension"] == "ROWS"
                del tab["cells"][place["startIndex"] : place["endIndex"]]
            else:
                assert about["fields"] == "userEnteredValue"
                ((line,),) = (row.values() for row in about["rows"])
                row = place.get("rowIndex", max((i + 1 for i, row in enumerate(tab["cells"]) if any(row)), default=0))
                column = place.get("columnIndex", 0)
                if column + len(line) > tab["columns"]:
                    raise ApiError(400, "Attempting to write column beyond the grid limits")
                tab["cells"] += [[] for _ in range(row + 1 - len(tab["cells"]))]
                cells = tab["cells"][row]
                cells += [None] * (column + len(line) - len(cells))
                cells[column : column + len(line)] = [typed(cell.get("userEnteredValue")) for cell in line]
        self.tabs = tabs


def typed(value: dict[str, Any] | None) -> Any:
    if value is None:
        return None
    ((kind, content),) = value.items()
    assert isinstance(content, {"stringValue": str, "numberValue": (int, float), "boolValue": bool}[kind])
    return content


def trimmed(line: list[Any]) -> list[Any]:
    return line[: max((i + 1 for i, cell in enumerate(line) if cell not in (None, "", [])), default=0)]


def serving(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[SheetsServer]:
    """A server in place of Google's, for a fixture."""
    patch.setenv("EDGESEA_CACHE", str(cache))
    found = SheetsServer()
    found.redirect(patch)
    yield found
    found.shutdown()
    found.server_close()


class Handler(BaseHTTPRequestHandler):
    server: SheetsServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.handle_call(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self.handle_call(b"")

    def handle_call(self, body: bytes) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        if path == "/token":
            return self.answer(200, {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
        fault = server.always or (server.faults.pop(0) if server.faults else None)
        try:
            assert self.headers["Authorization"] == "Bearer token"
            if isinstance(fault, float):
                time.sleep(fault)
            if isinstance(fault, tuple):
                raise ApiError(*fault)
            found = None if fault == "drop" else self.call(server, path, body)
            if isinstance(fault, str):
                self.close_connection = True
                return self.connection.shutdown(SHUT_RDWR)
            self.answer(200, found)
        except ApiError as error:
            code, message = error.args
            html = code == 502
            self.answer(code, b"<html>" if html else {"error": {"code": code, "message": message, "status": "X"}})
        except OSError:
            pass

    @staticmethod
    def call(server: SheetsServer, path: str, body: bytes) -> Any:
        with server.lock:
            server.count(server.writes if body else server.reads)
            if not path.startswith("/v4/spreadsheets/book"):
                raise ApiError(404, "Requested entity was not found.")
            rest = path.removeprefix("/v4/spreadsheets/book")
            if rest == ":batchUpdate":
                server.before_write()
                server.update(json.loads(body)["requests"])
                return {}
            if rest.startswith("/values/"):
                values = server.values(rest.removeprefix("/values/"))
                return {"range": rest, **({"values": values} if values else {})}
            assert not rest
            tabs = {"Sheet1": {"id": 0, "columns": 26}, **server.tabs}
            named = {title: (tab["id"], {"columnCount": tab["columns"]}) for title, tab in tabs.items()}
            found = [{"title": title, "sheetId": id, "gridProperties": grid} for title, (id, grid) in named.items()]
            return {"sheets": [{"properties": one} for one in found]}
