"""The trainer scripts in a real Slurm of two nodes, by the shipped templates."""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import slurm_cluster
from conftest import ROOT, write_mnist, write_mnist_m, write_scene15
from slurm_cluster import ask, wait_for
from wandb_files import wandb_records

pytestmark = pytest.mark.slurm
DIGITS = ["--batch-size", "16", "--max-epochs", "6"]
TINY = [*DIGITS, "--generator-features", "4", "--discriminator-features", "4", "--latent-dim", "10"]
# Without BatchNorm and dropout, whose statistics and masks are each process's own, DANN is the same on one
# process and on two.
COMMANDS = {
    "gan": ["scripts/train_gan.py", *TINY],
    "cgan": ["scripts/train_cgan.py", *TINY],
    "dann": ["scripts/train_dann.py", *DIGITS, "--network", "paper", "--dropout", "0", "--compare"],
    "svm": [
        "scripts/train_svm.py",
        "--features",
        "squeezenet1_1/fire9",
        "--image-size",
        "64",
        "--folds",
        "2",
    ],
    "fine-tune": ["scripts/train_fine_tune.py", "--image-size", "64", "--max-epochs", "2", "--augment"],
}
COMMANDS["svm"] += ["--components", "16", "--no-cache"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_mnist(root)
    write_mnist_m(root, train=120, test=40)
    write_scene15(root)
    return root


@pytest.fixture(scope="module")
def cluster():
    with (
        tempfile.TemporaryDirectory(prefix="rdfia_slurm_", ignore_cleanup_errors=True) as folder,
        slurm_cluster.two_nodes(Path(folder)) as environment,
    ):
        quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": folder, "COLUMNS": "200"}
        yield environment | quiet | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def submit(cluster, folder: Path, data: Path, *words: str) -> tuple[int, subprocess.CompletedProcess]:
    """Submit a command; return the number of its first job, 0 if it was refused, and what was printed."""
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    flags = ["--data-dir", str(data), "--output-dir", str(folder), "--accelerator", "cpu"]
    command = ["scripts/slurm/submit.sh", f"--output={folder}/slurm-%j-%a.out", *words, *flags]
    assert words[script] in command
    done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=120)
    found = re.search(r"^job (\d+)$", done.stdout, re.MULTILINE)
    return int(found[1]) if found else 0, done


def finish(cluster, folder: Path, number: int) -> None:
    """Wait for a job; fail with what it printed if it failed."""
    states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    state = wait_for(cluster, number, *states, seconds=400)["JobState"]
    printed = "\n".join(path.read_text() for path in sorted(folder.glob("slurm-*.out")))
    assert state == "COMPLETED", printed
    assert "Traceback" not in printed, printed


def metrics(folder: Path) -> dict[str, list[float]]:
    """Return the values in results.json that are the same each time."""
    found = json.loads((folder / "results.json").read_text())["metrics"]
    return {name: one["values"] for name, one in found.items() if "second" not in name}


def history(folder: Path) -> list[dict[str, str]]:
    """Return metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(cluster, data, tmp_path_factory):
    """Run each script over both nodes when it is first asked for; return its run folder."""
    done: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            number, printed = submit(
                cluster, folder, data, "--nodes=2", *COMMANDS[name], "--name", "run", "--wandb"
            )
            assert number, printed
            finish(cluster, folder, number)
            done[name] = folder / "run"
        return done[name]

    return run


def here(data: Path, folder: Path, name: str, *more: str) -> Path:
    """Run a script without Slurm; return its run folder."""
    flags = ["--data-dir", str(data), "--output-dir", str(folder), "--accelerator", "cpu", "--name", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *COMMANDS[name], *flags, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("name", ["svm", "dann", "fine-tune"])
def test_two_nodes_find_what_one_process_finds(whole, data, tmp_path, name):
    found, expected = metrics(whole(name)), metrics(here(data, tmp_path, name))
    assert found.keys() == expected.keys()
    for score, values in expected.items():
        exactly = name == "svm"
        assert found[score] == (values if exactly else pytest.approx(values, rel=2e-3, abs=2e-3)), score
    written = json.loads((whole(name) / "results.json").read_text())
    assert written["device"].startswith("2 processes of CPU")


@pytest.mark.parametrize("name", ["gan", "cgan"])
def test_two_nodes_find_what_two_processes_find(whole, data, tmp_path, name):
    found, expected = metrics(whole(name)), metrics(here(data, tmp_path, name, "--devices", "2"))
    assert found == expected
    assert found["n_real"] == [37]  # each test digit once
    written = json.loads((whole(name) / "results.json").read_text())
    assert written["device"].startswith("2 processes of CPU")


@pytest.mark.parametrize("name", ["gan", "cgan", "dann", "fine-tune"])
def test_one_process_writes_and_logs(whole, name):
    folder = whole(name)
    assert len(list(folder.rglob("results.json"))) == 1
    trained = folder / "dann_seed_0" if name == "dann" else folder
    settings, rows = wandb_records(trained)
    assert rows >= len(history(trained)) / 2
    assert settings["commit"]
    assert settings["versions"]["torch"]
    assert settings["max_epochs"] == (2 if name == "fine-tune" else 6)


def interrupt(cluster, folder: Path, trained: Path, number: int, batches: int, *command: str) -> None:
    """Wait until a job has trained some batches, send it back to the queue, and let it start again."""
    deadline = time.monotonic() + 200
    while not (trained / "metrics.csv").exists() or len(history(trained)) < batches:
        assert time.monotonic() < deadline, [path.read_text() for path in folder.glob("slurm-*.out")]
        time.sleep(0.1)
    ask(cluster, *command, str(number))
    while slurm_cluster.job(cluster, number)["Restarts"] == "0":
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)
    # Slurm lets a requeued job, once it is cleared away, wait for two minutes.
    while slurm_cluster.job(cluster, number)["JobState"] in ("PENDING", "COMPLETING", "REQUEUED"):
        ask(cluster, "scontrol", "update", f"jobid={number}", "starttime=now")
        assert time.monotonic() < deadline + 120
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("gan", ("scontrol", "requeue")),  # a preemption: SIGTERM, and into the queue by Slurm
        ("dann", ("scontrol", "requeue")),
        ("dann", ("scancel", "--signal=USR1")),  # time is nearly over: the job puts itself into the queue
    ],
)
def test_a_job_that_is_interrupted_goes_on_and_ends_as_if_it_had_not_been(
    cluster, whole, data, tmp_path, name, command
):
    number, printed = submit(
        cluster, tmp_path, data, "--nodes=2", *COMMANDS[name], "--name", "run", "--overwrite", "--wandb"
    )
    assert number, printed
    rows = {"gan": Path("run"), "dann": Path("run/dann_seed_0")}
    interrupt(cluster, tmp_path, tmp_path / rows[name], number, 1, *command)
    finish(cluster, tmp_path, number)
    log = "\n".join(path.read_text() for path in tmp_path.glob("slurm-*.out"))
    assert "saving after this batch" in log
    uninterrupted = whole(name)
    assert metrics(tmp_path / "run") == metrics(uninterrupted)
    assert history(tmp_path / rows[name]) == history(uninterrupted.parent / rows[name])
    logged = [path.name for path in tmp_path.glob(f"{rows[name]}/wandb/offline-run-*")]
    assert len(logged) == 2
    assert len({run.rpartition("-")[2] for run in logged}) == 1


@pytest.mark.parametrize("options", [["--array=0-1"], ["--array=0-0", "--per-gpu=2"]])
def test_a_table_is_trained_in_parts_and_joined(cluster, data, tmp_path, options):
    words = [*options, *COMMANDS["gan"], "--max-epochs", "1", "--seeds", "3", "4", "--name", "run"]
    number, printed = submit(cluster, tmp_path, data, *words)
    assert number, printed
    join = int(re.search(r"^job (\d+) joins", printed.stdout, re.MULTILINE)[1])
    finish(cluster, tmp_path, join)
    table = json.loads((tmp_path / "run" / "results.json").read_text())
    assert table["seeds"] == [3, 4]
    assert len(table["metrics"]["judge_fid"]["values"]) == 2
    logs = {path.name: path.read_text() for path in tmp_path.glob("slurm-*.out")}
    trained = {name: text.count("epoch 1/1") for name, text in logs.items()}
    assert sorted(trained.values()) == ([0, 2] if len(options) > 1 else [0, 1, 1]), trained  # nothing twice


def test_torchrun_in_a_job_starts_as_many_as_it_says(cluster, data, tmp_path):
    flags = ["--data-dir", data, "--output-dir", tmp_path, "--max-epochs", "1", "--accelerator", "cpu"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = ["srun", "--nodes=1", "--ntasks=1", *run, *COMMANDS["gan"], *map(str, flags)]
    done = subprocess.run(line, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on 2 processes of CPU") == 1
    assert (tmp_path / "gan" / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "flags", "said"),
    [
        (["--partition=none"], [], "invalid partition"),
        (["--nodes=3"], ["--batch-size", "18"], "Requested node configuration is not available"),
        (["--nodes=1-2"], [], "--nodes and --ntasks-per-node are one number each"),
        (["-N2"], [], "-N2: say --nodes="),
        (["--gpus-per-task=2"], [], "--gpus-per-task=2: each process takes one GPU; say --gpus-per-task=1"),
        (
            ["--gres=gpu:4"],
            [],
            "--gres=gpu:4 for 1 processes, each of which takes one; say --ntasks-per-node=4",
        ),
        (["--per-gpu=2"], [], "--per-gpu=2 shares a GPU between parts of a table; add --array=0-N"),
        (["--array=1-9:2"], ["--seeds", "0", "1"], "the parts of a table are --array=0-N"),
        (["--array=0-1"], [], "--part is one of a table; add --seeds or --ablation"),
        (["--array=0-1"], ["--seeds", "0", "1", "--overwrite"], "--overwrite with --part deletes"),
        (["--nodes=2"], ["--devices", "2"], "--devices 2, but the Slurm job has 1 tasks on each node"),
        (["--nodes=2"], ["--batch-size", "15"], "--batch-size 15 cannot be shared by 2 processes"),
        ([], ["--data-dir", "/nowhere"], "data folder /nowhere does not exist"),
        ([], ["--output-dir", "README.md"], "run folder README.md/gan cannot be written"),
        ([], ["--max-epoch", "2"], "--max-epoch"),
    ],
)
def test_a_mistake_is_said_before_anything_waits(cluster, data, tmp_path, options, flags, said):
    words = [*options, *COMMANDS["gan"], *flags]
    command = [
        "scripts/slurm/submit.sh",
        *words,
        *([] if "--data-dir" in flags else ["--data-dir", str(data)]),
    ]
    if "--output-dir" not in flags:
        command += ["--output-dir", str(tmp_path)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert said in done.stderr
    assert time.monotonic() - started < 60
    assert not ask(cluster, "squeue", "--noheader")
    assert not list(tmp_path.iterdir())
