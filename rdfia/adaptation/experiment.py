"""The experiment: adapt from one domain to another, or from each of several to each other, in one table."""

from typing import Any

from rdfia.adaptation.config import Args
from rdfia.adaptation.experiment_pair import run_pair
from rdfia.adaptation.experiment_pairs import run_pairs
from rdfia.engine import devices


def run(args: Args) -> dict[str, Any]:
    """Train all rows with all seeds, test, draw; return the content of results.json.

    Raises:
        Diverged: All of them did.
    """
    args = devices.settle(args)
    return run_pairs(args) if args.domains or args.pairs else run_pair(args)
