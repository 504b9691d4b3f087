"""What the experiments in transfer learning are told: flags of the SVM and of fine-tuning."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdfia.engine.args import TrainerArgs


@dataclass(frozen=True)
class SVMArgs(TrainerArgs):
    """Train linear SVMs on features of frozen CNNs; C by cross-validation on train."""

    name: str = "svm"
    """Name of the run folder."""
    batch_size: int = 32
    """Images in a forward pass."""
    dataset: Literal["scene15", "mnist"] = "scene15"
    """What is classified."""
    features: tuple[str, ...] = ("vgg16/pool5",)
    """Network/layer, see rdfia.common.backbones; each gets an SVM."""
    together: bool = False
    """One more SVM on all features side by side."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a file for the one network."""
    image_size: int = 224
    """Side of the images."""
    channels: Literal[3, 1] = 3
    """Repeat grey images to 3, or add up the first filters' colours."""
    grids: tuple[int, ...] = ()
    """Average maps over such grids; else whole maps."""
    flip: bool = False
    """Average the features of image and mirror image."""
    scaling: Literal["l2", "power", "standard", "raw"] = "l2"
    """Of features, see FeatureExtractorSVM."""
    multi_class: Literal["ovo", "ovr"] = "ovo"
    """All pairs of classes, or one against the rest."""
    folds: int = 5
    """Of the cross-validation."""
    splits: int = 0
    """Seeded splits of 100 per class, besides the published one."""
    components: tuple[int, ...] = (16, 64, 256, 1024)
    """Numbers of principal components to try on the best."""
    shuffle_labels: bool = False
    """Control: shuffle the training labels; accuracy must fall to chance."""
    memory_gb: float = 6.0
    """For features; those of wider layers are streamed."""
    cache: bool = True
    """Keep computed features for the next run."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdfia" / "features"
    """Where they are kept."""

    def needs(self) -> tuple[str, ...]:
        """Return what is classified."""
        return (self.dataset,)


def layers_by_network(args: SVMArgs) -> dict[str, list[str]]:
    """Return which layers of which networks ``--features`` names."""
    if not args.features:
        raise ValueError("--features is empty; it takes network/layer, such as vgg16/pool5")
    if args.image_size < 32:
        raise ValueError(f"--image-size is at least 32, got {args.image_size}")
    wanted: dict[str, list[str]] = {}
    for item in args.features:
        network, slash, layer = item.partition("/")
        if not slash:
            raise ValueError(f"--features takes network/layer, such as vgg16/pool5, got {item!r}")
        wanted.setdefault(network, []).append(layer)
    if args.weights not in ("imagenet", "random") and len(wanted) > 1:
        raise ValueError(f"--weights {args.weights} is one file, and --features names {len(wanted)} networks")
    if any(cells < 1 for cells in args.grids):
        raise ValueError(f"--grids have at least 1 cell on each side, got {' '.join(map(str, args.grids))}")
    if args.splits and args.dataset == "mnist":
        raise ValueError("--splits draws 100 images a class of 15 Scene; leave it out")
    if args.splits and (args.scaling == "standard" or args.shuffle_labels):
        flag = "--shuffle-labels" if args.shuffle_labels else "--scaling standard"
        raise ValueError(f"{flag} is about the published training images; leave --splits out")
    if args.compile or args.profile:
        raise ValueError("--compile and --profile are for trainings; leave them out")
    if args.precision == "16-mixed":
        raise ValueError("features are computed in --precision float32 or bf16-mixed, not 16-mixed")
    return wanted


@dataclass(frozen=True)
class FineTuneArgs(TrainerArgs):
    """Fine-tune a pretrained CNN: a new head, the CNN frozen or unfrozen in stages."""

    name: str = "fine-tune"
    """Name of the run folder."""
    max_epochs: int = 20
    """Passes over the training data."""
    batch_size: int = 32
    """Images in a step, over all processes together."""
    dataset: Literal["scene15", "mnist"] = "scene15"
    """What is classified."""
    backbone: str = "squeezenet1_1"
    """Architecture, see rdfia.common.backbones."""
    layer: str = "fire9"
    """The head takes this layer's output."""
    weights: str = "imagenet"
    """`imagenet`, `random` or a weight file."""
    image_size: int = 224
    """Side of the images."""
    grids: tuple[int, ...] = (1,)
    """The head sees means over the cells of such grids."""
    hidden: tuple[int, ...] = ()
    """Hidden layers of the head, such as 4096 1000."""
    top: tuple[str, ...] = ()
    """Layers unfrozen first; by default the head's."""
    unfreeze_top_at: int | None = None
    """Epoch, from 0; never by default."""
    unfreeze_all_at: int | None = None
    """Epoch, from 0; never by default."""
    head_lr: float = 1e-3
    """Learning rate of the head."""
    top_lr: float = 3e-4
    """Of the layers unfrozen first."""
    trunk_lr: float = 1e-4
    """Of the rest."""
    weight_decay: float = 1e-2
    """Of all weights."""
    label_smoothing: float = 0.1
    """In the training loss."""
    freeze_batch_norm: bool = True
    """Keep the statistics of BatchNorm."""
    augment: bool = True
    """Train on random parts of images, mirrored or not."""
    patience: int | None = None
    """Stop after so many epochs without a better val/accuracy."""
    train_on_val: bool = False
    """Train on the validation images too; the last epoch counts."""
    watch_test: bool = False
    """Draw test curves too; they choose nothing."""

    def needs(self) -> tuple[str, ...]:
        """Return what is classified."""
        return (self.dataset,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile:
            raise ValueError("--compile is for GANs and DANN; leave it out")
        if self.image_size < 32:
            raise ValueError(f"--image-size is at least 32, got {self.image_size}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"--patience is at least 1, got {self.patience}")
        if self.train_on_val and self.patience:
            raise ValueError("--patience needs images that are not trained on; leave --train-on-val out")
        if self.watch_test and self.dataset != "scene15":
            raise ValueError("--watch-test is for 15 Scene; leave it out")
