"""Anyone's folder of pictures: layouts, splits, copies, what cannot be read, and what is wrong with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from datamodules import ImageFolderDataModule, open_dataset
from datamodules.audit import digests, split_by_content

NAMES = ("café noir", "grün", "plain", "very long name", "zebra")


def picture(number: int, label: int, size=(70, 50)) -> Image.Image:
    """Return a picture that tells its class by its colour, and each another."""
    values = np.random.default_rng([number, label]).integers(0, 60, (size[1], size[0], 3))
    values[..., label % 3] += 60 + 60 * (label // 3)
    return Image.fromarray(values.astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Five classes of eight pictures in several formats, one of them in a folder below."""
    root = tmp_path / "my pictures"
    for label, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(7):
            suffix = (".JPG", ".webp", ".png")[number % 3]
            kind = {".JPG": "jpeg", ".webp": "webp", ".png": "png"}[suffix]
            with (root / name / f"n{number}{suffix}").open("wb") as file:
                picture(number, label).save(file, format=kind)
        (root / name / "more").mkdir()
        picture(7, label).save(root / name / "more" / "n7.bmp")
    (root / "notes.txt").write_text("not a picture")
    return root


def opened(folder, **more):
    data = ImageFolderDataModule(folder, image_size=32, batch_size=8, **more)
    data.prepare_data()
    data.setup()
    return data


def test_a_folder_without_a_split_is_split_by_seed_in_each_class(folder, capsys):
    data = opened(folder)
    assert data.classes == NAMES
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (25, 5, 10)
    for files, count in ((data.test_files, 2), (data.val_files, 1), (data.train_files, 5)):
        assert [sum(label == one for _, label in files) for one in range(5)] == [count] * 5
    every = [path for files in (data.train_files, data.val_files, data.test_files) for path, _ in files]
    assert len(set(every)) == len(every) == 40
    said = capsys.readouterr()
    assert (
        "5 classes, 0.25 of each class drawn for the test by seed 0; 30 training and 10 test"
        in said.out + said.err
    )
    assert "not read in my pictures: 1 .txt beside the classes" in said.out + said.err
    again, other = opened(folder), opened(folder, split_seed=1)
    assert again.test_files == data.test_files != other.test_files
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    # Each picture has the colour of its own class.
    brightest = images.mean((2, 3)).argmax(1)
    assert torch.equal(brightest, labels % 3)


def test_copies_are_always_on_one_side_of_a_split_that_is_drawn(folder):
    for name in NAMES:
        shutil.copy(folder / name / "n0.JPG", folder / name / "copy of n0.JPG")
    shutil.copy(folder / NAMES[0] / "n1.webp", folder / NAMES[1] / "of another class.webp")
    for seed in range(5):
        data = opened(folder, split_seed=seed)
        assert data.audit.duplicate_pairs == 6
        assert data.audit.across_splits == 0
        assert data.audit.across_classes == 1
        held = [set(digests(files.paths).tolist()) for files in (data.train_files, data.val_files)]
        assert not held[0] & held[1]


def test_a_share_is_of_distinct_pictures():
    hashes = np.repeat(np.array([b"a", b"b", b"c", b"d"], "S32"), 3)  # four distinct ones, three copies each
    train, test = split_by_content(np.zeros(12, np.int64), hashes, 0.25, seed=0)
    assert (len(train), len(test)) == (9, 3)
    assert len(set(hashes[test])) == 1
    train, test = split_by_content(np.zeros(12, np.int64), hashes, 2, seed=0)
    assert (len(train), len(test)) == (6, 6)


def test_a_split_of_its_own_is_taken(folder, tmp_path):
    root = tmp_path / "split"
    for part, wanted in (("train", range(5)), ("val", range(5, 6)), ("test", range(6, 7))):
        for name in NAMES:
            (root / part / name).mkdir(parents=True)
            for number in wanted:
                (path,) = (folder / name).glob(f"n{number}.*")
                shutil.copy(path, root / part / name / path.name)
    shutil.copy(root / "train" / NAMES[0] / "n0.JPG", root / "test" / NAMES[0] / "again.JPG")
    data = opened(root)
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (25, 5, 6)
    assert data.split == "own split into train, val, test"
    assert data.audit.across_splits == 1
    assert len(opened(root, duplicates="drop_from_test").test_data) == 5
    shutil.rmtree(root / "test")
    held_out = opened(root)
    assert (len(held_out.train_data), len(held_out.val_data), len(held_out.test_data)) == (20, 5, 5)


@pytest.mark.parametrize(
    ("resize", "corner", "middle"), [("squash", 200, 200), ("crop", 200, 200), ("pad", 0, 200)]
)
def test_pictures_are_resized_as_asked(tmp_path, resize, corner, middle):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (80, 40), (200, 200, 200 + number)).save(tmp_path / name / f"{number}.png")
    data = opened(tmp_path, resize=resize)
    image = (255 * data.test_data[0][0][0]).round()
    assert (image[0, 0], image[16, 16]) == (corner, middle)
    assert data.describe()["audit"]["resize"] == resize
    assert data.one_colour == (0 if resize == "pad" else 8)


def test_copies_of_training_pictures_are_left_out_of_validation_and_counted(folder, tmp_path, capsys):
    for part in ("train", "val", "test"):
        for name in NAMES[:2]:
            shutil.copytree(folder / name, tmp_path / "split" / part / name)
    for name in NAMES[:2]:
        picture(99, 0).save(tmp_path / "split" / "val" / name / "new.png")
    data = opened(tmp_path / "split")
    assert len(data.val_data) == 2
    assert "left out of validation: 16, copies of training pictures" in capsys.readouterr().out
    assert data.describe()["audit"]["not_read"]["validation pictures that train holds"] == 16
    for name in NAMES[:2]:
        (tmp_path / "split" / "val" / name / "new.png").unlink()
    with pytest.raises(ValueError, match="no validation image is left that is no copy of a training image"):
        opened(tmp_path / "split").val_dataloader()
    assert len(opened(tmp_path / "split", train_on_val=True).train_data) == 32


def test_a_file_that_may_not_be_read_is_left_to_who_decodes_it(folder, monkeypatch):
    read = Path.read_bytes

    def refuse(self):
        if self.name == "n1.webp":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    paths = [folder / NAMES[0] / "n1.webp", folder / NAMES[1] / "n1.webp", folder / NAMES[0] / "n0.JPG"]
    assert len(set(digests(paths))) == 3


def test_an_unreadable_picture_is_an_error_or_counted(folder):
    (folder / "plain" / "broken.png").write_bytes(b"\x89PNG not at all")
    with pytest.raises(ValueError, match=r"broken.png is not a readable picture"):
        opened(folder)
    data = opened(folder, skip_unreadable=True)
    assert data.describe()["audit"]["not_read"]["unreadable"] == 1
    assert len(data.train_data) == len(data.train_files)
    assert len(data.test_data) == len(data.test_files)


def test_what_is_wrong_with_a_folder_is_one_line(folder, tmp_path):
    for wrong, message in (
        (tmp_path / "none", "none does not exist; name a folder with a subfolder for each class"),
        (folder / "notes.txt", "notes.txt names no pictures; it has path,label in each line"),
        (folder / "plain" / "more", "holds no folders with pictures .1 pictures.; put those of each class"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            opened(wrong)
    with pytest.raises(ValueError, match=r"60 images|40 images of 32 x 32 take 0.0 GB, more than 1e-06"):
        opened(folder, memory_gb=1e-6)
    for name in NAMES[1:]:
        shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match="holds one class alone, 'café noir'; there must be two or more"):
        opened(folder)
    (folder / "few").mkdir()
    picture(0, 1).save(folder / "few" / "only.png")
    with pytest.raises(ValueError, match=r"class 'few' of .* has 1 pictures, it needs 3"):
        opened(folder)
    for keyword in ({"resize": "stretch"}, {"channels": 2}, {"test_share": 1.0}, {"duplicates": "drop"}):
        with pytest.raises(ValueError, match=next(iter(keyword))):
            ImageFolderDataModule(folder, **keyword)


def test_a_folder_is_told_from_a_name_by_a_slash(folder):
    data = open_dataset(f"{folder}/", "sample", image_size=32, channels=1, train_on_val=True)
    data.setup()
    assert data.train_data.images.shape == (30, 1, 32, 32)
    with pytest.raises(ValueError, match="data set 'pictures' is none of mnist"):
        open_dataset("pictures", None)


@pytest.mark.slow
def test_own_pictures_are_classified_by_both_scripts(folder, tmp_path):
    where = ["--data-dir", "sample", "--output-dir", str(tmp_path / "runs"), "--accelerator", "cpu"]
    where += ["--dataset", f"{folder}/", "--image-size", "64"]
    svm = ["train_svm.py", "--features", "squeezenet1_1/fire5", "--folds", "3", "--components", "4"]
    svm += ["--no-cache", "--splits", "2"]
    tuned = ["train_fine_tune.py", "--layer", "fire5", "--max-epochs", "1", "--batch-size", "8"]
    for script, *flags in (svm, tuned):
        command = [sys.executable, str(ROOT / "scripts" / script), *flags, *where]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "5 classes" in done.stdout + done.stderr
    results = json.loads((tmp_path / "runs" / "svm" / "results.json").read_text())
    assert results["data"]["classes"] == list(NAMES)
    metrics = results["metrics"]
    assert metrics["squeezenet1_1/fire5/accuracy"]["mean"] > 0.6  # by chance 0.2
    splits = metrics["squeezenet1_1/fire5/accuracy_over_splits"]["values"]
    # The first is the one that seed 0 draws for everything else.
    assert splits[0] == metrics["squeezenet1_1/fire5/accuracy"]["mean"]
    assert len(splits) == 2
    wrong = [sys.executable, str(ROOT / "scripts" / "train_svm.py"), "--dataset", "./nowhere", "--check"]
    done = subprocess.run(wrong, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --dataset ./nowhere is no folder that exists\n"
