"""Run an experiment where there is no checkout: ``rdfia dann --data-dir sample``.

The same as ``python scripts/train_dann.py --data-dir sample`` in one.
"""

import sys
from importlib import import_module
from typing import Any, NamedTuple

from rdfia.engine.cli import fail, run_script


class Experiment(NamedTuple):
    """Where an experiment is: the modules of its flags and of what runs them, and their names there."""

    config: str
    args: str
    module: str
    run: str
    what: str


EXPERIMENTS = {
    "svm": Experiment(
        "transfer.config", "SVMArgs", "transfer.experiment_svm", "run", "linear SVMs on pretrained features"
    ),
    "fine-tune": Experiment(
        "transfer.config",
        "FineTuneArgs",
        "transfer.experiment_fine_tune",
        "run",
        "fine-tune a pretrained network",
    ),
    "visualize": Experiment(
        "interpret.config",
        "Subcommand",
        "interpret.experiment",
        "run",
        "saliency, adversarial examples, class visualisation, ...",
    ),
    "dann": Experiment("adaptation.config", "Args", "adaptation.experiment", "run", "domain adaptation"),
    "gan": Experiment("generation.config", "GANArgs", "generation.experiment", "run", "DCGAN"),
    "cgan": Experiment(
        "generation.config",
        "ConditionalGANArgs",
        "generation.experiment",
        "run_conditional",
        "conditional DCGAN",
    ),
}


def main() -> None:
    """Run the experiment that the first word names, with the flags that follow."""
    listed = "\n".join(f"  {name:12}{experiment.what}" for name, experiment in EXPERIMENTS.items())
    usage = f"usage: rdfia EXPERIMENT [flags]; rdfia EXPERIMENT --help lists them\n\n{listed}"
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage)
        return
    if name not in EXPERIMENTS:
        try:
            fail(f"there is no experiment {name!r}, but {', '.join(EXPERIMENTS)}")
        finally:
            print(usage, file=sys.stderr)
    experiment = EXPERIMENTS[name]
    sys.argv = [f"-m rdfia {name}", *sys.argv[2:]]

    def run(args: Any) -> Any:
        # Here, so that --help does not wait for torch.
        return getattr(import_module(f"rdfia.{experiment.module}"), experiment.run)(args)

    run_script(run, getattr(import_module(f"rdfia.{experiment.config}"), experiment.args))


if __name__ == "__main__":
    main()
