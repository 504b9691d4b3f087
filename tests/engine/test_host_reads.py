"""Nothing is read from the device within a step: each look at a number makes a GPU wait."""

import traceback
import warnings
from collections import Counter

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from rdfia.adaptation import network
from rdfia.adaptation.config import Args
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.adaptation.pseudo_labels import PseudoLabelModule
from rdfia.common import checks
from rdfia.engine import training
from rdfia.engine.runs import read_metrics
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.transfer.fine_tune import FineTuneModule

STEPS = 50
SMALL = {"generator_features": 4, "discriminator_features": 4}
# The ways in which a number of a tensor becomes one of Python's.
READS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal")


def build(name: str):
    """Return a module and data for fifty steps of small batches."""
    if name == "fine_tune":
        weights = {"backbone": "squeezenet1_1", "layer": "fire2", "weights": "random"}
        module = FineTuneModule(**weights, classes=10, image_size=32)
        return module, MNISTDataModule("sample", image_size=32, channels=3, batch_size=8)
    if "dann" in name or name == "pseudo":
        module = {
            "dann": DANNModule,
            "dann_paper": lambda: DANNModule(**PAPER),
            "pseudo": lambda: PseudoLabelModule(form="mixed"),
        }[name]()
        return module, MNISTToMNISTMDataModule("sample", batch_size=8)
    module = {
        "gan": lambda: GANModule(**SMALL, groups=4),
        "gan_practical": lambda: GANModule(**SMALL, **PRACTICAL),
        "cgan": lambda: cGANModule(**SMALL),
    }[name]()
    return module, MNISTDataModule("sample", image_size=32, batch_size=8)


class Reads(TorchDispatchMode):
    """Counts them by the line of code that asked, as far as they begin in Python."""

    def __enter__(self):
        self.counts = Counter()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func.overloadpacket).replace(".", "::") in READS:
            lines = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
            self.counts[" < ".join(f"{frame.filename}:{frame.lineno}" for frame in lines[:-8:-1])] += 1
        return func(*args, **(kwargs or {}))


class Profiled(profile):
    """Counts all of them, by torch's profiler."""

    def __init__(self):
        super().__init__(activities=[ProfilerActivity.CPU])

    @property
    def counts(self):
        return Counter(
            event.name for event in self.events() if event.name in READS and not of_optimizer(event)
        )


def of_optimizer(event) -> bool:
    """Return whether an event lies within a fused optimizer, which reads its step on CPUs only."""
    while event is not None:
        if event.name.startswith("aten::_fused"):
            return True
        event = event.cpu_parent
    return False


@pytest.mark.parametrize("watch", [Reads, pytest.param(Profiled, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["gan", "gan_practical", "cgan", "dann", "dann_paper", "pseudo", "fine_tune"]
)
def test_fifty_steps_read_at_most_two_numbers(name, watch, tmp_path, monkeypatch):
    # As on a GPU, where batches but the first are not looked at.
    for module in (checks, network):
        monkeypatch.setattr(module, "looks_are_free", lambda images: False)
    module, data = build(name)
    args = Args(accelerator="cpu", precision="float32", max_epochs=1, output_dir=tmp_path)
    watched = watch()
    done = []

    class Count(training.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 1:  # what the first batch is checked for is no matter of each step
                watched.__enter__()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            done.append(batch_idx)
            if batch_idx == STEPS:
                watched.__exit__(None, None, None)
                trainer.should_stop = True

    losses = ("train/class_loss", "train/discriminator_loss")
    trainer = training.make_trainer(
        args, tmp_path / "run", monitor="val/x", mode="max", callbacks=[Count()], losses=losses
    )
    trainer.limit_val_batches = 0
    with warnings.catch_warnings(action="ignore"):  # there is no val/x
        trainer.fit(module, data)
    assert len(done) == STEPS + 1
    assert sum(watched.counts.values()) <= 2, watched.counts
    rows = read_metrics(tmp_path / "run")[
        "train/batch_loss" if name == "fine_tune" else losses["gan" in name]
    ]
    assert len(rows[0]) == STEPS + 1  # and all of them were logged


def test_reads_are_counted():
    with Reads() as reads:
        assert torch.ones(2).sum().item() == 2
        assert torch.ones(1)
    assert sum(reads.counts.values()) == 2
    assert any("test_host_reads.py" in line for line in reads.counts)
