"""Choosing sensors by where they stand, before windows are chosen from them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesea.errors import EdgeseaError
from edgesea.sampling.dpp import k_dpp
from edgesea.sampling.similarity import position_features

NAMES = {"sensor": ("sensor", "sensor_id"), "latitude": ("latitude", "lat"), "longitude": ("longitude", "lon", "lng")}


def read_positions(path: Path) -> dict[str, tuple[float, float]]:
    """Positions of sensors, in degrees.

    Parameters
    ----------
    path : Path
        CSV or Parquet file with the columns sensor (or sensor_id), latitude and longitude. A sensor may have many rows,
        as in SONYC-UST's annotations.csv, if they agree to a ten-thousandth of a degree (about 10 m).

    Returns
    -------
    dict of str to (latitude, longitude)

    Raises
    ------
    EdgeseaError
        If the file or a column is missing, or a row is no position or contradicts another one.
    """
    rows = _rows(path)
    if not rows:
        raise EdgeseaError(f"{path}: no rows; needed: sensor, latitude, longitude")
    known_as = {str(name).strip().casefold(): name for name in rows[0]}
    columns = {}
    for wanted, names in NAMES.items():
        present = [known_as[name] for name in names if name in known_as]
        if not present:
            raise EdgeseaError(
                f"{path}: no column {' or '.join(names)}; it has {', '.join(map(str, rows[0]))} (columns are separated "
                "by commas)"
            )
        columns[wanted] = present[0]
    positions: dict[str, tuple[float, float]] = {}
    for row in rows:
        sensor = _id(row[columns["sensor"]])
        try:
            here = float(row[columns["latitude"]]), float(row[columns["longitude"]])
        except (TypeError, ValueError):
            here = (np.nan, np.nan)
        if not any(row[columns[name]] not in (None, "") for name in ("latitude", "longitude")):
            continue  # it matters only if the table has this sensor
        if not (abs(here[0]) <= 90 and -180 <= here[1] <= 360):
            given = row[columns["latitude"]], row[columns["longitude"]]
            raise EdgeseaError(f"{path}: sensor {sensor}: {given} is no latitude and longitude in degrees")
        known = positions.setdefault(sensor, here)
        if max(abs(known[0] - here[0]), abs(known[1] - here[1])) > 1e-4:
            raise EdgeseaError(f"{path}: sensor {sensor} stands at {known} and at {here}")
    return positions


def _id(value: Any) -> str:
    """A sensor's id as a manifest has it: a column of whole numbers with gaps comes as floating-point numbers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows: list[Mapping[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            return rows
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise EdgeseaError(f"{path}: no such file; it must name sensor, latitude and longitude") from None
    except UnicodeDecodeError:
        raise EdgeseaError(f"{path}: not UTF-8; save it as CSV in UTF-8") from None
    except (OSError, ValueError, csv.Error) as error:
        raise EdgeseaError(f"{path}: cannot be read: {error}") from error


def choose_sensors(
    sensors: Sequence[str], positions: Mapping[str, tuple[float, float]], count: int, rng: np.random.Generator
) -> list[str]:
    """Draw sensors that stand far from each other: a k-DPP on exp(-distance / median distance).

    Parameters
    ----------
    sensors : sequence of str
        The sensors of a table; "" for windows without one, which are never chosen.
    positions : mapping of str to (latitude, longitude)
        In degrees.
    count : int
        How many.
    rng : Generator
        Source of randomness.

    Returns
    -------
    list of str
        In the order of `sensors`.

    Raises
    ------
    EdgeseaError
        If a sensor has no position, or fewer than `count` places are different.
    """
    named = [sensor for sensor in sensors if sensor]
    if not named:
        raise EdgeseaError("the table knows no sensors, so none can be chosen; extract it from a manifest with sensors")
    lost = [sensor for sensor in named if sensor not in positions]
    if lost:
        raise EdgeseaError(f"no position of {_listed(lost)}; the file of positions knows {_listed(list(positions))}")
    if not 1 <= count <= len(named):
        raise EdgeseaError(f"sensors must lie in 1 ... {len(named)} (those of the table), not {count}")
    places = np.array([positions[sensor] for sensor in named])
    different = len(np.unique(places, axis=0))
    if count > different:
        raise EdgeseaError(f"cannot choose {count} sensors: the {len(named)} of the table stand in {different} places")
    features = position_features(places[:, 0], places[:, 1])
    return [named[row] for row in k_dpp(features, count, rng=rng)]


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
