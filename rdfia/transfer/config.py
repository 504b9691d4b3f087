"""Configuration of transfer learning: flags of the SVM and of fine-tuning."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from datamodules import DATASETS
from rdfia.engine.args import DatasetName, ParallelArgs, PictureFlags, TrainerArgs, check_dataset, default


@dataclass(frozen=True)
class SVMArgs(PictureFlags, ParallelArgs):
    """Train linear SVMs on features of frozen CNNs; C by cross-validation on train."""

    GROUPS: ClassVar[dict[str, str]] = {
        "pictures": "resize",
        "data": "dataset",
        "features": "features",
        "classifier": "scaling",
        "memory": "cache",
    }

    name: str = "svm"
    """Name of the run folder. Running again with the same name resumes the run."""
    batch_size: int = 32
    """Images in a forward pass."""
    dataset: DatasetName = "scene15"
    """Data set to classify."""
    features: tuple[str, ...] = ("vgg16/pool5",)
    """Features as network/layer, see rdfia.common.backbones; each gets an SVM."""
    together: bool = False
    """One more SVM on all features concatenated."""
    weights: str = "imagenet"
    """Weights of the networks: `imagenet`, `random`, or a file for a single network."""
    image_size: int = 224
    """Side of the images in pixels."""
    channels: Literal[3, 1] = 3
    """Input channels: 3 repeats grey images, 1 sums the first layer's filters over colours."""
    grids: Annotated[tuple[int, ...], default("whole maps")] = ()
    """Average the maps over grids of so many cells per side."""
    flip: bool = False
    """Average the features of each image and its mirror image."""
    scaling: Literal["l2", "power", "standard", "raw"] = "l2"
    """Feature scaling, see FeatureExtractorSVM."""
    multi_class: Literal["ovo", "ovr"] = "ovo"
    """Multi-class scheme: one-vs-one, or one-vs-rest."""
    folds: int = 5
    """Number of cross-validation folds that choose C."""
    splits: int = 0
    """Number of extra random splits, as --per-class says; scene15: 100 training images per class."""
    components: tuple[int, ...] = (16, 64, 256, 1024)
    """Numbers of principal components to try on the best features."""
    balanced: bool = False
    """Weigh errors by one over the size of their class; C is chosen by the mean accuracy over classes."""
    shuffle_labels: bool = False
    """Control: shuffle the training labels; accuracy must fall to chance."""
    memory_gb: float = 6.0
    """Memory in GB: half for images, more go to a file; the rest for features, wide layers are streamed."""
    cache: bool = True
    """Keep computed features on disk for the next run."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdfia" / "features"
    """Folder of the feature cache."""

    def needs(self) -> tuple[str, ...]:
        """Return what is classified."""
        return (self.dataset,)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dataset("--dataset", self.dataset)


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
    files = ("scene15.Scene15DataModule", "torchvision_sets.TorchvisionFilesDataModule")
    if args.splits and "/" not in args.dataset and DATASETS[args.dataset] not in files:
        raise ValueError("--splits draws images of 15 Scene, of a folder or of a list; leave it out")
    if args.splits and (args.scaling == "standard" or args.shuffle_labels):
        flag = "--shuffle-labels" if args.shuffle_labels else "--scaling standard"
        raise ValueError(f"{flag} is about one set of training images; leave --splits out")
    if args.precision == "16-mixed":
        raise ValueError("features are computed in --precision float32 or bf16-mixed, not 16-mixed")
    return wanted


@dataclass(frozen=True)
class FineTuneArgs(PictureFlags, TrainerArgs):
    """Fine-tune a pretrained CNN: a new head, the CNN frozen or unfrozen in stages."""

    GROUPS: ClassVar[dict[str, str]] = {
        "training": "max_epochs",
        "pictures": "resize",
        "data": "dataset",
        "model": "backbone",
        "stages": "top",
        "optimization": "head_lr",
        "evaluation": "patience",
    }

    name: str = "fine-tune"
    """Name of the run folder. Running again with the same name resumes the run."""
    max_epochs: int = 20
    """Number of passes over the training data."""
    batch_size: int = 32
    """Images per step, summed over all processes."""
    dataset: DatasetName = "scene15"
    """Data set to classify."""
    backbone: str = "squeezenet1_1"
    """Network, see rdfia.common.backbones."""
    layer: str = "fire9"
    """Layer whose output the head takes."""
    weights: str = "imagenet"
    """Weights of the network: `imagenet`, `random` or a file."""
    image_size: int = 224
    """Side of the images in pixels."""
    grids: tuple[int, ...] = (1,)
    """Pooling grids of the head: average the maps over so many cells per side."""
    hidden: Annotated[tuple[int, ...], default("none")] = ()
    """Hidden layers of the head and their sizes, e.g. 4096 1000."""
    top: Annotated[tuple[str, ...], default("the layer that the head takes")] = ()
    """Layers to unfreeze first."""
    unfreeze_top_at: Annotated[int | None, default("never")] = None
    """Epoch (from 0) at which the top layers are unfrozen."""
    unfreeze_all_at: Annotated[int | None, default("never")] = None
    """Epoch (from 0) at which the whole network is unfrozen."""
    head_lr: float = 1e-3
    """Initial learning rate of the head."""
    top_lr: float = 3e-4
    """Initial learning rate of the layers that are unfrozen first."""
    trunk_lr: float = 1e-4
    """Initial learning rate of the rest of the network."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    label_smoothing: float = 0.1
    """Label smoothing of the training loss."""
    freeze_batch_norm: bool = True
    """Keep BatchNorm's pretrained running statistics."""
    augment: tuple[Literal["crop", "flip", "randaugment", "trivial"], ...] = ("crop", "flip")
    """Augmentations of the training images; none after an empty --augment."""
    balanced: bool = False
    """Weigh errors by one over the size of their class; the epoch is chosen by the mean over classes."""
    patience: Annotated[int | None, default("no early stopping")] = None
    """Early stopping: epochs without a better accuracy on held-out images."""
    train_on_val: bool = False
    """Train on the validation images too; the last epoch is evaluated."""
    watch_test: bool = False
    """Also draw the test curves; they choose nothing."""

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
        check_dataset("--dataset", self.dataset)
