"""Choosing sensors by where they stand, before windows are chosen from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import k_dpp
from edgesea.sampling.similarity import position_features

COLUMNS = {"sensor": ("sensor", "sensor_id"), "latitude": ("latitude", "lat"), "longitude": ("longitude", "lon", "lng")}
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
    except FileNotFoundError:
        raise EdgeseaError(f"{path}: no such file; it must have the columns sensor, latitude and longitude") from None
    except (OSError, ValueError) as error:  # not UTF-8, no columns, not Parquet
        raise EdgeseaError(f"{path}: cannot be read: {error}; give a CSV file in UTF-8, or a Parquet file") from error
    names = {str(name).strip().casefold(): name for name in rows}
    found = {column: next((names[each] for each in known if each in names), None) for column, known in COLUMNS.items()}
    missing = [column for column, name in found.items() if name is None]
    if missing:
        raise EdgeseaError(f"{path}: no column {', '.join(missing)}; it has {', '.join(names)} (separated by commas)")
    rows = rows[list(found.values())].set_axis(list(COLUMNS), axis=1).drop_duplicates()
    rows = rows[rows["latitude"].notna() | rows["longitude"].notna()]
    degrees = rows[["latitude", "longitude"]].apply(pd.to_numeric, errors="coerce").to_numpy(float, na_value=np.nan)
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
    missing = [sensor for sensor in named if sensor not in positions]
    if missing:
        raise EdgeseaError(f"no position of sensor {', '.join(missing[:8])}; add it to the file of positions")
    places = np.array([positions[sensor] for sensor in named])
    most = len(np.unique(places, axis=0))
    if count > most:
        raise EdgeseaError(f"cannot choose {count} sensors: the {len(named)} of the table stand in {most} places")
    features = position_features(places[:, 0], places[:, 1])
    return [named[row] for row in k_dpp(features, count, rng=rng)]
