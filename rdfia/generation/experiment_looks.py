"""A closer look at a trained GAN (``--examine``): copies, classes as read, what latents do."""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.files import atomic_file, one_at_a_time, say
from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import ImageTensors
from rdfia.common import plots
from rdfia.common.exact import exact
from rdfia.generation import control, image_classifier, memorization
from rdfia.generation.experiment_floor import evenly
from rdfia.generation.image_classifier import ImageClassifier, accuracies, confusion, fit_classifier
from rdfia.generation.samples import MakesSamples

SAMPLES = 1000  # that are compared with training images, or read by a classifier
RECIPE = 1  # of the classifier: another number where it would come out otherwise


@dataclass
class Looks:
    """What was seen; notes are by the name of the score that they are about."""

    scores: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def examine(
    gan: Any, images: InMemoryDataModule, against: ImageTensors, cache: Path, *, dry: bool = False
) -> Looks:
    """Return scores, figures and notes on a trained GAN, on its own device.

    Args:
        gan: A `GANModule` or `cGANModule`.
        images: What it was trained on.
        against: Real images that it was not trained on.
        cache: Folder for the classifier of the images, which is the same for all GANs of them.
        dry: Look at a few only, and keep nothing.
    """
    looks = Looks()
    count = 16 if dry else SAMPLES
    samples = gan.sample(count)
    copies(looks, gan, samples, images.train_data, against)
    if gan.classes and not hasattr(gan.scores, "judge"):
        read_classes(looks, gan, samples, images, against, cache, dry=dry)
    latents(looks, gan, against, few=dry)
    return looks


def features_of(gan: MakesSamples) -> Callable[[Tensor], Tensor]:
    """Return what maps images to the features in which a GAN is scored."""
    judge: Any = getattr(gan.scores, "judge", None)
    network: Callable[[Tensor], Tensor] = judge.features if judge else gan.scores.network  # type: ignore[assignment]
    return network


@exact()
def copies(
    looks: Looks, gan: MakesSamples, samples: Tensor, training: ImageTensors, against: ImageTensors
) -> None:
    """Compare samples with the training images nearest to them, beside what test images have."""
    features = features_of(gan)

    def seen(batches: Any) -> Any:
        return (features(part.to(gan.device)) for part in batches)

    others = against[evenly(len(against), min(len(against), len(samples)))][0]
    both = torch.cat([*seen(samples.split(250)), *seen(others.split(250))])
    shown = training.batches(250)  # mirrored ones were trained on, too
    if mirrored := gan.flips:
        shown = itertools.chain(shown, (part.flip(-1) for part in training.batches(250)))
    distance, place = memorization.nearest(both, seen(shown))
    ours, theirs = distance.split([len(samples), len(others)])
    share = memorization.near_training_share(ours, theirs)
    looks.scores |= {"near_training_share": share, "near_training_chance": memorization.SMALLEST}
    looks.notes["near_training_share"] = (
        f"of {len(samples):,} samples those nearer to a training image than "
        f"the nearest {memorization.SMALLEST:.0%} of {len(others):,} real images that were not trained on, "
        f"in the features that score{', mirrored or not' if mirrored else ''}; "
        "samples that are all alike come to 1, too (see recall)"
    )
    first = ours.argsort()[:10].cpu()
    which = place.cpu()[first, None, None, None]
    near = training[which.flatten() % len(training)][0].cpu()
    pictures = {
        "samples": samples[first].cpu(),
        "nearest training image": torch.where(which < len(training), near, near.flip(-1)),
    }
    shares = f"{share:.1%} of all are as near, {memorization.SMALLEST:.0%} by chance"
    title = f"the samples nearest to training images ({shares})"
    looks.figures["nearest_training"] = plots.image_rows(pictures, title=title)


def read_classes(
    looks: Looks,
    gan: Any,
    samples: Tensor,
    images: InMemoryDataModule,
    against: ImageTensors,
    cache: Path,
    *,
    dry: bool,
) -> None:
    """Let a classifier of the real images read the classes of samples that were asked for in turn."""
    classes = len(images.classes)
    classifier = classifier_of(images, gan.device, None if dry else cache)
    rows = torch.tensor(evenly(len(against), min(len(against), 64 if dry else 10_000)))
    real = (against[part] for part in rows.split(500))
    of_real = accuracies(confusion(classifier, real, classes, gan.device))[0]
    asked = torch.arange(len(samples)) % classes
    made = zip(samples.split(500), asked.split(500), strict=True)
    counts = confusion(classifier, made, classes, gan.device)
    overall, each = accuracies(counts)
    looks.scores |= {"conditional_accuracy": overall, "conditional_accuracy_of": len(samples)}
    looks.scores |= {"classifier_accuracy": of_real, "classifier_accuracy_of": len(rows)}
    for name, own, of in zip(images.classes, each, counts.sum(1).tolist(), strict=True):
        looks.scores |= {f"accuracy_{name}": own, f"accuracy_{name}_of": of}
    looks.scores["conditional_chance"] = 1 / classes
    looks.notes["conditional_accuracy"] = (
        f"of {len(samples):,} samples, asked for all classes in turn, by a CNN trained "
        f"on the real training images, which reads {of_real:.1%} of {len(rows):,} real ones right; chance "
        f"{1 / classes:.1%}"
    )
    if classes <= 40:
        title, labels = f"{overall:.1%} right, of real images {of_real:.1%}", ("asked for", "read as")
        figure = plots.confusion_matrix(counts, images.classes, title=title, labels=labels)
        looks.figures["read_as"] = figure


def classifier_of(images: InMemoryDataModule, device: torch.device, cache: Path | None) -> ImageClassifier:
    """Return the classifier of a data set's training images, from the cache if it is there.

    Args:
        images: The data.
        device: Where it is trained, and comes to.
        cache: Folder; None to train a few steps and keep nothing.

    Raises:
        ValueError: The file in the cache is damaged.
    """
    data = images.train_data
    shape = (len(images.classes), data.channels)
    train = partial(fit_classifier, data.__getitem__, len(data), *shape, device)
    if cache is None:
        return train(steps=2)
    steps = image_classifier.steps_for(len(data))
    settings = [RECIPE, steps, data[0][0].shape[-1], data.channels]
    recipe = json.dumps([images.describe(), *settings], sort_keys=True, default=str)
    path = cache / f"{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path):
        if not path.exists():
            say(f"training a classifier of the real images, {steps:,} steps; kept in {path}")
            trained = train(steps=steps, say=say).state_dict()
            weights = {name: value.cpu().contiguous() for name, value in trained.items()}
            with atomic_file(path) as part:
                save_file(weights, part)
    classifier = ImageClassifier(*shape)
    try:
        classifier.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it: rm {path}") from error
    return classifier.to(device).eval().requires_grad_(False)


def latents(looks: Looks, gan: Any, against: ImageTensors, *, few: bool) -> None:
    """Draw what latents do: truncation, groups and styles, directions, those of real images."""

    def asked(count: int, *, same: bool = False) -> tuple[Tensor, ...]:
        if not gan.classes:
            return ()
        labels = torch.arange(count) % gan.classes
        return (torch.zeros_like(labels) if same else labels,)

    some = gan.draw(10, 14)
    choosing = gan.groups.count if gan.groups else 0
    if choosing < gan.latent_dim:
        limits = {f"within {limit}": gan.truncate(some, limit) for limit in (0.25, 0.5, 1.0)}
        rows = {name: gan(part, *asked(10)).cpu() for name, part in {**limits, "as drawn": some}.items()}
        looks.figures["truncation"] = plots.image_rows(rows, title="latents cut off at a limit")
        first, second = gan.draw(5, 15), gan.draw(8, 16)
        made, count = control.mixed(gan, first, second, asked(40, same=True))
        what = "group" if gan.groups else f"first {count} numbers"
        title = f"each row the {what} of one latent, each column the rest of another"
        looks.figures["mixing"] = plots.image_grids({title: made}, columns=8)
    samples = 64 if few else 2000
    # Of one class: between classes most changes, and no latent says it.
    found, shares = control.directions(gan, 5, asked(samples, same=True), samples=samples)
    walks = {
        f"{number}: {share:.0%} of the variance": control.along(gan, some[0], way, 9, asked(9, same=True))
        for number, (way, share) in enumerate(zip(found, shares.tolist(), strict=True), 1)
    }
    looks.figures["directions"] = plots.image_rows(
        walks, title="along principal components of the first layer, -3 to 3 deviations (GANSpace)"
    )
    real, labels = against[evenly(len(against), 8)]
    known = (labels.to(gan.device),) if gan.classes else ()
    features = features_of(gan)
    differentiable = getattr(features, "differentiable", True)
    near_by = features if differentiable else None
    best, squares = control.project(gan, real, known, features=near_by, steps=2 if few else 200)
    rows = {"real, not trained on": real.cpu(), "nearest of the generator": gan(best, *known).cpu()}
    near = float(control.psnr(squares).mean())
    looks.scores["projection_psnr"] = near
    looks.notes["projection_psnr"] = (
        "mean over 8 real images that were not trained on, in decibels; latents found by pixels "
        + ("and features" if differentiable else "alone, as these features have no gradient")
    )
    looks.figures["projection"] = plots.image_rows(rows, title=f"latents of real images, {near:.1f} dB")
