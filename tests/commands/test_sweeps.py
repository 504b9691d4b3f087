"""Sweep files: what a Weights & Biases agent makes of them runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, write_mnist, write_mnist_m, write_scene15
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

SWEEPS = sorted((ROOT / "scripts" / "sweeps").glob("*.yaml"))


def agent_command(sweep: dict) -> list[str]:
    """Return the command of the sweep's first run, as wandb's agent fills it in."""
    chosen = {name: {"value": found["values"][0]} for name, found in sweep["parameters"].items()}
    filled = create_sweep_command_args({"args": chosen})
    command = []
    for part in create_sweep_command(sweep["command"]):
        whole = {"${program}": [sweep["program"]], "${args}": filled["args"]}
        command += whole.get(part, [part])
    return command


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_an_agent_can_run_it(path, tmp_path):
    sweep = yaml.safe_load(path.read_text())
    write_mnist(tmp_path / "data")
    write_mnist_m(tmp_path / "data")
    write_scene15(tmp_path / "data")
    python = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RDFIA_DATA": str(tmp_path / "data"),
    }
    environment = os.environ | python | {"WANDB_RUN_ID": "abc123", "WANDB_SWEEP_ID": "s1"}
    # What the agent runs, but as a dry run on few digits.
    command = [*agent_command(sweep), "--fast-dev-run", "--batch-size", "32", "--accelerator", "cpu"]
    command += ["--weights", "random"] if path.stem == "svm" else []  # VGG16's are not embedded
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "a dry run, nothing kept" in done.stdout
    assert not (ROOT / "runs" / f"{path.stem}_abc123").exists()


@pytest.mark.slow
def test_two_processes_are_one_run_of_the_sweep(tmp_path):
    write_mnist(tmp_path / "data")
    flags = [
        "--data-dir",
        tmp_path / "data",
        "--output-dir",
        tmp_path,
        "--accelerator",
        "cpu",
        "--devices",
        2,
    ]
    flags += ["--name", "run", "--wandb", "--max-epochs", 1, "--batch-size", 32, "--generator-features", 4]
    sweep = {"WANDB_RUN_ID": "abc123", "WANDB_SWEEP_ID": "s1", "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    command = [sys.executable, "scripts/train_gan.py", *map(str, flags)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | sweep, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (logged,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert logged.name.endswith("-abc123")
    assert (tmp_path / "run" / "wandb_id.txt").read_text() == "abc123"


def test_each_technique_has_one():
    assert {path.stem for path in SWEEPS} == {"svm", "fine_tune", "dann", "gan", "cgan"}
