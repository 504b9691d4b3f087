import os
import time

import numpy as np
import pytest
import torch
from conftest import write_bsds500, write_mnist, write_mnist_m, write_picture
from PIL import Image
from safetensors import SafetensorError

from datamodules.files import SAMPLES
from datamodules.mnist import load_mnist
from datamodules.mnist_m import (
    MNISTMDataModule,
    blend,
    generate,
    load_generated,
    load_release,
    load_whole_release,
)


def test_blend_is_the_absolute_difference_per_channel():
    photograph = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    digits = torch.randint(0, 256, (30, 1, 32, 32), dtype=torch.uint8)
    blended = blend(digits, [photograph], np.random.default_rng(0)).numpy().astype(int)
    # an independent look: some crop of the photograph must explain each image exactly
    for digit, image in zip(digits.numpy().astype(int), blended, strict=True):
        explained = [
            np.array_equal(
                np.abs(photograph[y : y + 32, x : x + 32].transpose(2, 0, 1).astype(int) - digit), image
            )
            for y in range(9)
            for x in range(19)
        ]
        assert sum(explained) >= 1


def test_black_digits_leave_the_crop_and_all_crops_can_occur():
    photographs = [np.full((32, 33, 3), value, np.uint8) for value in (10, 200)]
    blended = blend(torch.zeros(200, 1, 32, 32, dtype=torch.uint8), photographs, np.random.default_rng(0))
    values = blended.flatten(1).unique(dim=1)
    assert set(values.flatten().tolist()) == {10, 200}
    assert 60 < (values == 10).sum() < 140


def test_generated_set_depends_on_seed_alone_and_is_not_in_the_order_of_mnist(mnist):
    write_bsds500(mnist)
    photographs = sorted(mnist.glob("BSDS500/data/images/*/*.jpg"))
    first, again, other = (generate(mnist, photographs, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["train_images"], other["train_images"])
    labels = load_mnist(mnist, train=True)[1]
    assert torch.equal(first["train_labels"].sort().values, labels.sort().values)
    assert (first["train_labels"] == labels).float().mean() < 0.3  # index-aligned pairs would be a leak
    assert first["train_images"].shape == (120, 3, 32, 32)
    assert first["test_images"].shape == (37, 3, 32, 32)


def test_the_cache_is_used_and_follows_the_recipe(mnist):
    write_bsds500(mnist)
    first, made_of = load_generated(mnist)
    files = list((mnist / "mnist_m_generated").iterdir())
    assert made_of == "3 BSDS500 photographs"
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    again, _ = load_generated(mnist)
    assert files[0].stat().st_mtime_ns == written
    assert all(torch.equal(first[name], again[name]) for name in first)
    write_bsds500(mnist, count=4)  # another recipe
    load_generated(mnist)
    assert len(list((mnist / "mnist_m_generated").iterdir())) == 2


def test_a_full_disk_is_named(mnist, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("datamodules.mnist_m.save_file", full)
    with pytest.raises(ValueError, match=r"cannot write .*mnist_m_generated.*No space left"):
        load_generated(mnist)
    assert list((mnist / "mnist_m_generated").iterdir()) == []


def test_a_cache_in_a_folder_that_cannot_be_written_is_used(mnist, monkeypatch):
    write_bsds500(mnist)
    load_generated(mnist)
    monkeypatch.setattr("os.access", lambda *args: False)
    monkeypatch.setattr("datamodules.mnist_m.generate", lambda *args: 1 / 0)
    load_generated(mnist)


def test_a_damaged_cache_is_made_anew(mnist, capsys):
    write_bsds500(mnist)
    first, _ = load_generated(mnist)
    capsys.readouterr()
    path = next((mnist / "mnist_m_generated").iterdir())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3000] ^= 4  # which no error of the format tells
    for damaged in (b"", whole[:1000], bytes(flipped)):
        path.write_bytes(damaged)
        again, _ = load_generated(mnist)
        assert torch.equal(first["test_images"], again["test_images"])
        assert "damaged" in capsys.readouterr().out
        assert path.read_bytes() == whole
    load_generated(mnist)
    assert capsys.readouterr().out == ""


def test_the_release_is_decoded_once_and_again_where_it_changes(mnist, capsys, monkeypatch):
    write_mnist_m(mnist)
    tensors = load_whole_release(mnist)
    assert "decoded" in capsys.readouterr().out
    with monkeypatch.context() as without:
        without.setattr("datamodules.mnist_m.decode_all", lambda *args, **kwargs: 1 / 0)
        again = load_whole_release(mnist)
        module = MNISTMDataModule(mnist, source="release")
        module.prepare_data()
        module.setup()
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())
    write_picture(mnist / "mnist_m" / "mnist_m_test" / "00000003.png", (32, 32), 99)
    assert not torch.equal(load_whole_release(mnist)["test_images"], tensors["test_images"])
    images, labels = load_release(mnist / "mnist_m", train=True)
    assert torch.equal(images, tensors["train_images"])
    assert torch.equal(labels, tensors["train_labels"])


def test_what_killed_makers_left_is_cleared_a_day_later(mnist):
    write_bsds500(mnist)
    folder = mnist / "mnist_m_generated"
    folder.mkdir()
    for name, age in ((".old.part", 2 * 86_400), (".new.part", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    load_generated(mnist)
    assert not (folder / ".old.part").exists()
    assert (folder / ".new.part").exists()  # somebody may be at it


def test_an_interrupted_write_leaves_no_cache(mnist, monkeypatch):
    write_bsds500(mnist)
    monkeypatch.setattr("datamodules.mnist_m.save_file", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_generated(mnist)
    assert list((mnist / "mnist_m_generated").iterdir()) == []


def test_without_bsds500_the_embedded_photographs_serve_and_it_says_so(mnist):
    digits = MNISTMDataModule(mnist, batch_size=8)
    digits.setup()
    assert "12 embedded photographs (no BSDS500 in" in digits.describe()["name"]


def test_the_sample_is_generated_into_the_users_cache_not_into_the_package(tmp_path):
    before = sorted(SAMPLES.rglob("*"))
    digits = MNISTMDataModule("sample")
    digits.setup()
    assert sorted(SAMPLES.rglob("*")) == before
    assert len(list((tmp_path / "cache" / "rdfia" / "mnist_m_generated").iterdir())) == 1
    assert len(digits.train_data) + len(digits.val_data) + len(digits.test_data) == 5000
    assert digits.describe()["name"] == "MNIST-M, generated from MNIST and 12 embedded photographs"


def test_the_common_release_is_read_where_it_is(mnist):
    write_mnist_m(mnist)
    digits = MNISTMDataModule(mnist, batch_size=8)
    digits.setup()
    assert digits.describe()["name"] == "MNIST-M, common release"
    assert (len(digits.train_data), len(digits.val_data), len(digits.test_data)) == (55, 5, 20)
    picture = np.asarray(Image.open(mnist / "mnist_m" / "mnist_m_train" / "00000007.png"))
    assert np.array_equal(digits.train_data.images[7].permute(1, 2, 0).numpy(), picture)
    assert digits.train_data.labels[7] == 7
    assert not (mnist / "mnist_m_generated").exists()


def test_generation_can_be_asked_for_beside_the_release(mnist):
    write_mnist_m(mnist)
    digits = MNISTMDataModule(mnist, source="generated")
    digits.setup()
    assert digits.describe()["name"].startswith("MNIST-M, generated from MNIST and")


def test_both_counts_are_named_in_the_output(mnist, capsys):
    write_mnist_m(mnist)
    MNISTMDataModule(mnist).setup()
    assert "MNIST-M, common release: 60 training and 20 test images" in capsys.readouterr().out


def test_size_28_is_the_middle(mnist):
    write_mnist_m(mnist)
    small, large = (MNISTMDataModule(mnist, image_size=size) for size in (28, 32))
    small.setup()
    large.setup()
    assert torch.equal(small.test_data.images, large.test_data.images[..., 2:30, 2:30])


def test_a_missing_png_is_named(mnist):
    write_mnist_m(mnist)
    (mnist / "mnist_m" / "mnist_m_test" / "00000003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist_m_test/00000003.png is missing"):
        MNISTMDataModule(mnist).setup()


def test_a_damaged_png_is_named(mnist):
    write_mnist_m(mnist)
    path = mnist / "mnist_m" / "mnist_m_test" / "00000003.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"00000003.png is not a readable picture"):
        MNISTMDataModule(mnist).setup()


def test_a_damaged_line_of_the_list_is_named(mnist):
    write_mnist_m(mnist)
    listing = mnist / "mnist_m" / "mnist_m_train_labels.txt"
    listing.write_text(listing.read_text() + "00000000.png eleven\n")
    with pytest.raises(ValueError, match=r"mnist_m_train_labels.txt:61 is '00000000.png eleven'"):
        MNISTMDataModule(mnist).setup()


def test_a_release_without_its_list_is_named(mnist):
    write_mnist_m(mnist)
    (mnist / "mnist_m" / "mnist_m_test_labels.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist_m_test_labels.txt"):
        MNISTMDataModule(mnist).prepare_data()


def test_generating_needs_mnist(tmp_path):
    write_mnist(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="MNIST not found"):
        MNISTMDataModule(tmp_path).prepare_data()
