from pathlib import Path

import pytest

from edgesea.errors import EdgeseaError
from edgesea.table.sheet import Sheet

PLAIN = "note,value,name\nx,1e-3,00123\n,-0.0,1e5\n7,.5,NA\n"
QUOTED = '"note","value","name"\n"x","1e-3","00123"\n"","-0.0","1e5"\n"two\nlines ""and"" quotes",".5","NA"\n'
SPACED = "note, value , name\nx, 1e-3 ,00123 \n\n, -0.0, 1e5\n ,,\n7 , .5 , NA\n\n"


@pytest.mark.parametrize("text", [PLAIN, QUOTED, SPACED])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_may_be_written_in_many_ways(tmp_path: Path, text: str, end: str) -> None:
    for content in (text, "\ufeff" + text.rstrip("\n")):
        (tmp_path / "t.csv").write_bytes(content.replace("\n", end).encode())
        table = Sheet.read(tmp_path / "t.csv", ["name"])
        assert table.rows["name"].tolist() == ["00123", "1e5", "NA"]
        assert table.numbers(["value"])["value"].tolist() == [1e-3, 0, 0.5]


def test_what_is_not_a_table_is_refused(tmp_path: Path) -> None:
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
