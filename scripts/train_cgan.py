"""Train a conditional DCGAN on MNIST, score its digits with the digit judge, draw the figures.

Examples:
    python scripts/train_cgan.py --data-dir sample --max-epochs 20
    python scripts/train_cgan.py --seeds 0 1 2 --compare no-label-in-discriminator
"""

from typing import Any

from rdfia.engine.cli import run_script
from rdfia.generation.config import ConditionalGANArgs as Args


def main(args: Args) -> dict[str, Any]:
    """Run the experiment; return the content of results.json."""
    from rdfia.generation.experiment import run_conditional  # here, so that --help does not wait for torch

    return run_conditional(args)


if __name__ == "__main__":
    run_script(main, Args)
