"""Processes killed at any moment: the same command ends as if nothing had happened."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_mnist, write_mnist_m, write_scene15
from safetensors import safe_open

COMMANDS = {
    "gan": ["scripts/train_gan.py", "--batch-size", "16", "--max-epochs", "20", "--latent-dim", "10"],
    "svm": [
        "scripts/train_svm.py",
        "--features",
        "squeezenet1_1/fire9",
        "--folds",
        "2",
        "--components",
        "16",
    ],
}
COMMANDS["gan"] += ["--generator-features", "4", "--discriminator-features", "4"]


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen, beginning: str) -> None:
    """Read what a process prints until a line begins so, or to its end."""
    for line in process.stdout:
        assert "Traceback" not in line
        if line.startswith(beginning):
            return


def run(command: list[str]) -> None:
    process = start(command)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed


def metrics(folder: Path) -> dict[str, list[float]]:
    """Return the values in results.json that are the same each time."""
    found = json.loads((folder / "results.json").read_text())["metrics"]
    changing = ("second", "milliseconds")
    return {name: one["values"] for name, one in found.items() if not any(word in name for word in changing)}


# Of DANN, cGAN and fine-tuning, which are killed at one moment each.
LONG = ["--batch-size", "16", "--max-epochs", "3"]
OTHERS = {
    "dann": ["scripts/train_dann.py", *LONG, "--network", "paper", "--compare"],
    "cgan": ["scripts/train_cgan.py", *LONG, "--generator-features", "4", "--discriminator-features", "4"],
    "fine-tune": [
        "scripts/train_fine_tune.py",
        *LONG,
        "--image-size",
        "64",
        "--unfreeze-top-at",
        "1",
        "--unfreeze-all-at",
        "2",
    ],
}
# Runs a script, whose process is killed in its validation after the second epoch.
KILLED = """
import os, runpy, sys
import lightning

class Kill(lightning.Callback):
    def on_validation_batch_start(self, trainer, *step):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), 9)

make = lightning.Trainer.__init__
def with_kill(self, *given, callbacks=(), **named):
    make(self, *given, callbacks=[*callbacks, Kill()], **named)
lightning.Trainer.__init__ = with_kill
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_killed_in_validation_it_ends_as_if_it_had_not_been(tmp_path, name):
    root = tmp_path / "data"
    write_mnist(root)
    write_mnist_m(root, train=120, test=40)
    write_scene15(root)
    flags = ["--data-dir", str(root), "--accelerator", "cpu", "--name", "run", "--output-dir"]
    whole, killed = ([*OTHERS[name], *flags, str(tmp_path / folder)] for folder in ("whole", "killed"))
    process = start([sys.executable, "-c", KILLED, *killed])
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == -9, printed
    assert "epoch 1/3" in printed
    check_files(tmp_path / "killed")
    run([sys.executable, *killed])
    run([sys.executable, *whole])
    folders = [tmp_path / "killed" / "run", tmp_path / "whole" / "run"]
    assert metrics(folders[0]) == metrics(folders[1])
    histories = [[path.read_text() for path in folder.rglob("metrics.csv")] for folder in folders]
    assert len(histories[0]) == 1
    assert histories[0] == histories[1]


def check_files(*folders: Path) -> None:
    """Read each file under its final name."""
    for path in (path for folder in folders for path in folder.rglob("*") if not path.name.startswith(".")):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                file.get_tensor("values")
        elif path.suffix == ".csv":
            assert path.read_text().endswith("\n")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["gan", "svm"])
@pytest.mark.parametrize(
    "times", [pytest.param(6, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.long)]
)
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path, name, times):
    write_mnist(tmp_path / "data")
    write_scene15(tmp_path / "data")
    flags = ["--data-dir", str(tmp_path / "data"), "--accelerator", "cpu", "--name", "run", "--output-dir"]
    command = [sys.executable, *COMMANDS[name], *flags]
    own = {name: ["--cache-dir", str(tmp_path / name)] if "svm" in command[1] else [] for name in ("a", "b")}
    whole = [*command, str(tmp_path / "whole"), *own["a"]]
    run(whole)
    began = time.monotonic()
    run(whole)  # what is done is not done again, so that this is shorter than the first time
    length = time.monotonic() - began

    killed, moments, kills, early = [*command, str(tmp_path / "killed"), *own["b"]], random.Random(0), 0, 0
    for number in range(times):
        if number % 2:
            shutil.rmtree(tmp_path / "b", ignore_errors=True)  # features are extracted again
            if name == "gan" and list((tmp_path / "killed").rglob("results.json")):
                shutil.rmtree(tmp_path / "killed")  # a quick machine has trained to the end: begin again
        process = start(killed)
        if number % 2 and name == "gan":  # some time after an epoch, where it still trains
            read_until(process, "epoch")
        try:
            printed, _ = process.communicate(timeout=moments.uniform(0, length / (1 + 3 * (number % 2))))
            assert process.returncode == 0, printed
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            printed, _ = process.communicate()
            kills += 1
            ended = {"gan": (tmp_path / "killed").rglob("results.json"), "svm": (tmp_path / "b").rglob("*.*")}
            early += not any(path.suffix != ".part" for path in ended[name])
        assert "Traceback" not in printed
        assert "error" not in printed
        check_files(tmp_path / "killed", tmp_path / "b")
    assert kills > times / 2
    assert early > times / 4  # before training, or the extraction of features, had ended
    run(killed)
    folders = [tmp_path / "killed" / "run", tmp_path / "whole" / "run"]
    assert metrics(folders[0]) == metrics(folders[1])
    assert not list(folders[0].rglob(".*.part"))
    if name == "gan":
        killed_history, whole_history = ((folder / "metrics.csv").read_text() for folder in folders)
        assert killed_history == whole_history
