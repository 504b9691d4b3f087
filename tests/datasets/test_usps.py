import bz2
import gzip

import pytest
import torch
from conftest import write_usps
from sklearn.datasets import load_svmlight_file
from torchvision.datasets import USPS

from datamodules.usps import USPSDataModule, load_usps


@pytest.mark.parametrize("place", ["USPS", "."])
def test_images_and_labels_are_those_of_torchvision(tmp_path, place):
    write_usps(tmp_path / place)
    for part in ("train", "test"):
        images, labels = load_usps(tmp_path, part)
        reference = USPS(tmp_path / place, train=part == "train")
        assert labels.tolist() == reference.targets
        apart = images[:, 0].int() - torch.from_numpy(reference.data).int()
        assert apart.min() >= 0  # torchvision cuts the fraction off, we round
        assert apart.max() <= 1


def test_digits_are_as_large_as_those_of_mnist(tmp_path):
    write_usps(tmp_path)
    digits = USPSDataModule(tmp_path, channels=3, batch_size=8)
    digits.prepare_data()
    digits.setup()
    assert [len(part) for part in (digits.train_data, digits.val_data, digits.test_data)] == [44, 4, 12]
    images, _ = next(iter(digits.train_dataloader()))
    assert images.shape == (8, 3, 28, 28)
    assert images[..., :4, :].abs().max() == 0
    assert images[..., 4:24, 4:24].std() > 0.05
    assert digits.describe()["name"] == "USPS"


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepare_data.py usps"):
        USPSDataModule(tmp_path).prepare_data()
    write_usps(tmp_path)
    whole = (tmp_path / "usps.bz2").read_bytes()
    for content in (
        whole[:500],
        b"no bz2",
        bz2.compress(b"words and no digits\n"),
        bz2.compress(b"77 1:0.5\n"),
    ):
        (tmp_path / "usps.bz2").write_bytes(content)
        with pytest.raises(ValueError, match=r"usps.bz2"):
            load_usps(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_same_digits_in_the_other_format(tmp_path, suffix):
    """Hastie et al. have a line a digit: its class, then 256 values. It lay there and was "not found"."""
    write_usps(tmp_path / "a" / "USPS")
    for part, name in (("train", "zip.train"), ("test", "zip.test")):
        images, labels = load_usps(tmp_path / "a", part)
        with bz2.open(tmp_path / "a" / "USPS" / f"usps.{'t.' if part == 'test' else ''}bz2") as file:
            pixels, _ = load_svmlight_file(file, n_features=256)
        rows = [
            f"{label}.0000 " + " ".join(f"{value:.4f}" for value in row) + " \n"
            for label, row in zip(labels.tolist(), pixels.toarray(), strict=True)
        ]
        path = tmp_path / "b" / "USPS" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(rows).encode()
        path.write_bytes(gzip.compress(text) if suffix else text)
        again, same = load_usps(tmp_path / "b", part)
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


def test_a_damaged_file_of_the_other_format_is_named(tmp_path):
    (tmp_path / "USPS").mkdir()
    (tmp_path / "USPS" / "zip.train").write_text("5.0 0.1 0.2\n")
    with pytest.raises(ValueError, match=r"zip.train is no file of USPS digits \(a line has 3 numbers"):
        load_usps(tmp_path, "train")
    (tmp_path / "USPS" / "zip.train").write_text("x y\n")
    with pytest.raises(ValueError, match=r"zip.train is no file of USPS digits"):
        load_usps(tmp_path, "train")
