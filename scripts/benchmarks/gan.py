"""The benchmark of the GAN's training step."""

import functools
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    BATCH_SIZE,
    HALF,
    PRECISION,
    WARM,
    Args,
    checked_steps,
    in_turns,
    ratio,
    seconds_a_batch,
    step_figures,
    unpack_mnist,
)
from rdfia.generation.config import LADDER

if TYPE_CHECKING:
    import torch

    from rdfia.engine.args import Precision
    from rdfia.generation.gan import GANModule


def train_step(module: "GANModule", optimizers: Any, images: "torch.Tensor", step: int) -> None:
    """Make the step of `GANModule`, but for what is only logged."""
    from rdfia.common.optimization import average_weight, update_average
    from rdfia.generation.losses import discriminator_loss, generator_loss

    generator, discriminator = module.generator, module.discriminator
    d_optimizer, g_optimizer = optimizers
    fake = generator(module.draw(len(images), 1, step))
    d_loss = discriminator_loss(discriminator(images * 2 - 1), discriminator(fake.detach()))
    d_optimizer.zero_grad()
    d_loss.backward()
    d_optimizer.step()
    discriminator.requires_grad_(False)
    g_loss = generator_loss(discriminator(fake))
    g_optimizer.zero_grad()
    g_loss.backward()
    g_optimizer.step()
    discriminator.requires_grad_(True)
    update_average(module.average_generator, generator, average_weight(0.0, step))


def bare_seconds(module: "GANModule", data: Any, steps: int, *, half: bool) -> float:
    """Return how long `train_step` takes, without Lightning; ``half`` for bfloat16."""
    import torch

    optimizers = module.configure_optimizers()
    for step, (images, _) in enumerate(data.train_dataloader()):
        if step == WARM:
            started = time.perf_counter()
        if step == WARM + steps:
            break
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            train_step(module, optimizers, images, step)
    return (time.perf_counter() - started) / steps


def measure_gan(args: Args) -> dict[str, Any]:
    """Measure training steps of the practicals' DCGAN in turns, the usual loop being PyTorch's tutorial.

    And what each step from their recipe to the default costs: the time of 128 images, in one batch or two.
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from datamodules.files import data_root
    from datamodules.mnist import MNISTDataModule
    from rdfia.generation.gan import PRACTICAL, GANModule

    digits, half = (
        MNISTDataModule(args.data_dir, batch_size=size, image_size=32, train_on_val=True)
        for size in (BATCH_SIZE, BATCH_SIZE // 2)
    )
    digits.setup()
    steps = checked_steps(args, len(digits.train_data))

    def ours(precision: "Precision" = PRECISION) -> float:
        torch.manual_seed(0)
        return seconds_a_batch(GANModule(**PRACTICAL), digits, steps, "val/judge_fid", precision)

    def rung(changes: dict[str, Any]) -> float:
        torch.manual_seed(0)
        flags: dict[str, Any] = dict(PRACTICAL) | changes
        small: bool = flags.pop("batch_size", BATCH_SIZE) < BATCH_SIZE
        module, data = GANModule(**flags), half if small else digits
        return (1 + small) * seconds_a_batch(module, data, steps, "val/judge_fid", PRECISION)

    def bare() -> float:
        torch.manual_seed(0)
        return bare_seconds(GANModule(**PRACTICAL), digits, steps, half=HALF)

    def usual() -> float:
        torch.manual_seed(0)
        module = GANModule(**PRACTICAL)
        generator = module.generator
        plain = module.discriminator.to(memory_format=torch.contiguous_format)
        discriminator = nn.Sequential(plain, nn.Sigmoid())
        cross_entropy = nn.BCELoss()
        d_optimizer, g_optimizer = (
            torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999)) for network in (plain, generator)
        )
        ones, zeros = torch.ones(BATCH_SIZE), torch.zeros(BATCH_SIZE)
        for step, (images, _) in enumerate(loader):
            if step == WARM:
                started = time.perf_counter()
            discriminator.zero_grad()
            cross_entropy(discriminator(images), ones).backward()
            fake = generator(torch.randn(len(images), 100))
            cross_entropy(discriminator(fake.detach()), zeros).backward()
            d_optimizer.step()
            generator.zero_grad()
            cross_entropy(discriminator(fake), ones).backward()
            g_optimizer.step()
            if step == WARM + steps - 1:
                break
        return (time.perf_counter() - started) / steps

    prepared = [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
    with tempfile.TemporaryDirectory() as folder:
        unpack_mnist(data_root(args.data_dir), Path(folder))
        photographs = datasets.MNIST(folder, transform=transforms.Compose(prepared))
        loader = DataLoader(photographs, BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)
        work = {"our": ours, "bare": bare, "usual": usual}
        work["our_float32"] = lambda: ours("float32")
        work |= {name: functools.partial(rung, changes) for name, changes in LADDER.items()}
        times = in_turns(args.repeats, work)
    ladder = {name: times.pop(name) for name in LADDER}
    return step_figures(times, BATCH_SIZE, steps) | {
        "float32_times_as_fast_as_usual": ratio(times["usual"], times["our_float32"]),
        "default_over_practical": ratio(list(ladder.values())[-1], times["our"]),
        "ladder_seconds": {name: round(median(values), 4) for name, values in ladder.items()},
    }
