"""Steps as graphs, on a CPU: a tape stands for the CUDA graph, and freezes all that Python decides."""

from functools import partial

import lightning
import pytest
import torch
from conftest import quiet_trainer
from tape import on_tape

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.adaptation.methods import METHODS, module_of
from rdfia.adaptation.module import AdaptationModule
from rdfia.adaptation.pseudo_labels import PseudoLabelModule
from rdfia.common import graphed
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import PRACTICAL, GANModule

SMALL = {"generator_features": 8, "discriminator_features": 8}
BATCHES = 20  # of an epoch: each kind of step is computed as usual, captured and repeated


# Rates that float32 holds exactly, as tensors of rates are float32.
RATES = {"generator_lr": 2**-9, "discriminator_lr": 2**-9, "lr_schedule": "none"}
RATE = {"lr": 2**-10, "lr_schedule": "none", "dropout": 0.0, "lambda_schedule": "constant"}
KINDS = {
    "gan": lambda: GANModule(**SMALL, **RATES, groups=4, r1_weight=0.5),
    "gan_practical": lambda: GANModule(**PRACTICAL | SMALL | RATES),
    "gan_every_second": lambda: GANModule(**SMALL, **RATES, groups=0, discriminator_steps=2),
    "few_images": lambda: GANModule(**SMALL, **RATES, groups=4, augment="ada", flips=True, top_k=0.5),
    "wgan_gp": lambda: GANModule(
        **SMALL, **RATES, loss="wasserstein", gp_weight=10.0, normalization="none", r1_weight=0.0
    ),
    "r3gan": lambda: GANModule(
        **SMALL, **RATES, loss="relativistic", r2_weight=0.5, blocks="residual", normalization="none"
    ),
    "spectral": lambda: GANModule(**SMALL, **RATES, groups=0, loss="hinge", normalization="spectral"),
    "cgan": lambda: cGANModule(**SMALL, **RATES, r1_weight=0.5),
    "cgan_embedding": lambda: cGANModule(**SMALL, **RATES, conditioning="embedding", r1_weight=0.0),
    "dann": lambda: DANNModule(**RATE),
    "dann_concatenated": lambda: DANNModule(**RATE, bn_passes="concatenated"),
    "dann_paper": lambda: DANNModule(**PAPER | RATE),
    "source_only": lambda: DANNModule(**PAPER | RATE, adapt=False),
}
KINDS |= {name: partial(module_of(name), **PAPER | RATE) for name in METHODS if name != "dann"}
# With R1 or without, with the generator or not, with a new chance of augmentation or not.
KINDS_OF_STEP = {"gan": 2, "gan_every_second": 3, "few_images": 3, "r3gan": 2, "spectral": 2, "cgan": 2}


def train(name: str, graphs: bool, folder=None, *, epochs: int = 1, ckpt_path=None, precision="32-true"):
    """Return module and trainer after some batches, and the losses of each."""
    torch.manual_seed(0)
    module = KINDS[name]()
    module.use_graphs = graphs
    if isinstance(module, AdaptationModule):
        data = MNISTToMNISTMDataModule("sample", batch_size=16)
    else:
        data = MNISTDataModule("sample", image_size=32, batch_size=16)
    rows = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            rows.extend(module.read_steps())

    trainer = quiet_trainer(
        max_epochs=epochs,
        limit_train_batches=BATCHES,
        limit_val_batches=0,
        callbacks=[Watch()],
        precision=precision,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    if folder is not None:
        trainer.save_checkpoint(folder)
    return module, trainer, [row.numbers for row in rows]


def largest_difference(first, second):
    """Return the largest relative difference of two states."""
    assert first.keys() == second.keys()
    found = 0.0
    for name, value in first.items():
        far = (value.double() - second[name].double()).abs().max() / value.double().abs().max().clamp(
            min=1e-3
        )
        found = max(found, float(far))
    return found


FAST = ("gan", "gan_every_second", "cgan", "dann")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in KINDS]


@pytest.mark.parametrize("name", NAMES)
def test_a_graphed_step_is_the_usual_one(name, monkeypatch):
    captured = []
    monkeypatch.setattr(graphed, "capture", lambda work: captured.append(name) or on_tape(work))
    monkeypatch.setattr(graphed, "WARM_UP", 1)
    expected, plain, usual = train(name, graphs=False)
    found, graphs, rows = train(name, graphs=True)
    assert len(captured) == KINDS_OF_STEP.get(name, 1)
    assert len(rows) == len(usual) == BATCHES
    for mine, theirs in zip(rows, usual, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6, nan_ok=True)
    assert largest_difference(expected.state_dict(), found.state_dict()) < 1e-6
    assert plain.global_step == graphs.global_step
    assert found.graphs is None  # their memory is given back


@pytest.mark.parametrize("kind", ["gan", pytest.param("dann", marks=pytest.mark.slow)])
def test_rates_and_lambda_change_from_step_to_step(kind, monkeypatch):
    monkeypatch.setattr(graphed, "capture", on_tape)
    build = {
        "gan": lambda: GANModule(**SMALL, groups=0, lr_schedule="cosine"),
        "dann": lambda: DANNModule(dropout=0.0, ema_decay=0.9),
    }[kind]
    monkeypatch.setitem(KINDS, kind, build)
    # In float64: Adam takes steps of full length along gradients that are nothing but rounding.
    expected, _, usual = train(kind, graphs=False, precision="64-true")
    found, _, rows = train(kind, graphs=True, precision="64-true")
    changing = "train/generator_lr" if kind == "gan" else "train/lambda"
    assert len({row[changing] for row in rows}) == BATCHES
    for mine, theirs in zip(rows, usual, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    assert largest_difference(expected.state_dict(), found.state_dict()) < 1e-3


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["gan", pytest.param("dann", marks=pytest.mark.slow)])
def test_checkpoints_of_one_go_on_with_the_other(name, first, tmp_path, monkeypatch):
    monkeypatch.setattr(graphed, "capture", on_tape)
    train(name, first, tmp_path / "begun.ckpt")
    state = torch.load(tmp_path / "begun.ckpt", weights_only=True)
    groups = [group for one in state["optimizer_states"] for group in one["param_groups"]]
    assert all(isinstance(group["lr"], float) and not group.get("capturable") for group in groups)
    expected, plain, _ = train(name, first, epochs=2)
    found, other, rows = train(name, not first, epochs=2, ckpt_path=tmp_path / "begun.ckpt")
    assert len(rows) == BATCHES
    assert plain.global_step == other.global_step
    assert largest_difference(expected.state_dict(), found.state_dict()) < 1e-6


def test_what_cannot_be_a_graph_is_none(monkeypatch):
    monkeypatch.setattr(graphed, "capture", None)
    module = PseudoLabelModule()
    module.use_graphs = True
    monkeypatch.setitem(KINDS, "pseudo", lambda: module)
    assert len(train("pseudo", graphs=True)[2]) == BATCHES
