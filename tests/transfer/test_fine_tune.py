import re
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from conftest import TESTS, quiet_trainer, write_striped_scenes
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from datamodules.scene15 import Scene15DataModule
from datamodules.tensors import ShuffledBatches
from rdfia.transfer.fine_tune import FineTuneModule, stage_of

STAGES = {"unfreeze_top_at": 1, "unfreeze_all_at": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_striped_scenes(root)
    return root


@pytest.fixture(scope="module")
def scenes(folder) -> Scene15DataModule:
    data = Scene15DataModule(folder, image_size=64, batch_size=20)
    data.setup()
    return data


def moved(before: dict, after: dict) -> set[str]:
    """Return which parts have changed."""
    parts = {"head": "head.", "top": "backbone.network.features.12.", "first": "backbone.network.features.0."}
    return {
        part
        for part, prefix in parts.items()
        if any(not torch.equal(before[name], after[name]) for name in before if name.startswith(prefix))
    }


class Snapshots(lightning.Callback):
    """Keeps the weights at the start of each epoch and at the end."""

    def __init__(self):
        self.weights = []

    def on_train_epoch_start(self, trainer, module):
        self.weights.append({name: value.clone() for name, value in module.state_dict().items()})

    on_train_end = on_train_epoch_start


def test_stages_by_epoch():
    assert [stage_of(epoch, 1, 3) for epoch in range(5)] == ["head", "top", "top", "all", "all"]
    assert {stage_of(epoch, None, None) for epoch in range(9)} == {"head"}
    assert [stage_of(epoch, None, 1) for epoch in range(3)] == ["head", "all", "all"]


def test_each_stage_moves_what_it_says(scenes):
    notes = Snapshots()
    quiet_trainer(max_epochs=3, callbacks=[notes]).fit(FineTuneModule(**STAGES), scenes)
    steps = [moved(before, after) for before, after in zip(notes.weights, notes.weights[1:], strict=False)]
    assert steps == [{"head"}, {"head", "top"}, {"head", "top", "first"}]


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_a_resumed_run_goes_on_in_its_stage_bit_for_bit(scenes, tmp_path, stopped_after):
    """(Lightning's BaseFinetuning resumes with all of the CNN frozen.)"""
    torch.manual_seed(0)
    whole = FineTuneModule(**STAGES)
    initial = {name: value.clone() for name, value in whole.state_dict().items()}
    quiet_trainer(max_epochs=4).fit(whole, scenes)

    class Stop(lightning.Callback):
        """Stops early, but lets the rates fall as planned for all epochs."""

        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch + 1 == stopped_after

    first = FineTuneModule(**STAGES)
    first.load_state_dict(initial)
    stopped = quiet_trainer(
        max_epochs=4, callbacks=[Stop()], enable_checkpointing=True, default_root_dir=tmp_path
    )
    stopped.fit(first, scenes)
    stopped.save_checkpoint(tmp_path / "part.ckpt")
    assert stopped.current_epoch == stopped_after
    resumed, notes = FineTuneModule(**STAGES), Snapshots()
    quiet_trainer(max_epochs=4, callbacks=[notes]).fit(
        resumed, scenes, ckpt_path=tmp_path / "part.ckpt", weights_only=True
    )
    assert moved(notes.weights[-2], notes.weights[-1]) == {"head", "top", "first"}
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_run_stopped_within_an_epoch_goes_on_in_its_stage(scenes, tmp_path, batch_norm):
    """(Lightning does not start that epoch again: no on_train_epoch_start.)"""
    network = {"backbone": "resnet18", "layer": "layer4", "weights": "random"} if not batch_norm else {}
    settings = {**network, "unfreeze_top_at": 0, "freeze_batch_norm": batch_norm}
    torch.manual_seed(0)
    whole = FineTuneModule(**settings)
    initial = {name: value.clone() for name, value in whole.state_dict().items()}
    uninterrupted = quiet_trainer(max_epochs=1)
    uninterrupted.fit(whole, scenes)

    class Save(lightning.Callback):
        """Saves after the first of three batches."""

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 0:
                trainer.save_checkpoint(tmp_path / "part.ckpt")

    first = FineTuneModule(**settings)
    first.load_state_dict(initial)
    quiet_trainer(max_epochs=1, callbacks=[Save()]).fit(first, scenes)
    resumed = FineTuneModule(**settings)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(resumed, scenes, ckpt_path=tmp_path / "part.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name in ("train/loss", "train/accuracy"):  # of the whole epoch
        assert trainer.callback_metrics[name] == uninterrupted.callback_metrics[name], name


def test_the_head_learns_as_a_loop_written_out(scenes):
    """Features once, then AdamW on one linear layer, rates along a cosine."""
    torch.manual_seed(0)
    module = FineTuneModule(augment=False, label_smoothing=0.0, head_lr=1e-2)
    head = torch.nn.Linear(512, 15)
    head.load_state_dict(module.head[0].state_dict())
    quiet_trainer(max_epochs=3).fit(module, scenes)
    with torch.no_grad():
        maps = [module.backbone.tap(scenes.train_data[[n]][0], ["fire9"])["fire9"] for n in range(60)]
    features = torch.cat(maps).mean((2, 3))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
    order = ShuffledBatches(60, 20, seed=scenes.seed)
    for epoch in range(3):
        order.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 + np.cos(np.pi * epoch / 3)) / 2
        for rows in order:
            loss = functional.cross_entropy(head(features[rows]), scenes.train_data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(module.head[0].weight, head.weight, rtol=1e-3, atol=1e-4)


def test_it_learns(scenes):
    torch.manual_seed(0)
    module = FineTuneModule(unfreeze_all_at=2, head_lr=1e-2, augment=False)
    run = quiet_trainer(max_epochs=8)
    run.fit(module, scenes)
    assert run.test(module, scenes, verbose=False)[0]["test/accuracy"] > 0.6
    assert module.counts.sum() == len(scenes.test_data)
    found = torch.cat(run.predict(module, scenes.test_dataloader()))
    right = (found == scenes.test_data.labels).float().mean()
    assert right == pytest.approx(float(module.counts.diagonal().sum() / module.counts.sum()))


@pytest.mark.parametrize("freeze", [True, False])
def test_batch_norm_moves_only_where_it_is_trained_and_wanted(scenes, freeze):
    module = FineTuneModule(
        backbone="resnet18",
        layer="layer4",
        weights="random",
        unfreeze_top_at=1,
        freeze_batch_norm=freeze,
        augment=False,
    )
    before = {name: value.clone() for name, value in module.state_dict().items() if "running" in name}
    quiet_trainer(max_epochs=2, limit_val_batches=1).fit(module, scenes)
    changed = {name for name, value in before.items() if not torch.equal(value, module.state_dict()[name])}
    assert changed == (set() if freeze else {name for name in before if "layer4" in name})


def test_the_test_curve_is_logged_beside_validation_and_not_into_it(folder):
    data = Scene15DataModule(folder, image_size=64, batch_size=20, watch_test=True)
    module = FineTuneModule()
    run = quiet_trainer(max_epochs=1)
    run.fit(module, data)
    found = dict(run.callback_metrics)
    alone = quiet_trainer().validate(module, data.val_dataloader()[0], verbose=False)[0]
    assert found["val/accuracy"] == pytest.approx(alone["val/accuracy"])
    tested = quiet_trainer().test(module, data, verbose=False)[0]
    assert found["watched/accuracy"] == pytest.approx(tested["test/accuracy"])
    assert found["watched/loss"] == pytest.approx(tested["test/loss"], rel=1e-5)


def test_heads_of_the_practical(scenes):
    module = FineTuneModule(hidden=(40, 20))
    shapes = [tuple(weight.shape) for weight in module.head.parameters() if weight.ndim == 2]
    assert shapes == [(40, 512), (20, 40), (15, 20)]
    images = scenes.test_data[[0, 1]][0]
    features = module.backbone.tap(images, ["fire9"])["fire9"].mean((2, 3))
    first, second, third = (module.head[n] for n in (0, 2, 4))
    expected = third(second(first(features).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(module(images), expected)


def test_a_head_on_whole_maps_fits_its_image_size(scenes):
    module = FineTuneModule(grids=(), image_size=64)
    assert module.head[0].weight.shape == (15, 512 * 3 * 3)
    assert module(scenes.test_data[[0]][0]).shape == (1, 15)


@pytest.mark.slow
def test_two_processes_train_as_one(folder, tmp_path):
    worker = str(TESTS / "ddp_fine_tune.py")
    for processes in (1, 2):
        command = [sys.executable, worker, str(folder), str(processes), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    alone, *ranks = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    for rank in ranks:
        assert rank["scores"] == pytest.approx(alone["scores"], rel=1e-3)
        for name, value in alone["weights"].items():
            torch.testing.assert_close(rank["weights"][name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grids": (1, 0)}, "grids have at least 1 cell on each side, got [1, 0]"),
        ({"hidden": (0,)}, "hidden layers have at least 1 feature, got [0]"),
        ({"head_lr": -1.0}, "learning rates and weight decay are at least 0, got -1, 0.0003"),
        ({"label_smoothing": 3.0}, "label_smoothing lies from 0 to 1, got 3"),
        ({"unfreeze_top_at": -3}, "unfreeze_top_at is an epoch, 0 or later, got -3"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FineTuneModule(weights="random", image_size=64, **settings)


def test_a_layer_without_weights_may_be_pooled_as_long_as_nothing_is_unfrozen():
    given = {"layer": "pool5", "weights": "random", "image_size": 64}
    assert FineTuneModule(**given)(torch.rand(2, 3, 64, 64)).shape == (2, 15)
    with pytest.raises(ValueError, match="top layers pool5 have no weights that pool5 depends on"):
        FineTuneModule(**given, unfreeze_top_at=1)


def test_rates_that_fall_need_an_end():
    run = quiet_trainer(max_steps=2)
    module = FineTuneModule(weights="random", image_size=64, classes=10)
    batches = DataLoader(TensorDataset(torch.rand(4, 3, 64, 64), torch.arange(4)), batch_size=2)
    with pytest.raises(ValueError, match="give the trainer max_epochs"):
        run.fit(module, batches)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="squeezenet1_1 has no layer 'pool9'"):
        FineTuneModule(layer="pool9")
    with pytest.raises(ValueError, match="top layers relu1 have no weights that fire9 depends on"):
        FineTuneModule(top=["relu1"])
    with pytest.raises(ValueError, match="top layers fire9 have no weights that fire4 depends on"):
        FineTuneModule(layer="fire4", top=["fire9"])


def test_the_curves_of_training_and_validation_are_of_one_quantity(scenes):
    """The training loss was the smoothed one, which is larger by itself."""
    losses = []
    for smoothing in (0.0, 0.3):
        torch.manual_seed(0)
        module = FineTuneModule(**{**STAGES, "head_lr": 0.0}, label_smoothing=smoothing, augment=False)
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(module, scenes)
        losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert losses[0]["train/loss"] == pytest.approx(losses[1]["train/loss"], rel=1e-5)
    assert losses[0]["train/batch_loss"] != pytest.approx(losses[1]["train/batch_loss"], rel=1e-3)
