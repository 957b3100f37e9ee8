"""The SLURM that the other tests run on does to jobs what real ones do."""

from slurm.cluster import wait_for


def test_a_job_runs_on_both_nodes_with_gpus(slurm):
    shown = 'echo "$SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES"'
    lines = slurm.call("srun", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", "sh", "-c", shown)
    assert sorted(lines.splitlines()) == ["n1 0 0,1", "n2 1 0,1"]


def test_a_preempted_job_is_requeued(slurm, tmp_path):
    script = f'echo "$SLURM_RESTART_COUNT" >> {tmp_path}/starts; [ "$SLURM_RESTART_COUNT" ] || sleep 100'
    options = ("--parsable", "--requeue", f"--output={tmp_path}/log", "--nodelist=n1", "--exclusive")
    job = slurm.call("sbatch", *options, "--wrap", script).strip()
    wait_for((tmp_path / "starts").exists)
    slurm.call("srun", "--partition=urgent", "--nodelist=n1", "--exclusive", "true")
    assert slurm.ended(job) == "COMPLETED"
    assert (tmp_path / "starts").read_text().split("\n") == ["", "1", ""]
