"""Draw images with a GAN that one trained, and write them as PNGs.

Examples:
    python scripts/sample.py runs/gan --count 1000 --out samples/
    python scripts/sample.py runs/cgan --count 100 --classes 3 8 --out threes_and_eights/
    python scripts/sample.py runs/gan --count 64 --seed 7 --truncation 1.0 --out sure/
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rdfia.engine.args import default
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args:
    """Draw images with a trained GAN."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of train_gan.py or train_cgan.py, or a checkpoint."""
    out: Path
    """Folder for the images, empty or new; of a conditional GAN with a folder for each class."""
    count: int = 64
    """Number of images; of a conditional GAN all classes in turn."""
    classes: Annotated[tuple[str, ...], default("all")] = ()
    """Classes to draw, by name or number, of a conditional GAN."""
    seed: int = 0
    """Random seed; the same images for the same seed."""
    truncation: Annotated[float | None, default("latents as they are drawn")] = None
    """Limit of the latents: fewer odd images and less variety, e.g. 1.0."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise ValueError(f"--count is at least 1, --seed 0, got {self.count} and {self.seed}")


def main(args: Args) -> None:
    """Load, draw, write."""
    from rdfia.generation.trained import class_numbers, load_gan, write_samples

    gan = load_gan(args.run)
    classes = class_numbers(args.classes, gan) if args.classes else []
    limit = args.truncation
    written = write_samples(gan, args.count, args.out, seed=args.seed, truncation=limit, classes=classes)
    print(f"{len(written):,} images of {gan.image_size} pixels in {args.out}")


if __name__ == "__main__":
    run_script(main, Args)
