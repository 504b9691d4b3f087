"""A new user's path: a folder of photographs, SVM, fine-tuning, prediction, saliency, an attack, DANN."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from datamodules import MNISTDataModule
from datamodules.files import SAMPLES
from datamodules.listing import find_pictures
from datamodules.mnist import load_mnist
from rdfia import DANNModule, load_classifier
from rdfia.interpret.commands.common import class_of
from rdfia.trained import TrainedClassifier

NAMES = ("Bäume", "a cat", "coffee", "rocket", "très joli")


def write_photographs(root, count, shade=1.0, labelled=True):
    """Cut a folder of five classes out of five photographs, in several formats, one turned, one damaged."""
    sources = find_pictures(SAMPLES / "photographs").pictures[: len(NAMES)]
    for label, (name, source) in enumerate(zip(NAMES, sources, strict=True)):
        folder = root / name if labelled else root
        folder.mkdir(parents=True, exist_ok=True)
        photograph = Image.open(source).convert("RGB")
        generator = np.random.default_rng([label, int(100 * shade)])
        for number in range(count):
            side = int(generator.uniform(0.5, 0.8) * min(photograph.size))
            left, top = (int(generator.uniform(0, whole - side)) for whole in photograph.size)
            cut = photograph.crop((left, top, left + side, top + side)).resize((120, 90 + label))
            cut = cut.point(lambda value: int(value * shade))
            suffix = {0: ".JPG", 1: ".webp", 2: ".png"}.get(number, ".jpg")
            path = folder / f"{'' if labelled else f'{label} '}picture {number}{suffix}"
            if number == 2 and label == 0:  # 16 bits
                Image.fromarray(np.asarray(cut.convert("L")).astype(np.uint16) * 257).save(path)
            elif number == 3:
                exif = Image.Exif()
                exif[0x0112] = 6
                cut.rotate(90, expand=True).save(path, exif=exif)
            else:
                cut.save(path)
    return root


def call(folder, script, *flags, code=0):
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_from_a_folder_to_predictions_maps_and_attacks(tmp_path):
    mine = write_photographs(tmp_path / "my photos", 30)
    (mine / "coffee" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    shared = ["--data-dir", "sample", "--accelerator", "cpu"]
    data = ["--dataset", f"{mine}/", "--image-size", 96]
    layer = ["--features", "squeezenet1_1/fire9"]
    said = call(tmp_path, "train_svm.py", *data, *shared, *layer, "--no-cache", code=2)
    assert "error: " in said
    assert "broken.jpg is not a readable picture" in said
    features = [*layer, "--multi-class", "ovr", "--skip-unreadable"]
    said = call(tmp_path, "train_svm.py", *data, *shared, *features, "--no-cache", "--balanced")
    assert "1 unreadable pictures left out, such as: " in said
    tune = [
        "--max-epochs",
        16,
        "--layer",
        "fire5",
        "--head-lr",
        0.01,
        "--skip-unreadable",
        "--resize",
        "crop",
    ]
    call(tmp_path, "train_fine_tune.py", *data, *shared, *tune)
    for run in ("svm", "fine-tune"):
        results = json.loads((tmp_path / "runs" / run / "results.json").read_text())
        metric = "accuracy" if run == "fine-tune" else "squeezenet1_1/fire9/accuracy"
        assert results["metrics"][metric]["mean"] > 0.7, run  # by chance 0.2
        assert results["data"]["classes"] == sorted(NAMES)
        assert results["data"]["audit"]["not_read"]["unreadable"] == 1
        assert len(list((tmp_path / "runs" / run / "figures").glob("*.png"))) >= 3
        new = write_photographs(tmp_path / "new", 4, shade=0.9)
        table = tmp_path / f"{run}.csv"
        flags = ["--csv", table, "--export", tmp_path / f"exported {run}", "--data-dir", "sample"]
        said = call(tmp_path, "predict.py", f"runs/{run}", new, *flags)
        assert "20 pictures; the numbers are" in said
        with table.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        right = [row["class"] == row["path"].split("/")[-2] for row in rows]
        assert sum(right) / len(right) > 0.7, run
        shutil.rmtree(new)
        # What was exported runs without this package.
        program = f"import torch; p = torch.export.load({str(tmp_path / f'exported {run}/classifier.pt2')!r})"
        code = f"{program}; print(tuple(p.module()(torch.rand(3, 3, 96, 96)).shape))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout == "(3, 5)\n", done.stderr
    few = tmp_path / "few"
    for name in NAMES[:2]:
        (few / name).mkdir(parents=True)
        shutil.copy(mine / name / "picture 5.jpg", few / name)
    look = ["--checkpoint", "runs/fine-tune", "--images", few, "--data-dir", "sample", "--accelerator", "cpu"]
    call(tmp_path, "visualize.py", "saliency", *look, "--samples", 4, "--randomized", 1)
    call(tmp_path, "visualize.py", "adversarial", *look, "--attacks", "pgd", "--epsilon", 8)
    call(tmp_path, "visualize.py", "class", *look[:2], *look[4:], "--steps", 20, "--classes", "coffee")
    for run, figure in (("saliency", "saliency_*"), ("adversarial", "attacked_pgd"), ("class", "classes")):
        assert list((tmp_path / "runs" / run / "figures").glob(f"{figure}.png")), run
    other = write_photographs(tmp_path / "others", 12, shade=0.6, labelled=False)
    pair = ["--source", f"{mine}/", "--target", f"{other}/", "--image-size", 32, "--batch-size", 16]
    pair += ["--max-epochs", 3, "--skip-unreadable"]
    said = call(tmp_path, "train_dann.py", *pair, *shared)
    assert "target information" in said
    assert (tmp_path / "runs" / "dann" / "figures" / "predicted_dann.png").exists()
    assert "60 pictures" in call(tmp_path, "predict.py", "runs/dann", other)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A fine-tuned network of two classes, in a run folder as the script leaves it."""
    root = tmp_path_factory.mktemp("tuned")
    for name, colour in (("blue sky", (80, 80, 200)), ("grass", (80, 200, 80))):
        (root / "own" / name).mkdir(parents=True)
        for number in range(8):
            noise = np.random.default_rng(number).integers(-30, 30, (20, 24, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(
                root / "own" / name / f"{number}.png"
            )
    flags = ["--dataset", f"{root}/own/", "--image-size", 32, "--layer", "fire2", "--head-lr", 0.03]
    flags += ["--max-epochs", 6, "--batch-size", 4, "--resize", "pad", "--data-dir", "sample"]
    call(root, "train_fine_tune.py", *flags, "--accelerator", "cpu")
    return root


def test_two_lines_predict_in_a_notebook(tuned):
    classifier = load_classifier(tuned / "runs" / "fine-tune")
    found = classifier.predict(tuned / "own")
    assert [one.label for one in found] == [one.path.parent.name for one in found]
    assert (classifier.classes, classifier.image_size, classifier.resize) == (
        ("blue sky", "grass"),
        32,
        "pad",
    )
    assert found[0].kind == "probability"
    assert sum(found[0].scores) == pytest.approx(1, abs=1e-5)
    assert str(found[0]) == f"{found[0].path}: blue sky (probability {found[0].score:.3g})"
    # as the module itself sees them, whatever the batches
    images = classifier.read([one.path for one in found]).float() / 255
    with torch.no_grad():
        want = classifier.module(images).softmax(1)
    again = classifier.predict([one.path for one in found], batch_size=3)
    torch.testing.assert_close(torch.tensor([one.scores for one in again]), want)


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_loses_no_other(tuned, tmp_path):
    for name in ("a.png", "c.png"):
        shutil.copy(tuned / "own" / "grass" / "3.png", tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("of the day")
    foreign = os.path.join(os.fsencode(tmp_path), b"\xe9t\xe9.png")  # a name that is no UTF-8
    shutil.copy(tuned / "own" / "grass" / "3.png", foreign)
    said = call(
        tmp_path, "predict.py", tuned / "runs" / "fine-tune", tmp_path, "--csv", "out.csv", "--batch-size", 2
    )
    assert "not read: 1 .txt" in said
    assert "1 unreadable pictures left out, such as: " in said
    assert "\\udce9t\\udce9.png: grass" in said
    assert "3 pictures; the numbers are probabilities" in said
    names = [
        line.split(b",")[0].rsplit(b"/", 1)[-1] for line in (tmp_path / "out.csv").read_bytes().splitlines()
    ]
    assert names == [b"path", b"a.png", b"c.png", b"\xe9t\xe9.png"]
    for place in (tmp_path / "a.png", tmp_path / "c.png", Path(os.fsdecode(foreign))):
        place.unlink()
    said = call(tmp_path, "predict.py", tuned / "runs" / "fine-tune", tmp_path, code=2)
    assert "b.png is not a readable picture" in said


def test_the_export_is_the_module_for_any_number_of_images(tuned, tmp_path):
    classifier = load_classifier(tuned / "runs" / "fine-tune" / "checkpoints" / "best.ckpt")
    classifier.export(tmp_path)
    about = json.loads((tmp_path / "classifier.json").read_text())
    assert about["classes"] == ["blue sky", "grass"]
    assert (about["image_size"], about["resize"], about["scores"]) == (32, "pad", "logits")
    program = torch.export.load(tmp_path / "classifier.pt2").module()
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program(images), classifier(images))


def test_classes_called_by_numbers_are_taken_by_their_names():
    assert class_of("1", ["3", "1", "2"]) == 1
    assert class_of("0", ["3", "1", "2"]) == 0


@pytest.mark.parametrize(("size", "resized"), [(28, "squash"), (32, "frame")])
def test_new_digits_become_what_those_were_that_it_was_trained_on(tmp_path, size, resized):
    digits = MNISTDataModule("sample", image_size=size, channels=3)
    digits.setup()
    assert digits.resized == resized
    module = DANNModule(image_size=size, resize=digits.resized)
    classifier = TrainedClassifier(module, "dann")
    raw = load_mnist(SAMPLES, train=False)[0]
    for number in range(3):
        Image.fromarray(raw[number, 0].numpy()).save(tmp_path / f"{number}.png")
    pixels = classifier.read([tmp_path / f"{number}.png" for number in range(3)])
    assert torch.equal(pixels[:, :1], digits.test_data.images[:3])
    assert torch.equal(pixels[:, 1], pixels[:, 2])


@pytest.mark.slow
def test_a_note_beside_the_pictures_makes_no_other_data(tuned):
    (tuned / "own" / "notes.txt").write_text("of the day")
    flags = ["--dataset", f"{tuned}/own/", "--image-size", 32, "--layer", "fire2", "--head-lr", 0.03]
    flags += ["--max-epochs", 6, "--batch-size", 4, "--resize", "pad", "--data-dir", "sample"]
    assert "test accuracy" in call(tuned, "train_fine_tune.py", *flags, "--accelerator", "cpu")


@pytest.mark.slow
def test_what_is_no_classifier_is_said(tuned, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none does not exist; name a run folder"):
        load_classifier(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_classifier(tmp_path)
    torch.save({"hyper_parameters": {"latent_dim": 3}}, tmp_path / "gan.ckpt")
    with pytest.raises(ValueError, match="is of no classifier that rdfia trains"):
        load_classifier(tmp_path / "gan.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bad.ckpt is not a readable checkpoint"):
        load_classifier(tmp_path / "bad.ckpt")
    classifier = load_classifier(tuned / "runs" / "fine-tune")
    with pytest.raises(ValueError, match=r"fine-tune has no layer 'fire9' that scores come from"):
        classifier.find_layer("fire9")
    with pytest.raises(FileNotFoundError, match=r"gan.ckpt has none of"):
        classifier.predict(tmp_path / "gan.ckpt")
    (tmp_path / "file").touch()
    export = ["--export", tmp_path / "file"]
    assert "is a file; name a folder" in call(
        tmp_path, "predict.py", tuned / "runs" / "fine-tune", *export, code=2
    )
    said = call(tmp_path, "predict.py", tuned / "runs" / "fine-tune", code=2)
    assert "name pictures, or --export FOLDER" in said
    look = ["--checkpoint", tuned / "runs" / "fine-tune", "--data-dir", "sample"]
    said = call(tmp_path, "visualize.py", "saliency", *look, code=2)
    assert "--checkpoint has classes of its own: name pictures with --images" in said
    images = ["--images", tuned / "own", "--compare", "resnet18"]
    assert "--compare names" in call(tmp_path, "visualize.py", "saliency", *look, *images, code=2)
