from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from set_frequencies import set_p_value

from edgesea.errors import EdgeseaError
from edgesea.sampling.sensors import choose_sensors, read_positions

PLACES = {"a": (40.70, -74.00), "b": (40.71, -74.00), "c": (40.80, -73.95), "d": (40.72, -73.90), "e": (40.705, -74.0)}


def km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Distance by the spherical law of cosines."""
    (north, east), (north2, east2) = np.radians(one), np.radians(other)
    cosine = np.sin(north) * np.sin(north2) + np.cos(north) * np.cos(north2) * np.cos(east - east2)
    return float(6371.0088 * np.arccos(min(1.0, cosine)))


def test_far_sensors_are_drawn_with_the_probabilities_of_the_k_dpp() -> None:
    names = list(PLACES)
    distance = np.array([[km(PLACES[i], PLACES[j]) if i != j else 0.0 for j in names] for i in names])
    kernel = np.exp(-distance / np.median(distance[distance > 0]))
    weight = {s: float(np.linalg.det(kernel[np.ix_(s, s)])) for s in combinations(range(5), 3)}
    probability = {s: w / sum(weight.values()) for s, w in weight.items()}
    rng = np.random.default_rng(0)
    drawn = [[names.index(s) for s in choose_sensors(names, PLACES, 3, rng)] for _ in range(2000)]
    assert set_p_value(drawn, probability) > 0.01


def test_positions_are_read_from_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("sensor_id,lat,lon,x\n3,40.7,-74.0,1\n3,40.70001,-74.0,2\n12,40.8,-73.9,3\n")
    expected = {"3": (40.7, -74.0), "12": (40.8, -73.9)}
    assert read_positions(tmp_path / "p.csv") == expected
    (tmp_path / "p.csv").write_text(" Sensor , Latitude,Longitude\n 3 ,40.7,-74.0\n12,40.8,-73.9\nspare,,\n")
    assert read_positions(tmp_path / "p.csv") == expected
    columns = {"sensor": [3.0, 12.0], "latitude": [40.7, 40.8], "longitude": [-74.0, -73.9]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert read_positions(tmp_path / "p.parquet") == expected


def test_positions_of_the_real_annotations(shared_data: Path) -> None:
    found = read_positions(shared_data / "sonyc_ust" / "annotations_eval.csv")
    assert len(found) > 10
    assert all(40.4 < north < 41 and -74.3 < east < -73.6 for north, east in found.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sensor,latitude\na,1\n", "no column longitude or lon or lng; it has sensor, latitude"),
        ("sensor,latitude,longitude\na,x,1\n", r"sensor a: \('x', '1'\) is no latitude and longitude"),
        ("sensor,latitude,longitude\na,91,1\n", "is no latitude and longitude in degrees"),
        ("sensor,latitude,longitude\na,nan,1\n", "is no latitude and longitude in degrees"),
        ("sensor;latitude;longitude\na;1;1\n", "no column sensor .* .columns are separated by commas"),
        ("sensor,latitude,longitude\na,1\n", "is no latitude and longitude in degrees"),
        ("sensor,latitude,longitude\na,1,1\na,2,1\n", r"sensor a stands at \(1.0, 1.0\) and at \(2.0, 1.0\)"),
        ("sensor,latitude,longitude\n", "no rows; needed: sensor, latitude, longitude"),
        ("", "no rows"),
    ],
)
def test_bad_positions_name_the_file_and_the_sensor(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(EdgeseaError, match=message) as error:
        read_positions(tmp_path / "p.csv")
    assert str(error.value).startswith(str(tmp_path / "p.csv"))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match="no such file; it must name sensor, latitude and longitude"):
        read_positions(tmp_path / "none.csv")
    (tmp_path / "p.csv").write_bytes("sensor,latitude,longitude\n".encode("utf-16"))
    with pytest.raises(EdgeseaError, match=r"p\.csv: not UTF-8; save it as CSV in UTF-8"):
        read_positions(tmp_path / "p.csv")
    (tmp_path / "p.parquet").write_text("no parquet")
    with pytest.raises(EdgeseaError, match=r"p\.parquet: cannot be read"):
        read_positions(tmp_path / "p.parquet")


def test_sensors_that_cannot_be_chosen() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(EdgeseaError, match="no position of x, y; the file of positions knows a, b, c, d, e"):
        choose_sensors(["", "a", "x", "y"], PLACES, 2, rng)
    with pytest.raises(EdgeseaError, match=r"sensors must lie in 1 ... 2 .those of the table., not 3"):
        choose_sensors(["", "a", "b"], PLACES, 3, rng)
    with pytest.raises(EdgeseaError, match="the table knows no sensors"):
        choose_sensors([""], PLACES, 1, rng)
    same = {"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (2.0, 1.0)}
    with pytest.raises(EdgeseaError, match="cannot choose 3 sensors: the 3 of the table stand in 2 places"):
        choose_sensors(["a", "b", "c"], same, 3, rng)
    assert choose_sensors(["", "a", "b", "c"], same, 2, rng)[-1] == "c"
