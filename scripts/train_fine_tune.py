"""Fine-tune a pretrained CNN on 15 Scene or MNIST: a new head, the CNN frozen or unfrozen in stages.

Example: python scripts/train_fine_tune.py --data-dir data --unfreeze-top-at 4 --unfreeze-all-at 8
"""

from typing import Any

from rdfia.engine.cli import run_script
from rdfia.transfer.config import FineTuneArgs as Args


def main(args: Args) -> dict[str, Any]:
    """Run the experiment; return the content of results.json."""
    from rdfia.transfer.experiment_fine_tune import run  # here, so that --help does not wait for torch

    return run(args)


if __name__ == "__main__":
    run_script(main, Args)
