import json

import pytest
from test_table import SIZE, fill

from edgesea.errors import EdgeseaError
from edgesea.table.claiming import check_plan, claim_table
from edgesea.table.writer import PartWriter


def write_part(out, stored: bool) -> None:
    with PartWriter(out, 0, SIZE, "float32") as writer:
        if stored:
            fill(writer, 0)
        writer.skipped.append(("bad.wav", "damaged"))


def names(out) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_a_plan_by_which_nothing_was_stored_gives_way(tmp_path):
    claim_table(tmp_path, {"center": True})
    claim_table(tmp_path, {"center": False})  # no part was finished
    assert json.loads((tmp_path / "plan.json").read_text()) == {"center": False}
    write_part(tmp_path, stored=False)
    (tmp_path / "skipped.csv").touch()
    claim_table(tmp_path, {"center": True})
    assert json.loads((tmp_path / "plan.json").read_text()) == {"center": True}
    assert names(tmp_path) == ["plan.json"]  # no part of one plan is taken for one of another


def test_where_nothing_was_stored_the_same_plan_is_tried_anew(tmp_path):
    claim_table(tmp_path, {"center": True})
    write_part(tmp_path, stored=False)
    claim_table(tmp_path, {"center": True})
    assert names(tmp_path) == ["plan.json"]


@pytest.mark.parametrize("state", ["a part", "a damaged part", "a finished table"])
def test_a_plan_by_which_something_was_stored_binds(tmp_path, state):
    claim_table(tmp_path, {"center": True})
    write_part(tmp_path, stored=state != "a finished table")
    if state == "a damaged part":
        (tmp_path / "clips" / "part-00000.parquet").write_bytes(b"damaged")
    elif state == "a finished table":
        (tmp_path / "table.json").write_text("{}")
    before = names(tmp_path)
    with pytest.raises(EdgeseaError, match="center: True there, False here"):
        claim_table(tmp_path, {"center": False})
    claim_table(tmp_path, {"center": True})
    assert names(tmp_path) == before


def test_what_is_no_table_is_not_claimed(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(EdgeseaError, match="not empty and no table"):
        claim_table(tmp_path, {})


def test_a_call_whose_plan_was_replaced_stops(tmp_path):
    claim_table(tmp_path, {"center": True})
    check_plan(tmp_path, {"center": True})
    claim_table(tmp_path, {"center": False})
    with pytest.raises(EdgeseaError, match="another command has begun a table"):
        check_plan(tmp_path, {"center": True})
