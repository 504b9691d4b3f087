"""Two data sets of the same classes, a batch of each in every training step."""

import functools
import operator
import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from datamodules.files import say
from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import BatchLoader, ImageTensors, ShuffledBatches, eval_loader, joined, on_device

UNKNOWN = -2  # label of images of the target whose class the source has not


def match_classes(
    domain: InMemoryDataModule, classes: tuple[str, ...], *, keep_unknown: bool = False
) -> None:
    """Make the labels of a data module that is set up the places of its classes in ``classes``.

    Images of other classes are left out, or with ``keep_unknown`` get the label `UNKNOWN`.
    """
    other = UNKNOWN if keep_unknown else -1
    label_of = torch.tensor([classes.index(name) if name in classes else other for name in domain.classes])
    gone = [name for name in domain.classes if name not in classes]
    count = 0
    for part in ("train", "val", "test"):
        data: ImageTensors = getattr(domain, f"{part}_data")
        labels = label_of[data.labels]
        kept = (labels != -1).nonzero()[:, 0]
        count += int((labels < 0).sum())
        setattr(domain, f"{part}_data", data.part(kept, labels[kept]))
        if hasattr(domain, f"{part}_files"):  # of those that are files
            setattr(domain, f"{part}_files", getattr(domain, f"{part}_files")[kept.numpy()])
    if gone:
        done = "are to be told as unknown" if keep_unknown else "left out"
        say(f"{domain.title}: {count:,} images of {', '.join(gone)} {done}, which the other side has not")
    domain.classes = classes


def take_all(domain: InMemoryDataModule, parts: tuple[str, ...], becomes: dict[str, str]) -> None:
    """Join parts of a data module that is set up, and let parts of it be all of these, or another part."""
    for kind in ("data", "files"):
        if not hasattr(domain, f"train_{kind}"):
            continue
        found = {part: getattr(domain, f"{part}_{kind}") for part in ("train", "val", "test")}
        join: Any = joined if kind == "data" else operator.add
        found["all"] = functools.reduce(join, [found[part] for part in parts])
        for part, taken in becomes.items():
            setattr(domain, f"{part}_{kind}", found[taken])


class DomainPairDataModule(lightning.LightningDataModule):
    """Source and target, for unsupervised domain adaptation.

    A training batch is ``{"source": (images, labels), "target": (images, labels)}``. The two orders are
    independent of each other, on one process and on many: where the target is made of the same digits, as
    MNIST-M is, equal orders would pair each digit with itself and leak the target's labels. An epoch passes
    once over the larger set; the smaller one is shuffled again each time it is used up.

    Validation and test have two loaders: 0 is the source, 1 the target.

    Args:
        source: Labelled; gives images of the same size and channels as ``target``.
        target: Its labels are for validation and test; it may have none. Its classes may be in another order:
            they are matched by name, and its labels are made those of the source.
        shared_classes: Keep the classes that both have; else those that one lacks are an error.
        open_set: Keep classes that one lacks, too; images of those of the target alone get the label
            `UNKNOWN`.
        transductive: Adapt to all target images and test on the same, as published tables of photographs do;
            all source images are trained on but those held out for validation, which are its test, too.
        batch_size: Images of each domain in one training step, over all processes together.
        seed: Of both orders.

    Example:
        >>> from datamodules.mnist import MNISTDataModule
        >>> from datamodules.mnist_m import MNISTMDataModule
        >>> target = MNISTMDataModule("sample", image_size=28)
        >>> digits = DomainPairDataModule(MNISTDataModule("sample", channels=3), target, batch_size=64)
        >>> digits.setup()  # doctest: +ELLIPSIS
        MNIST-M...images
        >>> batch, _, _ = next(iter(digits.train_dataloader()))
        >>> batch["source"][0].shape, batch["target"][0].shape
        (torch.Size([64, 3, 28, 28]), torch.Size([64, 3, 28, 28]))
    """

    def __init__(
        self,
        source: InMemoryDataModule,
        target: InMemoryDataModule,
        *,
        shared_classes: bool = False,
        open_set: bool = False,
        transductive: bool = False,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.target, self.shared_classes = source, target, shared_classes
        self.open_set, self.transductive = open_set, transductive
        self.batch_size, self.seed = batch_size, seed
        self.pseudo_labelled: ImageTensors | None = None

    def prepare_data(self) -> None:
        """Check both domains, and generate what is generated. Never downloads."""
        self.source.prepare_data()
        self.target.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Load both domains into memory."""
        for domain in (self.source, self.target):
            domain.trainer = self.trainer  # for the device
            domain.setup(stage)
        classes = self.classes
        for domain in (self.source, self.target):
            if domain.classes and domain.classes != classes:
                match_classes(domain, classes, keep_unknown=self.open_set)
        if self.transductive and self.target.train_data is not self.target.test_data:
            take_all(self.source, ("train", "test"), {"train": "all", "test": "val"})
            take_all(self.target, ("train", "val", "test"), dict.fromkeys(("train", "val", "test"), "all"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels; known once both domains are.

        Raises:
            ValueError: One side lacks a class of the other, or they share fewer than two.
        """
        own, other = self.source.classes, self.target.classes
        if not other or (self.open_set and set(own) & set(other)):
            return own
        shared = tuple(name for name in own if name in other)
        lacking = {"target": set(own) - set(other), "source": set(other) - set(own)}
        said = [
            f"the {side} has no {', '.join(map(repr, sorted(names)[:5]))}{' …' if len(names) > 5 else ''}"
            for side, names in lacking.items()
            if names
        ]
        if said and not (self.shared_classes and len(shared) > 1):
            mend = "they are matched by name"
            if len(shared) > 1:
                mend = "keep those in common with --shared-classes"
            raise ValueError(f"source and target have other classes: {'; '.join(said)}; {mend}")
        return shared

    @property
    def target_labelled(self) -> bool:
        """Whether the target has labels, to validate and test by."""
        return bool(self.target.classes)

    def describe(self) -> dict[str, Any]:
        """Return name, counts and sha256 of both domains, for results.json."""
        return {"source": self.source.describe(), "target": self.target.describe()}

    def pseudo_label(self, numbers: Tensor, labels: Tensor) -> None:
        """Let training batches of the target hold only some of its images, with these labels.

        Args:
            numbers: Of target training images, (M,).
            labels: Of those, (M,): predictions, not the truth.
        """
        self.pseudo_labelled = self.target.train_data.part(numbers, labels)

    def train_dataloader(self) -> CombinedLoader:
        """Return pairs of batches in independent orders."""
        target = self.pseudo_labelled or self.target.train_data
        domains = {"source": (self.source, self.source.train_data), "target": (self.target, target)}
        longest = max(len(self.source.train_data), len(self.target.train_data))
        loaders = {}
        for stream, (name, (domain, data)) in enumerate(domains.items()):
            if len(data) < self.batch_size:
                raise ValueError(
                    f"the {name}, {domain.title}, has {len(data)} images to train on beside those held out, "
                    f"fewer than a batch of {self.batch_size}; take --batch-size {len(data)} or less"
                )
            order = ShuffledBatches(
                len(data),
                self.batch_size,
                seed=self.seed,
                stream=stream,
                num_batches=longest // self.batch_size,
            )
            loaders[name] = BatchLoader(on_device(data, domain), order, num_workers=domain.num_workers)
        with warnings.catch_warnings():
            # of Lightning to itself, for each CombinedLoader
            warnings.filterwarnings("ignore", ".*isinstance.treespec")
            return CombinedLoader(loaders, "min_size")

    def val_dataloader(self) -> list[BatchLoader]:
        """Return source and target; each validation image is scored exactly once."""
        return [eval_loader(domain.val_data, domain) for domain in (self.source, self.target)]

    def test_dataloader(self) -> list[BatchLoader]:
        """Return source and target; each test image is scored exactly once."""
        return [eval_loader(domain.test_data, domain) for domain in (self.source, self.target)]
