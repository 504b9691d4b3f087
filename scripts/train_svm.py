"""Train linear SVMs on features of frozen CNNs: any layers, C by cross-validation; 15 Scene, or MNIST.

Example: python scripts/train_svm.py --data-dir data --features vgg16/conv5_3 vgg16/pool5 --splits 10
"""

from typing import Any

from rdfia.engine.cli import run_script
from rdfia.transfer.config import SVMArgs as Args


def main(args: Args) -> dict[str, Any]:
    """Run the experiment; return the content of results.json."""
    from rdfia.transfer.experiment_svm import run  # here, so that --help does not wait for torch

    return run(args)


if __name__ == "__main__":
    run_script(main, Args)
