import gzip

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_idx, write_mnist
from torchvision.transforms import functional

from datamodules.files import SAMPLES
from datamodules.mnist import MNISTDataModule, load_mnist, read_idx


def test_reads_what_torchvision_reads(tmp_path):
    write_mnist(tmp_path, suffix="")
    for train in (True, False):
        images, labels = load_mnist(tmp_path, train=train)
        reference = torchvision.datasets.MNIST(tmp_path, train=train)
        assert torch.equal(images[:, 0], reference.data)
        assert torch.equal(labels, reference.targets)


def test_reads_plain_and_gzipped_files_alike(tmp_path):
    write_mnist(tmp_path / "plain", suffix="")
    write_mnist(tmp_path / "zipped", suffix=".gz")
    for plain, zipped in zip(
        load_mnist(tmp_path / "plain", train=True), load_mnist(tmp_path / "zipped", train=True), strict=True
    ):
        assert torch.equal(plain, zipped)


def test_the_split_is_a_rule_and_depends_on_no_seed(mnist):
    images, _ = load_mnist(mnist, train=True)
    for seed in (0, 1):
        digits = MNISTDataModule(mnist, seed=seed)
        digits.setup()
        assert torch.equal(digits.train_data.images, images[:110])  # the last twelfth is held out
        assert torch.equal(digits.val_data.images, images[110:])
        assert len(digits.test_data) == 37


def test_train_on_val_adds_the_held_out_digits_and_keeps_them_for_validation(mnist):
    digits = MNISTDataModule(mnist, train_on_val=True)
    digits.setup()
    assert (len(digits.train_data), len(digits.val_data)) == (120, 10)


@pytest.mark.parametrize(("image_size", "channels"), [(28, 1), (32, 1), (32, 3), (64, 3)])
def test_batches_are_floats_of_the_asked_size(mnist, image_size, channels):
    digits = MNISTDataModule(mnist, image_size=image_size, channels=channels, batch_size=16)
    digits.setup()
    images, labels = next(iter(digits.train_dataloader()))
    assert images.shape == (16, channels, image_size, image_size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert labels.dtype == torch.int64


def test_padding_changes_no_pixel_of_the_digit(mnist):
    small, large = (MNISTDataModule(mnist, image_size=size) for size in (28, 32))
    small.setup()
    large.setup()
    assert torch.equal(small.test_data.images, large.test_data.images[..., 2:30, 2:30])
    assert large.test_data.images[..., :2, :].max() == 0


def test_enlarged_digits_are_those_of_torchvision(mnist):
    small, large = (MNISTDataModule(mnist, image_size=size) for size in (28, 64))
    small.setup()
    large.setup()
    resized = functional.resize(small.test_data.images, [64, 64], antialias=False)
    assert (resized.int() - large.test_data.images.int()).abs().max() <= 1


def test_validation_and_test_show_each_digit_once(mnist):
    digits = MNISTDataModule(mnist, batch_size=8)
    digits.setup()
    for loader, count in ((digits.val_dataloader(), 10), (digits.test_dataloader(), 37)):
        marks = torch.cat([images[:, 0, 0, 0] for images, _ in loader])
        assert len(marks) == count == len(marks.unique())


def test_results_name_counts_and_bytes(mnist):
    digits = MNISTDataModule(mnist)
    digits.setup()
    described = digits.describe()
    assert (described["train"], described["val"], described["test"]) == (110, 10, 37)
    digits.train_data.images[0, 0, 0, 0] ^= 1
    assert digits.describe()["sha256"] != described["sha256"]


def test_the_sample_holds_5000_real_digits():
    images, labels = load_mnist(SAMPLES, train=True)
    test_images, test_labels = load_mnist(SAMPLES, train=False)
    assert (len(images), len(test_images)) == (4000, 1000)
    assert np.bincount(labels).tolist() == [400] * 10
    assert np.bincount(test_labels).tolist() == [100] * 10
    pixels = torch.cat([images, test_images]).flatten(1)
    assert len(pixels.unique(dim=0)) == 5000  # no test digit is a training digit


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*prepare_data.py mnist --data-dir"):
        MNISTDataModule(tmp_path).prepare_data()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        MNISTDataModule(tmp_path / "absent").setup()


def test_the_data_folder_is_argument_then_environment_then_data(tmp_path, monkeypatch):
    for name, count in (("argument", 24), ("environment", 36), ("data", 48)):
        write_mnist(tmp_path / name, train=count)
    monkeypatch.chdir(tmp_path)

    def found(argument=None):
        digits = MNISTDataModule(argument, train_on_val=True)
        digits.setup()
        return len(digits.train_data)

    assert found() == 48
    monkeypatch.setenv("RDFIA_DATA", str(tmp_path / "environment"))
    assert found() == 36
    assert found(tmp_path / "argument") == 24


def test_a_truncated_gzip_file_is_named(mnist):
    path = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is not a complete gzip file"):
        MNISTDataModule(mnist).setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"\x89PNG" + data[4:], "begins with 0x89504e47"),
        (lambda data: b"\0\0\x0d\x03" + data[4:], "begins with 0x00000d03"),
        (lambda data: data[:-1], "but its header"),
        (lambda data: b"", "begins with 0x,"),
    ],
)
def test_a_file_that_is_no_idx_file_is_named(tmp_path, change, message):
    path = tmp_path / "images-idx3-ubyte"
    write_idx(path, np.zeros((2, 28, 28), np.uint8))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_images_and_labels_that_do_not_belong_together_are_refused(mnist):
    path = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"))
    with pytest.raises(ValueError, match=r"\(120, 28, 28\).*\(1,\)"):
        load_mnist(mnist, train=True)


def test_too_few_digits_to_hold_some_out(tmp_path):
    write_mnist(tmp_path, train=5)
    with pytest.raises(ValueError, match="5 training images leave 0 for validation"):
        MNISTDataModule(tmp_path).setup()


@pytest.mark.parametrize("wrong", [{"image_size": 30}, {"channels": 2}, {"val_fraction": 1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        MNISTDataModule("sample", **wrong)
