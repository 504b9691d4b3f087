"""What looking at networks is told: the flags of each subcommand of visualize.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rdfia.engine.args import TrainerArgs

# The least that flags can be, of whichever subcommand has them.
LEAST = {"image_size": 32, "samples": 1, "randomized": 0, "steps": 1, "frames": 1}
LEAST |= {
    "pixels": 1,
    "queries": 10,
    "blur_every": 0,
    "jitter": 0,
    "patch_size": 4,
    "patch_steps": 1,
    "influence": 0,
}


@dataclass(frozen=True)
class Network(TrainerArgs):
    """Flags of all subcommands."""

    batch_size: int = 32
    """Images in a pass, which bounds the memory."""
    backbone: str = "squeezenet1_1"
    """Architecture, see rdfia.common.backbones."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a weight file."""
    image_size: int = 224
    """Side of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in LEAST.items():
            value = getattr(self, name, least)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} is at least {least}, got {value}")
        for name in ("epsilon", "epsilon_l2", "epsilon_eot", "curve", "curve_l2"):
            given = getattr(self, name, ())
            for value in given if isinstance(given, tuple) else (given,):
                if not value > 0:
                    raise ValueError(f"--{name.replace('_', '-')} is above 0, got {value:g}")
        for name in ("classes", "attacks", "methods", "curve", "curve_l2"):
            if getattr(self, name, (1,)) == ():
                raise ValueError(f"--{name} names at least one")
        if (self.devices or 1) * (self.num_nodes or 1) > 1:
            raise ValueError("visualize.py computes on one device; leave --devices and --num-nodes out")


@dataclass(frozen=True)
class Pictures(Network):
    """Flags of subcommands that look at images."""

    images: tuple[Path, ...] = ()
    """Files or folders; else the ImageNet samples of --data-dir."""

    def needs(self) -> tuple[str, ...]:
        """Return the samples, where no images are named."""
        return () if self.images else ("imagenet-samples",)


@dataclass(frozen=True)
class Describe(Network):
    """Print the table of layers: output shape, parameters, multiply-adds."""

    name: str = "describe"
    """Name of the run folder."""


@dataclass(frozen=True)
class Classify(Pictures):
    """Name the most probable ImageNet classes of images."""

    name: str = "classify"
    """Name of the run folder."""
    top: int = 5
    """How many classes."""


@dataclass(frozen=True)
class Activations(Pictures):
    """Draw activation maps of a layer."""

    name: str = "activations"
    """Name of the run folder."""
    layer: str | None = None
    """Its name, see `describe`; the first by default."""
    maps: int = 16
    """Maps of each image."""
    order: Literal["strongest", "first"] = "strongest"
    """Channels with the largest mean absolute value, or the first."""


@dataclass(frozen=True)
class Saliency(Pictures):
    """Draw which pixels a class's score hangs on, and measure how far such maps can be trusted."""

    name: str = "saliency"
    """Of the run folder."""
    compare: tuple[str, ...] = ()
    """More architectures."""
    layer: str | None = None
    """For grad_cam; the last one with maps by default."""
    methods: tuple[Literal["gradient", "smooth_grad", "integrated_gradients", "grad_cam"], ...] = (
        "gradient",
        "smooth_grad",
        "integrated_gradients",
        "grad_cam",
    )
    """Kinds of maps."""
    of: str = "true"
    """Class: `true`, `predicted` or a name."""
    samples: int = 25
    """Copies for smooth_grad, steps for integrated_gradients."""
    faithfulness: bool = True
    """Measure deletion and insertion."""
    randomized: int = 4
    """Images for the randomization check."""


NO_CLASS = ("any", "random", "least-likely")  # what --target is besides names
DISCS = 32  # that shapes tries at once for one of those that it draws


@dataclass(frozen=True)
class Adversarial(Pictures):
    """Change images so little that nobody sees it, and so that the network is fooled."""

    name: str = "adversarial"
    """Of the run folder."""
    compare: tuple[str, ...] = ()
    """More architectures, for what transfers."""
    attacks: tuple[Literal["fool", "fgsm", "pgd", "pgd_l2", "eot", "pixels", "shapes", "patch"], ...] = (
        "fool",
        "pgd",
    )
    """Kinds of attacks."""
    target: str = "any"
    """Class: `any`, `random`, `least-likely`, a name; of fool and eot, `any` is `random`."""
    epsilon: float = 2.0
    """Grey levels of 255 for fgsm and pgd."""
    epsilon_l2: float = 1.0
    """Distance for pgd_l2."""
    epsilon_eot: float = 16.0
    """Grey levels of 255 for eot."""
    steps: int = 20
    """Of pgd; eot makes five times as many."""
    pixels: int = 3
    """That `pixels` changes."""
    queries: int = 10_000
    """At most, for pixels and shapes."""
    patch_size: int = 64
    """Side of the patch."""
    patch_steps: int = 400
    """To make it."""
    curve: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Grey levels for the curve of fgsm and pgd."""
    curve_l2: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Distances for the curve of pgd_l2."""
    matrix: Literal["fool", "fgsm", "pgd", "pgd_l2"] | None = None
    """Make it on each network, for the matrix of what fools which."""
    influence: int = 0
    """Random targets of each image, to see what a target costs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.influence > 999:
            raise ValueError(
                f"--influence is at most 999, the other classes of ImageNet, got {self.influence}"
            )
        if "shapes" in self.attacks and self.queries <= DISCS:
            raise ValueError(
                f"--queries is at least {DISCS + 1} for shapes, one and a generation, got {self.queries}"
            )


# The settings of the practicals, and ours.
PRACTICAL: dict[str, Any] = {"parametrization": "pixels", "steps": 200, "rate": 5.0, "penalty": 1e-3}
PRACTICAL |= {"blur_every": 10, "jitter": 16, "crop": 1.0, "rotation": 0.0, "smoothness": 0.0}
STEPS: dict[str, dict[str, Any]] = {
    "spectrum, Adam": {"parametrization": "fourier", "rate": 0.05, "penalty": 0.0, "blur_every": 0},
    "seen in parts": {"crop": 0.08, "rotation": 10.0, "jitter": 0},
    "400 steps": {"steps": 400},
}
BEST = PRACTICAL | {flag: value for change in STEPS.values() for flag, value in change.items()}
PRESETS = {"practical": PRACTICAL, "best": BEST}
# Tables: rows by the flags that differ from the practicals' settings.
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "rate": {f"rate {rate:g}": {"rate": rate} for rate in (1.0, 5.0, 10.0, 100.0)},
    "penalty": {f"penalty {weight:g}": {"penalty": weight} for weight in (1e-7, 1e-3, 1e-1, 1.0)},
    "steps": {f"{steps} steps": {"steps": steps} for steps in (200, 500, 1000)},
    "regularizers": {
        "no regularizer": {"penalty": 0.0, "blur_every": 0, "jitter": 0},
        "without penalty": {"penalty": 0.0},
        "without blur": {"blur_every": 0},
        "without jitter": {"jitter": 0},
    },
    # From the practicals' settings to ours, each row with all that is above it.
    "ladder": {"practical": {}}
    | {
        f"+ {name}": {
            flag: value for change in list(STEPS.values())[: number + 1] for flag, value in change.items()
        }
        for number, name in enumerate(STEPS)
    },
}


@dataclass(frozen=True)
class ClassVisualization(Network):
    """Draw images that raise the logit of a class, and see which other networks recognise them."""

    name: str = "class"
    """Of the run folder."""
    classes: tuple[str, ...] = ("gorilla", "tarantula", "turnstile", "hourglass", "snail", "bee eater")
    """Their names or numbers."""
    ensemble: tuple[str, ...] = ()
    """More architectures whose logits are raised too."""
    judges: tuple[str, ...] = ()
    """Architectures that say what they see."""
    table: Literal["rate", "penalty", "steps", "regularizers", "ladder"] | None = None
    """Compare settings, drawn by each of --backbone and --judges and judged by the others."""
    in_turns: bool = True
    """Draw the rows of a table with each of --judges too, not with --backbone alone."""
    start: Path | None = None
    """Picture to begin with; else noise."""
    preset: Literal["best", "practical"] = "best"
    """Sets the flags that are not given."""
    parametrization: Literal["pixels", "fourier"] | None = None
    """What is changed."""
    steps: int | None = None
    """Their number."""
    rate: float | None = None
    """Size of a step."""
    penalty: float | None = None
    """Of the image's squared length."""
    smoothness: float | None = None
    """Weight of the total variation."""
    blur_every: int | None = None
    """Steps; 0 for never."""
    jitter: int | None = None
    """Pixels."""
    crop: float | None = None
    """See random parts of at least this share of the area."""
    rotation: float | None = None
    """Degrees, of the parts."""
    frames: int = 40
    """Of the film."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"--crop lies above 0 and is at most 1, got {self.crop}")
