"""Measure our code beside the usual one, both in this run, on this machine.

Example: python scripts/benchmark.py data --data-dir /path/to/data

data: MNIST batches of 128, float in [0, 1], through our loader and through torchvision's MNIST with ToTensor
and a DataLoader with 2 workers; and the time to generate MNIST-M.
"""

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rdfia.command_line import run_script

BATCH_SIZE = 128


@dataclass(frozen=True)
class Args:
    """Measure our code beside the usual one."""

    what: Annotated[Literal["data"], tyro.conf.Positional] = "data"
    """What to measure."""
    data_dir: Path | None = None
    """Data folder, or `sample`; else $RDFIA_DATA, else ./data."""
    repeats: int = 3
    """Passes over the data; the median counts."""
    output: Path = Path("results/benchmark_data.json")
    """Where the figures go."""


def images_per_second(loader: Iterable[Any]) -> float:
    """Return how many images a second come out of a loader in one pass."""
    count, started = 0, time.perf_counter()
    for images, _ in loader:
        count += len(images)
    return count / (time.perf_counter() - started)


def usual_mnist(root: Path, folder: Path) -> Any:
    """Return torchvision's loader of the same digits; it reads only decompressed files."""
    import torchvision
    from torch.utils.data import DataLoader

    from datamodules.mnist import OFFICIAL_MD5, find_idx, read_bytes

    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in OFFICIAL_MD5:
        (raw / name).write_bytes(read_bytes(find_idx(root, name)))
    digits = torchvision.datasets.MNIST(folder, transform=torchvision.transforms.ToTensor())
    return DataLoader(digits, batch_size=BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)


def main(args: Args) -> dict[str, Any]:
    """Measure in turns, print and write the medians."""
    import torch

    from datamodules.files import data_root
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import find_backgrounds, generate
    from rdfia.runs import git_commit, write_json

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
    middle = args.repeats // 2
    results = {
        "command": f"python scripts/benchmark.py data --repeats {args.repeats}",
        "commit": git_commit(),
        "device": f"CPU, {torch.get_num_threads()} threads",
        "images": len(digits.train_data),
        "our_images_per_second": round(sorted(ours)[middle]),
        "usual_images_per_second": round(sorted(usual)[middle]),
        "times_as_fast": round(sorted(a / b for a, b in zip(ours, usual, strict=True))[middle], 1),
        "mnist_m_images": len(made["train_images"]) + len(made["test_images"]),
        "mnist_m_backgrounds": source,
        "mnist_m_seconds": round(sorted(seconds)[middle], 2),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, results)
    for name, value in results.items():
        print(f"{name:26}{value}")
    return results


if __name__ == "__main__":
    run_script(main, Args)
