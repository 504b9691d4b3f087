"""On the real data: ``RDFIA_DATA=... pytest -m reference``."""

import os
import time
from pathlib import Path

import pytest
import torch
import train_dann
import train_svm
from conftest import FASTEST

from datamodules.files import SAMPLES
from datamodules.imagenet_samples import ImageNetSamplesDataModule
from datamodules.mnist import MNISTDataModule, load_mnist
from datamodules.mnist_m import MNISTMDataModule
from datamodules.scene15 import Scene15DataModule
from rdfia.common.backbones import classify, load_backbone
from rdfia.generation.digit_judge import load_judge, score_images

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif("RDFIA_DATA" not in os.environ, reason="set RDFIA_DATA to the real data"),
]


@pytest.fixture
def data(tmp_path) -> Path:
    """The real data, read-only, in a folder where the generated set may be written."""
    for entry in Path(os.environ["RDFIA_DATA"]).resolve().iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def test_mnist_and_the_judge(data):
    digits = MNISTDataModule(data, image_size=32)
    digits.setup()
    assert (len(digits.train_data), len(digits.val_data), len(digits.test_data)) == (55_000, 5_000, 10_000)
    judge, right = load_judge(), 0
    with torch.inference_mode():
        for images, labels in digits.test_dataloader():
            right += int((judge(images).argmax(1) == labels).sum())
    assert right >= 9940


def test_real_digits_are_the_floor_of_the_scores(data):
    digits = MNISTDataModule(data, image_size=32)
    digits.setup()
    scores = score_images(digits.train_data[range(10_000)][0], digits.test_data[range(10_000)][0])
    # The first half of the test set is cleaner than the second: fewer digits would give more.
    assert scores["judge_fid"] < 0.1
    assert scores["precision"] > 0.8
    assert scores["recall"] > 0.8


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_dann_adapts_within_an_epoch(data, tmp_path):
    settings = {"max_epochs": 1, "precision": FASTEST, "accelerator": "cpu"}
    metrics = train_dann.main(train_dann.Args(data_dir=data, output_dir=tmp_path / "runs", **settings))[
        "metrics"
    ]
    source_only, adapted = (metrics[f"{row}/target_accuracy"]["mean"] for row in ("source-only", "dann"))
    assert 0.4 < source_only < 0.7
    assert adapted > 0.85
    assert metrics["dann/source_accuracy"]["mean"] > 0.975


def test_the_judge_never_saw_the_embedded_digits(data):
    """They are all among the first 5,848 training digits, which its training leaves out."""
    first = {image.numpy().tobytes() for image in load_mnist(data, train=True)[0][:5848]}
    for train in (True, False):
        assert all(image.numpy().tobytes() in first for image in load_mnist(SAMPLES, train=train)[0])


def test_mnist_m_is_generated_in_seconds(data):
    started = time.perf_counter()
    digits = MNISTMDataModule(data, source="generated")
    digits.prepare_data()
    assert time.perf_counter() - started < 30
    digits.setup()
    assert "500 BSDS500 photographs" in digits.describe()["name"]
    assert (len(digits.train_data), len(digits.val_data), len(digits.test_data)) == (55_000, 5_000, 10_000)


@pytest.mark.parametrize(("duplicates", "test"), [("keep", 2985), ("drop_from_test", 2974)])
def test_scene15_audit(data, duplicates, test):
    scenes = Scene15DataModule(data, image_size=64, duplicates=duplicates, train_on_val=True)
    scenes.setup()
    assert (len(scenes.train_data), len(scenes.val_data), len(scenes.test_data)) == (1500, 299, test)
    audit = scenes.describe()["audit"]
    assert (audit["duplicate_pairs"], audit["across_splits"], audit["across_classes"]) == (18, 11, 1)


def test_scene15_seeded_splits(data):
    splits = [Scene15DataModule(data, image_size=16, split_seed=seed, train_on_val=True) for seed in (0, 1)]
    for scenes in splits:
        scenes.setup()
        assert (len(scenes.train_data), len(scenes.test_data)) == (1500, 2985)
    assert splits[0].train_files != splits[1].train_files


def test_imagenet_samples(data):
    practical = ImageNetSamplesDataModule(data)
    practical.setup()
    assert practical.data.labels.tolist()[:5] == [958, 85, 244, 182, 294]
    folder = ImageNetSamplesDataModule(path=data / "imagenet-samples")
    folder.setup()
    assert len(folder.data) == 250
    assert folder.data.labels.tolist() == list(range(0, 1000, 4))


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("squeezenet1_1", 0.55),
        ("resnet18", 0.70),
        ("mobilenet_v2_tfsame", 0.83),
        ("timm:tf_efficientnet_lite0", 0.82),
    ],
)
def test_pretrained_networks_know_imagenet(data, name, at_least):
    backbone = load_backbone(name, data_dir=data)
    samples = ImageNetSamplesDataModule(path=data / "imagenet-samples")
    samples.setup()
    right = [classify(backbone, images, 1)[1][:, 0] == labels for images, labels in samples.test_dataloader()]
    assert torch.cat(right).float().mean() > at_least


def test_features_tell_scenes_apart_and_shuffled_labels_fall_to_chance(data, tmp_path):
    settings = {"features": ("squeezenet1_1/fire9",), "image_size": 128, "grids": (1, 2), "folds": 3}
    settings |= {"data_dir": data, "output_dir": tmp_path, "cache_dir": tmp_path / "cache", "components": ()}
    real = train_svm.main(train_svm.Args(name="real", **settings))["metrics"]
    control = train_svm.main(train_svm.Args(name="control", shuffle_labels=True, **settings))["metrics"]
    assert real["squeezenet1_1/fire9/accuracy"]["mean"] > 0.75
    # 15 classes; 2,985 test images
    assert control["squeezenet1_1/fire9/accuracy"]["mean"] == pytest.approx(1 / 15, abs=0.03)
