"""Configuration of domain adaptation: flags, the rows of its tables."""

import difflib
import os
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from rdfia.adaptation.methods import METHODS
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

BY_RECIPE = -1  # a number that --recipe says
# What can be trained, and the flags in which it differs from what is asked for.
ROWS: dict[str, dict[str, Any]] = {
    "source-only": {"adapt": False, "reversal": True, "labelled": "source", "method": "dann"},
    "no-reversal": {"adapt": True, "reversal": False, "labelled": "source", "method": "dann"},
    "target-trained": {"adapt": False, "reversal": True, "labelled": "target", "method": "dann"},
} | {method: {"adapt": True, "reversal": True, "labelled": "source", "method": method} for method in METHODS}
# Without a network of their own: precomputed features are aligned, then classified.
CLASSICAL = tuple(
    name
    for classifier in ("svm", "nearest-mean")
    for name in (
        classifier,
        *(f"{alignment}-{classifier}" for alignment in ("coral", "subspace", "transport")),
    )
)
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
    "dev": "val/dev_risk",
    "oracle": "val/target_accuracy",
}
LOW_IS_BEST = ("dev",)
WITHOUT_TARGET_LABELS = tuple(name for name in SELECTIONS if name != "oracle")


@dataclass(frozen=True)
class Args(PictureFlags, GraphFlags, TrainerArgs):
    """Adapt from one data set to another of the same classes by DANN or another method, beside baselines."""

    GROUPS: ClassVar[dict[str, str]] = {
        "training": "max_epochs",
        "pictures": "resize",
        "domains": "seeds",
        "adaptation": "method",
        "model": "recipe",
        "optimization": "optimizer",
        "self_training": "pseudo_label_rounds",
    }

    name: str = "dann"
    """Name of the run folder. Running again with the same name resumes the run."""
    max_epochs: Annotated[int, default("10; office: 20")] = BY_RECIPE
    """Number of passes over the training data."""
    batch_size: Annotated[int, default("128; office: 32")] = BY_RECIPE
    """Images of each domain per step, summed over all processes."""
    seeds: Annotated[tuple[int, ...], default("--seed alone")] = ()
    """Random seeds; one training each, mean and deviation over them. Overrides --seed."""
    part: Annotated[tuple[int, int] | None, default("all of it")] = None
    """Train only part K of N of the table (K from 0), for job arrays, e.g. 0 4."""
    source: DatasetName = "mnist"
    """Source data set, whose labels are trained on."""
    target: DatasetName = "mnist-m"
    """Target data set; only its images are used. Labels are for scores, and it may have none."""
    domains: Annotated[tuple[DatasetName, ...], default("--source and --target alone")] = ()
    """Data sets of which each is adapted to each other, in one table. Overrides --source and --target."""
    pairs: Annotated[tuple[tuple[DatasetName, DatasetName], ...], default("--source and --target alone")] = ()
    """Pairs of a source and a target, one after the other, in one table, where --domains has all pairs."""
    shared_classes: bool = False
    """Keep the classes that source and target share; else those that one lacks are an error."""
    open_set: bool = False
    """Keep classes that one side lacks: those of the target alone are to be told as unknown."""
    transductive: bool = False
    """Adapt to all target images, unlabelled, and test on the same, as published tables of photographs do."""
    image_size: Annotated[int | None, default("28; 224 on a pretrained network")] = None
    """Side of the images in pixels."""
    compare: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROWS")] = ("source-only",)
    """Other methods to train too, as --method has them; source-only, no-reversal, target-trained; and on
    --precomputed features svm, nearest-mean, each also with coral-, subspace- or transport- before it."""
    ablation: bool = False
    """Also run the one-factor ablation of the paper's recipe (requires --network paper)."""
    embedding: Literal["tsne", "umap"] = "tsne"
    """Method that lays out features in the plane; `umap` needs umap-learn."""
    method: Annotated[str, tyro.conf.arg(metavar="METHOD")] = "dann"
    """Method of adaptation: dann, cdan, cdan-e, coral, dan, jan, information, mcc, mcd or self-training."""
    adapt: bool = True
    """Adapt to the target; --no-adapt trains on the labelled domain alone."""
    reversal: bool = True
    """Reverse the gradient of DANN's domain classifier; --no-reversal is a control."""
    labelled: Literal["source", "target"] = "source"
    """Domain whose labels are trained on; `target` (requires --no-adapt) is the upper bound."""
    lambda_schedule: Literal["ganin", "constant", "linear", "off"] = "ganin"
    """Schedule over training of lambda, the weight of adaptation (of DANN: of the reversed gradient)."""
    lambda_max: float = 1.0
    """Largest value of lambda, the weight of adaptation."""
    temperature: float = 2.5
    """Temperature of the predictions that `mcc` compares."""
    recipe: Literal["default", "office"] = "default"
    """Defaults of the flags below; `office` is usual for photographs: ResNet-50, a bottleneck of 256, SGD."""
    network: Annotated[str | None, default("modern; paper: paper; office: resnet50/avgpool")] = None
    """Architecture: `modern`, `paper` (which sets those below as Ganin et al. 2016, except scaling and
    dropout), or a pretrained network up to a layer, as resnet50/avgpool or timm:<model>/<layer>."""
    weights: str = "imagenet"
    """Weights of a pretrained network: `imagenet`, `random`, or a file."""
    trunk_trained: str = "all"
    """Layers of a pretrained network that are trained: `all`, `none`, or the first of them by name."""
    trunk_batch_norm: Literal["kept", "adapted"] = "kept"
    """Statistics of BatchNorm in a pretrained network: as they came, or of each domain."""
    precomputed: bool = False
    """Extract the features of a pretrained network once and train on them (--trunk-trained none)."""
    views: int = 4
    """Number of views of each training image for --precomputed: as it is, then random crops and flips."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdfia" / "features"
    """Folder of the cache of --precomputed features."""
    augment: Annotated[
        tuple[Literal["crop", "flip", "randaugment", "trivial"], ...] | None,
        default("none; office: crop flip"),
    ] = None
    """Augmentations of the training images."""
    scaling: Annotated[
        Literal["auto", "none", "symmetric", "standardized"] | None,
        default("auto; paper: standardized"),
    ] = None
    """Input scaling: none, to [-1, 1], or to mean 0 and deviation 1 per image, which is `auto` but for
    pretrained networks."""
    batch_norm: Annotated[bool | None, default("True; paper: False")] = None
    """Use BatchNorm after each layer."""
    dropout: Annotated[float | None, default("0.5; office: 0.0")] = None
    """Dropout probability of feature maps and hidden units."""
    bottleneck: Annotated[int | None, default("0, 256 on a pretrained network; paper: 0; office: 256")] = None
    """Width of a layer before a linear classifier; 0 for none, and a classifier of two hidden layers."""
    domain_width: Annotated[int | None, default("100; office: 1024")] = None
    """Hidden units of the domain classifier."""
    domain_layers: Annotated[int | None, default("1; office: 2")] = None
    """Hidden layers of the domain classifier."""
    initialization: Annotated[Literal["pytorch", "he"] | None, default("pytorch")] = None
    """Weight initialisation."""
    bn_passes: Annotated[
        Literal["separate", "concatenated"] | None,
        default("separate; paper: concatenated"),
    ] = None
    """Passes of source and target: separate (each has BatchNorm statistics of its own) or concatenated."""
    optimizer: Annotated[Literal["adam", "sgd"] | None, default("adam; paper: sgd; office: sgd")] = None
    """Optimizer."""
    lr: Annotated[float | None, default("0.001; paper: 0.01; office: 0.01")] = None
    """Initial learning rate."""
    trunk_lr: float = 0.1
    """Learning rate of a pretrained network, times that of the rest."""
    momentum: Annotated[float | None, default("0.5; paper: 0.9; office: 0.9")] = None
    """Momentum of SGD, or beta1 of Adam."""
    nesterov: Annotated[bool | None, default("False; office: True")] = None
    """Use Nesterov's momentum in SGD."""
    weight_decay: Annotated[float | None, default("0.0; office: 0.001")] = None
    """L2 penalty of all weights."""
    lr_schedule: Annotated[
        Literal["none", "ganin", "cosine"] | None, default("cosine; paper: ganin; office: ganin")
    ] = None
    """Learning-rate decay over training."""
    ema_decay: Annotated[float | None, default("0.999; paper: 0.0; office: 0.0")] = None
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
        """Return all domains."""
        return tuple(dict.fromkeys(domain for pair in self.all_pairs for domain in pair))

    def needs_labels(self) -> dict[str, str]:
        """Return that those that are targets alone need none."""
        sources = {source for source, _ in self.all_pairs}
        return {target: "optional" for _, target in self.all_pairs if target not in sources}

    @property
    def all_pairs(self) -> tuple[tuple[str, str], ...]:
        """Each source and target that is trained on."""
        several = self.pairs or tuple(permutations(self.domains, 2))
        return several or ((self.source, self.target),)

    @property
    def pretrained(self) -> bool:
        """Whether the network is a pretrained one, told by the slash before its layer."""
        return "/" in (self.network or "")

    def __post_init__(self) -> None:
        photographs = self.recipe == "office"
        of_recipe = {"max_epochs": 20 if photographs else 10, "batch_size": 32 if photographs else 128}
        if photographs and self.network is None:
            object.__setattr__(self, "network", "resnet50/avgpool")
        for name, value in of_recipe.items():
            if getattr(self, name) == BY_RECIPE:
                object.__setattr__(self, name, value)
        if self.image_size is None:
            object.__setattr__(self, "image_size", 224 if self.pretrained else 28)
        if self.precomputed:
            if self.trunk_trained not in ("all", "none"):
                raise ValueError(
                    f"--precomputed features are of a network of which nothing is trained; leave out one of "
                    f"--precomputed and --trunk-trained {self.trunk_trained}"
                )
            object.__setattr__(self, "trunk_trained", "none")
        super().__post_init__()
        self._check_methods()
        self._check_network()
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
        if self.domains and self.pairs:
            raise ValueError("--domains are all pairs of data sets, --pairs some; give one of them")
        if self.domains and len(set(self.domains)) < max(2, len(self.domains)):
            raise ValueError(f"--domains are different data sets, at least two; got {' '.join(self.domains)}")
        flags = (
            ("--pairs",) * 2
            if self.pairs
            else ("--domains",) * 2
            if self.domains
            else ("--source", "--target")
        )
        for source, target in self.all_pairs:
            check_dataset(flags[0], source)
            check_dataset(flags[1], target)
            if source == target:
                raise ValueError(f"source and target are two data sets, got {source} twice")
            if target == "mnist-m" and self.image_size not in (28, 32):
                mend = "name another data set, such as --target ./drawings, or --image-size 32"
                raise ValueError(f"--target mnist-m has 28 or 32 pixels, not {self.image_size}; {mend}")
        if self.pseudo_label_rounds and self.labelled == "target":
            raise ValueError("--pseudo-label-rounds after training on the target's labels proves nothing")
        if self.transductive and (self.labelled == "target" or "target-trained" in self.compare):
            raise ValueError(
                "--transductive tests on the target images that are trained on, so target-trained would be "
                "tested on its own training images; leave one of them out"
            )
        if self.labelled == "target" and self.adapt:
            raise ValueError("--labelled target is the upper bound, with nothing to adapt; add --no-adapt")

    def _check_methods(self) -> None:
        for flag, names, known in (
            ("--method", (self.method,), METHODS),
            ("--compare", self.compare, (*ROWS, *CLASSICAL)),
        ):
            for name in names:
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1, 0.6)
                    hint = f"; did you mean {near[0]}?" if near else ""
                    raise ValueError(f"{flag} {name!r} is none of {', '.join(known)}{hint}")
        if features := [name for name in self.compare if name in CLASSICAL and not self.precomputed]:
            raise ValueError(f"--compare {features[0]} is of features that are there; add --precomputed")
        if not self.reversal and self.method != "dann":
            raise ValueError(f"--no-reversal is a control of dann, not of --method {self.method}")
        if self.pseudo_label_rounds and self.method == "mcd":
            raise ValueError("--pseudo-label-rounds go on with one classifier, and mcd has two; take another")
        if self.stack and {self.method, *self.compare} & {*METHODS} - {"dann"}:
            raise ValueError("--stack trains DANN's networks at once, no other method's; leave it out")
        if self.stack and self.pretrained:
            raise ValueError("--stack trains small networks at once, no pretrained one; leave it out")
        if not self.temperature > 0:
            raise ValueError(f"--temperature is above 0, got {self.temperature:g}")
        if self.open_set and self.shared_classes:
            raise ValueError("--open-set keeps classes that --shared-classes leaves out; take one of them")

    def _check_network(self) -> None:
        assert self.image_size is not None
        if self.image_size < 8:
            raise ValueError(f"--image-size is at least 8, got {self.image_size}")
        if self.network and "/" not in self.network and self.network not in ("modern", "paper"):
            mend = "modern, paper, or a pretrained network and a layer, as resnet50/avgpool"
            raise ValueError(f"--network is {mend}; got {self.network!r}")
        if self.recipe == "office" and self.network == "paper":
            raise ValueError("--network paper has a recipe of its own; leave --recipe office out")
        trained = self.trunk_trained, self.trunk_batch_norm, self.weights
        if not self.pretrained and (self.precomputed or trained != ("all", "kept", "imagenet")):
            flag = "--precomputed" if self.precomputed else "--trunk-trained, --trunk-batch-norm or --weights"
            raise ValueError(f"{flag}: of a pretrained network; add --network resnet50/avgpool, say")
        if self.precomputed and self.weights == "random":
            raise ValueError("--precomputed features are of pretrained weights, not of --weights random")
        if self.precomputed and self.augment:
            raise ValueError("--precomputed features are of --views, drawn before; leave --augment out")
        if self.views < 1:
            raise ValueError(f"--views is at least 1, got {self.views}")
        if self.bottleneck is not None and self.bottleneck < 0:
            raise ValueError(f"--bottleneck is at least 0, got {self.bottleneck}")

    def row(self) -> str:
        """Return which row of the table is asked for."""
        if not self.adapt:
            return "target-trained" if self.labelled == "target" else "source-only"
        return self.method if self.reversal else "no-reversal"


# Flags of a table as a whole, and what they are in a single training.
TABLE_FLAGS: dict[str, Any] = {"compare": (), "domains": (), "pairs": ()} | {
    name: getattr(Args, name) for name in ("seeds", "ablation", "part", "stack", *PSEUDO_LABELS)
}
