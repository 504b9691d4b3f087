"""The benchmark of loading digits: MNIST batches, and generating MNIST-M."""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import BATCH_SIZE, Args, unpack_mnist

if TYPE_CHECKING:
    pass


def images_per_second(loader: Iterable[Any]) -> float:
    """Return how many images a second come out of a loader in one pass."""
    count, started = 0, time.perf_counter()
    for images, _ in loader:
        count += len(images)
    return count / (time.perf_counter() - started)


def usual_mnist(root: Path, folder: Path) -> Any:
    """Return torchvision's loader of the same digits."""
    import torchvision
    from torch.utils.data import DataLoader

    unpack_mnist(root, folder)
    digits = torchvision.datasets.MNIST(folder, transform=torchvision.transforms.ToTensor())
    return DataLoader(digits, batch_size=BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)


def measure_data(args: Args) -> dict[str, Any]:
    """Measure loaders in turns."""
    from datamodules.files import data_root
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import find_backgrounds, generate

    root = data_root(args.data_dir)
    digits = MNISTDataModule(args.data_dir, batch_size=BATCH_SIZE, train_on_val=True)
    digits.setup()
    ours, usual = [], []
    with tempfile.TemporaryDirectory() as folder:
        loader = usual_mnist(root, Path(folder))
        for _ in range(args.repeats):
            ours.append(images_per_second(digits.train_dataloader()))
            usual.append(images_per_second(loader))
    photographs, source = find_backgrounds(root)
    seconds = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        made = generate(root, photographs, seed=0)
        seconds.append(time.perf_counter() - started)
    return {
        "images": len(digits.train_data),
        "our_images_per_second": round(median(ours)),
        "usual_images_per_second": round(median(usual)),
        "times_as_fast": round(median(a / b for a, b in zip(ours, usual, strict=True)), 1),
        "mnist_m_images": len(made["train_images"]) + len(made["test_images"]),
        "mnist_m_backgrounds": source,
        "mnist_m_seconds": round(median(seconds), 2),
    }
