"""One owner of a run folder at a time; what a kill leaves is taken over, and said."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rdfia.engine import lock, training
from rdfia.engine.args import TrainerArgs

HOLD = """
import sys, time
from pathlib import Path
from rdfia.engine import lock
try:
    lock.take(Path(sys.argv[1]))
except ValueError as error:
    print(error)
    sys.exit(3)
print("has it", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float = 60, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)


@pytest.fixture(autouse=True)
def _give_back():
    yield
    lock.give_back()


def test_two_processes_of_one_name_do_not_meet(tmp_path):
    first = hold(tmp_path)
    assert first.stdout.readline() == "has it\n"
    with pytest.raises(
        ValueError, match=rf"{tmp_path} is in use by process {first.pid} on .*use another --name"
    ):
        lock.take(tmp_path)
    with pytest.raises(ValueError, match="is in use by process"):
        lock.check(tmp_path)
    first.kill()
    first.wait()
    lock.check(tmp_path)


def test_what_kill_9_leaves_is_taken_over_and_said(tmp_path, capsys):
    first = hold(tmp_path)
    first.stdout.readline()
    first.kill()
    first.wait()
    lock.take(tmp_path)
    assert f"was left by process {first.pid} on" in capsys.readouterr().out
    assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()
    lock.take(tmp_path)  # again, by the same
    lock.give_back()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    (tmp_path / lock.FILE).write_text(json.dumps(lock.owner() | {"pid": 2**22 - 1, "started": "1"}))  # stale
    processes = [hold(tmp_path, 3) for _ in range(4)]
    said = [process.communicate()[0] for process in processes]
    assert sum("has it" in one for one in said) == 1
    assert sum("is in use by process" in one for one in said) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("age", [0, 10_000])
def test_of_another_host_it_is_known_by_when_it_was_touched(tmp_path, age, capsys):
    other = lock.owner() | {"host": "elsewhere", "space": "other boot"}
    (tmp_path / lock.FILE).write_text(json.dumps(other))
    os.utime(tmp_path / lock.FILE, (time.time() - age,) * 2)
    if age:
        lock.take(tmp_path)
        assert "on elsewhere" in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match="on elsewhere"):
            lock.take(tmp_path)


def test_who_holds_it_touches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TOUCHED_EVERY", 0.05)
    monkeypatch.setattr(lock, "_toucher", None)
    lock.take(tmp_path)
    os.utime(tmp_path / lock.FILE, (1, 1))
    for _ in range(100):
        time.sleep(0.05)
        if (tmp_path / lock.FILE).stat().st_mtime > 1:
            return
    pytest.fail("not touched")


def test_a_job_that_was_queued_again_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    before = lock.owner() | {"host": "node1", "space": "other boot"}
    (tmp_path / lock.FILE).write_text(json.dumps(before))  # touched just now, on another node
    with pytest.raises(ValueError, match="on node1"):
        lock.take(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lock.take(tmp_path)


def test_a_damaged_lock_is_nobodys_after_a_while(tmp_path):
    path = tmp_path / lock.FILE
    path.write_text("{")
    with pytest.raises(ValueError, match="is in use by"):
        lock.take(tmp_path)
    os.utime(path, (1, 1))
    lock.take(tmp_path)


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    lock.take(tmp_path)
    assert json.loads((tmp_path / lock.FILE).read_text())["pid"] == os.getpid()
    lock.give_back()
    other = hold(tmp_path)
    other.stdout.readline()
    with pytest.raises(ValueError, match="is in use by"):
        lock.take(tmp_path)
    other.kill()
    other.wait()


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"check": True}, {"seed": 5}])
def test_a_second_run_of_one_name_is_refused_and_nothing_is_lost(tmp_path, flags):
    folder = tmp_path / "run"
    args = TrainerArgs(output_dir=tmp_path, accelerator="cpu")
    training.open_run(args, torch.nn.Linear(1, 1), {})
    lock.give_back()
    (folder / "metrics.csv").write_text("step\n")
    before = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    other = hold(folder)
    other.stdout.readline()
    with pytest.raises(ValueError, match="is in use by process"):
        training.open_run(dataclasses.replace(args, **flags), torch.nn.Linear(1, 1), {})
    after = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    assert {name: text for name, text in after.items() if name != lock.FILE} == before
    other.kill()
    other.wait()


def test_parts_of_a_table_share_its_folder(tmp_path):
    class Table(TrainerArgs):
        part = (0, 2)

    other = hold(tmp_path / "run")
    other.stdout.readline()
    training.open_run(Table(output_dir=tmp_path, accelerator="cpu"), torch.nn.Linear(1, 1), {})
    other.kill()
    other.wait()


def test_overwriting_keeps_the_lock(tmp_path):
    args = TrainerArgs(output_dir=tmp_path, accelerator="cpu")
    training.open_run(args, torch.nn.Linear(1, 1), {})
    (tmp_path / "run" / "old").mkdir()
    (tmp_path / "run" / "old.txt").write_text("x")
    training.open_run(dataclasses.replace(args, overwrite=True), torch.nn.Linear(1, 1), {})
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {lock.FILE, "args.json", "checkpoints"}


def test_overwriting_a_table_waits_for_who_trains_a_row(tmp_path):
    args = TrainerArgs(output_dir=tmp_path, accelerator="cpu")
    training.open_run(args, torch.nn.Linear(1, 1), {})
    other = hold(tmp_path / "run" / "row_seed_0")
    other.stdout.readline()
    (tmp_path / "run" / "row_seed_0" / "metrics.csv").write_text("step\n")
    with pytest.raises(ValueError, match=r"row_seed_0 is in use by process"):
        training.open_run(dataclasses.replace(args, overwrite=True), torch.nn.Linear(1, 1), {})
    assert (tmp_path / "run" / "row_seed_0" / "metrics.csv").exists()
    other.kill()
    other.wait()
