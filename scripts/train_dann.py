"""Adapt a classifier from one set of images to another, by DANN or another method; score and draw both.

Examples:
    python scripts/train_dann.py --data-dir sample --max-epochs 20 --batch-size 64
    python scripts/train_dann.py --seeds 0 1 2 --compare source-only no-reversal target-trained
    python scripts/train_dann.py --source ./photos --target ./drawings --recipe office --precomputed
"""

from typing import Any

from rdfia.adaptation.config import Args
from rdfia.engine.cli import run_script


def main(args: Args) -> dict[str, Any]:
    """Run the experiment; return the content of results.json."""
    from rdfia.adaptation.experiment import run

    return run(args)


if __name__ == "__main__":
    run_script(main, Args)
