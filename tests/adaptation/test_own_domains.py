"""DANN between folders of one's own: classes by name, a target without labels, any size."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import write_usps
from PIL import Image

from datamodules import DomainPairDataModule, ImageFolderDataModule
from rdfia.adaptation.config import Args
from rdfia.adaptation.dann import DANNModule
from rdfia.adaptation.experiment import run
from rdfia.adaptation.experiment_pairs import pairs_of
from rdfia.trained import find_checkpoint, load_classifier

COLOURS = {"blue": 2, "green": 1, "red": 0}


def write_domain(root, names, count=16, shade=0):
    """Write pictures whose brightest channel tells the class; a domain has a shade."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            generator = np.random.default_rng([number, COLOURS.get(name, 0), shade])
            pixels = generator.integers(0, 60, (20, 24, 3))
            pixels[..., COLOURS.get(name, 0)] += 100 + shade
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def domains(tmp_path):
    write_domain(tmp_path / "photos", ["blue", "green", "red"])
    write_domain(tmp_path / "drawings", ["blue", "green", "red"], shade=60)
    return tmp_path


def small(root, target, **changes):
    places = {"source": f"{root}/photos/", "target": f"{root}/{target}/", "output_dir": root / "runs"}
    return Args(
        **places,
        **{
            "image_size": 16,
            "batch_size": 8,
            "max_epochs": 20,
            "ema_decay": 0.9,
            "accelerator": "cpu",
            **changes,
        },
    )


@pytest.mark.slow
def test_a_target_without_labels_is_adapted_to_and_not_scored_by_them(domains, capsys):
    for path in sorted((domains / "drawings").rglob("*.png")):
        shutil.move(path, domains / "drawings" / f"{path.parent.name}_{path.name}")
    flags = {"pseudo_label_rounds": 1, "pseudo_label_epochs": 1, "threshold": 0.4}
    results = run(small(domains, "drawings", **flags))
    metrics = results["metrics"]
    assert not [name for name in metrics if "target_accuracy" in name or "target_loss" in name]
    assert not [name for name in metrics if "label_accuracy" in name]
    for row in ("dann", "source-only", "pseudo-labels"):
        assert metrics[f"{row}/source_accuracy"]["mean"] > 0.9
        assert metrics[f"{row}/target_information"]["mean"] > 0.2
    assert "the target has no labels: what needs them is left out" in results["notes"]
    assert results["data"]["target"]["classes"] == []
    figures = {path.stem for path in (domains / "runs" / "dann" / "figures").iterdir()}
    rows = ("dann", "source-only", "pseudo-labels")
    assert figures == {"domains", "curves", "tsne"} | {f"predicted_{row}" for row in rows}
    assert "target information" in capsys.readouterr().out
    with pytest.raises(ValueError, match="has no labels to train on; leave target-trained out"):
        run(small(domains, "drawings", name="other", compare=("target-trained",)))


@pytest.mark.slow
def test_own_classes_are_learned_and_scored(domains):
    results = run(small(domains, "drawings", resize="pad"))
    assert results["metrics"]["dann/target_accuracy"]["mean"] > 0.9
    assert results["data"]["source"]["audit"]["resize"] == "pad"
    assert load_classifier(domains / "runs" / "dann").resize == "pad"
    last = domains / "runs" / "dann" / "dann_seed_0" / "checkpoints" / "last.ckpt"
    module = DANNModule.load_from_checkpoint(last, map_location="cpu", weights_only=True)
    assert module.hparams["class_names"] == ["blue", "green", "red"]
    assert module(torch.rand(2, 3, 16, 16)).shape == (2, 3)


def test_classes_that_one_side_lacks_are_named_or_left_out(domains, capsys):
    shutil.rmtree(domains / "drawings" / "blue")
    write_domain(domains / "drawings", ["violet"])
    with pytest.raises(ValueError, match=r"the target has no 'blue'; the source has no 'violet'; keep those"):
        run(small(domains, "drawings"))
    results = run(small(domains, "drawings", shared_classes=True, max_epochs=1))
    assert results["data"]["source"]["train"] == 20  # of 3 x 12 less validation, two classes
    said = capsys.readouterr().out
    assert "photos, 0.25 of each class drawn for the test by seed 0: 16 images of blue left out" in said
    shutil.rmtree(domains / "drawings" / "green")
    with pytest.raises(ValueError, match="they are matched by name"):
        run(small(domains, "drawings", shared_classes=True))


def test_classes_are_matched_by_name_whatever_their_order(domains):
    options = {"image_size": 16, "batch_size": 4}
    source, target = (ImageFolderDataModule(domains / name, **options) for name in ("photos", "drawings"))
    target.setup()
    target.classes = ("red", "blue", "green")  # as if listed so: label 0 is red
    order = torch.tensor([1, 2, 0])
    for part in ("train_data", "val_data", "test_data"):
        data = getattr(target, part)
        data.labels = order[data.labels]
    pair = DomainPairDataModule(source, target, batch_size=4)
    pair.setup()
    assert pair.classes == ("blue", "green", "red")
    for domain in (source, target):
        images, labels = domain.test_data[list(range(len(domain.test_data)))]
        assert torch.equal(images.mean((2, 3)).argmax(1), torch.tensor([2, 1, 0])[labels])


@pytest.mark.parametrize("network", ["paper", "modern"])
@pytest.mark.parametrize(("classes", "channels", "size"), [(31, 3, 64), (2, 1, 8), (10, 3, 29)])
def test_networks_take_any_number_of_classes_channels_and_size(network, classes, channels, size):
    module = DANNModule(network=network, classes=classes, channels=channels, image_size=size)
    assert module(torch.rand(2, channels, size, size)).shape == (2, classes)
    with pytest.raises(ValueError, match=f"give the data module image_size={size}, and channels={channels}"):
        module(torch.rand(2, channels, size + 1, size + 1))


def test_the_checkpoint_is_that_of_what_was_asked_for(tmp_path):
    def folder(name, **flags):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args.json").write_text(json.dumps(flags))
        for row in ("dann_seed_2", "dann_seed_10", "source-only_seed_2", "dann_seed_2_round_1"):
            (tmp_path / name / row / "checkpoints").mkdir(parents=True)
            (tmp_path / name / row / "checkpoints" / "last.ckpt").touch()
        return find_checkpoint(tmp_path / name).parent.parent.name

    assert folder("two", seeds=[2, 10]) == "dann_seed_2"
    assert folder("ten", seeds=[10, 2]) == "dann_seed_10"
    assert folder("alone", adapt=False, seed=2) == "source-only_seed_2"
    assert folder("rounds", seed=2, pseudo_label_rounds=1) == "dann_seed_2_round_1"
    for name, flags, wanted in (
        ("flowers_seed_0", {"backbone": "resnet18"}, "best.ckpt"),
        ("dann_seed_0", {"lambda_max": 1.0}, "last.ckpt"),
        ("every", {"train_on_val": True}, "last.ckpt"),
    ):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "args.json").write_text(json.dumps(flags))
        for one in ("best.ckpt", "last.ckpt"):
            (tmp_path / name / "checkpoints" / one).touch()
        assert find_checkpoint(tmp_path / name).name == wanted
    (tmp_path / "every" / "args.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"every/args.json is damaged .*; name a checkpoint in .*every instead"
    ):
        find_checkpoint(tmp_path / "every")


def test_folders_of_pairs_do_not_meet(tmp_path, monkeypatch):
    for name in ("a/w", "b/w", "here/a/w", "here/c/v"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert len(pairs_of(Args(domains=("./a/w", "../b/w", "./c/v")))) == 6
    with pytest.raises(ValueError, match=r"results of \./a/w and \.\./a/w would lie in one folder"):
        pairs_of(Args(domains=("./a/w", "../a/w", "./c/v")))


def test_bad_input_is_named(domains):
    with pytest.raises(ValueError, match="at least 2 classes, 1 channel and 8 pixels on a side, got 1, 3"):
        DANNModule(classes=1)
    with pytest.raises(ValueError, match="--image-size is at least 8, got 4"):
        small(domains, "drawings", image_size=4)
    write_usps(domains / "data" / "USPS")
    digits = {"source": "usps", "target": "mnist", "data_dir": domains / "data"}
    with pytest.raises(ValueError, match="--resize: neither source nor target has a choice of it"):
        run(Args(**digits, resize="pad", output_dir=domains / "runs", accelerator="cpu"))
    for wrong in ({"compare": ("target-trained",)}, {"labelled": "target", "adapt": False}):
        with pytest.raises(ValueError, match="would be tested on its own training images; leave one"):
            Args(transductive=True, **wrong)
    with pytest.raises(FileNotFoundError, match=r"--target ./none is no folder that exists"):
        Args(source="mnist", target="./none")
