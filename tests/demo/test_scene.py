"""Sensors and clips: levels, habits, headroom."""

import numpy as np
import pytest

from edgesea.demo.plan import make_plans
from edgesea.demo.scene import PEAK, Event, draw_events, levels, render
from edgesea.demo.sensors import Sensor, activity, background_level, make_sensor, rate
from edgesea.demo.taxonomy import COARSE, sure_codes

RATE = 8000


@pytest.fixture
def sensor() -> Sensor:
    return make_sensor(0, RATE, np.random.default_rng(0))


def play(sensor: Sensor, events: list[Event], seed: int = 0) -> tuple[np.ndarray, list[Event]]:
    return render(events, sensor, 12.0, samples=4 * RATE, sample_rate=RATE, rng=np.random.default_rng(seed))


def test_background_has_the_level_of_the_hour(sensor: Sensor) -> None:
    clip, events = play(sensor, [])
    assert events == []
    assert 20 * np.log10(np.sqrt(np.mean(clip**2))) == pytest.approx(background_level(sensor, 12.0))


@pytest.mark.parametrize("code", [code for coarse in COARSE for code in sure_codes(coarse)])
def test_event_has_its_level(sensor: Sensor, code: str) -> None:
    """The recipe says how loud the loudest 125 ms are: with and without the event, the difference is the event."""
    floor = background_level(sensor, 12.0)
    wanted = Event(code, code, "near", 1.0, 2.0, floor + 10.0, 10.0)
    with_event, (event,) = play(sensor, [wanted])
    alone = with_event - play(sensor, [])[0]
    assert not alone[: int(event.onset * RATE)].any()
    frames = alone[RATE:].reshape(-1, RATE // 8)
    assert 20 * np.log10(np.sqrt(np.mean(frames**2, axis=1)).max()) == pytest.approx(event.level, abs=1e-6)
    assert event.snr == pytest.approx(event.level - floor)
    assert event.duration <= 2.0


def test_loud_events_are_turned_down(sensor: Sensor) -> None:
    floor = background_level(sensor, 12.0)
    clip, events = play(sensor, [Event("3-1", "3-1", "near", 0.5, 3.0, floor + 60.0, 60.0)] * 4)
    assert np.abs(clip).max() <= PEAK
    assert all(event.snr < 60.0 for event in events)
    quiet = play(sensor, [])[0][: RATE // 2]
    np.testing.assert_array_equal(clip[: RATE // 2], quiet)  # the background keeps its level


def test_levels_are_those_of_the_seconds() -> None:
    clip = np.concatenate([np.full(RATE, 0.1), np.full(RATE, 0.01), np.full(100, 1.0)])
    assert levels(clip, RATE, 100.0) == [80.0, 60.0, 100.0]


@pytest.mark.parametrize("coarse", COARSE)
def test_activity_follows_the_clock(coarse: str) -> None:
    hours = np.linspace(0.0, 24.0, 97)
    curve = [activity(coarse, hour) for hour in hours]
    assert 0.0 < min(curve) < 0.4
    assert 0.9 < max(curve) <= 1.0
    assert curve[0] == pytest.approx(curve[-1])


def test_building_sites_rest_at_night_and_at_the_weekend(sensor: Sensor) -> None:
    assert rate(sensor, "2", 10.0, weekend=False) > 3 * rate(sensor, "2", 10.0, weekend=True)
    assert rate(sensor, "2", 10.0, weekend=False) > 5 * rate(sensor, "2", 2.0, weekend=False)
    assert rate(sensor, "7", 10.0, weekend=False) == rate(sensor, "7", 10.0, weekend=True)


def test_events_fit_the_clip_and_their_tags(sensor: Sensor) -> None:
    rng = np.random.default_rng(0)
    events = [e for _ in range(300) for e in draw_events(sensor, 12.0, weekend=False, seconds=10.0, rng=rng)]
    assert {event.source for event in events} == {code for coarse in COARSE for code in sure_codes(coarse)}
    for event in events:
        assert 0.0 <= event.onset < 10.0
        assert event.tag == event.source or event.tag == f"{event.source[0]}-X"
    unsure = np.mean([event.tag.endswith("X") for event in events])
    assert 0.05 < unsure < 0.2


def test_plans_keep_the_share_and_spread_over_the_day() -> None:
    plans = list(make_plans(3, 5, 24, 0.3, seed=0))
    assert len(plans) == 360
    assert np.mean([plan.annotated for plan in plans]) == pytest.approx(0.3, abs=0.02)
    assert {plan.time.hour for plan in plans if plan.annotated} == set(range(24))
    assert [(p.sensor, p.time) for p in plans] == sorted((p.sensor, p.time) for p in plans)
