"""GANs of images that are no digits: clothes, letters, own pictures with and without classes."""

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import write_idx
from PIL import Image

from datamodules import MNISTDataModule
from rdfia.generation import experiment_looks, image_classifier
from rdfia.generation.cgan import cGANModule
from rdfia.generation.config import ConditionalGANArgs, GANArgs
from rdfia.generation.digit_judge import score_images
from rdfia.generation.experiment import run, run_conditional
from rdfia.generation.feature_scores import FeatureScores
from rdfia.generation.gan import GANModule

TINY = {"generator_features": 4, "discriminator_features": 4, "latent_dim": 8, "batch_size": 16}
TINY |= {"max_epochs": 1, "accelerator": "cpu"}


def squares(count, seed=0):
    """Return bright squares of three sizes on black, and their sizes."""
    generator = np.random.default_rng(seed)
    images, kinds = np.zeros((count, 28, 28), np.uint8), generator.integers(0, 3, count)
    for image, kind in zip(images, kinds, strict=True):
        side = 6 + 5 * kind
        top, left = generator.integers(0, 28 - side, 2)
        image[top : top + side, left : left + side] = generator.integers(150, 256)
    return images, kinds


@pytest.fixture
def clothes(tmp_path):
    """Write squares as Fashion-MNIST."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    for part, count in (("train", 96), ("t10k", 48)):
        images, _ = squares(count, seed=count)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return {"dataset": "fashion-mnist", "data_dir": tmp_path / "data", "output_dir": tmp_path / "runs"}


@pytest.fixture
def pictures(tmp_path):
    """Write squares as a folder of pictures, by class."""
    images, kinds = squares(72)
    for number, (image, kind) in enumerate(zip(images, kinds, strict=True)):
        folder = tmp_path / "own" / ("large", "middle", "small")[2 - kind]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "own"


def test_clothes_are_learned_and_scored_by_features(clothes, tmp_path, capsys):
    results = run(GANArgs(**TINY, **clothes, interpolate=("01",)))
    metrics = results["metrics"]
    assert metrics["squeezenet_fid"]["mean"] > 0
    assert metrics["floor_squeezenet_fid"]["mean"] < metrics["squeezenet_fid"]["mean"]
    assert not [name for name in metrics if "judge" in name or name.startswith(("class_", "halfway"))]
    assert "the digit judge knows grey digits only" in results["notes"][0]
    figures = {path.stem for path in (tmp_path / "runs" / "gan" / "figures").glob("*.png")}
    assert {"curves_and_samples", "real_and_generated", "interpolation"} <= figures
    assert "48 generated images against 48 real test images" in capsys.readouterr().out


def test_a_conditional_gan_has_the_classes_of_the_data(clothes, pictures, tmp_path):
    results = run_conditional(ConditionalGANArgs(**TINY, **clothes))
    assert "squeezenet_fid" in results["metrics"]
    own = ConditionalGANArgs(
        **TINY, **clothes | {"dataset": f"{pictures}/"}, name="own", skip_unreadable=True
    )
    run_conditional(own)
    last = tmp_path / "runs" / "own" / "checkpoints" / "last.ckpt"
    module = cGANModule.load_from_checkpoint(last, map_location="cpu", weights_only=True)
    assert module.hparams["class_names"] == ["large", "middle", "small"]
    assert module.sample(6).shape == (6, 3, 32, 32)  # a folder's pictures are in colour if nothing is said
    assert module.class_grid(module.draw(2, 7)).shape == (3, 2, 3, 32, 32)
    assert module.label_counts.sum() > 0
    with pytest.raises(ValueError, match="labels lie from 0 to 2"):
        module.sample(1, labels=3)


@pytest.mark.slow
def test_a_closer_look_finds_copies_and_reads_classes(pictures, clothes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment_looks, "SAMPLES", 40)
    monkeypatch.setattr(image_classifier, "STEPS", 6)
    monkeypatch.setattr(experiment_looks, "fit_classifier", partial(image_classifier.fit_classifier, steps=6))
    here = clothes | {
        "dataset": f"{pictures}/",
        "examine": True,
        "image_cache": tmp_path / "own_cache" / "images",
    }
    results = run_conditional(ConditionalGANArgs(**TINY, **here, name="looked", channels=1))
    metrics = {name: metric["mean"] for name, metric in results["metrics"].items()}
    assert 0 <= metrics["near_training_share"] <= 1
    assert metrics["near_training_chance"] == 0.05
    assert metrics["conditional_chance"] == pytest.approx(1 / 3)
    assert metrics["accuracy_large"] <= 1
    read = results["metrics"]["conditional_accuracy"]
    assert read["of"] == 40
    assert read["interval"][0] < read["mean"] < read["interval"][1]
    assert results["metrics"]["accuracy_large"]["of"] == 14  # asked for in turn
    assert "\nconditional_accuracy 0." in capsys.readouterr().out
    assert any("by a CNN trained on the real training images" in note for note in results["notes"])
    figures = {path.stem for path in (tmp_path / "runs" / "looked" / "figures").glob("*.png")}
    assert {"nearest_training", "read_as", "truncation", "mixing", "directions", "projection"} <= figures
    (cached,) = (tmp_path / "own_cache" / "classifiers").glob("*.safetensors")
    cached.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"is damaged .*delete it: rm "):
        run_conditional(ConditionalGANArgs(**TINY, **here, name="again", channels=1))
    dry = here | {"image_cache": tmp_path / "other" / "images", "fast_dev_run": True}
    run_conditional(ConditionalGANArgs(**TINY, **dry, name="dry", channels=1))
    assert not (tmp_path / "other").exists()  # a dry run keeps nothing


def test_pictures_without_classes_are_enough(pictures, clothes):
    flat = pictures.parent / "flat"
    flat.mkdir()
    for path in pictures.rglob("*.png"):
        shutil.move(path, flat / path.name)
    here = clothes | {"dataset": f"{flat}/"}
    results = run(GANArgs(**TINY, **here, interpolate=()))
    assert results["data"]["classes"] == []
    last = clothes["output_dir"] / "gan" / "checkpoints" / "last.ckpt"
    module = GANModule.load_from_checkpoint(last, map_location="cpu", weights_only=True)
    assert module.hparams["groups"] == 5  # ten images of each, of 54
    with pytest.raises(ValueError, match="holds no folders with pictures"):
        run_conditional(ConditionalGANArgs(**TINY, **here))


def test_too_few_images_to_score_are_said(pictures, clothes, capsys):
    for path in list((pictures / "large").iterdir())[4:] + list((pictures / "small").iterdir())[4:]:
        path.unlink()
    shutil.rmtree(pictures / "middle")
    tiny = TINY | {"batch_size": 4}
    results = run(
        GANArgs(**tiny, **clothes | {"dataset": f"{pictures}/"}, interpolate=(), groups=0, seeds=(0,))
    )
    said = "2 images to score against are too few, scores need 6: they are nan"
    assert said in capsys.readouterr().out
    assert said in results["notes"]
    assert "rgb: not scored" in results["notes"] or "best: not scored" in results["notes"]


def test_a_table_of_other_images(clothes, capsys):
    results = run(GANArgs(**TINY, **clothes, interpolate=(), seeds=(0, 1)))
    assert len(results["metrics"]["squeezenet_fid"]["values"]) == 2
    assert "squeezenet fid" in capsys.readouterr().out


def test_colour_is_learned_and_grey_said_where_it_cannot_be(tmp_path, clothes):
    root = tmp_path / "data" / "mnist_m"
    for part in ("train", "test"):
        (root / f"mnist_m_{part}").mkdir(parents=True)
        lines = []
        for number in range(40):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(root / f"mnist_m_{part}" / f"{number}.png")
            lines.append(f"{number}.png {number % 10}")
        (root / f"mnist_m_{part}_labels.txt").write_text("\n".join(lines))
    args = GANArgs(**TINY, **clothes | {"dataset": "mnist-m"}, interpolate=())
    assert run(args)["metrics"]["squeezenet_fid"]["mean"] > 0
    last = clothes["output_dir"] / "gan" / "checkpoints" / "last.ckpt"
    module = GANModule.load_from_checkpoint(last, map_location="cpu", weights_only=True)
    assert module.sample(2).shape == (2, 3, 32, 32)
    assert not [name for name in module.state_dict() if name.startswith("scores")]  # no network of others
    with pytest.raises(ValueError, match="--dataset mnist-m has 3 channels; leave --channels out"):
        run(dataclasses.replace(args, channels=1))


def test_values_outside_0_to_1_are_refused():
    module = GANModule(scores="features", groups=0)
    with pytest.raises(ValueError, match="divide them by 255"):
        module.training_step((torch.full((4, 1, 32, 32), 200.0), torch.zeros(4).long()), 0)


def test_features_tell_kinds_of_images_apart():
    images, _ = squares(120)
    real = torch.from_numpy(images)[:, None].float() / 255
    noise = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    like = score_images(real[60:], real[:60], kind=FeatureScores)
    unlike = score_images(noise, real[:60], kind=FeatureScores)
    assert like["squeezenet_fid"] < unlike["squeezenet_fid"] / 5
    assert unlike["precision"] < 0.1 < like["precision"]
    assert (like["n_real"], like["n_generated"]) == (60, 60)
    # exact, whatever the batches
    scores = FeatureScores()
    for part in real.split(7):
        scores.update(part, real=True)
        scores.update(part, real=False)
    assert scores.compute()["squeezenet_fid"] == pytest.approx(0, abs=1e-4)


def test_a_folder_of_digits_is_scored_against_digits_of_all_classes(tmp_path, clothes):
    digits = MNISTDataModule("sample", image_size=32)
    digits.setup()
    images, labels = digits.train_data[18 * torch.arange(200)]  # its first ones are of few classes
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = tmp_path / "digits" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image[0]).byte().numpy()).save(place / f"{number}.png")
    here = clothes | {"dataset": f"{tmp_path / 'digits'}/", "name": "digits", "channels": 1}
    results = run(GANArgs(**TINY, **here, scores="digits"))
    assert results["metrics"]["floor_smallest_class_share"]["mean"] > 0
    assert any("spread evenly" in note for note in results["notes"])
