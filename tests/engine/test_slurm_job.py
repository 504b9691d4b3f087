"""What a job of Slurm changes, told by its environment alone."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT
from tiny import Tiny, arguments, rows, train

from rdfia.engine import cli, devices, slurm, training
from rdfia.engine.args import TrainerArgs
from rdfia.engine.errors import Interrupted

TWO_NODES = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}


def in_slurm(monkeypatch, **changes: str | None) -> None:
    for name, value in (TWO_NODES | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


def test_processes_are_those_of_the_slurm_job(tmp_path, monkeypatch):
    assert devices.processes(arguments(tmp_path)) == (1, 1)
    in_slurm(monkeypatch)
    assert devices.processes(arguments(tmp_path)) == (2, 2)
    assert devices.processes(arguments(tmp_path, devices=2, num_nodes=2)) == (2, 2)
    for name in ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices.processes(TrainerArgs()) == (1, 1)  # one task is one process, whatever it sees
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert devices.processes(arguments(tmp_path, devices=3)) == (3, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ValueError, match="export SLURM_JOB_NAME=rdfia"):
        devices.processes(arguments(tmp_path))


@pytest.mark.parametrize(
    ("job", "flags", "said"),
    [
        ({}, {"devices": 4}, "--devices 4, but the Slurm job has 2 tasks on each node.*ntasks-per-node=4"),
        ({}, {"num_nodes": 1}, "--num-nodes 1, but the Slurm job has 2.*sbatch --nodes=1"),
        ({"SLURM_STEP_ID": None}, {}, "this Slurm job has 4 tasks.*start it with srun"),
        ({"SLURM_NTASKS_PER_NODE": None}, {}, "--ntasks 4.*sbatch --ntasks-per-node"),
    ],
)
def test_a_slurm_job_that_does_not_fit_is_said(tmp_path, monkeypatch, job, flags, said):
    in_slurm(monkeypatch, **job)
    with pytest.raises(ValueError, match=said):
        training.open_run(arguments(tmp_path, **flags), Tiny(), {})
    assert not (tmp_path / "runs").exists()


def test_a_job_in_the_queue_again_overwrites_what_was_there_before_it_alone(tmp_path, monkeypatch):
    train(arguments(tmp_path, max_epochs=1), Tiny())
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for restarts in ("0", "1"):  # the job before, that deleted nothing yet, may have been preempted
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        assert arguments(tmp_path, overwrite=True).overwrite
    again = Tiny()
    train(arguments(tmp_path, max_epochs=1, overwrite=True), again)
    assert again.batches == 5
    assert not arguments(tmp_path, overwrite=True).overwrite
    assert arguments(tmp_path, overwrite=True, name="other").overwrite


def test_other_tasks_wait_until_the_first_has_begun_the_run_anew(tmp_path, monkeypatch):
    train(arguments(tmp_path, max_epochs=1), Tiny())
    mark = tmp_path / "runs" / "run" / slurm.SLURM_JOB
    mark.write_text("7")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setattr(training, "is_first_process", lambda: False)
    writer = threading.Timer(0.5, mark.write_text, ["8"])
    started = time.monotonic()
    writer.start()
    training.open_run(arguments(tmp_path, max_epochs=2, overwrite=True), Tiny(), {})
    assert time.monotonic() - started >= 0.5
    mark.write_text("7")
    with pytest.raises(ValueError, match=r"the first process has not begun .*run from scratch within 0.2 s"):
        training.wait_for_first(mark.parent, seconds=0.2)


@pytest.mark.parametrize(
    ("python", "options", "said"),
    [
        ("/no/python", [], "no /no/python; make .venv, or export PYTHON="),
        (sys.executable, ["--gpus-per-node=4"], "--gpus-per-node=4 for 1 processes, .* --ntasks-per-node=4"),
        (sys.executable, ["--gpus-per-node", "a100:2", "--ntasks-per-node=1"], "--gpus-per-node=2 for 1"),
    ],
)
def test_what_a_job_could_not_use_is_refused_without_slurm(python, options, said):
    command = [str(ROOT / "scripts" / "slurm" / "submit.sh"), *options, "scripts/train_gan.py"]
    environment = os.environ | {"PYTHON": python}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 2
    assert re.fullmatch(f"error: {said}.*\n", done.stderr)


def test_a_task_of_a_job_array_is_queued_again_by_its_own_number(tmp_path, monkeypatch, capsys):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit 0\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in (("JOB_ID", 9), ("ARRAY_JOB_ID", 8), ("ARRAY_TASK_ID", 3)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    slurm.requeue_job()
    assert (tmp_path / "asked").read_text() == "requeue 8_3\n"
    scontrol.write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    slurm.requeue_job()
    assert "not requeued, submit the job again: scontrol requeue 8_3: no such job" in capsys.readouterr().err


def test_out_of_time_where_nothing_trains_the_job_is_queued_again(tmp_path, monkeypatch, capsys):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr("sys.argv", ["script"])
    handler = signal.getsignal(signal.SIGUSR1)
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.run_script(lambda args: os.kill(os.getpid(), signal.SIGUSR1), TrainerArgs)
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert stopped.value.code == 130
    assert (tmp_path / "asked").read_text() == "requeue 9\n"
    assert "the job is queued again" in capsys.readouterr().err


def test_a_job_that_is_put_into_the_queue_again_loses_no_history(tmp_path, monkeypatch):
    """Slurm ends the processes of the job as soon as they ask for that."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nkill -TERM $PPID\nsleep 0.2\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(Interrupted):
        train(arguments(tmp_path), Tiny(signal_at=8, number=signal.SIGUSR1))
    folder = tmp_path / "runs" / "run"
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    steps = [int(row["step"]) for row in rows(folder) if row["train/loss"]]
    assert steps == list(range(saved["global_step"]))
