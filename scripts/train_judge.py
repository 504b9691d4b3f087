"""Make the weights of the digit judge, ``rdfia/digit_judge.safetensors``.

The judge never sees the 5,000 embedded digits (they are among the first 5,848 of MNIST), so scores on the
embedded sample are scores on unseen digits. Nothing is selected on the test set: the last weights are kept.

    python scripts/train_judge.py --data-dir /path/to/data
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from datamodules.files import atomic_file, data_root
from datamodules.mnist import load_mnist, to_size
from datamodules.tensors import ImageTensors, ShuffledBatches
from rdfia.engine.args import DataDir
from rdfia.engine.cli import run_script
from rdfia.generation.digit_judge import FIRST_JUDGED, WEIGHTS, DigitJudge


@dataclass(frozen=True)
class Args:
    """Train the digit judge on MNIST and report its accuracy on the test set."""

    data_dir: DataDir = None
    """Folder with MNIST/raw."""
    epochs: int = 14
    """Passes over the training digits."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    output: Path = WEIGHTS
    """Where the weights go (safetensors)."""


def distort(images: Tensor) -> Tensor:
    """Rotate, scale, shear and shift each image (B, 1, H, W) at random, by what handwriting varies."""

    def uniform(limit: float) -> Tensor:
        return torch.empty(len(images)).uniform_(-limit, limit)

    angle, shear, scale = uniform(0.2), uniform(0.2), 1 + uniform(0.12)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack(
        [cos, shear * cos - sin, uniform(0.15), sin, shear * sin + cos, uniform(0.15)], dim=1
    ).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@torch.inference_mode()
def accuracy(judge: DigitJudge, images: Tensor, labels: Tensor) -> float:
    """Return the share of digits (N, 1, H, W) in [0, 1] that the judge reads right."""
    judge.eval()
    predictions = torch.cat([judge(batch).argmax(1) for batch in images.split(1000)])
    return (predictions == labels).double().mean().item()


def main(args: Args) -> float:
    """Train, save the weights and return the test accuracy."""
    torch.manual_seed(args.seed)
    root = data_root(args.data_dir)
    images, labels = load_mnist(root, train=True)
    digits = ImageTensors(to_size(images, 32)[FIRST_JUDGED:], labels[FIRST_JUDGED:])
    test_images, test_labels = load_mnist(root, train=False)

    judge = DigitJudge().to(memory_format=torch.channels_last)
    order = ShuffledBatches(len(digits), 128, seed=args.seed)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=args.epochs * len(order)
    )
    started = time.perf_counter()
    for epoch in range(args.epochs):
        judge.train()
        order.set_epoch(epoch)
        for rows in order:
            batch, target = digits[rows]
            batch = distort(batch)
            # DigitJudge keeps to float32 under autocast, so its layers are run here one by one.
            with torch.autocast("cpu", torch.bfloat16):
                features = judge.trunk(batch.to(memory_format=torch.channels_last) - 0.5)
                loss = functional.cross_entropy(judge.head(features).float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = accuracy(judge, test_images / 255, test_labels)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}: loss {loss:.4f}, test accuracy {score:.4f}, {seconds:.0f} s")
    with atomic_file(args.output) as part:
        weights = {name: value.contiguous() for name, value in judge.state_dict().items()}
        save_file(weights, part, metadata={"command": f"python scripts/train_judge.py --seed {args.seed}"})
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB, test accuracy {score:.4f}")
    return score


if __name__ == "__main__":
    run_script(main, Args)
