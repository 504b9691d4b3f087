"""Configuration of visualize.py: the flags of each subcommand of visualize.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from rdfia.engine.args import RunArgs, default

# The least that flags can be, of whichever subcommand has them.
LEAST = {"image_size": 32, "samples": 1, "randomized": 0, "steps": 1, "frames": 1}
LEAST |= {
    "pixels": 1,
    "queries": 10,
    "blur_every": 0,
    "jitter": 0,
    "patch_size": 4,
    "patch_steps": 1,
    "targets_per_image": 0,
}


@dataclass(frozen=True)
class Network(RunArgs):
    """Flags of all subcommands."""

    GROUPS: ClassVar[dict[str, str]] = {"network": "backbone"}

    batch_size: int = 32
    """Images per forward pass, which bounds the memory."""
    backbone: str = "squeezenet1_1"
    """Network, see rdfia.common.backbones."""
    weights: str = "imagenet"
    """Weights of the network: `imagenet`, `random` or a file."""
    image_size: int = 224
    """Side of the images in pixels; a --checkpoint has its own."""
    checkpoint: Annotated[Path | None, default("a network of ImageNet's classes")] = None
    """Run folder, or checkpoint, of a network that you trained yourself, in place of --backbone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint is not None:
            for flag in ("compare", "ensemble", "judges"):
                if getattr(self, flag, ()):
                    raise ValueError(f"--{flag} names ImageNet's networks; --checkpoint has other classes")
            if not getattr(self, "images", (Path(),)):
                raise ValueError("--checkpoint has classes of its own: name pictures with --images")
            if not self.checkpoint.exists():
                raise FileNotFoundError(f"--checkpoint {self.checkpoint} does not exist")
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


@dataclass(frozen=True)
class Pictures(Network):
    """Flags of subcommands that look at images."""

    images: Annotated[tuple[Path, ...], default("the ImageNet samples of --data-dir")] = ()
    """Image files or folders."""

    def needs(self) -> tuple[str, ...]:
        """Return the samples, where no images are named."""
        return () if self.images else ("imagenet-samples",)


@dataclass(frozen=True)
class Describe(Network):
    """Print the layers: output shape, parameters, multiply-adds."""

    name: str = "describe"
    """Name of the run folder. Running again with the same name resumes the run."""


@dataclass(frozen=True)
class Classify(Pictures):
    """Name the most probable ImageNet classes of images."""

    name: str = "classify"
    """Name of the run folder. Running again with the same name resumes the run."""
    top: int = 5
    """Number of classes to show."""


@dataclass(frozen=True)
class Activations(Pictures):
    """Draw activation maps of a layer."""

    name: str = "activations"
    """Name of the run folder. Running again with the same name resumes the run."""
    layer: Annotated[str | None, default("the first")] = None
    """Name of the layer, see `describe`."""
    maps: int = 16
    """Number of activation maps per image."""
    order: Literal["strongest", "first"] = "strongest"
    """Channels to show: those of the largest mean absolute activation, or the first."""


@dataclass(frozen=True)
class Saliency(Pictures):
    """Draw which pixels the score of a class depends on, and measure how far to trust such maps."""

    GROUPS: ClassVar[dict[str, str]] = Network.GROUPS | {"saliency": "compare"}

    name: str = "saliency"
    """Name of the run folder. Running again with the same name resumes the run."""
    compare: Annotated[tuple[str, ...], default("none")] = ()
    """Networks to look at as well."""
    layer: Annotated[str | None, default("the last one with maps")] = None
    """Layer for Grad-CAM."""
    methods: tuple[Literal["gradient", "smooth_grad", "integrated_gradients", "grad_cam"], ...] = (
        "gradient",
        "smooth_grad",
        "integrated_gradients",
        "grad_cam",
    )
    """Attribution methods."""
    target_class: str = "true"
    """Class to explain: `true`, `predicted`, or a class name."""
    samples: int = 25
    """Noisy copies of SmoothGrad, and steps of integrated gradients."""
    faithfulness: bool = True
    """Measure the deletion and insertion curves."""
    randomized: int = 4
    """Number of images for the parameter randomisation check; 0 skips it."""


NO_CLASS = ("any", "random", "least-likely")  # what --target is besides names
DISCS = 32  # that shapes tries at once for one of those that it draws


@dataclass(frozen=True)
class Adversarial(Pictures):
    """Make adversarial examples, judge them as 8-bit files, and test what transfers."""

    GROUPS: ClassVar[dict[str, str]] = Network.GROUPS | {
        "attacks": "compare",
        "patch": "patch_size",
        "comparisons": "curve",
    }

    name: str = "adversarial"
    """Name of the run folder. Running again with the same name resumes the run."""
    compare: Annotated[tuple[str, ...], default("none")] = ()
    """Networks to look at as well."""
    attacks: tuple[Literal["fool", "fgsm", "pgd", "pgd_l2", "eot", "pixels", "shapes", "patch"], ...] = (
        "fool",
        "pgd",
    )
    """Attacks to run."""
    target: str = "any"
    """Target class: `any` (fool and eot: `random`), `random`, `least-likely` or a class name."""
    epsilon: float = 2.0
    """L-infinity bound of fgsm and pgd, in grey levels of 255."""
    epsilon_l2: float = 1.0
    """L2 bound of pgd_l2, in units of the pixel range."""
    epsilon_eot: float = 16.0
    """L-infinity bound of eot, in grey levels of 255."""
    steps: int = 20
    """Steps of pgd; eot makes five times as many."""
    pixels: int = 3
    """Number of pixels that the `pixels` attack may change."""
    queries: int = 10_000
    """Largest number of queries of the black-box attacks (pixels, shapes)."""
    patch_size: int = 64
    """Side of the adversarial patch in pixels."""
    patch_steps: int = 400
    """Optimisation steps for the patch."""
    curve: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """L-infinity bounds of the success curves, in grey levels of 255."""
    curve_l2: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """L2 bounds of the success curve of pgd_l2."""
    matrix: Annotated[Literal["fool", "fgsm", "pgd", "pgd_l2"] | None, default("no matrix")] = None
    """Attack for the transfer matrix: crafted on each network, tested on all."""
    targets_per_image: int = 0
    """Random targets per image, to measure what a target costs; 0 skips it."""
    compile: bool = False
    """Compile the network for the attacks that only query it (pixels, shapes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (count := self.targets_per_image) > 999:
            raise ValueError(f"--targets-per-image is at most 999, the classes besides its own, got {count}")
        if "shapes" in self.attacks and self.queries <= DISCS:
            raise ValueError(
                f"--queries is at least {DISCS + 1} for shapes, one and a generation, got {self.queries}"
            )


# The settings of the practicals, and ours.
PRACTICAL: dict[str, Any] = {"parametrization": "pixels", "steps": 200, "rate": 5.0, "penalty": 1e-3}
PRACTICAL |= {"blur_every": 10, "jitter": 16, "crop": 1.0, "rotation": 0.0, "smoothness": 0.0}
STEPS: dict[str, dict[str, Any]] = {
    "spectrum, Adam": {"parametrization": "fourier", "rate": 0.05, "penalty": 0.0, "blur_every": 0},
    "random crops": {"crop": 0.08, "rotation": 10.0, "jitter": 0},
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
    """Draw images that maximise the logit of a class, and let other networks classify them."""

    GROUPS: ClassVar[dict[str, str]] = Network.GROUPS | {
        "classes": "classes",
        "settings": "preset",
    }

    name: str = "class"
    """Name of the run folder. Running again with the same name resumes the run."""
    classes: Annotated[tuple[str, ...], default("six of ImageNet's; of a --checkpoint its first six")] = (
        "gorilla",
        "tarantula",
        "turnstile",
        "hourglass",
        "snail",
        "bee eater",
    )
    """Classes to draw, by name or number."""
    ensemble: Annotated[tuple[str, ...], default("none")] = ()
    """Networks whose logits are raised as well."""
    judges: Annotated[tuple[str, ...], default("none")] = ()
    """Networks that evaluate the images."""
    table: Annotated[
        Literal["rate", "penalty", "steps", "regularizers", "ladder"] | None, default("no table")
    ] = None
    """Settings to compare: drawn by each of --backbone and --judges, evaluated by the others."""
    in_turns: bool = True
    """Draw the rows of a table with each of --judges too, not with --backbone alone."""
    start: Annotated[Path | None, default("noise")] = None
    """Picture to begin with."""
    preset: Literal["best", "practical"] = "best"
    """Settings for the options that are not given."""
    parametrization: Annotated[Literal["pixels", "fourier"] | None, default("fourier; practical: pixels")] = (
        None
    )
    """What is optimised: pixels, or their Fourier spectrum."""
    steps: Annotated[int | None, default("400; practical: 200")] = None
    """Number of optimisation steps."""
    rate: Annotated[float | None, default("0.05; practical: 5.0")] = None
    """Step size."""
    penalty: Annotated[float | None, default("0.0; practical: 0.001")] = None
    """Weight of the penalty on the image's squared L2 norm."""
    smoothness: Annotated[float | None, default("0.0")] = None
    """Weight of the total variation."""
    blur_every: Annotated[int | None, default("0; practical: 10")] = None
    """Steps between two blurs; 0 for none."""
    jitter: Annotated[int | None, default("0; practical: 16")] = None
    """Largest random shift per step in pixels."""
    crop: Annotated[float | None, default("0.08; practical: 1.0")] = None
    """Least share of the area in a random crop; 1 for the whole image."""
    rotation: Annotated[float | None, default("10.0; practical: 0.0")] = None
    """Largest random rotation in degrees."""
    frames: int = 40
    """Number of frames of the film."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint is not None and self.table:
            raise ValueError("--table compares networks of ImageNet's classes; --checkpoint has others")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"--crop lies above 0 and is at most 1, got {self.crop}")


Flags = Describe | Classify | Activations | ClassVisualization | Saliency | Adversarial
# The same by the names that they have on the command line.
Subcommand = (
    Annotated[Describe, tyro.conf.subcommand("describe")]
    | Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Activations, tyro.conf.subcommand("activations")]
    | Annotated[ClassVisualization, tyro.conf.subcommand("class")]
    | Annotated[Saliency, tyro.conf.subcommand("saliency")]
    | Annotated[Adversarial, tyro.conf.subcommand("adversarial")]
)
