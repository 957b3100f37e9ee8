"""The tags and columns against the files of SONYC-UST v2."""

from pathlib import Path

import pytest
import yaml

from edgesea.demo.taxonomy import ANNOTATION_COLUMNS, COARSE, FINE, coarse_of, sure_codes, taxonomy_yaml


def test_columns_are_those_of_sonyc_ust(shared_data: Path) -> None:
    with (shared_data / "sonyc_ust" / "annotations_eval.csv").open() as file:
        header = file.readline().rstrip("\n").split(",")
    assert list(ANNOTATION_COLUMNS) == header


def test_taxonomy_is_that_of_sonyc_ust(shared_data: Path) -> None:
    text = (shared_data / "sonyc_ust" / "dcase-ust-taxonomy.yaml").read_text()
    assert yaml.safe_load(taxonomy_yaml()) == yaml.safe_load(text)


def test_taxonomy_has_every_tag_once() -> None:
    parsed = yaml.safe_load(taxonomy_yaml())
    assert parsed["coarse"] == {int(code): name for code, name in COARSE.items()}
    assert {f"{c}-{f}": name for c, group in parsed["fine"].items() for f, name in group.items()} == FINE
    assert len(set(FINE.values())) == 29  # 23 fine classes and 6 X tags


@pytest.mark.parametrize("coarse", COARSE)
def test_sure_codes(coarse: str) -> None:
    codes = sure_codes(coarse)
    assert codes
    assert all(coarse_of(code) == coarse and not code.endswith("X") for code in codes)
