import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from conftest import ROOT, write_scene15, write_some_digits

from datamodules.scene15 import Scene15DataModule
from datamodules.tensors import ImageTensors
from rdfia.common import plots
from rdfia.engine import runs
from rdfia.transfer.config import SVMArgs as Args
from rdfia.transfer.config import layers_by_network
from rdfia.transfer.experiment_svm import run
from rdfia.transfer.experiment_svm_figures import draw_worst_confusions
from rdfia.transfer.svm_module import FeatureExtractorSVM

FIRE4, FIRE9 = "squeezenet1_1/fire4", "squeezenet1_1/fire9"
SCRIPT = str(ROOT / "scripts" / "train_svm.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_scene15(root, train=6, test=4)
    return root


def small(scenes: Path, tmp_path: Path, **changes) -> Args:
    places = {"data_dir": scenes, "output_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"}
    settings = {"features": (FIRE4, FIRE9), "folds": 3, "image_size": 64, "accelerator": "cpu"}
    return Args(**{**settings, **places, **changes})


def test_each_layer_gets_its_numbers_and_figures(scenes, tmp_path, capsys):
    results = run(small(scenes, tmp_path))
    assert "fire9                  accuracy 0." in capsys.readouterr().out
    folder = tmp_path / "runs" / "svm"
    assert json.loads((folder / "results.json").read_text()) == results
    for layer, features in (("fire4", 256 * 7 * 7), ("fire9", 512 * 3 * 3)):
        assert results["metrics"][f"squeezenet1_1/{layer}/features"]["mean"] == features
        assert (folder / "figures" / f"c_squeezenet1_1_{layer}.png").stat().st_size > 5000
        assert (folder / "figures" / f"confusion_squeezenet1_1_{layer}.png").stat().st_size > 5000
        chosen = results["metrics"][f"squeezenet1_1/{layer}/cross_validation_accuracy"]["mean"]
        names = [f"squeezenet1_1/{layer}/cross_validation_accuracy_at_c_{c}" for c in (0.0316, 1, 31.6, 100)]
        assert all(results["metrics"][name]["mean"] <= chosen for name in names)
    assert results["selection"] == "C by 3-fold cross-validation on the training images"
    assert results["data"]["audit"]["train"] == 90


@pytest.mark.slow
def test_the_best_row_is_looked_at_more_closely(scenes, tmp_path):
    results = run(small(scenes, tmp_path, together=True, components=(4, 16), folds=2))
    metrics, folder = results["metrics"], tmp_path / "runs" / "svm"
    rows = (FIRE4, FIRE9, "together")
    best = max(rows, key=lambda row: metrics[f"{row}/cross_validation_accuracy"]["mean"])
    assert len(metrics[f"{best}/accuracy_from_5_per_class"]["values"]) == 3
    assert {f"{best}/accuracy_from_{count}_components" for count in (4, 16)} < set(metrics)
    for name in ("comparison", "accuracy_by_c", "components", "worst_confusions"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000
    assert not (folder / "figures" / "training_images.png").exists()  # of a single number of images
    module = FeatureExtractorSVM.load_from_checkpoint(folder / "checkpoints" / "best.ckpt", weights_only=True)
    data = Scene15DataModule(scenes, image_size=64, batch_size=32)
    data.setup()
    scores = lightning.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu").test(
        module, data, verbose=False
    )
    assert scores[0]["test/accuracy"] == pytest.approx(metrics[f"{best}/accuracy"]["mean"])


@pytest.mark.slow
def test_streaming_and_caches_change_no_number(scenes, tmp_path):
    numbers = []
    for name, changes in {
        "in_memory": {},
        "from_the_cache": {},
        "streamed": {"memory_gb": 0.002, "cache_dir": tmp_path / "grams"},
        "from_cached_grams": {"memory_gb": 0.002, "cache_dir": tmp_path / "grams"},
        "no_cache": {"cache": False},
    }.items():
        metrics = run(small(scenes, tmp_path, name=name, **changes))["metrics"]
        numbers.append({key: value["mean"] for key, value in metrics.items() if "seconds" not in key})
    assert all(other == pytest.approx(numbers[0]) for other in numbers[1:])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert len(list((tmp_path / "grams").iterdir())) == 2


def test_it_learns_and_with_shuffled_labels_falls_to_chance(scenes, tmp_path, undrawn):
    # the noise of a class differs in size, so resized it differs in texture
    real, control = (
        run(
            small(
                scenes,
                tmp_path,
                features=(FIRE4,),
                name=str(shuffled),
                image_size=224,
                shuffle_labels=shuffled,
            )
        )
        for shuffled in (False, True)
    )
    assert real["metrics"][f"{FIRE4}/accuracy"]["mean"] > 0.4
    assert control["metrics"][f"{FIRE4}/accuracy"]["mean"] < 0.25


def test_the_same_command_gives_the_same_numbers(scenes, tmp_path, undrawn):
    twice = [run(small(scenes, tmp_path, name=name, features=(FIRE9,)))["metrics"] for name in ("a", "b")]
    for name in twice[0]:
        if "seconds" not in name:
            assert twice[0][name] == twice[1][name]
    # one that has ended is taken as it is, with the times that it took without caches
    assert run(small(scenes, tmp_path, name="a", features=(FIRE9,)))["metrics"] == twice[0]


def test_features_of_photographs_tell_digits_apart(tmp_path):
    write_some_digits(tmp_path)
    digits = {"dataset": "mnist", "features": (FIRE4,), "data_dir": tmp_path}
    metrics = run(small(tmp_path, tmp_path, **digits))["metrics"]
    assert metrics[f"{FIRE4}/accuracy"]["mean"] > 0.7
    assert metrics[f"{FIRE4}/accuracy_without_duplicates"] == metrics[f"{FIRE4}/accuracy"]
    assert (tmp_path / "runs" / "svm" / "figures" / "worst_confusions.png").stat().st_size > 5000
    with pytest.raises(ValueError, match=r"300 images have inner products of 0.0 GB; take fewer with"):
        run(small(tmp_path, tmp_path, **digits, memory_gb=1e-4, name="none"))
    with pytest.raises(ValueError, match="--grids have at least 1 cell on each side, got 1 0"):
        layers_by_network(Args(grids=(1, 0)))
    with pytest.raises(ValueError, match="--splits draws images of 15 Scene, of a folder or of a list"):
        run(small(tmp_path, tmp_path, **digits, splits=2))


@pytest.mark.slow
def test_a_dry_run_splits_by_seed_and_writes_nothing(tmp_path):
    write_scene15(tmp_path / "data", train=60, test=42)
    results = run(
        small(
            tmp_path / "data",
            tmp_path,
            features=(FIRE9,),
            folds=2,
            splits=2,
            fast_dev_run=True,
        )
    )
    assert len(results["metrics"][f"{FIRE9}/accuracy_over_splits"]["values"]) == 2
    assert results["metrics"][f"{FIRE9}/accuracy_over_splits"]["std"] is not None
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("vgg61/pool5",)}, "no backbone 'vgg61'"),
        ({"features": ("squeezenet1_1/pool9",)}, "squeezenet1_1 has no layer 'pool9'"),
        ({"features": ("pool9",)}, "--features takes network/layer, such as vgg16/pool5, got 'pool9'"),
        ({"features": ()}, "--features is empty; it takes network/layer"),
        ({"image_size": 16}, "--image-size is at least 32, got 16"),
        ({"splits": 2, "scaling": "standard"}, "leave --splits out"),
        ({"splits": 2, "shuffle_labels": True}, "leave --splits out"),
        ({"folds": 7}, "--folds is 2 to 6, the training images of the smallest class; got 7"),
        ({"precision": "16-mixed"}, "--precision float32 or bf16-mixed, not 16-mixed"),
        ({"features": (FIRE4, "alexnet/pool5"), "weights": "a.pth"}, "--weights a.pth is one file"),
        ({"weights": "absent.safetensors"}, "weights absent.safetensors do not exist"),
        ({"devices": 3}, "--batch-size 32 cannot be shared by 3 processes; take a multiple of 3"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(scenes, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        run(small(scenes, tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_help_has_a_line_for_each_flag():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) < 120
    assert "--cache, --no-cache" in done.stdout  # alone, the second would say the opposite of its help
    for field in dataclasses.fields(Args):
        assert f"--{field.name.replace('_', '-')}" in done.stdout


def test_only_confusions_are_drawn_as_such(monkeypatch, tmp_path):
    """With fewer than six, right predictions were drawn too: backpack predicted as backpack, 23 times."""
    drawn = {}

    def draw(captions, pairs, title):
        drawn.update(zip(captions, pairs, strict=True))

    monkeypatch.setattr(plots, "pairs", draw)
    monkeypatch.setattr(runs, "save_figure", lambda *given: None)
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 2])
    train, test = torch.arange(3), torch.arange(3, 7)
    features = torch.eye(3)[labels] + 0.1 * torch.arange(7)[:, None]
    images = ImageTensors(torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4), labels)
    trial = SimpleNamespace(predictions=torch.tensor([0, 1, 1, 2]))
    draw_worst_confusions(
        tmp_path, None, ("a", "b", "c"), features @ features.T, images, labels, train, test, trial
    )
    assert list(drawn) == ["a (left) taken for b, once"]
    assert (255 * drawn["a (left) taken for b, once"][:, 0, 0, 0]).round().tolist() == [4, 1]
