"""What the report of a run says about the task: hand-written results, and how they are shown."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesea.report.html import Html
from edgesea.report.protocol import protocol
from edgesea.report.run import RunFiles
from edgesea.report.scores import METRICS, result_section, summary, task_section
from edgesea.report.task_plots import Confusion, confusion_plot, is_numbered
from edgesea.tasks.options import ProbeOptions, TaggingOptions

SYSTEMS = ("teacher", "reduced", "student")
COUNTS = np.array([[18, 2, 0], [5, 10, 5], [0, 1, 9]])
CLASSES = ["<b>dog</b>", "$cat$", "a hen with a name that is far too long for any axis"]


def made_run(evaluate: dict[str, Any], **config: Any) -> RunFiles:
    results = {"config": {"evaluate": config}, "reduce": {"output_size": 8}, "distill": {}, "evaluate": evaluate}
    return RunFiles(Path(), results, None, [], None, {}, {}, [])


def single_label(counts: Any = COUNTS, classes: Any = CLASSES, **more: Any) -> dict[str, Any]:
    counts = np.asarray(counts)
    columns = [*classes, "(none)"][: counts.shape[1]]
    recalls = np.diag(counts) / np.maximum(counts.sum(1), 1)
    return {
        "task": "esc50",
        "probe": asdict(ProbeOptions()),
        "accuracy": float(np.trace(counts) / counts.sum()),
        "class_accuracy": float(recalls.mean()),
        "accuracy_by_fold": {"1": 0.5, "2": 0.75},
        "accuracy_by_class": dict(zip(classes, recalls.tolist(), strict=True)),
        "confusion": {"classes": list(classes), "columns": columns, "counts": counts.tolist()},
        "clips": int(counts.sum()),
        "embedding_size": 8,
        **more,
    }


def tags(**options: Any) -> dict[str, Any]:
    own = TaggingOptions(**options)
    scores = {"micro_auprc": 0.8, "macro_auprc": None, "micro_f1": 0.7, "lwlrap": 0.9}
    found = {
        "task": "sonyc_ust",
        "tagging": asdict(own),
        "label_mode": own.label_mode,
        **scores,
        "confidence": {"micro_auprc": [0.7654, 0.8345], "macro_auprc": None, "lwlrap": [float("nan"), float("nan")]},
        "class_auprc": {"engine": 0.5, "dog": None},
        "train_clips": 13538,
        "clips": 538,
        "embedding_size": 8,
    }
    return {**found, "coarse": {**scores, "micro_auprc": 0.888}} if own.label_mode == "fine" else found


def rows(html: str) -> list[list[str]]:
    return [
        [re.sub("<[^>]*>", "|", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in re.findall("<tr>(.*?)</tr>", html, re.DOTALL)
    ]


def texts(html: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def test_scores_stand_above_their_interval_and_their_share_of_the_teacher() -> None:
    teacher = single_label(confidence={"accuracy": [0.61, 0.8449], "class_accuracy": [0.6, 0.8]})
    student = single_label([[10, 10, 0], [5, 10, 5], [0, 1, 9]], confidence={"accuracy": [0.5, 0.6951]})
    head, *body = rows(result_section(made_run({"teacher": teacher, "student": student})))
    assert head == ["system", "embedding size", "accuracy", "class accuracy"]
    assert body[0][2] == "74.0\u00a0%|61.0\u201384.5|"
    assert body[1][2] == "58.0\u00a0%|50.0\u201369.5||78\u00a0% of teacher|"
    assert body[1][3] == "63.3\u00a0%|83\u00a0% of teacher|"


def test_means_that_are_the_accuracy_itself_have_no_column() -> None:
    even = single_label(COUNTS[:2, :2], CLASSES[:2])  # not of even classes, yet of an equal mean
    even |= {"class_accuracy": even["accuracy"] + 1e-15, "fold_accuracy": 0.5}
    head = rows(result_section(made_run({"teacher": even})))[0]
    assert head == ["system", "embedding size", "accuracy", "fold accuracy"]


def test_tags_show_what_is_known_of_them() -> None:
    html = result_section(made_run({"teacher": tags(), "student": tags()}))
    head, _, student = rows(html)
    assert head[2:] == ["micro AUPRC", "macro AUPRC", "micro F1", "lwlrap"]
    assert student[2:] == [
        "0.800|0.765\u20130.835||100\u00a0% of teacher|",
        "\u2013",
        "0.700|100\u00a0% of teacher|",
        "0.900|100\u00a0% of teacher|",
    ]
    assert "nan" not in html


def test_coarse_scores_of_fine_tags_have_a_table_of_their_own() -> None:
    run = made_run({"student": tags(label_mode="fine")})
    assert [row[-4] for row in rows(result_section(run))[1::2]] == ["0.800|0.765\u20130.835|", "0.888"]
    assert "AUPRC of the fine tags of each class" in task_section(run)
    assert len(rows(result_section(made_run({"student": tags()})))) == 2


def test_the_summary_names_the_level() -> None:
    run = made_run({"teacher": tags(label_mode="fine"), "student": tags(label_mode="fine")})
    assert "micro AUPRC on sonyc_ust (fine tags) (0.800 of 0.800)" in summary(run)


@pytest.mark.parametrize(
    ("options", "flatters"),
    [
        ({"monitor": "validate"}, True),
        ({"monitor": "train"}, False),
        ({"monitor": "validate", "eval_split": "test"}, False),
        ({"monitor": "validate", "patience": 0}, False),  # trained to the end, whatever the loss
    ],
)
def test_it_is_said_if_the_judged_clips_ended_the_training(options: dict[str, Any], flatters: bool) -> None:
    assert ("scores flatter" in protocol(tags(**options), None)) == flatters


def test_tagging_is_described_by_its_options() -> None:
    said = protocol(tags(label_mode="fine", eval_split="test", context=True, split_path=Path("to/mine.csv")), None)
    assert said.startswith("Task sonyc_ust: 538 clips of the split test (of mine.csv) that are verified")
    for part in ("fine tags", "13\u202f538 training clips", "5 networks with 1 hidden layer of 128 units", "AutoPool"):
        assert part in said
    assert "where and when" in said
    plain = protocol(tags(target_mode="framewise", aggregation="max", members=1, num_hidden_layers=0), None)
    assert "a network with no hidden layer; each window is judged by itself, and a clip by the max" in plain
    assert "where and when" not in plain


def test_probes_are_described_by_their_options() -> None:
    said = protocol(single_label(), None)
    assert said == (
        "Task esc50: 50 clips of the official folds, each tested with a classifier trained on all other folds: "
        "logistic regression on the mean embedding of a clip."
    )
    options = replace(ProbeOptions(), classifier="mlp", features="statistics", search=True, num_hidden_layers=2)
    said = protocol(single_label(probe=asdict(options)), [1, 3])
    assert "of folds 1, 3 alone, tested" in said
    assert "a network on mean, standard deviation" in said  # a search chooses the layers
    assert "chosen by leaving out each of the training folds" in said
    said = protocol(single_label(probe=asdict(replace(options, search=False))), None)
    assert "a network with 2 hidden layers of 128 units on mean, standard deviation" in said


def test_metrics_that_need_it_are_explained() -> None:
    html = result_section(made_run({"student": tags()}))
    assert "area under the precision-recall curve" in html
    assert "label-ranking" in html
    assert "95\u00a0% confidence" in html
    plain = result_section(made_run({"student": single_label(class_accuracy=None)}))
    assert not re.search("precision-recall|95\u00a0%", plain)


def test_matrices_are_read_with_and_without_clips_that_failed() -> None:
    found = Confusion.read(single_label())
    assert found is not None
    assert found.clips == dict(zip(CLASSES, [20, 20, 10], strict=True))
    np.testing.assert_allclose(found.shares[1], [0.25, 0.5, 0.25])
    wide = Confusion.read(single_label(np.hstack([COUNTS, [[1], [0], [0]]])))
    assert wide is not None
    assert (len(wide.classes), wide.columns[-1], wide.clips[CLASSES[0]]) == (3, "(none)", 21)
    assert Confusion.read({}) is None
    assert Confusion.read({"confusion": {"classes": [], "counts": []}}) is None


def test_classes_without_clips_have_no_share() -> None:
    found = Confusion(["a", "b"], ["a", "b"], np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(found.shares, [[0.75, 0.25], [0, 0]])


def test_the_most_frequent_confusions_come_first() -> None:
    counts = np.array([[9, 3, 0, 50], [0, 4, 3, 0], [1, 0, 7, 0]])  # the last column is no class
    found = Confusion(["a", "b", "c"], ["a", "b", "c", "(none)"], counts)
    assert [pair[:3] for pair in found.most_frequent()] == [("b", "c", 3), ("a", "b", 3), ("c", "a", 1)]
    assert found.most_frequent(1) == [("b", "c", 3, 3 / 7)]
    assert Confusion(["a"], ["a"], np.array([[3]])).most_frequent() == []


def test_the_student_is_compared_with_the_teacher() -> None:
    student = single_label([[10, 10, 0], [2, 13, 5], [0, 0, 10]])
    html = task_section(made_run({"teacher": single_label(), "reduced": single_label(), "student": student}))
    assert texts(html).count("taken for") == 2  # not of the reduced
    confused = rows(html)[-3:]
    assert confused[0] == ["&lt;b&gt;dog&lt;/b&gt;", "$cat$", "10", "50.0\u00a0%", "2"]
    assert [row[2:] for row in confused[1:]] == [["5", "25.0\u00a0%", "5"], ["2", "10.0\u00a0%", "5"]]
    alone = rows(task_section(made_run({"student": student})))
    assert alone[-3][2:] == ["10", "50.0\u00a0%"]


def test_the_matrix_shows_every_count() -> None:
    svg = confusion_plot({"teacher": Confusion(["x", "y", "z"], ["x", "y", "z"], COUNTS)})
    assert sorted(filter(str.isdigit, texts(svg))) == sorted(map(str, COUNTS[COUNTS > 0]))
    assert "most frequent confusions of the teacher: y taken for x: 5, y taken for z: 5, x taken for y: 2" in svg


def cells(svg: Html, colour: str) -> int:
    """Cells of a colour: sub-paths, which begin with M."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)', svg)
    return sum(path.count("M") for path in found)


@pytest.mark.parametrize("size", [2, 10, 50, 150])
def test_every_size_of_matrix_has_all_its_cells_and_the_names_that_fit(size: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class-{number}" for number in range(size)]
    made = {system: rng.multinomial(40, rng.dirichlet(np.full(size, 0.1), size)) for system in ("teacher", "student")}
    confusions = {system: Confusion(names, names, counts) for system, counts in made.items()}
    svg = confusion_plot(confusions)
    for system, counts in made.items():
        assert cells(svg, system) == np.count_nonzero(counts)
    assert is_numbered(confusions) == (size <= 10)
    shown = [text for text in texts(svg) if text.startswith("class-")]
    assert len(shown) == (0 if size == 150 else 3 * size)  # once beside the first, twice along the columns
    drawn = sum(np.count_nonzero(counts) for counts in made.values())
    assert len(svg) < 120_000 + 70 * drawn  # not an element each


def test_numbers_of_clips_stand_beside_classes_where_they_differ() -> None:
    uneven = task_section(made_run({"student": single_label()}))
    assert "$cat$ (20)" in texts(uneven)
    assert "In brackets: clips" in uneven
    even = task_section(made_run({"student": single_label([[15, 5], [1, 19]], ["a", "b"])}))
    assert "Each has 20 clips" in even
    assert "a (20)" not in texts(even)


def test_names_are_escaped_and_shortened() -> None:
    search = {"1": {"<i>": None, "C": 0.001, "sizes": [64, 32]}, "2": {}}
    student = single_label(chosen=search, failed={"<u>.wav": "<script>"})
    html = task_section(made_run({"student": student}))
    assert not re.search("<b>|<i>|<u>|<script", html)
    assert not any(CLASSES[2] in shown for shown in texts(html))
    assert "could not be embedded" in html


def test_chosen_parameters_are_folded() -> None:
    chosen = {"1": {"C": 0.001, "hidden_layer_sizes": [64], "max_depth": None}, "2": {"C": 10.0}}
    html = task_section(made_run({"teacher": single_label(chosen=chosen), "student": single_label(chosen={})}))
    folded = re.search("<details>(.*)</details>", html, re.DOTALL)
    assert folded is not None
    assert rows(folded[1])[1:] == [["1", "C 0.001, hidden_layer_sizes 64, max_depth none"], ["2", "C 10"]]
    assert "<details" not in task_section(made_run({"student": single_label()}))


def test_little_is_enough() -> None:
    """A single class and fold; scores that do not exist; what earlier versions wrote."""
    one = single_label([[4]], ["dog"], accuracy_by_fold={"1": 1.0})
    html = task_section(made_run({"student": one}))
    assert html.count("<svg") == 3
    assert "most frequent" not in html
    nothing = {"accuracy": None, "accuracy_by_fold": {"1": None}, "accuracy_by_class": {"a": None}}
    nothing |= {"class_auprc": {}, "confidence": None, "confusion": None, "chosen": None, "failed": None}
    old = {"task": "esc50", "classifier": "mlp", "clips": 4, "embedding_size": 8, **nothing}
    run = made_run({"teacher": old, "student": old})
    assert task_section(run) == ""
    assert "Task esc50: 4 clips judged." in result_section(run)
    assert "no section evaluate" in result_section(made_run({}))


def test_every_metric_is_one_of_the_results() -> None:
    known = {*single_label(), *tags(), "fold_accuracy"}
    assert {metric.key for metric in METRICS} <= known
