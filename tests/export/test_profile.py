"""Profiles: the paper's table 1, torch's counts, and which boards have room."""

import csv
import os
import re
import subprocess
from dataclasses import replace
from shutil import which

import numpy as np
import pytest
import torch
from conftest import write_noise
from export.test_c import written
from torch.utils.flop_counter import FlopCounterMode

from edgesea.artifact import read_json
from edgesea.export.profile import boards, find_board, measure, of_student, profile
from edgesea.export.quantize import quantize
from edgesea.export.tflite import float_tflite
from edgesea.models.student_config import StudentConfig
from edgesea.models.student_files import save_student
from edgesea.models.student_torch import Student
from edgesea.models.teachers import untrained
from edgesea.report.paper_tables import PUBLISHED


def test_table_1_of_the_paper():
    with PUBLISHED.open() as file:
        rows = [(row["row"], row["column"], row["value"]) for row in csv.DictReader(file) if row["table"] == "1"]
    assert len(rows) == 20
    for name in {row: None for row, *_ in rows}:
        found = measure("openl3/env-mel256-512" if name == "teacher" else f"edgel3/{name}")
        ours = {
            "input": f"{found.bands}x{found.frames}",
            "parameters_M": found.parameters / 1e6,
            "size_MB": found.stored_float32 / 1e6,
            "activation_MB": 4 * found.largest_activation / 1e6,
        }
        for column, value in [rest for row, *rest in rows if row == name]:
            if (name, column) == ("teacher", "activation_MB"):  # 256 x 199 x 64 floats are 13.04 MB, or 12.44 MiB
                assert ours[column] == pytest.approx(float(value), rel=0.025)
            elif column == "input":
                assert ours[column] == value
            else:  # all published digits
                assert round(ours[column], len(value.partition(".")[2])) == float(value), (name, column)


@pytest.mark.parametrize("id", ["efficientat/mn04", "openl3/env-linear-6144"])
def test_teachers_cost_what_torch_counts(id):
    found, model, most = measure(id), untrained(id).eval(), [0]

    def count(module: torch.nn.Module, given: object, made: torch.Tensor) -> None:
        most.append(made.numel())

    for module in model.features.modules():
        module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        model.to("meta").embed_spectrogram(torch.empty(1, 1, found.bands, found.frames))
    assert found.macs == counter.get_total_flops() / 2
    assert found.largest_activation == max(most)
    assert found.parameters == sum(array.numel() for array in model.parameters())


def test_files_have_the_profile_of_their_architecture(tmp_path):
    config = StudentConfig.named("edge-3", embedding_size=5)
    student = Student(config)
    save_student(student, tmp_path / "student", {}, "card")
    arrays = {name: array.numpy() for name, array in student.state_dict().items()}
    (tmp_path / "student.tflite").write_bytes(float_tflite(config, arrays, {}))
    for path in (tmp_path / "student", tmp_path / "student.tflite"):
        assert replace(measure(path), model="edge-3") == of_student(config)


def test_a_published_file_has_the_profile_of_its_name(shared_data):
    weights = shared_data / "edgel3" / "edgel3_sea_ust_audio_emb_64.h5.gz"
    assert replace(measure(weights), model="edgel3/sea-64") == measure("edgel3/sea-64")


def written_student(folder, name, **options):
    """The profile of a student, and what its export as C to a folder says."""
    config = StudentConfig.named(name, **options)
    arrays = {key: array.detach().numpy() for key, array in Student(config).state_dict().items()}
    noise = np.random.default_rng(0).normal(-40, 20, (4, config.n_mels, config.frames())).astype(np.float32)
    return of_student(config), written(folder, quantize(config, arrays, [noise]))


@pytest.mark.parametrize("name", ["edge-3", "sea-64"])
def test_the_c_engine_takes_what_its_profile_says(tmp_path, name):
    found, written = written_student(tmp_path, name, n_mels=32)
    assert found.rows < found.activation_bytes
    assert written["ram"] == found.rows + found.front_end.ram
    # It has a description of each layer, too, and pads weights.
    assert written["flash"] == pytest.approx(found.flash_int8 + found.front_end.flash, rel=0.03)


def test_an_emulated_chip_prints_what_the_profile_says(tmp_path):
    if missing := [tool for tool in ("make", "arm-none-eabi-gcc", "qemu-system-arm") if which(tool) is None]:
        reason = f"{', '.join(missing)} missing; install with tools/debian.sh"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    found = written_student(tmp_path, "edge-3", n_mels=64)[0]
    sound = write_noise(tmp_path / "noise.wav", 1.0, 16000)
    text = subprocess.run(
        ["make", "run", f"WAV={sound}"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    measured = {
        key: int(value) for key, value in re.findall(r"^(flash|static RAM|instructions a window): (\d+)", text, re.M)
    }
    assert found.instructions == pytest.approx(measured["instructions a window"], rel=0.05)
    assert measured["flash"] <= found.need["flash"] <= 1.1 * measured["flash"]
    assert found.rows + found.front_end.ram <= measured["static RAM"] <= found.need["ram"]


def test_boards_have_room_or_not():
    known = boards()
    assert len({board.name for board in known}) == len(known) >= 8
    assert all(0 < board.block <= board.ram and board.source for board in known)
    found = measure("edge-10")
    assert find_board("stm32u5").lacks(found) == []
    small = replace(find_board("nrf52840"), flash=200, ram=60)
    assert small.lacks(found) == ["flash", "ram"]
    assert replace(small, flash=1024, ram=1024, block=50).lacks(found) == ["ram"]  # in pieces


def test_the_command_says_what_fits_instead(tmp_path, refuses):
    result = profile(["sea-512"], board="stm32l4r")
    assert result["boards"][0]["lacks"] == [["flash"]]
    last = result["text"].splitlines()[-1]
    assert last.startswith(
        "sea-512 does not fit on stm32l4r5: it takes 5 130.1 KiB of flash. Students that fit: edge-3, "
    )
    assert last.endswith("Boards on which it fits: teensy41, esp32s3.")
    both = profile(["edge-3", "edge-10"], out=tmp_path / "costs.json")
    stored = read_json(tmp_path / "costs.json")
    assert [item["macs"] for item in stored["models"]] == [measure(name).macs for name in ("edge-3", "edge-10")]
    assert "| nrf52840 | Cortex-M4F | 64 MHz | 1024 KiB | 256 KiB | fits, 0.20 s | fits, 0.5" in both["text"]
    refuses("profile", "edge-3", "--board", "nrf-52840", words=["nrf-52840 (did you mean nrf52840?)", "stm32h743"])
    refuses("profile", "edge-3", "--board", "stm32", words=["stm32", "stm32h743"])
    refuses("profile", "spectral", words=["spectral", "openl3/"])
    refuses("profile", "openl3/env", words=["openl3/env", "env-mel256-512"])
    refuses("profile", tmp_path / "nothing", words=[tmp_path / "nothing"])


def test_a_student_for_which_a_board_has_no_room_is_not_exported(tmp_path, refuses):
    save_student(Student(StudentConfig.named("edge-25")), tmp_path / "student", {}, "card")
    command = "export", tmp_path / "student", tmp_path / "out", "--calibration", tmp_path, "--board"
    refuses(*command, "audiomoth", "--format", "c", words=["does not fit on audiomoth", "KiB of flash", "edge-10"])
    refuses(*command, "nrf52840", "--format", "c", words=["no table here"])
    refuses(*command, "nrf52840", words=["nrf52840", "format=c"])
