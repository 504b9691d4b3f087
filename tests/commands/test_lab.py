"""The list of experiments: what is run, skipped, interrupted, and shown as failed."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from pathlib import Path

import lab
import pytest
import tyro
from conftest import ROOT
from run_folders import write_run

SCRIPT = [sys.executable, str(ROOT / "scripts" / "lab.py")]


@pytest.mark.parametrize("scale", ["full", "demo"])
@pytest.mark.parametrize("precision", ["auto", "float32", "bf16-mixed"])
def test_every_command_is_one_that_its_script_takes(scale, precision):
    args = lab.Args(data_dir=Path("sample"), scale=scale, seeds=2, precision=precision)
    found = lab.commands(args)
    assert len(found) >= (12 if scale == "demo" else len(lab.EXPERIMENTS))
    for name, (script, *flags) in found.items():
        assert (ROOT / script).is_file()
        parsed = tyro.cli(
            import_module(Path(script).stem).Args,
            args=flags,
            config=(tyro.conf.DisallowNone,),
        )
        assert parsed.name == name
        exact = script == "scripts/visualize.py" and not {"class", "saliency"} & set(flags)
        assert parsed.precision == ("auto" if exact else precision)
        if lab.EXPERIMENTS[name].seeds:
            assert parsed.seeds == (0, 1)


def test_only_some_are_run():
    assert list(lab.commands(lab.Args(only=("svm_pool5", "cgan")))) == ["svm_pool5", "cgan"]
    assert list(lab.commands(lab.Args(only=("fine_tune_f",)))) == ["fine_tune_frozen", "fine_tune_frozen_all"]
    with pytest.raises(ValueError, match="--only gann: experiments at full scale are vgg16, classify"):
        lab.Args(only=("vgg16", "gann"))
    with pytest.raises(ValueError, match="--only svm_pool5: experiments at demo scale are vgg16, classify"):
        lab.Args(scale="demo", only=("svm_pool5",))


def test_what_another_command_made_is_not_done(tmp_path):
    assert not lab.is_done(tmp_path, ["scripts/train_gan.py"])
    kept = {
        "name": "gan",
        "technique": "gan",
        "commit": "",
        "device": "",
        "precision": "",
        "wall_seconds": 1.0,
        "seeds": [0],
    }
    kept |= {"data": {}, "metrics": {}, "selection": "", "notes": []}
    command = "python scripts/train_gan.py"
    (tmp_path / "results.json").write_text(json.dumps(kept | {"command": command}))
    assert lab.is_done(tmp_path, ["scripts/train_gan.py"])
    assert not lab.is_done(tmp_path, ["scripts/train_gan.py", "--seeds", "0"])
    for recorded, asked, same in (
        ("data", "./data", True),
        ("/x/../data", "/data", True),
        ("data", "/data", False),
    ):
        command = f"python scripts/train_gan.py --data-dir {recorded} --name gan"
        (tmp_path / "results.json").write_text(json.dumps(kept | {"command": command}))
        asked_command = ["scripts/train_gan.py", "--data-dir", asked, "--name", "gan"]
        assert lab.is_done(tmp_path, asked_command) == same
    (tmp_path / "results.json").write_text(
        json.dumps(kept | {"command": "python scripts/visualize.py class"})
    )
    assert not lab.is_done(tmp_path, ["scripts/visualize.py", "class"])  # its page is written last
    (tmp_path / "index.html").touch()
    assert lab.is_done(tmp_path, ["scripts/visualize.py", "class"])
    for damaged in ("{broken", "{}", "[]"):
        (tmp_path / "results.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"results.json is damaged \(.*\); delete it"):
            lab.is_done(tmp_path, ["scripts/visualize.py", "class"])


def run_lab(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [*SCRIPT, "--data-dir", "sample", "--scale", "demo", "--output-dir", str(tmp_path / "out")]
    return subprocess.run([*command, *flags], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
def test_it_runs_what_is_not_done_and_writes_a_page(tmp_path):
    first = run_lab(tmp_path, "--only", "vgg16")
    assert first.returncode == 0, first.stderr
    assert "[1/1] python scripts/visualize.py describe" in first.stdout
    page = tmp_path / "out" / "report.html"
    assert "138,357,544" in page.read_text()
    assert "svm_layers: not run" in page.read_text()
    written = (tmp_path / "out" / "vgg16" / "results.json").stat().st_mtime_ns
    again = run_lab(tmp_path, "--only", "vgg16")
    assert again.returncode == 0
    assert "[1/1]" not in again.stdout
    assert (tmp_path / "out" / "vgg16" / "results.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_one_that_fails_is_shown_and_does_not_stop_the_others(tmp_path):
    # Made by other flags: the script refuses to go on with it.
    write_run(tmp_path / "out", "vgg16", {})
    (tmp_path / "out" / "vgg16" / "args.json").write_text(json.dumps({"backbone": "resnet18", "data": {}}))
    done = run_lab(tmp_path, "--only", "vgg16")
    assert done.returncode == 1
    why = re.search(
        r"^vgg16 failed: (.*--overwrite.*); the command: python scripts/visualize.py", done.stdout, re.M
    )
    assert why, done.stdout
    assert f"error: {why[1]}" in done.stderr
    assert f"vgg16: failed: {why[1]}" in html.unescape((tmp_path / "out" / "report.html").read_text())
    assert run_lab(tmp_path, "--only", "vgg16", "--overwrite").returncode == 0
    (tmp_path / "out" / "gan").mkdir()
    (tmp_path / "out" / "gan" / "results.json").write_text("{broken")
    again = run_lab(tmp_path, "--only", "vgg16")
    assert "[1/1]" not in again.stdout  # it is done, however begun
    assert re.search(r"^gan failed: .*results.json is damaged", again.stdout, re.M)
    assert "gan: failed" in (tmp_path / "out" / "report.html").read_text()


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match=r"--output-dir .*out is a file; name a folder"):
        lab.main(lab.Args(Path("sample"), tmp_path / "out"))


def test_help_does_not_wait_for_torch():
    started = time.perf_counter()
    done = subprocess.run([*SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert time.perf_counter() - started < 3
    assert "--only" in done.stdout


def test_no_data_is_said_before_anything_is_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data folder .*nowhere does not exist"):
        lab.main(lab.Args(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 5])
def test_interrupted_before_anything_runs(tmp_path, seconds):
    command = [*SCRIPT, "--data-dir", "sample", "--scale", "demo", "--output-dir", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(seconds)
    subprocess.run(["kill", "-INT", "--", f"-{process.pid}"], check=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(lab.commands(lab.Args(scale="demo")).keys() - {"vgg16", "svm_layers", "gan_practical"})
)
def test_each_command_of_the_demo_runs(name, tmp_path, capsys):
    """As dry runs: the demo itself takes minutes. (The other three .ci/run runs in full.)"""
    (command,) = lab.commands(lab.Args(Path("sample"), tmp_path / "out", "demo", (name,))).values()
    script = import_module(Path(command[0]).stem)
    conf = (tyro.conf.DisallowNone,)
    script.main(tyro.cli(script.Args, args=[*command[1:], "--fast-dev-run"], config=conf))
    assert "a dry run, nothing kept" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interrupted_twice_the_third_start_finishes(tmp_path):
    """And nothing is run twice: what is done is not started again, no step is logged twice."""
    flags = ["--only", "vgg16", "fine_tune"]
    command = [
        *SCRIPT,
        "--data-dir",
        "sample",
        "--scale",
        "demo",
        "--output-dir",
        str(tmp_path / "out"),
        *flags,
    ]
    started: list[str] = []
    # As a terminal does, to all; then to the lab alone, as a scheduler may.
    for name, seconds, stop in (("fine_tune_frozen", 6, "-INT -- -{}"), ("fine_tune_staged", 9, "-TERM {}")):
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        for line in process.stdout:
            if found := re.match(r"\[\d/3\] .*--name (\w+)", line):
                started.append(found[1])
                if found[1] == name:
                    break
        time.sleep(seconds)
        subprocess.run(["kill", *stop.format(process.pid).split()], check=True)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert not (tmp_path / "out" / name / "results.json").exists(), "it was too fast to be interrupted"
        assert (tmp_path / "out" / name / "checkpoints" / "last.ckpt").exists()
        assert subprocess.run(["pgrep", "-f", str(tmp_path)], check=False).returncode == 1  # none is left
    done = run_lab(tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    started += re.findall(r"^\[\d/3\] .*--name (\w+)", done.stdout, re.M)
    names = ["vgg16", "fine_tune_frozen", "fine_tune_frozen", "fine_tune_staged", "fine_tune_staged"]
    assert started == names
    for name in names[1:]:
        rows = (tmp_path / "out" / name / "metrics.csv").read_text().splitlines()[1:]
        assert len(rows) > 10
        assert len({row.split(",")[0] for row in rows}) >= 4 * 113  # each step of four epochs
        assert len(rows) == len(set(rows))
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    clean = tmp_path / "checkout"
    shutil.copytree(ROOT, clean, ignore=shutil.ignore_patterns(".*", "runs", "data", "build", "tests"))
    subprocess.run([*command, "-w", str(tmp_path), str(clean)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = """
from pathlib import Path
import rdfia, torch
from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
from rdfia.common.backbones import load_backbone
from rdfia.adaptation.dann import DANNModule
from rdfia.generation.digit_judge import load_judge
from rdfia.engine.report import Chapter, write_report
digits = MNISTToMNISTMDataModule("sample", batch_size=8)
digits.setup()
assert DANNModule().eval()(next(iter(digits.train_dataloader()))[0]["target"][0]).shape == (8, 10)
load_judge(), load_backbone("squeezenet1_1", data_dir="sample")
write_report(Path("page.html"), "empty", [Chapter("none", [])], {}, runs_folder=Path())
print(rdfia.__file__)
"""
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "installed" / "rdfia" / "__init__.py")
    command = [sys.executable, "-m", "rdfia", "gan", "--data-dir", "sample", "--fast-dev-run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "a dry run, nothing kept" in done.stdout
