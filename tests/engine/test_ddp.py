"""What two processes do together, against what one process does. One launch serves all tests."""

import subprocess
import sys

import pytest
import torch
from conftest import TESTS, write_mnist
from torch.nn import functional

from datamodules.mnist import MNISTDataModule
from datamodules.tensors import ShuffledBatches
from rdfia.generation.clusters import Groups
from rdfia.generation.digit_judge import score_images
from rdfia.generation.gan import PRACTICAL, GANModule
from rdfia.generation.latents import draw_latents

WORKER = TESTS / "ddp_gan.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder)
    module = MNISTDataModule(folder, image_size=32, batch_size=16, train_on_val=True)
    module.setup()
    return module


@pytest.fixture(scope="module")
def ranks(digits, tmp_path_factory):
    output = tmp_path_factory.mktemp("ddp")
    command = [sys.executable, str(WORKER), str(digits.data_dir), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_processes_share_the_global_batches_of_one_process(ranks, digits):
    expected = [digits.train_data[rows][0][:, 0, 2, 2] for rows in ShuffledBatches(120, 16)][:3]
    for batch, first, second in zip(expected, *(rank["train"] for rank in ranks), strict=True):
        assert len(first) == len(second) == 8
        assert torch.equal(torch.stack([first, second], 1).flatten(), batch)


def test_latents_differ_between_processes_and_are_those_of_one_process(ranks):
    for first, second in zip(*(rank["latents"] for rank in ranks), strict=True):
        assert not torch.equal(first[:5], second[:5])  # also those that validation scores
    for batch in range(3):
        first, second = (rank["latents"][batch] for rank in ranks)
        assert not torch.equal(first, second)
        together = torch.stack([first, second], 1).flatten(0, 1)
        assert torch.equal(together, draw_latents(16, 8, [0, 1, batch]))


def test_each_validation_digit_is_scored_exactly_once(ranks, digits):
    marks = torch.cat([*ranks[0]["val"], *ranks[1]["val"]])
    expected = digits.val_data[range(len(digits.val_data))][0][:, 0, 2, 2]
    assert torch.equal(marks.sort().values, expected.sort().values)
    for rank in ranks:
        assert rank["val_metrics"]["val/n_real"] == len(digits.val_data)


def test_scores_over_processes_are_those_of_one_process(ranks, digits):
    images = digits.test_data[range(37)][0]
    expected = score_images(images.flip(-1), images)
    for rank in ranks:
        for name, value in expected.items():
            assert rank["scores"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_processes_end_with_the_same_weights_and_count_batches(ranks):
    assert ranks[0]["batches"] == ranks[1]["batches"] == 3
    first, second = (rank["final"] for rank in ranks)
    local = [name for name in first if name.startswith(("generator", "discriminator")) and "running" in name]
    assert local  # BatchNorm statistics of the trained networks are each process's own
    for name in first.keys() - set(local):
        assert torch.equal(first[name], second[name]), name


def test_both_networks_step_along_the_mean_gradient(ranks, digits):
    """Three steps written out: each half of a batch by itself, gradients averaged, one Adam step."""
    module = GANModule(latent_dim=8, generator_features=4, discriminator_features=4, **PRACTICAL)
    module.load_state_dict(ranks[0]["initial"])
    g, d = module.generator.train(), module.discriminator.train()
    d_adam = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    g_adam = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    cross_entropy = functional.binary_cross_entropy_with_logits
    one, zero = torch.ones(8), torch.zeros(8)
    for step, rows in enumerate(list(ShuffledBatches(120, 16))[:3]):
        real = digits.train_data[rows][0] * 2 - 1
        latents = draw_latents(16, 8, [0, 1, step])
        fakes = [g(latents[rank::2]) for rank in range(2)]
        d_adam.zero_grad()
        for rank, fake in enumerate(fakes):
            loss = cross_entropy(d(real[rank::2]), one) + cross_entropy(d(fake.detach()), zero)
            (loss / 2).backward()
        d_adam.step()
        g_adam.zero_grad()
        sum(cross_entropy(d(fake), one) / 2 for fake in fakes).backward()
        g_adam.step()
    for name, network in (("generator", g), ("discriminator", d)):
        for key, expected in network.named_parameters():
            found = ranks[0]["final"][f"{name}.{key}"]
            torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=2e-5)


def test_groups_are_those_of_one_process(ranks, digits):
    groups = Groups(8)
    batches = list(ShuffledBatches(120, 16))[:2]
    groups.fit(torch.cat([digits.train_data[rows][0] for rows in batches]), seed=0)
    for rank in ranks:
        for name, value in groups.state_dict().items():
            assert torch.equal(rank["others"]["penalty"]["final"][f"average_generator.groups.{name}"], value)


@pytest.mark.parametrize(
    "name", ["penalty", "two steps", "conditional", "projection", "pairs", "critic", "ada"]
)
def test_other_ways_to_train_keep_the_processes_together(ranks, name):
    first, second = (rank["others"][name] for rank in ranks)
    assert "train/real_score" in first["losses"]["rows"]
    assert first["losses"] == second["losses"]  # means over both processes
    moved = {
        key.split(".")[0]
        for key in first["final"]
        if not torch.equal(first["final"][key], first["initial"][key])
    }
    assert {"generator", "discriminator", "average_generator"} <= moved
    for key, value in first["final"].items():
        assert value.isfinite().all(), key
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, second["final"][key]), key
