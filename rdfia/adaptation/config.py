"""Configuration of domain adaptation: flags, the rows of its tables."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rdfia.engine.args import (
    DatasetName,
    GraphFlags,
    PictureFlags,
    TrainerArgs,
    check_dataset,
    check_part,
    check_stack,
    default,
)

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
    "BatchNorm, separate passes": {"batch_norm": True, "bn_passes": "separate"},
    "Adam": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5},
    "Adam, BatchNorm": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.5, "batch_norm": True},
    "Adam, BatchNorm, separate passes": {
        "optimizer": "adam",
        "lr": 1e-3,
        "momentum": 0.5,
        "batch_norm": True,
        "bn_passes": "separate",
    },
    "rate 0.03": {"lr": 0.03},
    "no decay of the rate": {"lr_schedule": "none"},
    "momentum 0.5": {"momentum": 0.5},
    "lambda up to 0.1": {"lambda_max": 0.1},
    "lambda 1 from the start": {"lambda_schedule": "constant"},
    "He initialization": {"initialization": "he"},
    "domain classifier 1,024 wide": {"domain_width": 1024},
    "weights averaged": {"ema_decay": 0.999},
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
class Args(PictureFlags, GraphFlags, TrainerArgs):
    """Train DANN from one data set to another of the same classes, and the baselines it is compared with."""

    GROUPS: ClassVar[dict[str, str]] = {
        "training": "max_epochs",
        "pictures": "resize",
        "domains": "seeds",
        "adaptation": "adapt",
        "model": "network",
        "optimization": "optimizer",
        "self_training": "pseudo_label_rounds",
    }

    name: str = "dann"
    """Name of the run folder. Running again with the same name resumes the run."""
    max_epochs: int = 10
    """Number of passes over the training data."""
    batch_size: int = 128
    """Images of each domain per step, summed over all processes."""
    seeds: Annotated[tuple[int, ...], default("--seed alone")] = ()
    """Random seeds; one training each, mean and deviation over them. Overrides --seed."""
    part: Annotated[tuple[int, int] | None, default("all of it")] = None
    """Train only part K of N of the table (K from 0), for job arrays, e.g. 0 4."""
    source: DatasetName = "mnist"
    """Source data set, whose labels are trained on."""
    target: DatasetName = "mnist-m"
    """Target data set; only its images are used. Labels are for scores, and it may have none."""
    shared_classes: bool = False
    """Keep the classes that source and target share; else those that one lacks are an error."""
    image_size: int = 28
    """Side of the images in pixels."""
    compare: tuple[Literal["source-only", "no-reversal", "dann", "target-trained"], ...] = ("source-only",)
    """Baselines to train as well, with the same settings; none after an empty --compare."""
    ablation: bool = False
    """Also run the one-factor ablation of the paper's recipe (requires --network paper)."""
    adapt: bool = True
    """Adapt to the target with a domain classifier (DANN); --no-adapt trains on the labelled domain alone."""
    reversal: bool = True
    """Reverse the gradient of the domain classifier; --no-reversal is a control."""
    labelled: Literal["source", "target"] = "source"
    """Domain whose labels are trained on; `target` (requires --no-adapt) is the upper bound."""
    lambda_schedule: Literal["ganin", "constant", "linear", "off"] = "ganin"
    """Schedule of the gradient-reversal weight lambda over training."""
    lambda_max: float = 1.0
    """Largest value of the gradient-reversal weight lambda."""
    network: Literal["modern", "paper"] = "modern"
    """Architecture. `paper` also sets those below as Ganin et al. (2016), except scaling and dropout."""
    scaling: Annotated[
        Literal["none", "symmetric", "standardized"] | None, default("standardized; paper: standardized")
    ] = None
    """Input scaling: none, to [-1, 1], or to mean 0 and deviation 1 per image."""
    batch_norm: Annotated[bool | None, default("True; paper: False")] = None
    """Use BatchNorm after each layer."""
    dropout: Annotated[float | None, default("0.5; paper: 0.5")] = None
    """Dropout probability of feature maps and hidden units."""
    domain_width: Annotated[int | None, default("100; paper: 100")] = None
    """Hidden units of the domain classifier."""
    initialization: Annotated[Literal["pytorch", "he"] | None, default("pytorch; paper: pytorch")] = None
    """Weight initialisation."""
    bn_passes: Annotated[
        Literal["separate", "concatenated"] | None, default("separate; paper: concatenated")
    ] = None
    """Passes of source and target: separate (each has BatchNorm statistics of its own) or concatenated."""
    optimizer: Annotated[Literal["adam", "sgd"] | None, default("adam; paper: sgd")] = None
    """Optimizer."""
    lr: Annotated[float | None, default("0.001; paper: 0.01")] = None
    """Initial learning rate."""
    momentum: Annotated[float | None, default("0.5; paper: 0.9")] = None
    """Momentum of SGD, or beta1 of Adam."""
    lr_schedule: Annotated[Literal["none", "ganin", "cosine"] | None, default("cosine; paper: ganin")] = None
    """Learning-rate decay over training."""
    ema_decay: Annotated[float | None, default("0.999; paper: 0.0")] = None
    """Decay of the exponential moving average (EMA) of the weights, which is evaluated; 0 disables it."""
    pseudo_label_rounds: int = 0
    """Number of self-training rounds after adaptation, on pseudo-labels of the target; 0 for none."""
    pseudo_labels: Literal["rounds", "mixed"] = "rounds"
    """When pseudo-labels are made: once per round, or in each batch."""
    pseudo_label_epochs: int = 3
    """Epochs per self-training round."""
    threshold: float = 0.9
    """Least probability of a prediction that becomes a pseudo-label."""

    def needs(self) -> tuple[str, ...]:
        """Return source and target."""
        return self.source, self.target

    def needs_labels(self) -> dict[str, str]:
        """Return that the target needs none."""
        return {self.target: "optional"}

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
        check_stack(self.stack, self.seeds)
        check_dataset("--source", self.source)
        check_dataset("--target", self.target)
        if self.image_size < 8:
            raise ValueError(f"--image-size is at least 8, got {self.image_size}")
        if self.source == self.target:
            raise ValueError(f"--source and --target are two data sets, got {self.source} twice")
        if self.pseudo_label_rounds and self.labelled == "target":
            raise ValueError("--pseudo-label-rounds after training on the target's labels proves nothing")
        if self.labelled == "target" and self.adapt:
            raise ValueError("--labelled target is the upper bound, with nothing to adapt; add --no-adapt")

    def row(self) -> str:
        """Return which row of the table is asked for."""
        if not self.adapt:
            return "target-trained" if self.labelled == "target" else "source-only"
        return "dann" if self.reversal else "no-reversal"


# Flags of a table as a whole, and what they are in a single training.
TABLE_FLAGS: dict[str, Any] = {"compare": ()} | {
    name: getattr(Args, name) for name in ("seeds", "ablation", "part", "stack", *PSEUDO_LABELS)
}
