"""YAML as people write it."""

import os
from pathlib import Path

import pytest

from edgesea.config import as_yaml, read_yaml
from edgesea.errors import EdgeseaError
from edgesea.pipeline import read_config

MINIMAL = "extract: {source: rec}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{MINIMAL}reduce: {{size: 4}}\nsample:\nreduce: {{size: 8}}", ["reduce", "lines 2 and 4"]),
        (f"{MINIMAL}reduce:\n  size: 4\n  seed: 1\n  size: 8\n", ["size", "lines 3 and 5"]),
        (f"{MINIMAL}reduce: {{size: 4, size: 8}}", ["size", "lines 2 and 2"]),
        (f"{MINIMAL}evaluate:\n  probe:\n    seed: 1\n    'seed': 1\n", ["seed", "lines 4 and 5"]),
        ("extract:\n\tsource: rec\n", ["line 2", "spaces"]),
        ('extract:\n  source: "C:\\data"\n', ["line 2", "Windows", "single quotes"]),
        ("# ${COMMENT}\nextract: {source: ${NOWHERE}/rec}", ["'NOWHERE'", "line 2", "not set"]),
        ("Extract: {source: rec}", ["Extract (did you mean extract?)"]),
        (f"{MINIMAL}reducce: {{size: 4}}", ["reducce (did you mean reduce?)"]),
        (f"{MINIMAL}part_clips: 4", ["part_clips is an option of extract"]),
        ("extract: {source: rec, part-clips: 4}", ["part-clips (did you mean part_clips?)"]),
        (f"{MINIMAL}distill: {{epochs: 1e-3}}", ["epochs", "whole number"]),
        ("- extract", ["mapping", "extract"]),
        (f"{MINIMAL}---\nreduce:\n", ["line 2", "document"]),
        (f"{MINIMAL}reduce: !!python/object:os.system x", ["line 2", "os.system"]),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(EdgeseaError, match=r"a\.yaml") as raised:
        read_config(tmp_path / "a.yaml")
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("text", "section", "expected"),
    [
        ("extract: {source: rec, part_clips: 010, center: on}", "extract", {"part_clips": 10, "center": True}),
        ("extract: {source: rec, center: no, columns: {label: no}}", "extract", {"columns": {"label": "no"}}),
        ("extract: {source: rec, validate: 12:30=1}", "extract", {"validate": "12:30=1"}),
        (f"{MINIMAL}distill: {{lr: 1e-3, epochs: 1e1}}", "distill", {"lr": 0.001, "epochs": 10}),
        (f"{MINIMAL}sample: &a {{seed: 5, size: 3}}\nreduce: {{<<: *a, size: 9}}", "reduce", {"seed": 5, "size": 9}),
        (f"{MINIMAL}sample: &a {{seed: 5}}\nreduce: {{<<: *a, <<: {{size: 7}}}}", "reduce", {"seed": 5, "size": 7}),
        (f"\ufeff{MINIMAL}reduce:", "reduce", {"size": 64}),
        (f"{MINIMAL}reduce: {{size: 5}}".replace("\n", "\r\n"), "reduce", {"size": 5}),
        (f"{MINIMAL}reduce: {{size: 5}}".encode("utf-16"), "reduce", {"size": 5}),
        (f"# Gr\xfc\xdfe\n{MINIMAL}".encode("latin-1"), "extract", {"source": Path("rec")}),
        (b"extract: {source: caf\xe9}", "extract", {"source": Path("caf\udce9")}),
        ("extract: {source: a, weights: ~, root: $PLACE/b}", "extract", {"weights": None, "root": Path("/c: d #1/b")}),
        ("extract: {source: ${PLACE}}", "extract", {"source": Path("/c: d #1")}),
        ("extract: {source: '${EDGESEA_DATA}/a', teacher: onnx:$$x}", "extract", {"source": Path("data/a")}),
        ("extract: {source: '${EDGESEA_DATA}/a', teacher: onnx:$$x}", "extract", {"teacher": "onnx:$x"}),
        ("extract: {source: ~/a, teacher: onnx:~/t@8000}", "extract", {"source": Path("/home/me/a")}),
        ("extract: {source: a, teacher: onnx:~/t@8000}", "extract", {"teacher": "onnx:/home/me/t@8000"}),
    ],
)
def test_what_can_be_meant_is_understood(tmp_path, monkeypatch, text, section, expected):
    monkeypatch.delenv("EDGESEA_DATA", raising=False)  # of which ./data is the default
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PLACE", "/c: d #1")
    (tmp_path / "a.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    found = read_config(tmp_path / "a.yaml")[0][section]
    assert {name: found[name] for name in expected} == expected


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("x", "another")
    words = ["1e-3", "010", "on", "12:30", "1_000", "~", "null", "$x", "${x}", "<<"]
    values = [*words, 1e-5, 10, True, None, os.fsdecode(b"caf\xe9")]
    (tmp_path / "a.yaml").write_text(as_yaml({"values": values}))
    assert read_yaml(tmp_path / "a.yaml") == {"values": values}
