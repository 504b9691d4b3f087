"""Samples of a trained GAN as files: scripts/sample.py."""

import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from PIL import Image
from torch.utils.data import DataLoader

from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule
from rdfia.generation.trained import class_numbers, folder_names, load_gan, write_samples

SMALL = {"latent_dim": 8, "generator_features": 4, "discriminator_features": 4}


def saved(module, folder):
    """Write a run folder with a checkpoint of a module after a batch."""
    images = torch.rand(8, module.channels, module.image_size, module.image_size)
    data = DataLoader(list(zip(images, torch.arange(8) % 2, strict=True)), batch_size=8)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    saved(GANModule(**SMALL, groups=0, channels=3, image_size=64), folder / "gan")
    saved(cGANModule(**SMALL, classes=2, class_names=["cat/dog", "Cat_dog"]), folder / "cgan")
    saved(cGANModule(**SMALL, classes=2, class_names=["1", "2"]), folder / "numbers")
    return folder


def test_images_are_those_of_the_module_and_the_seed(runs, tmp_path):
    gan = load_gan(runs / "gan")
    written = write_samples(gan, 3, tmp_path / "out", seed=4)
    assert [path.name for path in written] == ["000000.png", "000001.png", "000002.png"]
    found = np.asarray(Image.open(written[2]))
    assert found.shape == (64, 64, 3)
    expected = gan.sample(3, seed=4)[2].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).max() <= 0.51
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        write_samples(gan, 3, tmp_path / "out")
    assert load_gan(runs / "gan" / "checkpoints" / "last.ckpt").image_size == 64


@pytest.mark.parametrize("latents", ["normal", "uniform"])
def test_the_first_images_are_the_same_however_many_are_drawn(latents):
    gan = GANModule(**SMALL | {"latent_dim": 5}, groups=0, latents=latents)
    many = gan.sample(100, seed=1)
    for count in (1, 2, 7, 16, 17, 33):
        torch.testing.assert_close(gan.sample(count, seed=1), many[:count], atol=1e-5, rtol=0)


def test_classes_have_folders_of_their_own(runs, tmp_path):
    gan = load_gan(runs / "cgan")
    written = write_samples(gan, 4, tmp_path / "all")
    assert {path.parent.name for path in written} == {"cat_dog", "Cat_dog_1"}  # one, where case is nothing
    assert Image.open(written[0]).mode == "L"
    numbered = load_gan(runs / "numbers")
    assert class_numbers(["2", "1"], numbered) == [1, 0]  # names
    with pytest.raises(ValueError, match="class '1' is a name and a number here; ask for names alone, 1, 2"):
        class_numbers(["0", "1"], numbered)
    some = write_samples(gan, 4, tmp_path / "some", classes=class_numbers(["cat/dog", "0"], gan))
    assert {path.parent.name for path in some} == {"cat_dog"}
    with pytest.raises(ValueError, match="class 'bird' is none of cat/dog, Cat_dog, nor a number below 2"):
        class_numbers(["bird"], gan)
    with pytest.raises(ValueError, match="this GAN has no classes"):
        class_numbers(["1"], load_gan(runs / "gan"))


def test_names_that_no_file_system_takes():
    assert folder_names(["a:b", "..", "A_B", "ok"]) == ["a_b", "_", "A_B_2", "ok"]


def test_what_is_no_gan_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run of train_gan\.py or train_cgan\.py"):
        load_gan(tmp_path)
    for number, other in enumerate(({"hyper_parameters": {"C": 1.0}}, {"state_dict": {}})):
        torch.save(other, tmp_path / f"{number}.ckpt")
        with pytest.raises(ValueError, match="is of no GAN"):
            load_gan(tmp_path / f"{number}.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        load_gan(tmp_path / "bad.ckpt")


@pytest.mark.slow
def test_the_script_writes_them_and_says_what_is_wrong(runs, tmp_path, call_script):
    flags = ("--count", "4", "--classes", "Cat_dog", "--out", "new", "--truncation", "1")
    done = call_script("sample.py", runs / "cgan", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 images of 32 pixels in new\n"
    assert len(list((tmp_path / "new" / "Cat_dog_1").glob("*.png"))) == 4
    wrong = call_script("sample.py", runs / "gan", "--count", "4", "--out", "new", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: new is not empty")
    assert len(wrong.stderr.splitlines()) == 1
