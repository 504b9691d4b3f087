"""Look at pretrained networks: layers, what they take images for, what that depends on, what fools them.

Examples:
    python scripts/visualize.py describe --backbone vgg16 --weights random
    python scripts/visualize.py classify --data-dir sample --images cat.jpg holiday/
    python scripts/visualize.py activations --data-dir sample --layer fire2
    python scripts/visualize.py saliency --data-dir sample --compare resnet18
    python scripts/visualize.py adversarial --data-dir sample --attacks fool pgd
    python scripts/visualize.py class --data-dir sample --classes snail tarantula
"""

from typing import Any

from rdfia.engine.cli import run_script
from rdfia.interpret.config import Flags
from rdfia.interpret.config import Subcommand as Args


def main(args: Flags) -> dict[str, Any]:
    """Run the experiment; return the content of results.json."""
    from rdfia.interpret.experiment import run  # here, so that --help does not wait for torch

    return run(args)


if __name__ == "__main__":
    run_script(main, Args)  # type: ignore[arg-type] # a union of subcommands
