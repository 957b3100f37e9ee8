"""The annotators: how often they err, and that their rows agree with themselves."""

import numpy as np

from edgesea.demo.annotators import Row, annotate, loudest_tags, verified_row
from edgesea.demo.scene import Event
from edgesea.demo.taxonomy import COARSE_PRESENCE, FINE_PRESENCE, FINE_PROXIMITY, coarse_of

EVENTS = [
    Event("1-2", "1-2", "far", 0.0, 5.0, -40.0, 3.0),
    Event("1-2", "1-2", "near", 2.0, 5.0, -30.0, 15.0),
    Event("5-3", "5-X", "near", 2.0, 5.0, -30.0, 12.0),
    Event("8-1", "8-1", "far", 4.0, 2.0, -38.0, 6.0),
]


def many_rows(count: int = 400) -> list[Row]:
    rng = np.random.default_rng(0)
    return [row for _ in range(count) for row in annotate(EVENTS, verified=True, seed=0, rng=rng)]


def test_the_loudest_event_of_a_tag_is_judged() -> None:
    assert {tag: event.proximity for tag, event in loudest_tags(EVENTS).items()} == {
        "1-2": "near",
        "5-X": "near",
        "8-1": "far",
    }


def test_verified_row_is_the_truth() -> None:
    row = verified_row(EVENTS)
    assert row["annotator_id"] == 0
    assert {code for code, column in FINE_PRESENCE.items() if row[column]} == {"1-2", "5-X", "8-1"}
    assert {code for code, column in COARSE_PRESENCE.items() if row[column]} == {"1", "5", "8"}
    assert {row[column] for column in FINE_PROXIMITY.values()} == {"-1"}


def test_three_volunteers_two_of_the_team_and_the_truth() -> None:
    rows = annotate(EVENTS, verified=True, seed=0, rng=np.random.default_rng(0))
    assert [np.sign(int(row["annotator_id"])) for row in rows] == [1, 1, 1, -1, -1, 0]
    assert len({row["annotator_id"] for row in rows}) == 6
    assert len(annotate(EVENTS, verified=False, seed=0, rng=np.random.default_rng(0))) == 3


def test_rows_agree_with_themselves() -> None:
    for row in many_rows(100):
        fine = {code for code, column in FINE_PRESENCE.items() if row[column]}
        assert {code for code, column in COARSE_PRESENCE.items() if row[column]} == {coarse_of(code) for code in fine}
        given = {code for code, column in FINE_PROXIMITY.items() if row[column] != "-1"}
        assert given == (fine if int(row["annotator_id"]) > 0 else set())


def test_volunteers_err_sometimes_and_more_than_the_team() -> None:
    rows = many_rows()
    crowd = [row for row in rows if int(row["annotator_id"]) > 0]
    team = [row for row in rows if int(row["annotator_id"]) < 0]

    def seen(group: list[Row], code: str) -> float:
        return float(np.mean([int(row[COARSE_PRESENCE[code]]) for row in group]))

    assert 0.85 < seen(crowd, "1") < seen(team, "1") < 1.0
    assert seen(crowd, "8") < seen(crowd, "1")  # the faint dog is missed more often
    assert 0.0 < seen(crowd, "2") < 0.05
    assert seen(team, "2") == 0.0
    proximities = {str(row[FINE_PROXIMITY["1-2"]]) for row in crowd}
    assert proximities == {"near", "far", "notsure", "-1"}
