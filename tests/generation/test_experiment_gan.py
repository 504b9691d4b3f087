"""The experiment, in process, and the script as users call it."""

import dataclasses
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, write_mnist
from PIL import Image

from rdfia.engine.cli import run_script
from rdfia.engine.errors import Interrupted
from rdfia.engine.runs import read_metrics
from rdfia.generation.config import ABLATION, MODERN
from rdfia.generation.config import GANArgs as Args
from rdfia.generation.experiment import loss_numbers, module_flags, run
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.generation.walks import halfway_scores, walks

SCRIPT = str(ROOT / "scripts" / "train_gan.py")


def call(*arguments: str, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **settings)


def small(tmp_path, **changes) -> Args:
    widths = {"generator_features": 4, "discriminator_features": 4, "latent_dim": 8}
    places = {"data_dir": tmp_path / "data", "output_dir": tmp_path / "runs"}
    return Args(**{"max_epochs": 1, "batch_size": 32, "accelerator": "cpu", **widths, **places, **changes})


def test_a_dry_run_touches_everything_and_writes_nothing(tmp_path, mnist, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results = run(small(tmp_path, fast_dev_run=True))
    assert results["metrics"]["n_real"]["mean"] > 0
    assert "a dry run, nothing kept" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_run_leaves_figures_scores_and_checkpoints(tmp_path, mnist, capsys):
    # the default hardly changes in six batches of small networks, and a film has no equal frames
    results = run(small(tmp_path, max_epochs=2, preset="practical", ema_decay=0.999))
    folder = tmp_path / "runs" / "gan"
    assert json.loads((folder / "results.json").read_text()) == results
    figures = {path.stem for path in (folder / "figures").iterdir()}
    epochs = {f"samples_epoch_{number:03d}" for number in range(3)}
    assert figures == epochs | {"curves_and_samples", "real_and_generated", "interpolation", "film", "walk"}
    with Image.open(folder / "figures" / "film.gif") as film:
        assert film.n_frames == len(list((folder / "figures" / "film").iterdir())) == 6  # a frame a batch
        assert film.info["comment"] == b"6 frames, from batch 1 to 6."
    history = read_metrics(folder)
    for name in ("discriminator", "generator"):
        assert history[f"train/{name}_lr"][1] == [2e-4] * len(history["train/discriminator_loss"][1])
    assert results["data"]["train"] == 120
    assert results["selection"] == "last epoch, samples of the averaged generator"
    for value in results["metrics"].values():
        assert value["values"] == [value["mean"]]
    for name in (
        "judge_fid",
        "precision",
        "recall",
        "class_0",
        "n_real",
    ):  # the floor stands beside each score
        assert f"floor_{name}" in results["metrics"]
    assert "37 generated digits against 37 real test digits" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_numbers(tmp_path, mnist, undrawn):
    results = [
        run(small(tmp_path, name=name, seed=seed, interpolate=()))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    losses = [(tmp_path / "runs" / name / "metrics.csv").read_text() for name in "abc"]
    for result in results:
        assert result["metrics"].pop("seconds")["mean"] > 0
    assert results[0]["metrics"] == results[1]["metrics"]
    assert losses[0] == losses[1] != losses[2]


def test_each_flag_is_a_keyword_of_the_module_and_the_preset_fills_the_rest():
    usual = {"seed": 0, "image_size": 32, "flips": False, "scores": "digits"}
    assert module_flags(Args(), None) == usual
    assert module_flags(Args(preset="practical"), None) == {**PRACTICAL, **usual}
    given = module_flags(Args(preset="practical", generator_lr=1.0, seed=3), None)
    assert given == {**PRACTICAL, **usual, "generator_lr": 1.0, "seed": 3}
    flags = {field.name for field in dataclasses.fields(Args)}
    assert flags >= set(inspect.signature(GANModule).parameters) - {"preview_count"}
    for rows in (*ABLATION.values(), MODERN):
        for changes in rows.values():
            small = dataclasses.replace(Args(preset="practical", latent_dim=4), **changes)
            GANModule(**module_flags(small, None))


def test_the_numbers_of_the_curves_by_hand():
    steps = [1.0, 2.0, 3.0, 4.0]
    history = {
        "train/discriminator_loss": (steps, [9.0, 9.0, 1.0, 3.0]),
        "train/generator_loss": (steps, [9.0, 2.0, float("nan"), 6.0]),
        "train/discriminator_accuracy": (steps, [1.0, 0.99, 1.0, 0.5]),
    }
    assert loss_numbers(history, epoch=3) == {
        "final_discriminator_loss": pytest.approx(13 / 3),
        "final_generator_loss": 4.0,
        "loss_swing": 2.0,
        "discriminator_wins": 0.5,
    }


def test_no_walks_where_none_is_asked_for(tmp_path, mnist):
    run(small(tmp_path, interpolate=(), max_epochs=1))
    assert not list((tmp_path / "runs").glob("**/interpolation*"))
    assert (tmp_path / "runs" / "gan" / "results.json").exists()


def test_halfway_along_the_line_latents_are_shorter_than_along_the_arc():
    class Lengths(torch.nn.Module):
        """As a generator its images are the lengths of latents, of which the judge is confident above 1.9."""

        device, latents = torch.device("cpu"), "normal"

        def draw(self, count, key):
            return 2 * torch.eye(2)[key % 2].expand(count, 2)

        def forward(self, latents):
            return latents.norm(dim=1)

    def judge(l2_norms):
        return torch.stack([torch.where(l2_norms > 1.9, 9.0, 0.0), torch.zeros(len(l2_norms))], 1)

    module = Lengths()
    module.scores = SimpleNamespace(judge=judge)
    name = "halfway_confident_share"
    assert halfway_scores(module, 3) == {f"{name}_linear": 0.0, f"{name}_slerp": 1.0}
    module.latents = "uniform"
    assert halfway_scores(module, 3) == {f"{name}_linear": 0.0}


def test_walks_begin_and_end_where_the_judge_says(monkeypatch):
    module = GANModule(latent_dim=4, generator_features=4)
    seen = []

    def judge(images):
        """Be surest of 8 in the 700th latent, of 9 in the 30th and of 4 in the 2nd."""
        logits = torch.zeros(len(images), 10)
        for digit, place in ((8, 700), (9, 30), (4, 2)):
            logits[place, digit] = 9.0
        seen.append(images)
        return logits

    monkeypatch.setattr("rdfia.generation.walks.judge_of", lambda module: judge)
    ways = walks(module, [(8, 9), (9, 4)], steps=5)
    (images,) = seen
    for frame, place in ((0, 700), (4, 30), (5, 30), (9, 2)):
        for how in ways:
            torch.testing.assert_close(ways[how][frame], images[place], rtol=1e-3, atol=1e-4)
    assert {how: images.shape for how, images in ways.items()} == dict.fromkeys(
        ("linear", "slerp"), (10, 1, 32, 32)
    )
    assert list(walks(GANModule(latent_dim=4, generator_features=4, latents="uniform"), [(1, 2)], 3)) == [
        "linear"
    ]


def test_help_is_short_and_fast():
    started = time.perf_counter()
    done = call("--help")
    assert time.perf_counter() - started < 3
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(lines) <= 3 * sum(line.startswith("│ -") for line in lines)  # whole phrases, and defaults
    assert len(lines) < 180
    for flag in ("--data-dir", "--max-epochs", "--precision", "--wandb", "--fast-dev-run", "--latent-dim"):
        assert flag in done.stdout


def bad_data(tmp_path: Path, kind: str) -> Path:
    root = tmp_path / "bad"
    write_mnist(root)
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "magic":
        path = path.rename(path.with_suffix(""))
        path.write_bytes(b"GIF8" + bytes(100))
    elif kind == "missing":
        path.unlink()
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-dir", "{tmp}/absent"], "absent does not exist"),
        (["--data-dir", "{truncated}"], "is not a complete gzip file"),
        (["--data-dir", "{magic}"], "begins with 0x47494638"),
        (["--data-dir", "{missing}"], "MNIST not found"),
        (["--max-epoch", "3"], "Unrecognized options: --max-epoch, 3; did you mean --max-epochs?"),
        (["--precision", "fp7"], "invalid choice 'fp7' for argument '--precision'"),
        (["--max-epochs", "many"], "invalid literal for int() with base 10: 'many'"),
        (["--data-dir", "sample", "--max-epochs", "0"], "--max-epochs is at least 1, got 0"),
        (["--data-dir", "sample", "--batch-size", "0"], "--batch-size is at least 1, got 0"),
        (["--data-dir", "sample", "--batch-size", "9999"], "larger than the 4000 training images"),
        (["--data-dir", "sample", "--batch-size", "9", "--devices", "2"], "cannot be shared by 2 processes"),
        (["--data-dir", "sample", "--devices", "0"], "--devices is at least 1, got 0"),
        (["--data-dir", "sample", "--generator-lr", "-1"], "--generator-lr is not negative, got -1.0"),
        (["--data-dir", "sample", "--name", "..", "--overwrite"], "--name is a folder name, got '..'"),
        (["--data-dir", "sample", "--devices", "-1"], "--devices is at least 1, got -1"),
        (["--data-dir", "sample", "--accelerator", "gpu"], "no GPU was found"),
        (["--data-dir", "sample", "--latent-dim", "0"], "--latent-dim is at least 1, got 0"),
        (["--data-dir", "sample", "--seed", "-1"], "--seed is at least 0, got -1"),
        (["--data-dir", "sample", "--output-dir", "/dev/null/runs"], "cannot be written"),
        (["--data-dir", "sample", "--name", "a:b"], "--name is a folder name, got 'a:b'"),
        (["--data-dir", "sample", "--name", "../x"], "--name is a folder name, got '../x'"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    tmp_path, arguments, message, monkeypatch, capfd
):
    if "gpu" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    places = {kind: bad_data(tmp_path / kind, kind) for kind in ("truncated", "magic", "missing")}
    output = [] if "--output-dir" in arguments else ["--output-dir", str(tmp_path / "runs")]
    monkeypatch.chdir(tmp_path)
    arguments = [part.format(tmp=tmp_path, **places) for part in arguments]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments, *output])
    with pytest.raises(SystemExit) as stopped:
        run_script(run, Args)
    shown = capfd.readouterr()
    assert stopped.value.code == 2
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.out == ""
    assert not (tmp_path / "runs").exists()
    assert {path.name for path in tmp_path.iterdir()} == set(places)


def test_who_began_anew_is_told_to_go_on_without_that(monkeypatch, capsys):
    def stop(args):
        raise Interrupted("saved, the same command resumes from there")

    monkeypatch.setattr(sys, "argv", [SCRIPT, "--overwrite", "--data-dir", "sample"])
    with pytest.raises(SystemExit):
        run_script(stop, Args)
    assert capsys.readouterr().err == "saved, the same command without --overwrite resumes from there\n"


def test_a_checkpoint_of_another_technique_is_named(tmp_path, mnist):
    last = tmp_path / "runs" / "gan" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": {"feature_extractor.weight": torch.zeros(1)}}, last)
    with pytest.raises(ValueError, match="is not a checkpoint of this GANModule"):
        run(small(tmp_path))
    assert [path.name for path in (tmp_path / "runs" / "gan").iterdir()] == ["checkpoints"]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_what_was_whole(tmp_path, mnist):
    """A limit on the size of files stands in for a full disk: writing the checkpoint fails."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    arguments = ["--data-dir", mnist, "--output-dir", tmp_path / "runs", "--batch-size", 32]
    arguments += ["--max-epochs", 1]
    done = call(*arguments, preexec_fn=limit, env={**os.environ, "MPLCONFIGDIR": str(tmp_path / "mpl")})
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    checkpoints = tmp_path / "runs" / "gan" / "checkpoints"
    assert list(checkpoints.iterdir()) == []


@pytest.mark.slow
def test_two_processes_end_with_one_result(tmp_path, mnist):
    arguments = ["--data-dir", mnist, "--output-dir", tmp_path / "runs", "--batch-size", 32]
    arguments += ["--max-epochs", 1, "--devices", 2, "--accelerator", "cpu", "--generator-features", 4]
    done = call(*arguments, "--discriminator-features", 4)
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    results = json.loads((tmp_path / "runs" / "gan" / "results.json").read_text())
    assert results["device"].startswith("2 processes of CPU")
    assert results["metrics"]["n_real"]["mean"] == results["metrics"]["n_generated"]["mean"] == 37
    assert done.stdout.count("37 generated digits against 37 real test digits") == 1


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, mnist):
    arguments = ["--data-dir", mnist, "--output-dir", tmp_path / "runs", "--batch-size", 8]
    arguments += ["--generator-features", 4, "--discriminator-features", 4, "--max-epochs", 9]
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 2/9"):
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    folder = tmp_path / "runs" / "gan"
    assert process.returncode == 130, errors
    assert "the same command resumes from there" in errors
    assert "Traceback" not in errors
    assert "epoch 9/9" not in output
    assert not (folder / "results.json").exists()
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert "epoch 9/9" in done.stdout
    assert "epoch 1/9" not in done.stdout
    straight = run(small(tmp_path, name="straight", batch_size=8, max_epochs=9, latent_dim=100))
    resumed = json.loads((folder / "results.json").read_text())
    for results in (resumed, straight):
        assert results["metrics"].pop("seconds")["mean"] > 0
    assert resumed["metrics"] == straight["metrics"]
    history = (tmp_path / "runs" / "straight" / "metrics.csv").read_text()
    assert (folder / "metrics.csv").read_text() == history


@pytest.mark.slow
def test_a_slurm_job_whose_time_is_nearly_over_saves_and_is_queued_again(tmp_path, mnist):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    arguments = ["--data-dir", mnist, "--output-dir", tmp_path / "runs", "--batch-size", 8, "--groups", 0]
    arguments += ["--generator-features", 4, "--discriminator-features", 4, "--max-epochs", 99]
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    path = f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SLURM_JOB_ID": "7", "PATH": path},
    )
    for line in process.stdout:
        if line.startswith("epoch 2/99"):
            break
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "SIGUSR1: saving after this batch" in errors
    assert "the same command resumes from there" in errors
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert (tmp_path / "runs" / "gan" / "checkpoints" / "last.ckpt").exists()
