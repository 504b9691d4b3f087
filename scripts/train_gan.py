"""Train a DCGAN on digits or other images, score what it draws, draw the figures.

Examples:
    python scripts/train_gan.py --data-dir sample --max-epochs 20
    python scripts/train_gan.py --dataset ./drawings --image-size 64 --augment diffaugment --examine
    python scripts/train_gan.py --preset practical --seeds 0 1 2
    python scripts/train_gan.py --preset practical --ablation all --name gan_ablation
    python scripts/train_gan.py --preset practical --ablation ladder --name gan_ladder
"""

from typing import Any

from rdfia.engine.cli import run_script
from rdfia.generation.config import GANArgs as Args


def main(args: Args) -> dict[str, Any]:
    """Run the experiment; return the content of results.json."""
    from rdfia.generation.experiment import run  # here, so that --help does not wait for torch

    return run(args)


if __name__ == "__main__":
    run_script(main, Args)
