"""What is asked of SLURM's programs; with a real SLURM, see tests/slurm."""

import signal

import pytest

from edgesea.cluster.slurm import Attempt


@pytest.mark.parametrize(
    ("restarts", "begun", "made", "word"),
    [
        (1, False, (), "--time"),  # the warning came before the command had begun
        (1, True, (), "--time"),
        (1, True, ("plan.json",), "--time"),
        (1, True, ("clips/part-00000.parquet",), "scontrol"),
        (0, True, (), "scontrol"),
    ],
)
def test_a_job_is_queued_again_unless_that_is_in_vain(tmp_path, monkeypatch, caplog, restarts, begun, made, word):
    """That is: unless nothing was made since the last time. SLURM is not there."""
    variables = {"SLURM_JOB_ID": "7", "PATH": str(tmp_path), **({"SLURM_RESTART_COUNT": "1"} if restarts else {})}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    former, attempt = signal.getsignal(signal.SIGTERM), Attempt()
    if begun:
        attempt.begin(tmp_path)
    for path in (tmp_path / name for name in made):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    try:
        assert not attempt.requeue()
    finally:
        signal.signal(signal.SIGTERM, former)
    assert word in caplog.text
