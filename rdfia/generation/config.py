"""What the experiments with GANs are told: flags of both kinds, the rows of their tables."""

from dataclasses import dataclass
from typing import Any, Literal

from rdfia.engine.args import TrainerArgs, check_part

# What the practicals vary, by the flags that differ from their recipe (--preset practical).
ABLATION: dict[str, dict[str, dict[str, Any]]] = {
    "ngf": {f"ngf {width}": {"generator_features": width} for width in (4, 64, 128, 256)},
    "ndf": {f"ndf {width}": {"discriminator_features": width} for width in (4, 64, 128, 256)},
    "nz": {
        "nz 10": {"latent_dim": 10},
        "nz 1000": {"latent_dim": 1000},
        "uniform latents": {"latents": "uniform"},
    },
    "init": {f"{name} initialization": {"initialization": name} for name in ("pytorch", "orthogonal")},
    "lr": {
        "D rate 0.02": {"discriminator_lr": 0.02},
        "D rate 0.001": {"discriminator_lr": 0.001},
        "G rate 0.05": {"generator_lr": 0.05},
        "G rate 0.001": {"generator_lr": 0.001},
        "rates 0.02 and 0.05": {"discriminator_lr": 0.02, "generator_lr": 0.05},
        "rates 0.001 and 0.001": {"discriminator_lr": 0.001, "generator_lr": 0.001},
        "rates 0.001 and 0.0005": {"discriminator_lr": 0.001, "generator_lr": 0.0005},
        "only D learns": {"generator_lr": 0.0},
        "only G learns": {"discriminator_lr": 0.0},
    },
    "loss": {f"{loss} loss": {"loss": loss} for loss in ("minimax", "least-squares", "hinge")},
    "epochs": {"30 epochs": {"max_epochs": 30}},
}


# From the practicals' recipe to the default, each row with all that is above it.
STEPS: dict[str, dict[str, Any]] = {
    "averaged weights": {"average_decay": 0.999},
    "rates 0.002": {"generator_lr": 2e-3, "discriminator_lr": 2e-3},
    "falling rates": {"decay": "linear"},
    "R1": {"r1": 0.5},
    "batches of 64": {"batch_size": 64},
    "nearest neighbours": {"upsampling": "nearest"},
    "beta2 0.99": {"beta2": 0.99},
    "50 groups": {"groups": 50},
}


LADDER: dict[str, dict[str, Any]] = {
    f"+ {name}": {
        flag: value for change in list(STEPS.values())[: number + 1] for flag, value in change.items()
    }
    for number, name in enumerate(STEPS)
}


# What else was tried on the default.
TRIED: dict[str, dict[str, Any]] = {
    "orthogonal initialization": {"initialization": "orthogonal"},
    "hinge loss": {"loss": "hinge"},
    "least-squares loss": {"loss": "least-squares"},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "twice the rate of D": {"discriminator_lr": 4e-3},
    "twice the rate of G": {"generator_lr": 4e-3},
    "two steps of D": {"discriminator_steps": 2},
    "rates fall as a cosine": {"decay": "cosine"},
    "R1 weight 0.1": {"r1": 0.1},
    "beta1 0": {"beta1": 0.0},
    "nz 50": {"latent_dim": 50},
    "20 groups": {"groups": 20},
    "100 groups": {"groups": 100},
    "batches of 32": {"batch_size": 32},
}


# Flags that say what is trained besides, and what they are in a single run.
BESIDES: dict[str, Any] = {"seeds": (), "ablation": (), "compare": (), "part": None}
# What can be trained for comparison, and the flags in which it differs.
CONDITIONAL_ROWS: dict[str, dict[str, Any]] = {
    "one-hot": {"conditioning": "one-hot"},
    "embedding": {"conditioning": "embedding"},
    "projection": {"conditioning": "projection"},
    "no-label-in-discriminator": {"label_in_discriminator": False},
    "nz-10": {"latent_dim": 10},
    "nz-1000": {"latent_dim": 1000},
}


@dataclass(frozen=True)
class SharedArgs(TrainerArgs):
    """Flags of a GAN of either kind."""

    preset: Literal["best", "practical"] = "best"
    """Sets the flags that are not given."""
    batch_size: int | None = None  # type: ignore[assignment] # an int once it is made
    """Images in a step: 64, or 128."""
    seeds: tuple[int, ...] = ()
    """Train with each, not with --seed."""
    part: tuple[int, int] | None = None
    """One, from 0, of so many parts of a table."""
    score_on: Literal["auto", "test", "held-out", "both"] = "auto"
    """Digits to score against; auto: held-out ones for tables."""
    latent_dim: int | None = None
    """Numbers in a latent vector."""
    latents: Literal["normal", "uniform"] | None = None
    """Their distribution."""
    generator_features: int | None = None
    """Width of the generator (ngf)."""
    discriminator_features: int | None = None
    """Width of the discriminator (ndf)."""
    upsampling: Literal["transposed", "nearest"] | None = None
    """How the generator enlarges maps."""
    initialization: Literal["dcgan", "pytorch", "orthogonal"] | None = None
    """Of the weights."""
    loss: Literal["non-saturating", "minimax", "least-squares", "hinge"] | None = None
    """What both networks minimise."""
    label_smoothing: float | None = None
    """Score real images 1 less this."""
    discriminator_steps: int | None = None
    """For one step of the generator."""
    r1: float | None = None
    """Weight of the R1 penalty."""
    generator_lr: float | None = None
    """Adam's rate for the generator."""
    discriminator_lr: float | None = None
    """Adam's rate for the discriminator."""
    beta1: float | None = None
    """Adam's first decay."""
    beta2: float | None = None
    """Adam's second decay."""
    decay: Literal["none", "linear", "cosine"] | None = None
    """Of both rates."""
    average_decay: float | None = None
    """Of the average generator."""

    def needs(self) -> tuple[str, ...]:
        """Return MNIST."""
        return ("mnist",)

    def __post_init__(self) -> None:
        if self.batch_size is None:
            object.__setattr__(self, "batch_size", 128 if self.preset == "practical" else 64)
        super().__post_init__()
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"--seeds are at least 0, got {min(self.seeds)}")
        check_part(self.part, self.overwrite)


@dataclass(frozen=True)
class GANArgs(SharedArgs):
    """Train a DCGAN on MNIST and score its digits with the digit judge."""

    name: str = "gan"
    """Of the run folder; the same goes on."""
    groups: int | None = None
    """Of like images, found by k-means; 0 for none."""
    interpolate: tuple[str, ...] = ("89", "94", "17", "35")
    """Digits to walk between; none for no walks."""
    ablation: tuple[
        Literal["ngf", "ndf", "nz", "init", "lr", "loss", "epochs", "all", "ladder", "tried"], ...
    ] = ()
    """Train these changes besides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.interpolate:
            if len(pair) != 2 or not pair.isdecimal():
                raise ValueError(f"--interpolate takes pairs of digits such as 89, got {pair}")
        for group in self.ablation:
            preset = "best" if group == "tried" else "practical"
            if self.preset != preset:
                raise ValueError(f"--ablation {group} changes another recipe; add --preset {preset}")


@dataclass(frozen=True)
class ConditionalGANArgs(SharedArgs):
    """Train a conditional DCGAN on MNIST and score its digits with the digit judge."""

    name: str = "cgan"
    """Of the run folder; the same goes on."""
    conditioning: Literal["one-hot", "embedding", "projection"] | None = None
    """How the networks are told the label: projection, practical one-hot."""
    label_in_discriminator: bool = True
    """Tell the discriminator the label too."""
    compare: tuple[
        Literal["one-hot", "embedding", "projection", "no-label-in-discriminator", "nz-10", "nz-1000"], ...
    ] = ()
    """Trained besides, with the same settings."""
