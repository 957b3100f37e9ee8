from pathlib import Path

import numpy as np
import pytest

from edgesea.errors import EdgeseaError
from edgesea.tasks.csv_table import CsvTable

PLAIN = "note,value,name\nx,1e-3,00123\n,-0.0,1e5\n7,.5,NA\n"
QUOTED = '"note","value","name"\n"x","1e-3","00123"\n"","-0.0","1e5"\n"two\nlines ""and"" quotes",".5","NA"\n'
SPACED = "note, value , name\nx, 1e-3 ,00123 \n\n, -0.0, 1e5\n ,,\n7 , .5 , NA\n\n"


@pytest.mark.parametrize("text", [PLAIN, QUOTED, SPACED])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_may_be_written_in_many_ways(tmp_path: Path, text: str, end: str, mark: str) -> None:
    for content in (text, text.rstrip("\n")):
        (tmp_path / "t.csv").write_bytes((mark + content.replace("\n", end)).encode())
        table = CsvTable.read(tmp_path / "t.csv", ["name"])
        assert table.rows["name"].tolist() == ["00123", "1e5", "NA"]
        assert table.numbers(["value"])["value"].tolist() == [1e-3, 0, 0.5]


def test_numbers_are_read_to_the_last_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(300) * 10.0 ** rng.integers(-300, 1, 300)
    values[:6] = -0.0, 1.0, 5e-324, np.nextafter(1, 0), 0.1 + 0.2, 1e-3
    (tmp_path / "t.csv").write_text("x\n" + "".join(f"{value}\n" for value in values.tolist()))
    assert CsvTable.read(tmp_path / "t.csv").numbers(["x"])["x"].to_numpy().tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"name,value\n", []),
        ("name,value\na,1\n".encode("utf-16"), []),
        (b"name,value\ncaf\xe9,0\n", []),
        (b'name,value\n"a,0\n', []),
        (b"name;value\na,1\n", ["line 2"]),
        (b"name,value\na,1\nb,1,2\n", ["line 3"]),
        (b"name,value\na,1\nb\n", ["line 3"]),  # a value is missing, but which?
        (b"name,value,name\na,1,2\n", ["name"]),
        (b"title,value\na,1\n", ["no column name", "title, value"]),
    ],
)
def test_what_is_not_a_table_is_refused(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(EdgeseaError) as caught:
        CsvTable.read(path, ["name"])
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(EdgeseaError) as caught:
            CsvTable.read(path)
        assert str(path) in str(caught.value)


def test_a_few_of_many_bad_values_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,value\n\n" + "".join(f"{n},7\n" for n in range(8)) + "8,x\n")
    table = CsvTable.read(tmp_path / "t.csv")
    numbers = table.numbers(["value"])
    assert np.isnan(numbers["value"].iloc[-1])
    with pytest.raises(EdgeseaError) as caught:
        table.check(numbers < 1, "small")
    assert str(caught.value).startswith(f"{tmp_path / 't.csv'}: line 3, value: '7'; line 4, value: '7';")
    assert "and 4 more" in str(caught.value)
