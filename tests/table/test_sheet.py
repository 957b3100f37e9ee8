import gzip
import logging

import pandas as pd
import pytest

from edgesea.errors import EdgeseaError
from edgesea.table.sheet import Sheet

PLAIN = "note,value,name\nx,1e-3,00123\n,-0.0,1e5\n7,.5,NA\n"
QUOTED = '"note","value","name"\n"x","1e-3","00123"\n"","-0.0","1e5"\n"two\nlines ""and"" quotes",".5","NA"\n'
SPACED = "note, value , name\nx, 1e-3 ,00123 \n\n, -0.0, 1e5\n ,,\n7 , .5 , NA\n\n"


@pytest.mark.parametrize("text", [PLAIN, QUOTED, SPACED])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_may_be_written_in_many_ways(tmp_path, text, end):
    for content in (text, "\ufeff" + text.rstrip("\n")):
        (tmp_path / "t.csv").write_bytes(content.replace("\n", end).encode())
        table = Sheet.read(tmp_path / "t.csv", ["name"])
        assert table.rows["name"].tolist() == ["00123", "1e5", "NA"]
        assert table.numbers(["value"])["value"].tolist() == [1e-3, 0, 0.5]


@pytest.mark.parametrize(
    "content",
    [
        "path;fold;level\r\nStraße.wav;5,0;65,5\r\nb.wav;;nan\r\n;;\r\n".encode("cp1252"),
        "Path\tFold\tLevel\r\nStraße.wav\t5\t65.5\r\n\t\t\r\nb.wav\r\n".encode("utf-16"),
        'sep=|\n"PATH " |fold|level\n"Straße.wav"| 5.0 |65.5\nPATH |fold|level\nb.wav|NaN\n'.encode("utf-16-le"),
        gzip.compress(b"\n,path,FOLD, level ,\n0,Stra\xc3\x9fe.wav,5.00,65.5,\n1,b.wav,<NA>,\n2,,,\n"),
    ],
    ids=["Excel", "Excel's Unicode text", "joined", "pandas"],
)
def test_spreadsheets_and_pandas_have_their_ways(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    rows = Sheet.read(tmp_path / "t.csv", ["path", "level"], ["fold"]).rows
    assert rows[["path", "fold", "level"]].to_numpy().tolist() == [["Straße.wav", "5", "65.5"], ["b.wav", "", ""]]


def test_parquet_is_read_as_the_same_text(tmp_path):
    columns = {"id": [1.0, None, 3.0], "time": pd.to_datetime(["2020-05-01T12:30:00", None, None])}
    columns |= {"level": [[50.0, 60.5], None, None], "name": pd.Categorical([" a ", None, "01"])}
    frame = pd.DataFrame(columns, index=[7, 8, 9])
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "parts.parquet").mkdir()
    for part in range(3):
        frame[part : part + 1].to_parquet(tmp_path / "parts.parquet" / f"{part}.parquet")
    for name in ("t.parquet", "parts.parquet"):
        sheet = Sheet.read(tmp_path / name, ["ID"])
        wanted = [["1", "2020-05-01T12:30:00", "[50.0, 60.5]", "a"], ["3", "", "", "01"]]
        assert sheet.rows[["ID", "time", "level", "name"]].to_numpy().tolist() == wanted
        assert sheet.places(sheet.rows.index) == "row 1, 3"


def test_columns_are_found_made_and_reported(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "t.csv").write_text("Slice File-Name,fold,note,note,\na.wav,1.0,x,y,\nb.wav,,x,y,\n,,\n")
    sheet = Sheet.read(tmp_path / "t.csv")
    cells, headers = sheet.column("fold{fold}/{slice_file_name}")
    assert (cells.tolist(), headers) == (["fold1/a.wav", ""], ["fold", "Slice File-Name"])
    sheet.report(headers)
    assert "fold, Slice File-Name; ignored: note" in caplog.text
    assert "line 4" in caplog.text  # empty
    for bad in ("note", "{folder}/x", "file"):
        with pytest.raises(EdgeseaError) as caught:
            sheet.column(bad)
        assert str(tmp_path / "t.csv") in str(caught.value)


def test_what_is_not_a_table_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    for content, word in (
        *((content, "") for content in (b"", b"\n\n", b"name,value\n", b"RIFF\0\0wave\n", b"PK\x03\x04")),
        *((b'name,value\n"a,0\n', "line 2"), (b'name,value\nb,0\n"a,\n1\n\n', "line 3")),
        *((b"name;value\na,1\n", "line 2"), (b"name,value\na,1\nb,1,2\n", "line 3")),
        *((b"name,value,name\na,1,2\n", "name"), (b"title,value\na,1\n", "title, value")),
    ):
        path.write_bytes(content)
        with pytest.raises(EdgeseaError) as caught:
            Sheet.read(path, ["name"])
        assert all(part in str(caught.value) for part in (str(path), word))


def test_plain_and_quoted_csv_are_read_alike(tmp_path):
    rows = [["path", " n ", "x"], ["a b", "1.0", "nan"], [" c", "2.50", ""], ["d", "3", "NA"]]
    for separator in ",;\t":
        texts = (
            "\r\n".join(separator.join(row) for row in some) for some in (rows, [["path", '" n "', "x"], *rows[1:]])
        )
        for name, text in zip(("plain", "quoted"), texts, strict=True):
            (tmp_path / f"{name}.csv").write_text(text)
        plain, quoted = (Sheet.read(tmp_path / f"{name}.csv").rows for name in ("plain", "quoted"))
        assert plain.astype(object).equals(quoted)
        assert [*plain.index] == [2, 3, 4]
        assert plain["n"].tolist() == ["1", "2.50", "3"]
