from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from set_frequencies import set_p_value

from edgesea.errors import EdgeseaError
from edgesea.sampling.sensors import choose_sensors, position_features, read_positions

PLACES = {"a": (40.70, -74.00), "b": (40.71, -74.00), "c": (40.80, -73.95), "d": (40.72, -73.90), "e": (40.705, -74.0)}


def test_far_sensors_are_drawn_with_the_probabilities_of_the_k_dpp():
    names = list(PLACES)
    features = position_features(np.array(list(PLACES.values())))
    kernel = features @ features.T
    weight = {s: float(np.linalg.det(kernel[np.ix_(s, s)])) for s in combinations(range(5), 3)}
    probability = {s: w / sum(weight.values()) for s, w in weight.items()}
    rng = np.random.default_rng(0)
    drawn = [[names.index(s) for s in choose_sensors(["", *names], PLACES, 3, rng)] for _ in range(2000)]
    assert set_p_value(drawn, probability) > 0.01


def test_positions_are_read_from_csv_and_parquet(tmp_path):
    (tmp_path / "p.csv").write_text("sensor_id,lat,lon,x\n3,40.7,-74.0,1\n3,40.70001,-74.0,2\n12,40.8,-73.9,3\n")
    expected = {"3": (40.7, -74.0), "12": (40.8, -73.9)}
    assert read_positions(tmp_path / "p.csv") == expected
    (tmp_path / "p.csv").write_text(" Sensor , Latitude,Longitude\n 3 ,40.7,-74.0\n12,40.8,-73.9\nspare,,\n")
    assert read_positions(tmp_path / "p.csv") == expected
    (tmp_path / "p.csv").write_text("sensor,latitude,longitude\nNA,40.7,-74.0\n012,1,2\n")
    assert list(read_positions(tmp_path / "p.csv")) == ["NA", "012"]
    columns = {"sensor": [3.0, 12.0, None], "latitude": [40.7, 40.8, None], "longitude": [-74.0, -73.9, None]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert read_positions(tmp_path / "p.parquet") == expected


def test_positions_of_the_real_annotations(shared_data):
    found = read_positions(shared_data / "sonyc_ust" / "annotations_eval.csv")
    assert len(found) > 10
    assert all(40.4 < north < 41 and -74.3 < east < -73.6 for north, east in found.values())


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"sensor,latitude\na,1\n", "longitude"),
        (b"sensor;latitude\na;1\n", "longitude"),
        (b"sensor,latitude,longitude\na7,x,1\n", "sensor a7.*nan"),
        (b"sensor,latitude,longitude\na7,91,1\n", "sensor a7.*91"),
        (b"sensor,latitude,longitude\na7,nan,1\n", "sensor a7.*nan"),
        (b"sensor,latitude,longitude\na7,1\n", "sensor a7"),
        (b"sensor,latitude,longitude\na7,1,1\na7,2,1\n", r"line 3.*sensor a7.*2\.0.*line 2.*1\.0"),
        (b"", ""),
        ("sensor,latitude,longitude\n".encode("utf-16"), ""),
        (None, ""),
    ],
)
def test_bad_positions_name_the_file_and_the_sensor(tmp_path, content, named):
    for path in (tmp_path / "p.csv", tmp_path / "p.parquet"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(EdgeseaError, match=rf"{path}.*{named if path.suffix == '.csv' else ''}"):
            read_positions(path)


@pytest.mark.parametrize(
    ("sensors", "count", "named"),
    [(["", "a", "x", "y"], 2, "x, y"), (["a", "e", "f"], 3, "3 sensors.* 2"), ([""], 1, "sensor")],
)
def test_sensors_that_cannot_be_chosen(sensors, count, named):
    places = {**PLACES, "f": PLACES["a"]}  # sensors in one place count once
    with pytest.raises(EdgeseaError, match=named):
        choose_sensors(sensors, places, count, np.random.default_rng(0))
    assert choose_sensors(["a", "e", "f"], places, 2, np.random.default_rng(0)).count("e") == 1


def test_positions_are_as_similar_as_they_are_near():
    # New York, a point 1 km north of it, London, and New York again.
    places = [(40.7128, -74.006), (40.7128 + 1 / 111.195, -74.006), (51.5074, -0.1278), (40.7128, -74.006 + 360)]
    features = position_features(np.array(places))
    distance = -np.log(features @ features.T)[0]
    assert 5570 * distance / distance[2] == pytest.approx([0, 1, 5570, 0], rel=1e-3, abs=1e-6)
