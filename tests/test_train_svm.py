import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_scene15
from train_svm import Args, main

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "train_svm.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scene15(root, train=6, test=4)
    return root


def small(scenes: Path, tmp_path: Path, **changes) -> Args:
    places = {"data_dir": scenes, "output_dir": tmp_path / "runs", "accelerator": "cpu"}
    return Args(
        **{"backbone": "squeezenet1_1", "layers": ("fire4", "fire9"), "folds": 3, **places, **changes}
    )


def test_each_layer_gets_its_numbers_and_figures(scenes, tmp_path, capsys):
    results = main(small(scenes, tmp_path))
    assert "fire9       accuracy 0." in capsys.readouterr().out
    folder = tmp_path / "runs" / "svm"
    assert json.loads((folder / "results.json").read_text()) == results
    for layer, features in (("fire4", 256 * 27 * 27), ("fire9", 512 * 13 * 13)):
        assert results["metrics"][f"{layer}/features"]["mean"] == features
        assert (folder / "figures" / f"c_{layer}.png").stat().st_size > 5000
        assert (folder / "figures" / f"confusion_{layer}.png").stat().st_size > 5000
    assert results["selection"] == "C by 3-fold cross-validation on the training images"
    assert results["data"]["audit"]["train"] == 90


def test_it_learns_and_with_shuffled_labels_falls_to_chance(scenes, tmp_path):
    # the noise of a class differs in size, so resized it differs in texture
    real, control = (
        main(small(scenes, tmp_path, layers=("fire4",), name=str(shuffled), shuffle_labels=shuffled))
        for shuffled in (False, True)
    )
    assert real["metrics"]["fire4/accuracy"]["mean"] > 0.4
    assert control["metrics"]["fire4/accuracy"]["mean"] < 0.25


def test_the_same_command_gives_the_same_numbers(scenes, tmp_path):
    runs = [main(small(scenes, tmp_path, name=name, layers=("fire9",)))["metrics"] for name in ("a", "b")]
    for name in runs[0]:
        if not name.endswith("seconds"):
            assert runs[0][name] == runs[1][name]


def test_a_dry_run_splits_by_seed_and_writes_nothing(tmp_path):
    write_scene15(tmp_path / "data", train=60, test=42)
    results = main(
        small(
            tmp_path / "data", tmp_path, layers=("fire9",), splits=2, fast_dev_run=True, shuffle_labels=True
        )
    )
    assert len(results["metrics"]["fire9/accuracy_over_splits"]["values"]) == 2
    assert results["metrics"]["fire9/accuracy_over_splits"]["std"] is not None
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "vgg61"], "no backbone 'vgg61'"),
        (["--layers", "pool9"], "squeezenet1_1 has no layer 'pool9'"),
        (["--weights", "absent.safetensors"], "weights absent.safetensors do not exist"),
        (["--devices", "2", "--accelerator", "cpu"], "train_svm.py runs on one device; use --devices 1"),
        (["--scaling", "cubic"], "invalid choice 'cubic' for argument '--scaling'"),
    ],
)
def test_bad_input_is_one_line(scenes, tmp_path, arguments, message):
    command = [sys.executable, SCRIPT, "--data-dir", str(scenes), "--backbone", "squeezenet1_1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_help_has_a_line_for_each_flag():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) < 75
    for field in dataclasses.fields(Args):
        assert f"--{field.name.replace('_', '-')}" in done.stdout
