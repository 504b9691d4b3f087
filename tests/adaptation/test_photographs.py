"""The experiment on folders of pictures with a pretrained network, in process."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.domain_pair import UNKNOWN, DomainPairDataModule
from datamodules.features import FeatureTensors
from datamodules.folder import ImageFolderDataModule
from rdfia.adaptation import experiment_features, experiment_pair
from rdfia.adaptation.config import Args
from rdfia.adaptation.experiment import run
from rdfia.adaptation.experiment_features import Extraction
from rdfia.adaptation.experiment_predictions import label_shift
from rdfia.adaptation.methods import METHODS
from rdfia.adaptation.trunk import Trunk
from rdfia.common.views import random_views
from rdfia.engine.errors import Checked
from rdfia.trained import load_classifier

NETWORK = "squeezenet1_1/fire9"


def write_domain(root, names=("checks", "stripes"), count=16, tint=0):
    """Write pictures whose pattern tells the class; a domain has a tint."""
    y, x = np.mgrid[:40, :40]
    patterns = {
        "checks": (x // 8 + y // 8) % 2,
        "stripes": x // 5 % 2,
        "plain": 0 * x,
        "rings": (x**2 + y**2) // 99 % 2,
    }
    patterns["squares"] = np.maximum(x, y) // 6 % 2
    for place, name in enumerate(sorted(names)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            generator = np.random.default_rng([number, place, tint])
            pixels = 60 + 90 * patterns[name][..., None] + generator.integers(0, 40, (40, 40, 3))
            pixels[..., 0] += tint
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def folders(tmp_path):
    for name, tint in (("day", 0), ("dusk", 30), ("night", 60)):
        write_domain(tmp_path / name, tint=tint)
    return tmp_path


def asked(root, **changes) -> Args:
    settings = {"source": f"{root}/day", "target": f"{root}/night", "output_dir": root / "runs"}
    settings |= {"recipe": "office", "network": NETWORK, "precomputed": True, "views": 2, "image_size": 48}
    settings |= {"batch_size": 8, "max_epochs": 4, "accelerator": "cpu", "cache_dir": root / "cache"}
    settings |= {"precision": "float32"}
    return Args(**{**settings, **changes})


def flatten(folder):
    """Take the pictures of a folder out of their classes."""
    for path in sorted(folder.rglob("*.png")):
        shutil.move(path, folder / f"{path.parent.name}_{path.name}")
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()


def test_an_unlabelled_folder_is_adapted_to_and_its_pictures_are_named(folders):
    flatten(folders / "night")
    results = run(asked(folders, method="mcc", compare=("source-only", "svm")))
    folder = folders / "runs" / "dann"
    assert not [name for name in results["metrics"] if "target_accuracy" in name]
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert {row["image"] for row in rows} == {str(path) for path in (folders / "night").iterdir()}
    assert {row["part"] for row in rows} == {"train", "val", "test"}
    right = np.mean([row["class"] == row["image"].rpartition("/")[2].partition("_")[0] for row in rows])
    assert right > 0.9
    assert all(float(row["checks"]) + float(row["stripes"]) == pytest.approx(1, abs=1e-5) for row in rows)
    page = (folder / "index.html").read_text()
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert {"domains", "curves", "tsne", "predicted_mcc", "predicted_source-only"} <= figures
    assert "a_distance_by_chance" in page
    assert (
        f"{NETWORK}: no layer trained, its BatchNorm kept; trained on precomputed features, 2 views" in page
    )

    one = folders / "night" / "checks_0.png"
    (found,) = load_classifier(folder).predict([one])
    (row,) = [row for row in rows if row["image"] == str(one)]
    assert found.label == row["class"]  # from the picture, through the pretrained network
    assert found.score == pytest.approx(float(row["probability"]), abs=1e-3)


FEW = ("mcc", "self-training")


@pytest.mark.parametrize(
    "methods", [FEW, pytest.param(tuple(METHODS)[1:], marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_methods_and_alignments_stand_in_one_table_over_pairs(folders, capsys, methods, monkeypatch):
    monkeypatch.setattr(experiment_pair, "draw", lambda *args: None)  # which takes longest
    rows = ("source-only", *methods, "svm", "coral-svm", "subspace-nearest-mean", "transport-svm")
    flags = {"domains": tuple(f"{folders}/{name}" for name in ("day", "night")), "max_epochs": 2}
    results = run(asked(folders, name="all", compare=rows, transductive=True, **flags))
    metrics, folder = results["metrics"], folders / "runs" / "all"
    assert json.loads((folder / "results.json").read_text()) == results
    for row in (*rows, "dann"):
        by_pair = [metrics[f"{pair}/{row}/target_accuracy"]["mean"] for pair in results["data"]]
        assert metrics[f"{row}/target_accuracy"]["mean"] == pytest.approx(np.mean(by_pair))
    best = max(metrics[f"{row}/target_accuracy"]["mean"] for row in (*methods, "dann", "source-only"))
    assert metrics["chosen by oracle/target_accuracy"]["mean"] >= best
    assert {"chosen by dev/target_accuracy", "chosen by all_by_rank/target_accuracy"} <= set(metrics)
    assert {path.stem for path in (folder / "figures").iterdir()} == {"pairs", "trust"}
    assert (folder / "index.html").exists()
    assert results["data"]["day-to-night"]["target"]["train"] == 32  # all of them, and tested on the same
    assert any("transductive" in note for note in results["notes"])
    said = capsys.readouterr().out
    assert "chosen by information" in said
    again = run(asked(folders, name="all", compare=rows, transductive=True, **flags))  # nothing is trained
    assert again["metrics"]["dann/target_accuracy"] == metrics["dann/target_accuracy"]
    run(asked(folders, name="one", compare=(), max_epochs=1))
    with pytest.raises(ValueError, match="is the run of one pair"):
        run(asked(folders, name="one", **flags))


def test_parts_of_a_table_of_pairs_are_pairs(folders, monkeypatch):
    monkeypatch.setattr(experiment_pair, "draw", lambda *args: None)
    flags = {"pairs": ((f"{folders}/day", f"{folders}/night"), (f"{folders}/day", f"{folders}/dusk"))}
    flags |= {"compare": (), "max_epochs": 1, "name": "some"}
    with pytest.raises(Checked):
        run(asked(folders, check=True, **flags))
    (folders / "empty").mkdir()
    wrong = (*flags["pairs"], (f"{folders}/day", f"{folders}/empty"))
    with pytest.raises((FileNotFoundError, ValueError), match="empty"):  # of the last pair, said before all
        run(asked(folders, check=True, **(flags | {"pairs": wrong})))
    assert not (folders / "runs").exists()
    assert run(asked(folders, part=(1, 2), **flags)) == {}
    folder = folders / "runs" / "some"
    assert (folder / "day-to-dusk" / "results.json").exists()
    assert not (folder / "day-to-night").exists()
    assert len(run(asked(folders, **flags))["data"]) == 2


def test_features_are_extracted_once_and_views_are_those_that_were_drawn(folders, monkeypatch):
    data = ImageFolderDataModule(folders / "day", image_size=48)
    data.setup()
    trunk = Trunk(NETWORK, trained="none", image_size=48)
    extraction = Extraction(trunk, 3, torch.device("cpu"), folders / "cache")
    features = extraction.of(data.train_data)
    images = data.train_data[range(len(data.train_data))][0]
    torch.testing.assert_close(features[:, 0], trunk(images), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(features[:, 1], features[:, 2])
    place = int(data.train_data.rows[5])
    draws = experiment_features.drawn(len(data.train_data.pixels), 5, (0, 1))[place : place + 1]
    seen = random_views(images[5:6], (), smallest=experiment_features.SMALLEST, numbers=draws)
    torch.testing.assert_close(features[5:6, 1], trunk(seen), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(experiment_features, "compute_features", None)  # none is computed again
    again = Extraction(trunk, 3, torch.device("cpu"), folders / "cache")
    assert torch.equal(again.of(data.train_data), features)
    assert torch.equal(extraction.of(data.test_data), again.of(data.test_data))


def test_feature_tensors_are_batches_of_views_in_training_and_of_images_else():
    data = FeatureTensors(torch.arange(24.0).view(4, 3, 2), torch.tensor([0, 1, -1, 1]))
    assert data[[1, 2]][0].shape == (2, 3, 2)
    assert torch.equal(torch.cat([*data.batches(3)]), data.features[:, 0])
    assert not data.labelled
    assert data.part(torch.tensor([3, 0])).labels.tolist() == [1, 0]
    assert data.part(torch.tensor([3]), torch.tensor([0])).labels.tolist() == [0]
    with pytest.raises(ValueError, match=r"features are \(N, F\) or \(N, V, F\)"):
        FeatureTensors(torch.zeros(4), torch.zeros(4))


def test_classes_of_the_target_alone_are_to_be_told_as_unknown(folders, capsys):
    write_domain(folders / "more", ("checks", "rings", "stripes"), tint=60)
    flags = {"target": f"{folders}/more", "compare": (), "name": "open"}
    with pytest.raises(ValueError, match="the source has no 'rings'"):
        run(asked(folders, **flags))
    write_domain(folders / "none", ("rings", "squares"))
    with pytest.raises(ValueError, match="they are matched by name"):
        run(asked(folders, open_set=True, **(flags | {"target": f"{folders}/none"})))
    metrics = run(asked(folders, open_set=True, **flags))["metrics"]
    said = {row["class"] for row in csv.DictReader((folders / "runs" / "open" / "predictions.csv").open())}
    assert said <= {"checks", "stripes", "unknown"}
    assert ("unknown" in said) == (metrics["dann/target_unknown_accuracy"]["mean"] > 0)
    assert "images of rings are to be told as unknown" in capsys.readouterr().out
    known, unknown = (metrics[f"dann/target_{kind}_accuracy"]["mean"] for kind in ("known", "unknown"))
    expected = 2 * known * unknown / max(known + unknown, 1e-12)
    assert metrics["dann/target_h_score"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert metrics["dann/target_accuracy"]["mean"] > 0.8


def test_the_pair_takes_all_images_where_it_is_transductive(folders):
    source, target = (ImageFolderDataModule(folders / name, image_size=48) for name in ("day", "night"))
    pair = DomainPairDataModule(source, target, transductive=True, batch_size=8)
    pair.setup()
    assert len(target.train_data) == len(target.test_data) == len(target.test_files) == 32
    assert len(source.train_data) + len(source.val_data) == 32
    assert len(source.test_data) == len(source.val_data)
    held = {path for path, _ in source.val_files}
    assert not held & {path for path, _ in source.train_files}
    _, labels = target.test_data[range(32)]
    for place, (path, _) in enumerate(target.test_files):  # files are in the order of the images
        assert path.parent.name == pair.classes[labels[place]]
    pair.setup()
    assert len(target.train_data) == 32
    assert UNKNOWN == -2


def test_another_mix_of_classes_is_warned_of(folders):
    for path in sorted((folders / "night" / "checks").iterdir())[4:]:
        path.unlink()
    results = run(asked(folders, method="mcc", compare=(), max_epochs=8))
    (warned,) = [note for note in results["notes"] if note.startswith("label shift")]
    assert "most in" in warned
    assert callable(label_shift)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"compare": ("mck",)}, "--compare 'mck' is none of .*did you mean mcc?"),
        ({"method": "adda"}, "--method 'adda' is none of"),
        (
            {"precomputed": False, "compare": ("svm",)},
            "--compare svm is of features that are there",
        ),
        ({"network": "modern", "recipe": "default"}, "--precomputed: of a pretrained network"),
        ({"network": "vgg"}, "--network is modern, paper, or a pretrained network and a layer"),
        ({"weights": "random"}, "--precomputed features are of pretrained weights"),
        ({"augment": ("flip",)}, "--precomputed features are of --views"),
        ({"views": 0}, "--views is at least 1"),
        ({"method": "mcc", "reversal": False}, "--no-reversal is a control of dann, not of --method mcc"),
        ({"method": "mcd", "pseudo_label_rounds": 1}, "--pseudo-label-rounds go on with one classifier"),
        (
            {"open_set": True, "shared_classes": True},
            "--open-set keeps classes that --shared",
        ),
        ({"domains": ("mnist",)}, "--domains are different data sets, at least two"),
        (
            {"domains": ("mnist", "usps"), "pairs": (("mnist", "usps"),)},
            "--domains are all pairs",
        ),
        ({"stack": True, "seeds": (0, 1), "method": "mcc"}, "--stack trains DANN's networks at once"),
        ({"stack": True, "seeds": (0, 1)}, "--stack trains small networks at once"),
        ({"trunk_trained": "fire8"}, "leave out one of --precomputed and --trunk-trained fire8"),
        ({"temperature": 0.0}, "--temperature is above 0"),
        ({"network": "paper"}, "--network paper has a recipe of its own"),
    ],
)
def test_flags_that_do_not_go_together_are_named(folders, flags, message):
    with pytest.raises(ValueError, match=message):
        asked(folders, **flags)
