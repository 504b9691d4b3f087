import subprocess
import sys

import lightning
import numpy as np
import pytest
import torch
from conftest import TESTS, write_striped_scenes
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from datamodules.scene15 import Scene15DataModule
from rdfia.common.backbones import load_backbone
from rdfia.transfer.svm_module import FeatureExtractorSVM

SMALL = {"backbone": "squeezenet1_1", "layers": ["fire9"], "folds": 3}


def trainer(**settings) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        **{"accelerator": "cpu", "max_epochs": 1, "enable_checkpointing": False, **quiet, **settings}
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Scene15DataModule:
    root = tmp_path_factory.mktemp("scenes")
    write_striped_scenes(root)
    data = Scene15DataModule(root, image_size=64, batch_size=16, shuffle=False, train_on_val=True)
    data.setup()
    return data


@pytest.fixture(scope="module")
def fitted(scenes):
    module = FeatureExtractorSVM(**SMALL)
    run = trainer()
    run.fit(module, scenes)
    return module, run


def test_learns_and_validates_after_fitting(fitted, scenes):
    module, run = fitted
    assert run.callback_metrics["val/accuracy"] == 1  # validation images were trained on
    assert run.test(module, scenes, verbose=False)[0]["test/accuracy"] > 0.8
    assert set(run.callback_metrics) == {"test/accuracy"}


@pytest.mark.parametrize("scaling", ["l2", "power", "standard", "raw"])
def test_predicts_what_sklearn_predicts_on_the_same_features(scenes, scaling, tmp_path):
    module = FeatureExtractorSVM(**SMALL, scaling=scaling, c=0.1)
    run = trainer()
    run.fit(module, scenes)

    def features(data):
        images, _ = data[list(range(len(data)))]
        return module.backbone.tap(images, ["fire9"])["fire9"].flatten(1).double().numpy()

    train, test, labels = features(scenes.train_data), features(scenes.test_data), scenes.train_data.labels
    if scaling == "power":
        train, test = np.sqrt(train), np.sqrt(test)  # after a ReLU nothing is negative
    if scaling in ("l2", "power"):
        train, test = Normalizer().fit_transform(train), Normalizer().fit_transform(test)
    if scaling == "standard":
        scaler = StandardScaler().fit(train)
        varies = train.std(0) > 1e-5
        train, test = scaler.transform(train)[:, varies], scaler.transform(test)[:, varies]
    reference = SVC(kernel="linear", C=0.1).fit(train, labels)
    found = torch.cat(run.predict(module, scenes.test_dataloader()))
    assert np.array_equal(found, reference.predict(test))
    run.save_checkpoint(tmp_path / "svm.ckpt")
    loaded = FeatureExtractorSVM.load_from_checkpoint(tmp_path / "svm.ckpt", weights_only=True)
    again = torch.cat(trainer().predict(loaded, scenes.test_dataloader()))
    assert torch.equal(again, found)


def test_every_training_image_is_seen_once_also_the_last_few(scenes):
    assert len(scenes.train_data) % scenes.batch_size
    seen = torch.cat([labels for _, labels in scenes.train_dataloader()])
    assert torch.equal(seen, scenes.train_data.labels)


def test_checkpoint_gives_the_same_predictions_and_leaves_the_cnn_out(fitted, scenes, tmp_path):
    module, run = fitted
    run.save_checkpoint(tmp_path / "svm.ckpt")
    held = torch.load(tmp_path / "svm.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("backbone") for name in held)
    loaded = FeatureExtractorSVM.load_from_checkpoint(tmp_path / "svm.ckpt", weights_only=True)
    images, _ = next(iter(scenes.test_dataloader()))
    assert torch.equal(loaded.eval()(images), module.eval()(images))


@pytest.mark.parametrize("options", [{}, {"grids": [1, 2], "flip": True, "scaling": "power"}])
def test_the_whole_exports_as_one_network(scenes, tmp_path, options):
    module = FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire9", "fire4"], c=1.0, **options)
    trainer().fit(module, scenes)
    module.export(tmp_path / "scenes.pt2", image_size=64)
    program = torch.export.load(tmp_path / "scenes.pt2").module()
    images = scenes.test_data[list(range(7))][0]  # another batch size than it was traced with
    torch.testing.assert_close(program(images), module.eval()(images))
    assert len(list(tmp_path.iterdir())) == 1


def test_layers_behind_the_features_take_no_room_in_the_export(scenes, tmp_path):
    module = FeatureExtractorSVM(backbone="alexnet", layers=["pool1"], weights="random", c=1.0, grids=[1])
    module.fit_features(module.extract(scenes.train_data[list(range(30))][0]), scenes.train_data.labels[:30])
    module.export(tmp_path / "small.pt2", image_size=64)
    assert (tmp_path / "small.pt2").stat().st_size < 2e6  # AlexNet has 244 MB
    images = scenes.test_data[[0, 7]][0]
    program = torch.export.load(tmp_path / "small.pt2").module()
    torch.testing.assert_close(program(images), module.eval()(images))


def test_grey_images_are_taken_as_they_are(scenes, tmp_path):
    grey = Scene15DataModule(scenes.data_dir, image_size=64, batch_size=16, channels=1, shuffle=False)
    module = FeatureExtractorSVM(**SMALL, channels=1, c=1.0)
    run = trainer()
    run.fit(module, grey)
    assert run.test(module, grey, verbose=False)[0]["test/accuracy"] > 0.7
    module.export(tmp_path / "grey.pt2", image_size=64)
    images = torch.rand(1, 1, 64, 64)
    program = torch.export.load(tmp_path / "grey.pt2").module()
    torch.testing.assert_close(program(images), module.eval()(images))


def test_more_epochs_fit_again(scenes):
    module, run = FeatureExtractorSVM(**SMALL, c=1.0), trainer(max_epochs=3)
    run.fit(module, scenes)
    assert run.callback_metrics["val/accuracy"] > 0.8


def test_bf16_mixed_rounds_features_only(scenes):
    module = FeatureExtractorSVM(**SMALL, c=1.0)
    run = trainer(precision="bf16-mixed")
    run.fit(module, scenes)
    found = torch.cat(run.predict(module, scenes.test_dataloader()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        train, test = (
            torch.cat([module.extract(data[rows][0]) for rows in torch.arange(len(data)).split(16)])
            for data in (scenes.train_data, scenes.test_data)
        )
    reference = SVC(kernel="linear", C=1).fit(train, scenes.train_data.labels)
    assert np.array_equal(found, reference.predict(test))


def test_a_checkpoint_knows_the_weights_it_was_fitted_on(scenes, tmp_path, monkeypatch):
    module = FeatureExtractorSVM(backbone="resnet18", layers=["layer1"], weights="random", c=1.0, grids=[1])
    run = trainer()
    run.fit(module, scenes)
    run.save_checkpoint(tmp_path / "random.ckpt")
    loaded = FeatureExtractorSVM.load_from_checkpoint(tmp_path / "random.ckpt", weights_only=True)
    images = scenes.test_data[[0, 1]][0]
    torch.testing.assert_close(loaded.eval()(images), module.eval()(images))
    named = FeatureExtractorSVM(**SMALL, c=1.0)
    run.fit(named, scenes)
    run.save_checkpoint(tmp_path / "named.ckpt")
    other = load_backbone("squeezenet1_1", weights="random")
    monkeypatch.setattr("rdfia.transfer.svm_module.load_backbone", lambda *args, **kwargs: other)
    with pytest.raises(ValueError, match="fitted on other weights of squeezenet1_1"):
        FeatureExtractorSVM.load_from_checkpoint(tmp_path / "named.ckpt", weights_only=True)


@pytest.mark.slow
def test_two_processes_fit_the_svm_of_one(scenes, tmp_path):
    worker = str(TESTS / "ddp_svm.py")
    for processes in (1, 2):
        command = [sys.executable, worker, str(scenes.data_dir), str(processes), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    alone, *ranks = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    for rank in ranks:
        assert rank["scores"] == pytest.approx(alone["scores"])
        for name, value in alone["svm"].items():
            # Other batches round otherwise, and libsvm stops 0.001 from the optimum, wherever that finds it.
            assert (rank["svm"][name] - value).double().norm() <= 0.005 * value.double().norm(), name


def test_the_cnn_stays_as_it_was(scenes):
    module = FeatureExtractorSVM(backbone="resnet18", layers=["layer1"], weights="random", c=1.0)
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    trainer().fit(module, scenes)
    assert all(torch.equal(before[name], value) for name, value in module.backbone.state_dict().items())
    assert not module.train().backbone.training


def test_several_layers_are_set_side_by_side(scenes):
    module = FeatureExtractorSVM(backbone="squeezenet1_1", layers=["fire9", "fire2"], c=1.0)
    images, _ = next(iter(scenes.test_dataloader()))
    together = module.extract(images)
    alone = [
        FeatureExtractorSVM(backbone="squeezenet1_1", layers=[name]).extract(images)
        for name in ("fire9", "fire2")
    ]
    assert torch.equal(together, torch.cat(alone, 1))


def test_shuffled_labels_give_chance(scenes):
    labels = scenes.train_data.labels
    scenes.train_data.labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    try:
        module = FeatureExtractorSVM(**SMALL, c=1.0)
        run = trainer()
        run.fit(module, scenes)
        assert run.test(module, scenes, verbose=False)[0]["test/accuracy"] < 0.25
    finally:
        scenes.train_data.labels = labels


def test_bad_input_is_named(scenes):
    with pytest.raises(ValueError, match="squeezenet1_1 has no layer 'pool9'"):
        FeatureExtractorSVM(backbone="squeezenet1_1", layers=["pool9"])
    with pytest.raises(ValueError, match="scaling is raw, l2, power or standard, got 'none'"):
        FeatureExtractorSVM(**SMALL, scaling="none")
    with pytest.raises(ValueError, match="the SVM is not fitted"):
        FeatureExtractorSVM(**SMALL)(torch.rand(1, 3, 64, 64))
    one_class = torch.utils.data.DataLoader([(torch.rand(3, 64, 64), 4)] * 4, batch_size=2)
    with pytest.raises(ValueError, match=r"two classes, all training images are of class \[4\]"):
        trainer().fit(FeatureExtractorSVM(**SMALL, c=1.0), one_class)
