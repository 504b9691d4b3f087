"""Data sets that torchvision reads, on fakes in their formats."""

import csv
import json
import pickle

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import write_idx, write_picture, write_torchvision_sets

import datamodules
from datamodules import TorchvisionDataModule, open_dataset
from datamodules.layouts import TORCHVISION, check_there


@pytest.fixture
def unchecked(monkeypatch):
    """Let torchvision take fakes: it knows the real files by their hashes."""
    for module in ("cifar", "svhn", "stl10", "flowers102"):
        monkeypatch.setattr(getattr(torchvision.datasets, module), "check_integrity", lambda *given: True)


def write_cifar(root, folder, key, classes):
    generator, files = np.random.default_rng(0), {}
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for name in names if key == "labels" else ["train", "test"]:
        images = generator.integers(0, 256, (2 * classes, 3072), np.uint8)
        files[name] = {"data": images, key: [n % classes for n in range(2 * classes)]}
    meta = {"label_names" if key == "labels" else "fine_label_names": [f"class {n}" for n in range(classes)]}
    files["batches.meta" if key == "labels" else "meta"] = meta
    (root / folder).mkdir(parents=True)
    for name, content in files.items():
        (root / folder / name).write_bytes(pickle.dumps(content))
    return files


def write_files(root):
    """Write the sets of files: three classes or so, some pictures each."""
    for name in ("flowers-102/jpg/image_{:05}.jpg", "oxford-iiit-pet/images/{}.jpg"):
        for number in range(1, 16):
            write_picture(root / name.format(number), (20, 16), number)
    base = root / "flowers-102"
    labels = [number % 3 + 1 for number in range(15)]
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels})
    parts = {"trnid": range(1, 7), "valid": range(7, 10), "tstid": range(10, 16)}
    scipy.io.savemat(base / "setid.mat", {name: list(part) for name, part in parts.items()})
    notes = root / "oxford-iiit-pet" / "annotations"
    notes.mkdir()
    for part, numbers in (("trainval", range(1, 10)), ("test", range(10, 16))):
        lines = []
        for number in numbers:
            name = f"{('abyssinian', 'great_dane', 'pug')[number % 3]}_{number}"
            write_picture(root / "oxford-iiit-pet" / "images" / f"{name}.jpg", (20, 16), number)
            lines.append(f"{name} {number % 3 + 1} 1 1")
        (notes / f"{part}.txt").write_text("\n".join(lines) + "\n")
    food, textures = root / "food-101", root / "dtd" / "dtd"
    for folder in (food / "meta", textures / "labels"):
        folder.mkdir(parents=True)
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        listed, lines = {}, []
        for name in ("apple pie", "baklava"):
            listed[name] = [f"{name}/{part}{number}" for number in range(count)]
            for place in listed[name]:
                seed = sum(map(ord, place))
                write_picture(food / "images" / f"{place}.jpg", (20, 16), seed)
                write_picture(textures / "images" / f"{place}.jpg", (20, 16), seed)
                lines.append(f"{place}.jpg")
        (food / "meta" / f"{part}.json").write_text(json.dumps(listed))
        (textures / "labels" / f"{part}1.txt").write_text("\n".join(lines) + "\n")
    signs = root / "gtsrb"
    rows = [["Filename", "ClassId"]]
    for number in range(8):
        write_picture(signs / "GTSRB" / "Training" / f"{number % 2:05}" / f"{number}.ppm", (20, 16), number)
        write_picture(signs / "GTSRB" / "Final_Test" / "Images" / f"{number:05}.ppm", (20, 16), 90 + number)
        rows.append([f"{number:05}.ppm", str(number % 2)])
    with (signs / "GT-final_test.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    planes = root / "fgvc-aircraft-2013b" / "data"
    planes.mkdir(parents=True)
    (planes / "variants.txt").write_text("707-320\nA300B4\n")
    for part in ("trainval", "test"):
        lines = []
        for number in range(6):
            name = f"{len(part)}{number:06}"
            write_picture(planes / "images" / f"{name}.jpg", (20, 16), number + len(part))
            lines.append(f"{name} {('707-320', 'A300B4')[number % 2]}")
        (planes / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    for part in ("train", "val"):
        for number in range(8):
            synset = ("n01440764", "n02102040")[number % 2]
            write_picture(root / "imagenette2" / part / synset / f"{part}_{number}.JPEG", (20, 16), number)


def opened(name, root, **more):
    data = open_dataset(name, root, **more)
    data.prepare_data()
    classes = data.classes
    data.setup()
    assert data.classes == classes
    check_there(root, (name,), {})
    assert data.describe()["train"] == len(data.train_data)
    return data


def test_clothes_are_read_as_they_are(tmp_path):
    write_torchvision_sets(tmp_path)
    data = opened("fashion-mnist", tmp_path)
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (30, 10, 20)
    assert data.val_data.labels.bincount().tolist() == [1] * 10
    own = torchvision.datasets.FashionMNIST(tmp_path, train=False)
    assert torch.equal(data.test_data.images[:, 0], own.data)
    images, labels = opened("fashion-mnist", tmp_path, image_size=32, channels=3).test_data[[0, 1]]
    assert images.shape == (2, 3, 32, 32)
    assert torch.equal((255 * images[:, 2, 2:30, 2:30]).round().byte(), own.data[:2])
    assert labels.tolist() == own.targets[:2].tolist()
    large = opened("fashion-mnist", tmp_path, image_size=64).test_data[[0]][0]
    assert large.shape == (1, 1, 64, 64)
    assert 0 <= large.min() < large.max() <= 1


def test_some_of_each_class_can_be_drawn(tmp_path):
    write_torchvision_sets(tmp_path)
    data = opened("fashion-mnist", tmp_path, per_class=3, train_on_val=True)
    assert data.train_data.labels.bincount().tolist() == [3] * 10
    assert len(data.test_data) == 20
    assert data.describe()["name"] == "fashion-mnist, 3 of each class drawn from train by seed 0"
    other = opened("fashion-mnist", tmp_path, per_class=3, split_seed=1, train_on_val=True)
    assert not torch.equal(other.train_data.images, data.train_data.images)
    with pytest.raises(ValueError, match="class 'T-shirt/top' has 4 training images, it needs 5"):
        opened("fashion-mnist", tmp_path, per_class=5)


def test_letters_stand_upright_and_are_counted_from_0(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (52, 28, 28), np.uint8)
    for part in ("train", "test"):
        raw = tmp_path / "EMNIST" / "raw"
        write_idx(raw / f"emnist-letters-{part}-images-idx3-ubyte", images)
        write_idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte", (np.arange(52) % 26 + 1).astype(np.uint8))
    data = opened("emnist-letters", tmp_path)
    assert data.classes == tuple("abcdefghijklmnopqrstuvwxyz")
    assert data.test_data.labels.tolist() == list(range(26)) * 2
    assert np.array_equal(data.test_data.images[:, 0].numpy(), images.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("name", "folder", "key", "classes"),
    [("cifar10", "cifar-10-batches-py", "labels", 10), ("cifar100", "cifar-100-python", "fine_labels", 100)],
)
def test_cifar(tmp_path, unchecked, name, folder, key, classes):
    files = write_cifar(tmp_path, folder, key, classes)
    data = opened(name, tmp_path, image_size=32, channels=3)
    assert data.classes[3] == "class 3"
    test = files["test_batch" if classes == 10 else "test"]
    assert np.array_equal(data.test_data.images.flatten(1).numpy(), test["data"])
    assert data.test_data.labels.tolist() == test[key]
    with pytest.raises(ValueError, match="is in colour; take channels=3"):
        opened(name, tmp_path, channels=1)


def test_numbers_of_houses_and_ten_kinds_of_things(tmp_path, unchecked):
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        images = generator.integers(0, 256, (32, 32, 3, 40), np.uint8)
        labels = (np.arange(40) % 10 + 1)[:, None]  # 10 stands for 0
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels})
    data = opened("svhn", tmp_path)
    assert data.test_data.images.shape == (40, 3, 32, 32)
    assert torch.equal(data.test_data.images[7], torch.from_numpy(images[..., 7].transpose(2, 0, 1)))
    assert data.test_data.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(f"kind {n}" for n in range(10)) + "\n")
    for part in ("train", "test"):
        generator.integers(0, 256, (20, 3, 96, 96), np.uint8).tofile(folder / f"{part}_X.bin")
        (np.arange(20) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    things = opened("stl10", tmp_path)
    assert things.test_data.images.shape == (20, 3, 96, 96)
    assert things.test_data.labels.tolist() == list(range(10)) * 2


COUNTS = {
    "flowers102": (6, 3, 6, "0"),
    "oxford-iiit-pet": (6, 3, 6, "Abyssinian"),
    "food101": (6, 2, 6, "apple pie"),
    "dtd": (8, 4, 6, "apple pie"),
    "gtsrb": (6, 2, 8, "0"),
    "fgvc-aircraft": (4, 2, 6, "707-320"),
    "imagenette": (6, 2, 8, "tench / Tinca tinca"),
    "eurosat": (6, 2, 4, "Forest"),
}


LARGE = "food101"  # of 101 classes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == LARGE else []) for name in COUNTS]
)
def test_photographs_are_read_as_files(tmp_path, unchecked, name):
    write_files(tmp_path)
    write_torchvision_sets(tmp_path)
    data = opened(name, tmp_path, image_size=24, channels=3, resize="pad")
    *counts, first = COUNTS[name]
    assert [len(part) for part in (data.train_data, data.val_data, data.test_data)] == counts
    assert data.classes[0] == first
    assert data.test_data[0][0].shape == (3, 24, 24)
    known = TORCHVISION[name]
    own = getattr(torchvision.datasets, known.kind)(tmp_path, **(known.test or known.train))
    if known.test is not None:
        assert data.test_data.labels.tolist() == [own[number][1] for number in range(len(own))]
    kept = opened(name, tmp_path, image_size=24, memory_gb=1e-9, cache_dir=tmp_path / "cache", resize="pad")
    assert torch.equal(kept.test_data.images, data.test_data.images)


def test_what_is_missing_or_damaged_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar10 not found in .*prepare_data.py cifar10"):
        check_there(tmp_path, ("cifar10",), {})
    with pytest.raises(FileNotFoundError, match="food101 not found in"):
        open_dataset("food101", tmp_path).prepare_data()
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match=r"cifar10 in .* is not whole .*prepare_data.py cifar10"):
        open_dataset("cifar10", tmp_path).prepare_data()
    with pytest.raises(ValueError, match="data set 'cifar' is none of fashion-mnist"):
        TorchvisionDataModule("cifar")
    with pytest.raises(ValueError, match="data set 'cifar10' has no resize to choose"):
        open_dataset("cifar10", tmp_path, resize="pad")


def test_every_name_has_a_class_of_torchvision():
    for name, known in TORCHVISION.items():
        assert hasattr(torchvision.datasets, known.kind), name
        assert known.module in datamodules.__all__
