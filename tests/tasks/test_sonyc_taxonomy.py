from pathlib import Path

import pytest

from edgesea.demo.taxonomy import COARSE, FINE, coarse_of, taxonomy_yaml
from edgesea.errors import EdgeseaError
from edgesea.tasks.taxonomy import check_tag_columns, read_taxonomy


def written(folder: Path, text: str) -> Path:
    path = folder / "dcase-ust-taxonomy.yaml"
    path.write_text(text, "utf-8")
    return path


def test_the_real_taxonomy_has_the_tags_of_the_real_tables(shared_data: Path) -> None:
    folder = shared_data / "sonyc_ust"
    taxonomy = read_taxonomy(folder / "dcase-ust-taxonomy.yaml")
    with (folder / "predictions_0.csv").open() as file:
        header = file.readline().rstrip("\n").split(",")
    assert ["audio_filename", *taxonomy.fine, *taxonomy.coarse] == header
    assert (len(taxonomy.coarse), len(taxonomy.fine), len(taxonomy.complete)) == (8, 29, 23)
    assert taxonomy.names == tuple(COARSE.values())


def test_fine_tags_know_their_coarse_tag_and_whether_they_are_incomplete(tmp_path: Path) -> None:
    taxonomy = read_taxonomy(written(tmp_path, taxonomy_yaml()))
    assert taxonomy.fine == tuple(f"{code}_{name}" for code, name in FINE.items())
    for tag, parent, incomplete in zip(taxonomy.fine, taxonomy.parent, taxonomy.incomplete, strict=True):
        code = tag.split("_")[0]
        assert taxonomy.coarse[parent].split("_")[0] == coarse_of(code)
        assert incomplete == code.endswith("X") == (tag not in taxonomy.complete)


def test_fine_tags_belong_to_the_number_of_a_coarse_tag_not_to_its_place(tmp_path: Path) -> None:
    text = "fine:\n  7: {X: unsure, 2: shout}\n  3: {1: hit}\ncoarse:\n  3: impact\n  7: voice\n"
    taxonomy = read_taxonomy(written(tmp_path, text))
    assert taxonomy.coarse == ("3_impact", "7_voice")
    assert taxonomy.fine == ("7-X_unsure", "7-2_shout", "3-1_hit")
    assert taxonomy.parent.tolist() == [1, 1, 0]
    assert taxonomy.incomplete.tolist() == [True, False, False]
    assert taxonomy.complete == ("7-2_shout", "3-1_hit")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "a: [",
        "coarse: {1: a}",
        "coarse: [a]\nfine: {1: {1: b}}",
        "coarse: {1: a}\nfine: {1: [b]}",
        "coarse: {1: a}\nfine: {}",
        "coarse: {1: a, 2: c}\nfine: {1: {1: b}}",  # no fine tag below the second
        "coarse: {1: a}\nfine: {1: {1: b}, 2: {1: c}}",  # no coarse tag above the second
        "coarse: {1: a, 2: a}\nfine: {1: {1: b}, 2: {1: c}}",  # two coarse tags of one name
        "coarse: {1: a}\nfine: {1: {1: b}, '1': {1: b}}",
        "coarse: {1: on}\nfine: {1: {1: b}}",  # YAML's word for true
        "coarse: {1: }\nfine: {1: {1: b}}",
        "coarse: {1: a}\nfine: {1: {1: {b: c}}}",
    ],
)
def test_what_is_no_taxonomy_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(EdgeseaError, match=r"dcase-ust-taxonomy\.yaml: not the taxonomy"):
        read_taxonomy(written(tmp_path, text))


def test_a_missing_taxonomy_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeseaError, match=r"none\.yaml: No such file.*beside its annotations"):
        read_taxonomy(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"coarse: {1: caf\xe9}")
    with pytest.raises(EdgeseaError, match=r"latin\.yaml: not the taxonomy"):
        read_taxonomy(tmp_path / "latin.yaml")


def test_columns_of_unknown_tags_are_refused_and_other_columns_are_not(tmp_path: Path) -> None:
    taxonomy = read_taxonomy(written(tmp_path, "coarse: {1: a}\nfine: {1: {1: b, X: c}}"))
    check_tag_columns(Path("t.csv"), ["1_a", "1-1_b", "1-X_c", "audio_filename", "note", "x_1"], taxonomy)
    check_tag_columns(Path("t.csv"), ["1_a_presence", "2_d_proximity", "2_d"], taxonomy, "_presence")
    for name in ("2_a", "1_b", "1-2_b", "1-X_b", "12-X_c"):
        with pytest.raises(EdgeseaError, match=rf"t\.csv: .*{name}"):
            check_tag_columns(Path("t.csv"), ["1_a", name], taxonomy)
        with pytest.raises(EdgeseaError, match=rf"t\.csv: .*{name}_presence"):
            check_tag_columns(Path("t.csv"), ["1_a_presence", f"{name}_presence"], taxonomy, "_presence")
