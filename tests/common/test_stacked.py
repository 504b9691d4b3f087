"""Several seeds trained at once: each ends as it would have alone."""

import pytest
import torch
from conftest import quiet_trainer
from tape import on_tape

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from datamodules.stacked import StackedSeeds
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.adaptation.stacked import StackedDANN
from rdfia.common import graphed
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.generation.stacked import StackedcGAN, StackedGAN

SEEDS = (3, 0, 7)
# With R1 in the first and in the last. In a channel that is hardly ever lit, gradients are so small that Adam
# makes steps of their rounding: after 12 batches a weight of some processors' differed.
BATCHES = 9
SMALL = {"generator_features": 4, "discriminator_features": 4}
KINDS = {
    "gan": lambda seed: GANModule(**SMALL, groups=4, seed=seed),
    "gan_practical": lambda seed: GANModule(**PRACTICAL | SMALL, seed=seed),
    "few_images": lambda seed: GANModule(
        **SMALL, groups=4, augment="ada", flips=True, top_k=0.5, channels=1, seed=seed
    ),
    "wgan_gp": lambda seed: GANModule(
        **SMALL, loss="wasserstein", gp_weight=10.0, normalization="none", r1_weight=0.0, seed=seed
    ),
    "r3gan": lambda seed: GANModule(
        **SMALL, loss="relativistic", r2_weight=0.5, blocks="residual", normalization="none", seed=seed
    ),
    "cgan": lambda seed: cGANModule(**SMALL, seed=seed),
    "cgan_embedding": lambda seed: cGANModule(**SMALL, conditioning="embedding", seed=seed),
    "dann": lambda seed: DANNModule(dropout=0.0),
    "dann_concatenated": lambda seed: DANNModule(dropout=0.0, bn_passes="concatenated"),
    "dann_paper": lambda seed: DANNModule(**PAPER | {"dropout": 0.0}),
    "source_only": lambda seed: DANNModule(dropout=0.0, adapt=False),
}


def data_of(name, seed):
    if "dann" not in name and name != "source_only":
        return MNISTDataModule("sample", image_size=32, batch_size=16, seed=seed)
    data = MNISTToMNISTMDataModule("sample", batch_size=16)
    data.seed = seed
    return data


def fit(module, data, precision="64-true"):
    """Train some batches: in float64, in which no rounding becomes a step of Adam."""
    trainer = quiet_trainer(
        precision=precision,
        max_epochs=1,
        limit_train_batches=BATCHES,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    return trainer


FAST = ("gan", "cgan")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in KINDS]


@pytest.mark.parametrize("name", NAMES)
def test_each_seed_ends_as_it_would_have_alone(name):
    alone, members = {}, []
    for seed in SEEDS:
        torch.manual_seed(seed)
        single = KINDS[name](seed)
        torch.manual_seed(seed)
        members.append(KINDS[name](seed))
        fit(single, data_of(name, seed))
        alone[seed] = single
    begun = [{key: value.clone() for key, value in member.state_dict().items()} for member in members]
    kinds = ((cGANModule, StackedcGAN), (GANModule, StackedGAN), (DANNModule, StackedDANN))
    together = next(stacked for kind, stacked in kinds if isinstance(members[0], kind))(members)
    fit(together, StackedSeeds(data_of(name, 0), SEEDS))
    together.unstack()
    for seed, member, before in zip(SEEDS, members, begun, strict=True):
        expected, found = alone[seed].state_dict(), member.state_dict()
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            near = {"rtol": 1e-3, "atol": 1e-4, "msg": lambda said, key=key: f"{key}: {said}"}
            torch.testing.assert_close(found[key].double(), value.double(), **near)
        moved = [key for key in before if not torch.equal(before[key].double(), found[key].double())]
        assert len(moved) > 6
    assert getattr(together, "batches_done", BATCHES) == BATCHES


@pytest.mark.parametrize("name", ["gan", pytest.param("dann_paper", marks=pytest.mark.slow)])
def test_stacked_steps_are_graphs_too_and_train_in_half_precision(name, monkeypatch):
    monkeypatch.setattr(graphed, "capture", on_tape)
    monkeypatch.setattr(graphed, "WARM_UP", 1)
    found = []
    for graphs in (False, True):
        torch.manual_seed(0)
        members = [KINDS[name](seed) for seed in SEEDS[:2]]
        together = (StackedGAN if name == "gan" else StackedDANN)(members)
        together.use_graphs = graphs
        fit(together, StackedSeeds(data_of(name, 0), SEEDS[:2]), precision="bf16-mixed")
        found.append(together.state_dict())
    for key, value in found[0].items():
        assert value.float().isfinite().all(), key
        torch.testing.assert_close(found[1][key].float(), value.float(), rtol=0.1, atol=0.02, msg=key)
