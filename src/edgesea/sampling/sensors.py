"""Choosing sensors by where they stand, before windows are chosen from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import Float64, k_dpp, pivoted_cholesky
from edgesea.table.sheet import UNKNOWN, Sheet, as_text

COLUMNS = (("sensor", "sensor_id"), ("latitude", "lat"), ("longitude", "lon", "lng"))  # names in a file of positions
PLACE = ["latitude", "longitude"]
Position = tuple[float, float]  # latitude and longitude in degrees


def read_positions(path: Path) -> dict[str, Position]:
    """Positions of sensors from a CSV or Parquet file with sensor (or sensor_id), latitude and longitude.

    A sensor may have many rows, as in SONYC-UST's annotations.csv, if they agree to a ten-thousandth of a degree
    (about 10 m). Rows without a position are passed over: it is missing only if the table has this sensor.
    """
    sheet = Sheet.read(path)
    columns = [next((name for name in names if sheet.find(name)), names[0]) for names in COLUMNS]
    parts = [sheet.column(name) for name in columns]
    sheet.report(header for _, headers in parts for header in headers)
    rows = pd.DataFrame({name: cells for name, (cells, _) in zip(("sensor", *PLACE), parts, strict=True)})
    rows[PLACE] = rows[PLACE].replace([*UNKNOWN], "")
    rows = rows[(rows[PLACE] != "").any(axis=1)].drop_duplicates()
    rows[PLACE] = rows[PLACE].apply(pd.to_numeric, errors="coerce").astype(float)
    positions: dict[str, Position] = {}
    lines: dict[str, int] = {}
    for line, name, latitude, longitude in rows.itertuples(name=None):
        where = f"{path}: {sheet.unit} {line}: sensor {name}"
        if not (abs(latitude) <= 90 and -180 <= longitude <= 360):
            raise EdgeseaError(f"{where}: {latitude, longitude} are not degrees of latitude and longitude")
        known = positions.setdefault(name, (latitude, longitude))
        if max(abs(known[0] - latitude), abs(known[1] - longitude)) > 1e-4:
            other = f"{sheet.unit} {lines[name]} at {known}"
            raise EdgeseaError(f"{where} is at {latitude, longitude}, in {other}; correct one of them")
        lines.setdefault(name, line)
    return positions


def choose_sensors(
    sensors: Sequence[str], positions: Mapping[str, Position], count: int, rng: np.random.Generator
) -> list[str]:
    """Draw sensors far from each other, in the order given: a k-DPP on exp(-distance / median distance).

    "" stands for windows without a sensor, and is never chosen.
    """
    named = [sensor for sensor in sensors if sensor]
    if not named:
        raise EdgeseaError("the table has no sensors to choose; extract it with a manifest that has a column sensor")
    known = {sensor: positions.get(as_text(sensor)) for sensor in named}
    if missing := [sensor for sensor, place in known.items() if place is None]:
        raise EdgeseaError(f"no position of sensor {', '.join(missing[:8])}; add it to the file of positions")
    places = np.array(list(known.values()))
    most = len(np.unique(places, axis=0))
    if count > most:
        raise EdgeseaError(f"cannot choose {count} sensors: the {len(named)} of the table stand in {most} places")
    return [named[row] for row in k_dpp(position_features(places), count, rng=rng)]


def position_features(degrees: Float64) -> Float64:
    """Features (n, <= n) whose inner products are exp(-distance / median distance), along the earth's surface.

    Positions are rows of latitude and longitude, the median is that of different ones. This kernel, unlike the
    Gaussian one, is positive definite on a sphere: Feragen, Lauze & Hauberg, "Geodesic exponential kernels: when
    curvature and linearity conflict", CVPR 2015.
    """
    from sklearn.metrics.pairwise import haversine_distances

    distance = haversine_distances(np.radians(degrees))
    different = distance[distance > 1e-12 * distance.max()]
    kernel = np.exp(-distance / (np.median(different) if len(different) else 1.0))
    return pivoted_cholesky(np.diag(kernel), kernel.__getitem__, len(kernel), tolerance=1e-12)[1]
