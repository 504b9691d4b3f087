"""A classifier that one trained oneself, by any of the scripts: load it, let it predict files, export it.

For example::

    from rdfia import load_classifier

    for prediction in load_classifier("runs/fine-tune").predict(["photo.jpg", "holiday/"]):
        print(prediction)

The run folder says all else: the network, the classes, how pictures become its input.
"""

import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from datamodules.files import atomic_file
from datamodules.images import decode_all, shaping
from datamodules.listing import find_each
from rdfia.adaptation.methods import module_of
from rdfia.adaptation.module import AdaptationModule
from rdfia.common.backbones import Backbone
from rdfia.transfer.fine_tune import FineTuneModule
from rdfia.transfer.svm_module import FeatureExtractorSVM

# What only the settings of a module of that kind hold: checkpoints do not say whose they are.
OF_TABLE = re.compile(r"_seed_(\d+)(?=$|_)")  # in the name of a training's folder in that of a table
KINDS: dict[str, Any] = {
    "multi_class": FeatureExtractorSVM,
    "head_lr": FineTuneModule,
    "lambda_schedule": AdaptationModule,
}


class Prediction(NamedTuple):
    """What a classifier says of a file: the class, and how sure it is, in words of what that is."""

    path: Path
    label: str
    score: float
    kind: str
    scores: list[float]
    """Of all classes, in their order."""

    def __str__(self) -> str:
        return f"{self.path}: {self.label} ({self.kind} {self.score:.3g})"


class TrainedClassifier(nn.Module):
    """A trained module with the names of its classes and the images that it takes.

    It maps images (B, C, H, W) in [0, 1] to one score for each class, so that `rdfia.interpret` looks into it
    as into any network, by the names of its layers.

    Args:
        module: `FeatureExtractorSVM` that is fitted, `FineTuneModule`, or one of domain adaptation.
        name: What it is called in figures.
    """

    def __init__(self, module: FeatureExtractorSVM | FineTuneModule | AdaptationModule, name: str) -> None:
        super().__init__()
        if isinstance(module, AdaptationModule):
            for network in {module.network, module.evaluated}:
                if network.trunk is not None:
                    network.trunk.own()  # to be looked into, and exported
        self.module, self.name = module.eval().requires_grad_(False), name
        settings: dict[str, Any] = dict(module.hparams)
        self.image_size = int(settings.get("image_size", 28 if isinstance(module, AdaptationModule) else 224))
        self.resize = str(settings.get("resize", "squash"))
        self.channels = int(settings.get("channels", 3))
        self.kind = "probability"
        count = int(settings.get("classes", 0))
        if isinstance(module, FeatureExtractorSVM):
            if module.classifier is None:
                raise ValueError(f"the SVM of {name} is not fitted")
            count = int(module.classifier.classes.max()) + 1
            self.kind = "vote" if module.classifier.pairs else "margin"
        self.classes = tuple(settings.get("class_names") or map(str, range(count)))
        self.without_weights: tuple[str, ...] = ()

    @property
    def backbone(self) -> Backbone | None:
        """The pretrained network inside; None in domain adaptation of small images."""
        if isinstance(self.module, AdaptationModule):
            trunk = self.module.evaluated.trunk
            return None if trunk is None else trunk.network
        return self.module.backbone

    @property
    def network(self) -> nn.Module:
        """The network inside, whose modules have the names of layers."""
        if self.backbone is not None:
            return self.backbone.network
        assert isinstance(self.module, AdaptationModule)
        return self.module.evaluated

    @property
    def mean(self) -> Tensor:
        """What the network inside subtracts from each channel, (C, 1, 1), on its device."""
        if self.backbone is not None:
            return self.backbone.mean
        # It scales by rules of its own.
        return torch.zeros(self.channels, 1, 1, device=next(self.module.parameters()).device)

    @property
    def std(self) -> Tensor:
        """What the network inside divides each channel by, (C, 1, 1), on its device."""
        return torch.ones_like(self.mean) if self.backbone is None else self.backbone.std

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to scores (B, classes): logits, votes or margins."""
        if isinstance(self.module, AdaptationModule):
            network = self.module.evaluated
            logits: Tensor = network.classifier(network.extract_unchecked(images))
            return logits
        scores: Tensor = self.module(images)
        if isinstance(self.module, FeatureExtractorSVM):
            assert self.module.classifier is not None
            known = self.module.classifier.classes
            if len(known) < len(self.classes):  # of which there was nothing to train on
                every = scores.new_full((len(scores), len(self.classes)), -torch.inf)
                every[:, known] = scores
                return every
        return scores

    @property
    def layers(self) -> dict[str, str]:
        """Paths of layers in ``network`` by their common names."""
        if self.backbone is not None:
            return self.backbone.layers
        assert isinstance(self.module, AdaptationModule)
        inside = self.module.evaluated.features.named_modules()
        return {f"features.{path}": f"features.{path}" for path, _ in inside if path}

    def usable_layers(self) -> list[str]:
        """Return the names of the layers that scores come from, from first to last."""
        if self.backbone is None:
            return list(self.layers)
        if isinstance(self.module, AdaptationModule):
            assert self.module.evaluated.trunk is not None
            last = self.module.evaluated.trunk.layer
        else:
            last = self.module.layer if isinstance(self.module, FineTuneModule) else self.module.layers[-1]
        names = self.backbone.usable_layers()
        return names[: names.index(last) + 1] if last in names else names

    def find_layer(self, name: str) -> nn.Module:
        """Return a layer by its name.

        Raises:
            ValueError: There is none, or scores do not depend on it.
        """
        names = self.usable_layers()
        if name not in names:
            known = ", ".join(names)
            raise ValueError(f"{self.name} has no layer {name!r} that scores come from; it has {known}")
        if self.backbone is None:
            return self.network.get_submodule(name)
        return self.backbone.find_layer(name)

    def tap(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of layers for images (B, C, H, W), by name, in one forward pass."""
        if self.backbone is not None:
            return self.backbone.tap(images, layers)
        found: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output.clone()

        hooks = [self.find_layer(name).register_forward_hook(partial(keep, name)) for name in layers]
        try:
            self(images)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def check_complete(self) -> None:
        """Raise ValueError where scores have no gradient, which saliency, attacks and such need."""
        if self.kind == "vote":
            raise ValueError(
                f"{self.name} counts votes among pairs of classes, which have no gradient; train the SVM "
                "with --multi-class ovr, or fine-tune"
            )

    def read(self, paths: Sequence[Path], failed: dict[int, str] | None = None) -> Tensor:
        """Return pictures as bytes, (N, C, H, W), shaped as those that it was trained on.

        Args:
            paths: Of the pictures.
            failed: Takes why one could not be read, by its place; it is black then.

        Raises:
            ValueError: Some cannot be read, and ``failed`` is not given.
        """
        mode: Literal["L", "RGB"] = "L" if self.channels == 1 else "RGB"
        decode = partial(decode_all, paths, mode=mode, failed=failed)
        if self.resize == "frame":  # as digits of 28 pixels become 32
            return pad(decode(size=self.image_size - 4), [2] * 4)
        if self.resize == "cut":  # as those of 32 become 28
            return decode(size=self.image_size + 4)[..., 2:-2, 2:-2]
        return decode(**shaping(self.resize, self.image_size))

    @torch.no_grad()
    def predict(
        self,
        pictures: str | Path | Sequence[str | Path],
        *,
        batch_size: int = 32,
        failed: dict[Path, str] | None = None,
    ) -> list[Prediction]:
        """Return the class of each picture: files, or folders of them.

        Args:
            pictures: Their places.
            batch_size: Images per forward pass.
            failed: Takes why a picture could not be read, by its path; the others are predicted.

        Raises:
            FileNotFoundError: One does not exist, or a folder holds none.
            ValueError: One cannot be read, and ``failed`` is not given.
        """
        places = [pictures] if isinstance(pictures, str | Path) else pictures
        paths = find_each(places).pictures
        device, found = self.mean.device, []
        for start in range(0, len(paths), batch_size):
            some = paths[start : start + batch_size]
            unread: dict[int, str] = {}
            images = self.read(some, None if failed is None else unread)
            scores = self(images.to(device).float() / 255).float()
            if self.kind == "probability":
                scores = scores.softmax(1)
            if failed is not None:
                failed |= {some[number]: why for number, why in unread.items()}
            for number, (path, row) in enumerate(zip(some, scores.tolist(), strict=True)):
                if number in unread:
                    continue
                best = max(range(len(row)), key=row.__getitem__)
                found.append(Prediction(path, self.classes[best], row[best], self.kind, row))
        return found

    def export(self, folder: str | Path) -> None:
        """Write what runs without this package: ``classifier.pt2``, and a description, and the weights.

        ``torch.export.load("classifier.pt2").module()`` maps any number of images (B, C, H, H) in [0, 1] to
        scores. ``classifier.json`` names classes, size and how pictures become square;
        ``weights.safetensors`` holds the weights by the names that they have in the module.

        Raises:
            ValueError: What was written gives other scores than the module.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; name a folder for the export")
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.module, FeatureExtractorSVM):
            self.module.export(folder / "classifier.pt2", self.image_size)
        else:
            shape = (2, self.channels, self.image_size, self.image_size)
            example = torch.rand(shape, device=self.mean.device)
            batch = torch.export.Dim("batch")
            program = torch.export.export(self, (example,), dynamic_shapes=({0: batch},), strict=False)
            with atomic_file(folder / "classifier.pt2") as part, part.open("wb") as file:
                torch.export.save(program, file)
        weights = {name: value.contiguous().clone() for name, value in self.module.state_dict().items()}
        with atomic_file(folder / "weights.safetensors") as part:
            save_file(weights, part)
        about = {
            "classes": list(self.classes),
            "channels": self.channels,
            "image_size": self.image_size,
            "resize": self.resize,
            "values": "images (B, C, H, W), RGB or grey, in [0, 1]",
            "scores": {"probability": "logits", "vote": "votes", "margin": "margins"}[self.kind],
            "module": type(self.module).__name__,
        }
        try:
            self._compare(torch.export.load(folder / "classifier.pt2").module())
        except ValueError:
            for name in ("classifier.pt2", "weights.safetensors"):
                (folder / name).unlink()
            raise
        with atomic_file(folder / "classifier.json") as part:
            part.write_text(json.dumps(about, indent=2) + "\n")

    def _compare(self, exported: Callable[[Tensor], Tensor]) -> None:
        """Check that an exported program gives the module's scores, on other numbers of images too."""
        generator = torch.Generator().manual_seed(0)
        for count in (1, 3):
            images = torch.rand(count, self.channels, self.image_size, self.image_size, generator=generator)
            images = images.to(self.mean.device)
            with torch.no_grad():
                own = self.module(images)
                difference = (exported(images) - own).abs().max().item()
            if not difference <= 1e-3 * max(1.0, own.abs().max().item()):
                raise ValueError(f"the exported program differs from {self.name} by {difference:g}")


def find_checkpoint(place: str | Path) -> Path:
    """Return the checkpoint of a run folder, or a checkpoint itself: the one that was tested.

    Of a folder of trainings, as train_dann.py leaves it, that of the first seed of what was asked for.

    Raises:
        FileNotFoundError: There is none.
    """
    place = Path(place)
    if place.is_file():
        return place
    if not place.is_dir():
        raise FileNotFoundError(f"{place} does not exist; name a run folder or a checkpoint")
    for folder in (place, *_trainings(place)):
        # DANN's tests are of the last epoch, the others' of the best, but for what trained on all images.
        flags = _flags(folder)
        last = "lambda_max" in flags or flags.get("train_on_val")
        names = ("last.ckpt", "best.ckpt") if last else ("best.ckpt", "last.ckpt")
        for name in names:
            if (folder / "checkpoints" / name).is_file():
                return folder / "checkpoints" / name
    raise FileNotFoundError(f"{place} holds no checkpoint (checkpoints/*.ckpt); did the run end?")


def _flags(folder: Path) -> dict[str, Any]:
    """Return the flags of a training; none where it wrote none."""
    path = folder / "args.json"
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); name a checkpoint in {folder} instead") from error


def _trainings(place: Path) -> list[Path]:
    """Return the folders of trainings in that of a table, what was asked for first, its first seed first."""
    named = [(one, OF_TABLE.search(one.name)) for one in place.glob("*_seed_*") if one.is_dir()]
    seeds = sorted((int(seed[1]), one.name, one) for one, seed in named if seed)
    found, asked = [one for *_, one in seeds], _flags(place)
    if not found or not asked:
        return found
    row = asked.get("method", "dann") if asked.get("reversal", True) else "no-reversal"
    if not asked.get("adapt", True):
        row = "target-trained" if asked.get("labelled") == "target" else "source-only"
    first = (asked.get("seeds") or [asked.get("seed", 0)])[0]
    rounds = [f"_round_{number}" for number in range(asked.get("pseudo_label_rounds") or 0, 0, -1)]
    wanted = [place / f"{row}_seed_{first}{end}" for end in (*rounds, "")]
    return [*(folder for folder in wanted if folder in found), *found]


def load_classifier(place: str | Path, data_dir: str | Path | None = None) -> TrainedClassifier:
    """Return the classifier of a run folder of train_svm.py, train_fine_tune.py or train_dann.py, on the CPU.

    Args:
        place: The run folder, or a checkpoint.
        data_dir: Where ``weights/`` lies now, for a classifier whose checkpoint leaves the network out, as
            that of an SVM; by default where it lay.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is of something else, or not readable.
    """
    path = find_checkpoint(place)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        settings = checkpoint["hyper_parameters"]
    except Exception as error:  # torch.load raises whatever it comes across
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error
    found = [kind for sign, kind in KINDS.items() if sign in settings]
    if len(found) != 1:
        kinds = "SVM, fine-tuned network or adapted one"
        raise ValueError(f"{path} is of no classifier that rdfia trains: {kinds}")
    changes: dict[str, Any] = {}
    kind = found[0]
    if kind is AdaptationModule:
        kind = module_of(checkpoint.get("method", "dann"))
    if kind is FineTuneModule or settings.get("trunk_trained", "none") != "none":
        changes["weights"] = "random"  # those of the checkpoint are loaded on top
    elif data_dir or os.environ.get("RDFIA_DATA"):
        changes["data_dir"] = str(data_dir or os.environ["RDFIA_DATA"])
    try:
        with warnings.catch_warnings():
            # An SVM's checkpoint leaves the network out, which Lightning finds lacking.
            warnings.filterwarnings("ignore", "Found keys that are in the model state dict")
            module = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True, **changes)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {kind.__name__}: {str(error).splitlines()[0]}") from error
    if path.parent.name != "checkpoints":
        return TrainedClassifier(module, path.stem)
    run = path.parent.parent
    of_table = OF_TABLE.search(run.name) and "lambda_max" in settings
    return TrainedClassifier(module, run.parent.name if of_table else run.name)
