import dataclasses
import os
import shutil
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from conftest import write_picture
from PIL import Image

from rdfia.common import plots
from rdfia.engine import runs
from rdfia.interpret import config
from rdfia.interpret.commands.classes import png
from rdfia.interpret.config import ClassVisualization
from rdfia.interpret.experiment import run

SAMPLE = Path("sample")


def test_classes_are_drawn_and_filmed(tmp_path):
    given = {"image_size": 128, "steps": 40, "jitter": 4, "frames": 3, "output_dir": tmp_path}
    given |= {"accelerator": "cpu"}
    results = run(ClassVisualization(data_dir=SAMPLE, classes=("tabby", "snail"), **given))
    assert results["metrics"]["squeezenet1_1/confidence"]["mean"] > 0.2  # chance is 0.001
    folder = tmp_path / "class"
    assert (folder / "figures" / "classes.png").exists()
    with Image.open(folder / "figures" / "film.gif") as film:
        assert film.n_frames == 4
        assert film.info["comment"].startswith(b"4 frames over 40 steps; how sure of the class in the end: ")
    assert (folder / "images" / "class_tabby.png").exists()
    if shutil.which("ffmpeg"):
        assert b"ftyp" in (folder / "figures" / "film.mp4").read_bytes()[:12]


def test_a_film_survives_an_ffmpeg_that_fails(tmp_path, monkeypatch, capsys):
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    runs.save_film(tmp_path, "film", [np.full((5, 7), level, np.uint8) for level in (0, 255)], trainer)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["film.gif"]
    assert "no film.mp4: ffmpeg failed" in capsys.readouterr().err


def test_a_picture_can_be_changed_into_a_class(tmp_path):
    write_picture(tmp_path / "hay.png", (80, 80), 0)
    given = {"image_size": 64, "steps": 2, "frames": 2, "output_dir": tmp_path / "runs", "accelerator": "cpu"}
    given |= {"preset": "practical", "jitter": 0, "rate": 0.01, "start": tmp_path / "hay.png"}
    run(ClassVisualization(classes=("snail",), weights="random", ensemble=("resnet18",), **given))
    drawn = png(tmp_path / "runs" / "class" / "images" / "class_snail.png")
    picture = png(tmp_path / "hay.png")[:, 8:-8, 8:-8]  # only to know its mean
    assert abs(float(drawn.mean() - picture.mean())) < 0.1


def test_rows_of_photographs_are_drawn_at_their_size():
    figure = plots.image_rows({"one": torch.zeros(3, 3, 224, 224), "two": torch.zeros(3, 3, 224, 224)})
    (axes,) = figure.axes
    figure.draw_without_rendering()
    width, height = axes.get_window_extent().size / figure.dpi * 120  # as figures are written
    assert width >= 3 * 224
    assert height >= 2 * 224


def test_settings_are_compared_and_rows_that_are_done_are_not_drawn_again(tmp_path, monkeypatch, capsys):
    rows = {"one": {"steps": 1}, "two": {"steps": 2, "blur_every": 1}}
    monkeypatch.setitem(config.TABLES, "steps", rows)
    args = ClassVisualization(
        classes=("snail", "tabby"),
        weights="random",
        judges=("resnet18",),
        table="steps",
        preset="practical",
        image_size=64,
        output_dir=tmp_path,
        accelerator="cpu",
    )
    results = run(args)
    metrics = {name: value["mean"] for name, value in results["metrics"].items()}
    pairs = [metrics["two/squeezenet1_1/resnet18/top_5"], metrics["two/resnet18/squeezenet1_1/top_5"]]
    assert metrics["two/top_5"] == sum(pairs) / 2
    assert metrics["one/seconds"] > 0
    assert (tmp_path / "class" / "figures" / "settings.png").exists()
    again = capsys.readouterr().out.count("made them")
    assert again == 4
    assert run(args)["metrics"] == results["metrics"]
    assert "made them" not in capsys.readouterr().out
    alone = run(dataclasses.replace(args, name="alone", in_turns=False))["metrics"]
    assert alone["two/top_5"]["values"] == [pairs[0]]
    assert "two/resnet18/squeezenet1_1/top_5" not in alone
    bad = {
        "name one or more as --judges": {"judges": ()},
        "add --preset practical": {"preset": "best"},
        "--table sets --blur-every itself": {"blur_every": 3},
        "resnet18": {"weights": "imagenet", "data_dir": tmp_path},  # a judge whose weights are not there
    }
    for message, change in bad.items():
        with pytest.raises((ValueError, OSError), match=message):
            run(dataclasses.replace(args, name="other", **change))
    assert not (tmp_path / "other").exists()
