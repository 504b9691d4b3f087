"""What an experiment in domain adaptation is told: flags, the rows of its tables."""

from dataclasses import dataclass
from typing import Any, Literal

from rdfia.engine.args import TrainerArgs, check_part

# What can be trained for comparison, and the flags in which it differs from what is asked for.
ROWS: dict[str, dict[str, Any]] = {
    "source-only": {"adapt": False, "reversal": True, "labelled": "source"},
    "no-reversal": {"adapt": True, "reversal": False, "labelled": "source"},
    "dann": {"adapt": True, "reversal": True, "labelled": "source"},
    "target-trained": {"adapt": False, "reversal": True, "labelled": "target"},
}
# One change each to the paper's recipe (--network paper).
ABLATION: dict[str, dict[str, Any]] = {
    "both, as published": {"scaling": "symmetric", "dropout": 0.0},
    "images in [-1, 1]": {"scaling": "symmetric"},
    "no dropout": {"dropout": 0.0},
    "BatchNorm": {"batch_norm": True},
    "BatchNorm, separate passes": {"batch_norm": True, "passes": "separate"},
    "Adam": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5},
    "Adam, BatchNorm": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5, "batch_norm": True},
    "Adam, BatchNorm, separate passes": {
        "optimizer": "adam",
        "lr": 1e-3,
        "momentum": 0.5,
        "batch_norm": True,
        "passes": "separate",
    },
    "rate 0.03": {"lr": 0.03},
    "no decay of the rate": {"decay": "none"},
    "momentum 0.5": {"momentum": 0.5},
    "lambda up to 0.1": {"strength": 0.1},
    "lambda 1 from the start": {"schedule": "constant"},
    "He initialization": {"initialization": "he"},
    "domain classifier 1,024 wide": {"domain_width": 1024},
    "weights averaged": {"average_decay": 0.999},
    "float32": {"precision": "float32"},
}
# Not trained: source-only, with BatchNorm's statistics of the target in place of the source's. What these
# alone give is no merit of the adversary, nor of pseudo-labels.
STATISTICS_ALONE = "source-only, AdaBN"
PSEUDO_LABELS = ("pseudo_label_rounds", "pseudo_labels", "pseudo_label_epochs", "threshold")
# How an epoch can be chosen. The oracle looks at target labels: it is for the table only.
SELECTIONS = {
    "source": "val/source_accuracy",
    "information": "val/target_information",
    "density": "val/target_density",
    "oracle": "val/target_accuracy",
}


@dataclass(frozen=True)
class Args(TrainerArgs):
    """Train DANN from one set of digits to another, beside what it is compared with."""

    name: str = "dann"
    """Of the run folder; the same goes on."""
    max_epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Images of each domain in a step, over all processes together."""
    seeds: tuple[int, ...] = ()
    """Train with each, not with --seed."""
    part: tuple[int, int] | None = None
    """One, from 0, of so many parts of a table."""
    pair: str = "mnist:mnist-m"
    """Source and target, of mnist, mnist-m, usps."""
    compare: tuple[Literal["source-only", "no-reversal", "dann", "target-trained"], ...] = ("source-only",)
    """Trained besides, with the same settings."""
    ablation: bool = False
    """Train with one change at a time besides; with --network paper."""
    adapt: bool = True
    """Train against the domain classifier."""
    reversal: bool = True
    """Reverse its gradient."""
    labelled: Literal["source", "target"] = "source"
    """Whose labels are trained on; `target` with --no-adapt."""
    schedule: Literal["ganin", "constant", "linear", "off"] = "ganin"
    """Of lambda."""
    strength: float = 1.0
    """Lambda's largest value."""
    network: Literal["modern", "paper"] = "modern"
    """`paper` also sets what follows to the paper's recipe."""
    scaling: Literal["none", "symmetric", "standardized"] | None = None
    """Of the images."""
    batch_norm: bool | None = None
    """After each layer."""
    dropout: float | None = None
    """Of maps and hidden units."""
    domain_width: int | None = None
    """Hidden units of the domain classifier."""
    initialization: Literal["pytorch", "he"] | None = None
    """Of the weights."""
    passes: Literal["separate", "concatenated"] | None = None
    """Source and target one after the other, or in one batch."""
    optimizer: Literal["adam", "sgd"] | None = None
    """Adam or SGD."""
    lr: float | None = None
    """Learning rate at the start."""
    momentum: float | None = None
    """SGD's, or Adam's first decay."""
    decay: Literal["none", "ganin", "cosine"] | None = None
    """Of the learning rate."""
    average_decay: float | None = None
    """Of the average of the weights; 0 for none."""
    pseudo_label_rounds: int = 0
    """Rounds of self-training afterwards."""
    pseudo_labels: Literal["rounds", "mixed"] = "rounds"
    """Labels frozen for a round, or made in each batch."""
    pseudo_label_epochs: int = 3
    """Epochs of a round."""
    threshold: float = 0.9
    """Least probability of a pseudo-label."""

    def needs(self) -> tuple[str, ...]:
        """Return both sets of the pair."""
        return tuple(self.pair.split(":"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pseudo_label_rounds < 0 or self.pseudo_label_epochs < 1:
            raise ValueError("--pseudo-label-rounds is at least 0 and --pseudo-label-epochs at least 1")
        if self.ablation and self.network != "paper":
            raise ValueError("--ablation changes the paper's recipe; add --network paper")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold lies between 0 and 1, got {self.threshold}")
        if self.domain_width is not None and self.domain_width < 1:
            raise ValueError(f"--domain-width is at least 1, got {self.domain_width}")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"--seeds are at least 0, got {min(self.seeds)}")
        check_part(self.part, self.overwrite)
        if self.pseudo_label_rounds and self.labelled == "target":
            raise ValueError("--pseudo-label-rounds after training on the target's labels proves nothing")
        if self.labelled == "target" and self.adapt:
            raise ValueError("--labelled target is the upper bound, with nothing to adapt; add --no-adapt")

    def row(self) -> str:
        """Return which row of the table is asked for."""
        if not self.adapt:
            return "target-trained" if self.labelled == "target" else "source-only"
        return "dann" if self.reversal else "no-reversal"


# Flags that say what is trained besides, which no single row hangs on, as rows have them.
NOT_OF_ROWS: dict[str, Any] = {"compare": ()} | {
    name: getattr(Args, name) for name in ("seeds", "ablation", "part", *PSEUDO_LABELS)
}
