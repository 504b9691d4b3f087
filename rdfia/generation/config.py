"""Configuration of the experiments with GANs: flags of both kinds, the rows of their tables."""

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


# Losses, regularisers and networks that came later, each with the settings of its paper where it needs them.
MODERN: dict[str, dict[str, Any]] = {
    "spectral, hinge": {"normalization": "spectral", "loss": "hinge"},
    "WGAN-GP": {
        "loss": "wasserstein",
        "gp_weight": 10.0,
        "normalization": "none",
        "discriminator_steps": 5,
        "generator_lr": 1e-4,
        "discriminator_lr": 1e-4,
        "beta1": 0.0,
        "beta2": 0.9,
    },
    "relativistic, R1, R2": {
        "loss": "relativistic",
        "r1_weight": 0.5,
        "r2_weight": 0.5,
        "normalization": "none",
        "blocks": "residual",
        "upsampling": "nearest",
    },
    "top-k": {"top_k": 0.5},
    "residual blocks": {"blocks": "residual", "upsampling": "nearest"},
    "DiffAugment": {"augment": "diffaugment"},
    "ADA": {"augment": "ada"},
    "flips": {"flips": True},
}


# From the practicals' recipe to the default, each row with all that is above it.
STEPS: dict[str, dict[str, Any]] = {
    "averaged weights": {"ema_decay": 0.999},
    "rates 0.002": {"generator_lr": 2e-3, "discriminator_lr": 2e-3},
    "falling rates": {"lr_schedule": "linear"},
    "R1": {"r1_weight": 0.5},
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

# To the recipe for photographs.
RGB_LADDER = LADDER | {"+ R1 of 0.1": list(LADDER.values())[-1] | {"r1_weight": 0.1}}


# Flags of a table as a whole, and what they are in a single training.
TABLE_FLAGS: dict[str, Any] = {"seeds": (), "ablation": (), "compare": (), "part": None, "stack": False}
DIGITS = ("mnist", "usps", "emnist-digits")  # data sets that the digit judge knows
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
class SharedArgs(PictureFlags, GraphFlags, TrainerArgs):
    """Flags of a GAN of either kind."""

    GROUPS: ClassVar[dict[str, str]] = {
        "training": "max_epochs",
        "pictures": "resize",
        "data": "dataset",
        "recipe": "preset",
        "model": "latent_dim",
        "optimization": "loss",
    }

    dataset: DatasetName = "mnist"
    """Data set of images to learn, or a folder of pictures."""
    image_size: Literal[32, 64, 128] = 32
    """Pixels of a side, of the images that are learned and drawn."""
    channels: Annotated[Literal[1, 3] | None, default("those of the data set; folders: 3")] = None
    """Channels of the images: 1 for grey, 3 for colour."""
    preset: Literal["best", "practical", "rgb"] = "best"
    """Recipe for options that are not given: `best`, `rgb` for photographs, `practical`: classic DCGAN."""
    batch_size: Annotated[int | None, default("64; practical: 128")] = None  # type: ignore[assignment] # an int once it is made
    """Images per step, summed over all processes."""
    seeds: Annotated[tuple[int, ...], default("--seed alone")] = ()
    """Random seeds; one training each, mean and deviation over them. Overrides --seed."""
    part: Annotated[tuple[int, int] | None, default("all of it")] = None
    """Train only part K of N of the table (K from 0), for job arrays, e.g. 0 4."""
    score_on: Literal["auto", "test", "held-out", "both"] = "auto"
    """Images to score against; `auto`: test images, but held-out training images for tables of recipes."""
    scores: Annotated[str | None, default("digits for digits, else squeezenet")] = None
    """Features that score: digits, squeezenet, inception (FID), dinov2, or <network>/<layer>."""
    examine: bool = False
    """Look closer at the trained GAN, which takes minutes: copies, classes as read, latents of images."""
    latent_dim: Annotated[int | None, default("100")] = None
    """Size of the latent vector (nz)."""
    latents: Annotated[Literal["normal", "uniform"] | None, default("normal")] = None
    """Distribution of the latents."""
    generator_features: Annotated[int | None, default("32")] = None
    """Width of the generator (ngf)."""
    discriminator_features: Annotated[int | None, default("32")] = None
    """Width of the discriminator (ndf)."""
    upsampling: Annotated[
        Literal["transposed", "nearest"] | None, default("nearest; practical: transposed")
    ] = None
    """Upsampling of the generator: transposed convolutions, or nearest neighbour and convolution."""
    initialization: Annotated[Literal["dcgan", "pytorch", "orthogonal"] | None, default("dcgan")] = None
    """Weight initialisation."""
    blocks: Annotated[Literal["plain", "residual"] | None, default("plain")] = None
    """Convolutions of both networks: as in DCGAN, or residual blocks."""
    normalization: Annotated[Literal["batch", "spectral", "none"] | None, default("batch")] = None
    """Normalisation in the discriminator: BatchNorm, spectral normalisation, or none."""
    augment: Annotated[Literal["none", "diffaugment", "ada"] | None, default("none")] = None
    """Augmentation of what the discriminator sees, for few images: DiffAugment, or the adaptive ADA."""
    flips: bool = False
    """Mirror training images, half of them by chance each time they are shown."""
    loss: Annotated[
        Literal["non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] | None,
        default("non-saturating"),
    ] = None
    """Adversarial loss of both networks."""
    label_smoothing: Annotated[float | None, default("0.0")] = None
    """One-sided label smoothing: the target for real images is 1 minus this."""
    discriminator_steps: Annotated[int | None, default("1")] = None
    """Discriminator updates per generator update."""
    r1_weight: Annotated[float | None, default("0.5; practical: 0.0; rgb: 0.1")] = None
    """Weight of the R1 gradient penalty, on real images; 0 disables it."""
    r2_weight: Annotated[float | None, default("0.0")] = None
    """Weight of the R2 gradient penalty, on generated images; 0 disables it."""
    gp_weight: Annotated[float | None, default("0.0")] = None
    """Weight of WGAN-GP's penalty, on images between real and generated ones; 0 disables it."""
    top_k: Annotated[float | None, default("1.0")] = None
    """Share of generated images that train the generator, those that look most real; it falls from 1 to this
    by 1 % an epoch, so that a training of a few epochs heeds nearly all."""
    generator_lr: Annotated[float | None, default("0.002; practical: 0.0002")] = None
    """Adam's initial learning rate for the generator."""
    discriminator_lr: Annotated[float | None, default("0.002; practical: 0.0002")] = None
    """Adam's initial learning rate for the discriminator."""
    beta1: Annotated[float | None, default("0.5")] = None
    """Adam's beta1, for both networks."""
    beta2: Annotated[float | None, default("0.99; practical: 0.999")] = None
    """Adam's beta2, for both networks."""
    lr_schedule: Annotated[Literal["none", "linear", "cosine"] | None, default("linear; practical: none")] = (
        None
    )
    """Learning-rate decay over training, of both networks."""
    ema_decay: Annotated[float | None, default("0.999; practical: 0.0")] = None
    """Decay of the moving average (EMA) of the generator, which makes the samples; 0 disables it."""

    def needs(self) -> tuple[str, ...]:
        """Return the data set."""
        return (self.dataset,)

    def __post_init__(self) -> None:
        if self.batch_size is None:
            object.__setattr__(self, "batch_size", 128 if self.preset == "practical" else 64)
        super().__post_init__()
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"--seeds are at least 0, got {min(self.seeds)}")
        check_part(self.part, self.overwrite)
        check_stack(self.stack, self.seeds)
        check_dataset("--dataset", self.dataset)
        if self.scores == "":
            raise ValueError("--scores names features, such as squeezenet; leave it out for the default")

    @property
    def holds_out(self) -> bool:
        """Whether the images that a training is watched by are kept out of it."""
        return self.score_on in ("held-out", "both")

    @property
    def judged_by(self) -> str:
        """Whose features score the images: the digit judge knows grey digits of 32 pixels."""
        known = self.dataset in DIGITS and self.image_size == 32
        return self.scores or ("digits" if known and self.channels != 3 else "squeezenet")

    @property
    def digits(self) -> bool:
        """Whether the digit judge scores the images."""
        return self.judged_by == "digits"

    @property
    def takes_first(self) -> bool:
        """Whether the first images stand for all: those of a release of digits do, those of a folder not."""
        return self.digits and self.dataset in DIGITS


@dataclass(frozen=True)
class GANArgs(SharedArgs):
    """Train a DCGAN and score what it draws: digits with the digit judge, others by features."""

    GROUPS: ClassVar[dict[str, str]] = SharedArgs.GROUPS | {
        "clusters": "groups",
        "figures": "interpolate",
        "table": "ablation",
    }

    name: str = "gan"
    """Name of the run folder. Running again with the same name resumes the run."""
    groups: Annotated[int | None, default("50, at most --latent-dim; practical: 0")] = None
    """Number of k-means clusters for self-conditioning (Liu et al. 2020); 0 disables it."""
    interpolate: tuple[str, ...] = ("89", "94", "17", "35")
    """Pairs of digits to walk between, or of numbers of latents; none after an empty --interpolate."""
    ablation: Annotated[
        tuple[
            Literal["ngf", "ndf", "nz", "init", "lr", "loss", "epochs", "all", "modern", "ladder", "rgb"], ...
        ],
        default("none"),
    ] = ()
    """Groups of recipe changes to train as well, one table row each."""

    def needs_labels(self) -> dict[str, str]:
        """Return that pictures need none."""
        return {self.dataset: "optional"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.interpolate:
            if len(pair) != 2 or not pair.isdecimal():
                raise ValueError(f"--interpolate takes pairs of digits such as 89, got {pair}")
        for group in self.ablation:
            if self.preset != "practical":
                raise ValueError(f"--ablation {group} changes another recipe; add --preset practical")


@dataclass(frozen=True)
class ConditionalGANArgs(SharedArgs):
    """Train a conditional DCGAN and score what it draws: digits with the digit judge, others by features."""

    GROUPS: ClassVar[dict[str, str]] = SharedArgs.GROUPS | {
        "conditioning": "conditioning",
        "table": "compare",
    }

    name: str = "cgan"
    """Name of the run folder. Running again with the same name resumes the run."""
    conditioning: Annotated[
        Literal["one-hot", "embedding", "projection"] | None, default("projection; practical: one-hot")
    ] = None
    """How both networks are given the label."""
    label_in_discriminator: bool = True
    """Tell the discriminator the label too; --no-label-in-discriminator is a control."""
    compare: Annotated[
        tuple[
            Literal["one-hot", "embedding", "projection", "no-label-in-discriminator", "nz-10", "nz-1000"],
            ...,
        ],
        default("none"),
    ] = ()
    """Variants to train as well, with the same settings."""
