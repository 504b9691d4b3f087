"""What a GAN learns, on data that is known and on digits."""

import pytest
import torch
from conftest import FASTEST, quiet_trainer
from test_gan import SMALL

from datamodules.mnist import MNISTDataModule
from datamodules.tensors import BatchLoader, ImageTensors, ShuffledBatches
from rdfia.generation.gan import GANModule


def test_learns_a_simple_distribution():
    """Half of the images are bright on the left, half on the right: the generator must make both."""
    left = torch.zeros(32, 32, dtype=torch.uint8)
    left[:, :16] = 255
    images = torch.stack([left, left.flip(1)] * 64)[:, None]
    data = ImageTensors(images, torch.zeros(128).long())
    torch.manual_seed(0)
    settings = {"generator_lr": 2e-3, "discriminator_lr": 1e-3, "ema_decay": 0.9, "r1_weight": 1.0}
    module = GANModule(**SMALL, **settings, initialization="dcgan", lr_schedule="cosine")
    before = module.sample(200)
    quiet_trainer(max_epochs=60).fit(module, BatchLoader(data, ShuffledBatches(128, 32)))
    after = module.sample(200)
    target = images[:2].float() / 255

    def error(samples):
        """Mean absolute distance of each sample from the nearer of the two kinds."""
        return (samples[:, None] - target[None]).abs().mean((2, 3, 4)).min(1).values.mean().item()

    is_left = (after[..., :16].mean((1, 2, 3)) > after[..., 16:].mean((1, 2, 3))).float().mean().item()
    assert error(before) > 0.4
    assert error(after) < 0.15
    assert 0.15 < is_left < 0.85


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a slow machine beside another test
def test_learns_digits():
    digits = MNISTDataModule("sample", image_size=32, batch_size=64, train_on_val=True)
    torch.manual_seed(0)
    module = GANModule()
    run = quiet_trainer(max_epochs=5, precision=FASTEST.replace("float32", "32-true"))
    run.fit(module, digits)
    scores = run.test(module, digits, verbose=False)[0]
    assert scores["test/judge_fid"] < 12  # an untrained generator: about 72
    assert scores["test/confident_share"] > 0.4
    assert sum(scores[f"test/class_{digit}"] > 0.01 for digit in range(10)) >= 9
