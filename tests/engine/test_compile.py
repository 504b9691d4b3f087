"""Networks that are compiled: no graph is broken in two, and there are few."""

import pytest
import torch
from conftest import quiet_trainer
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from datamodules import MNISTDataModule, MNISTToMNISTMDataModule
from rdfia.adaptation.dann import PAPER, DANNModule
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import PRACTICAL, GANModule

SMALL = {"generator_features": 4, "discriminator_features": 4}
KINDS = {
    "gan": lambda: GANModule(**SMALL, groups=4),
    "gan_practical": lambda: GANModule(**PRACTICAL | SMALL),
    "cgan": lambda: cGANModule(**SMALL),
    "dann": DANNModule,
    "dann_paper": lambda: DANNModule(**PAPER),
}


NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name != "gan")) for name in KINDS]


@pytest.mark.parametrize("name", NAMES)
def test_no_graph_breaks_and_at_most_four_a_network(name):
    torch.compiler.reset()
    counters.clear()
    module = KINDS[name]()
    watched = {part: CompileCounter() for part in module.compiled}
    for part, backend in watched.items():
        module.get_submodule(part).compile(backend=backend)
    if isinstance(module, DANNModule):
        data = MNISTToMNISTMDataModule("sample", batch_size=16)
    else:
        data = MNISTDataModule("sample", image_size=32, batch_size=16)
    few = {"limit_train_batches": 10, "limit_val_batches": 2}
    quiet_trainer(max_epochs=2, precision="bf16-mixed", **few).fit(module, data)
    assert not counters["graph_break"]
    found = {part: backend.frame_count for part, backend in watched.items()}
    assert all(1 <= count <= 4 for count in found.values()), found
    assert not counters["recompile_limit"]
    torch.compiler.reset()
