"""Choosing sensors by where they stand, before windows are chosen from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import Float64, k_dpp, pivoted_cholesky

COLUMNS = (("sensor", "sensor_id"), ("latitude", "lat"), ("longitude", "lon", "lng"))  # names in a file of positions
PLACE = ["latitude", "longitude"]
Position = tuple[float, float]  # latitude and longitude in degrees


def read_positions(path: Path) -> dict[str, Position]:
    """Positions of sensors from a CSV or Parquet file with sensor (or sensor_id), latitude and longitude.

    A sensor may have many rows, as in SONYC-UST's annotations.csv, if they agree to a ten-thousandth of a degree
    (about 10 m). Rows without a position are passed over: it is missing only if the table has this sensor.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            rows = pd.read_parquet(path).convert_dtypes()  # whole numbers stay whole in a column with gaps
        else:
            rows = pd.read_csv(path, dtype=str, encoding="utf-8-sig", keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:  # no such file, not UTF-8, no columns, not Parquet
        wanted = "give a CSV file in UTF-8, or a Parquet file, with the columns sensor, latitude and longitude"
        raise EdgeseaError(f"{path}: cannot be read: {error}; {wanted}") from error
    rows = rows.rename(columns=lambda name: str(name).strip().casefold())
    columns = [next((name for name in known if name in rows), known[0]) for known in COLUMNS]
    if missing := [name for name in columns if name not in rows]:
        raise EdgeseaError(f"{path}: no column {', '.join(missing)}; it has {', '.join(rows.columns)}")
    rows = rows[columns].set_axis(["sensor", *PLACE], axis=1).dropna(how="all", subset=PLACE).drop_duplicates()
    degrees = rows[PLACE].apply(pd.to_numeric, errors="coerce").to_numpy(float, na_value=np.nan)
    positions: dict[str, Position] = {}
    for name, (latitude, longitude) in zip(rows["sensor"].astype(str).str.strip(), degrees.tolist(), strict=True):
        if not (abs(latitude) <= 90 and -180 <= longitude <= 360):
            raise EdgeseaError(f"{path}: sensor {name}: {latitude, longitude} are not degrees of latitude, longitude")
        known = positions.setdefault(name, (latitude, longitude))
        if max(abs(known[0] - latitude), abs(known[1] - longitude)) > 1e-4:
            raise EdgeseaError(f"{path}: sensor {name} is at {known} and at {latitude, longitude}; keep one of them")
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
    if missing := [sensor for sensor in named if sensor not in positions]:
        raise EdgeseaError(f"no position of sensor {', '.join(missing[:8])}; add it to the file of positions")
    places = np.array([positions[sensor] for sensor in named])
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
