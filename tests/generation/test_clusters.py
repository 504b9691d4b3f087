"""Groups of like images, and latents that choose among them as often as there are such images."""

import copy

import pytest
import torch
from conftest import quiet_trainer
from torch.utils.data import DataLoader

from rdfia.generation.clusters import Groups
from rdfia.generation.gan import GANModule
from rdfia.generation.latents import draw_latents

SMALL = {"latent_dim": 6, "generator_features": 4, "discriminator_features": 4, "groups": 3}


def three_kinds(count: int = 60) -> torch.Tensor:
    """Return images that are dark, half bright above, or bright, one half of them dark."""
    images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0)) / 10
    images[count // 2 :, :, :16] += 0.5
    images[3 * count // 4 :, :, 16:] += 0.8
    return images


def some_batches(size: int = 20) -> DataLoader:
    images = three_kinds()[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    return DataLoader(list(zip(images, torch.zeros(60), strict=True)), batch_size=size)


def test_like_images_are_of_one_group_and_shares_are_theirs():
    groups = Groups(3)
    assert not groups.fitted
    groups.fit(images := three_kinds(), seed=0)
    assert groups.fitted
    found = groups.of_images(images)
    kinds = [set(part.tolist()) for part in found.split([30, 15, 15])]
    assert [len(kind) for kind in kinds] == [1, 1, 1]
    assert len(set.union(*kinds)) == 3
    assert sorted(groups.log_shares.exp().tolist()) == pytest.approx([0.25, 0.25, 0.5])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(groups.of_images(images), found)
    with pytest.raises(ValueError, match="3 groups of 2 images; take groups=0"):
        groups.fit(images[:2], seed=0)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_latents_choose_groups_as_often_as_images_have_them(distribution):
    groups = Groups(4, uniform=distribution == "uniform")
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    groups.log_shares.copy_(shares.log())
    latents = draw_latents(40_000, 6, [0], distribution=distribution)
    chosen = groups.of_latents(latents)
    torch.testing.assert_close(chosen.bincount() / 40_000, shares, rtol=0, atol=0.01)
    soft = groups(latents)
    assert torch.equal(soft.argmax(1), chosen)
    torch.testing.assert_close(soft.sum(1), torch.ones(40_000))
    assert torch.isfinite(soft).all()
    extreme = torch.full((2, 6), -20.0) if distribution == "normal" else torch.tensor([[-1.0] * 6, [1.0] * 6])
    assert torch.isfinite(groups(extreme)).all()


def test_a_gan_makes_its_groups_once_and_keeps_them_in_checkpoints(tmp_path, monkeypatch):
    module = GANModule(**SMALL, seed=5)
    loader = some_batches()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, loader)
    assert module.groups.fitted
    assert module.generator.groups is module.groups
    for name, value in module.groups.state_dict().items():
        assert torch.equal(module.average_generator.groups.state_dict()[name], value)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = GANModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(again.sample(5), module.sample(5))
    made = copy.deepcopy(module.groups.state_dict())
    monkeypatch.setattr(Groups, "fit", None)  # none are made again
    other = GANModule(**SMALL, seed=5)
    quiet_trainer(max_epochs=2).fit(other, loader, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(other.groups.state_dict()[name], value) for name, value in made.items())


def test_groups_are_as_large_as_mirrored_images_make_them():
    sides = torch.zeros(60, 1, 32, 32)
    sides[:, :, :, :16] = torch.rand(60, 1, 32, 16) > 0.5  # all lean to the left
    module = GANModule(**SMALL, seed=5, flips=True)
    quiet_trainer(max_epochs=1).fit(module, torch.utils.data.DataLoader(sides, batch_size=20))
    seen = module.groups.of_images(torch.cat([sides, sides.flip(-1)]))
    shares = torch.bincount(seen, minlength=module.groups.count) / 120
    torch.testing.assert_close(module.groups.log_shares.exp().clamp(min=1e-5), shares.clamp(min=1e-5))


def test_the_discriminator_is_told_the_groups_of_images_and_of_latents(monkeypatch):
    module, told = GANModule(**SMALL), []
    discriminate = module.discriminator.forward
    monkeypatch.setattr(
        module.discriminator,
        "forward",
        lambda images, groups: told.append(groups) or discriminate(images, groups),
    )
    loader = some_batches(60)
    quiet_trainer(max_epochs=1).fit(module, loader)
    images, _ = next(iter(loader))
    latents = module.draw(60, 1, 0)
    assert torch.equal(told[0], module.groups.of_images(images))
    for of_fake in told[1:]:
        assert torch.equal(of_fake, module.groups.of_latents(latents))
    assert len(told) == 3


def test_there_are_no_more_groups_than_latents_have_numbers():
    assert GANModule(latent_dim=4, generator_features=4, discriminator_features=4).groups.count == 4
    assert GANModule(**SMALL | {"groups": 0}).groups is None
