"""What all subcommands of visualize.py share: networks, pictures, class names, files of images."""

import dataclasses
import difflib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from datamodules.files import atomic_file, data_root, say
from datamodules.imagenet_samples import ImageNetSamplesDataModule, with_classes
from datamodules.images import decode_all
from datamodules.listing import find_each
from datamodules.tensors import ImageTensors, describe
from rdfia.common.backbones import imagenet_classes, load_backbone
from rdfia.common.environment import is_dry_run
from rdfia.interpret.config import Classify, ClassVisualization, Describe, Flags, Network, Pictures

PARTS = "parts"  # of a run folder: what an interrupted run has finished


class Shown(NamedTuple):
    """Images (N, 3, H, W) in [0, 1], labels (N,) with -1 where not known, names, and a description."""

    images: torch.Tensor
    labels: torch.Tensor
    names: list[str]
    data: dict[str, Any]


# What a subcommand found: metrics by name, and notes.
Numbers = tuple[dict[str, list[float]], list[str]]


def load_networks(args: Network) -> dict[str, Any]:
    """Return the networks that the flags name, by architecture, the one of --backbone first."""
    if args.checkpoint is not None:
        from rdfia.trained import load_classifier  # here: it knows all techniques

        trained = load_classifier(args.checkpoint, args.data_dir)
        if not isinstance(args, Describe | Classify):
            trained.check_complete()
        return {trained.name: trained}
    try:
        root = data_root(args.data_dir)
    except FileNotFoundError:
        if args.data_dir is not None or isinstance(args, Pictures):
            raise
        root = None  # embedded or random weights need none
    others = [name for flag in ("compare", "ensemble", "judges") for name in getattr(args, flag, ())]
    for name in others:
        if [args.backbone, *others].count(name) > 1:
            raise ValueError(f"{name} is named twice; compare {args.backbone} with other architectures")
    # A file holds the weights of one architecture.
    general = args.weights if args.weights in ("imagenet", "random") else "imagenet"
    networks = {args.backbone: load_backbone(args.backbone, weights=args.weights, data_dir=root)}
    networks |= {name: load_backbone(name, weights=general, data_dir=root) for name in others}
    for name, network in networks.items():
        try:
            network.network(torch.zeros(1, 3, args.image_size, args.image_size))
        except (AssertionError, RuntimeError) as error:  # as timm and torchvision say it
            raise ValueError(f"--image-size {args.image_size} does not fit {name} ({error})") from error
    return networks


def own_network(args: Flags, networks: dict[str, Any]) -> Flags:
    """Return the flags as they are of a network that one trained oneself: its name, its size, its classes."""
    if args.checkpoint is None:
        return args
    ((name, trained),) = networks.items()
    changes: dict[str, Any] = {"backbone": name, "image_size": trained.image_size}
    if isinstance(args, ClassVisualization) and args.classes == type(args).classes:
        changes["classes"] = trained.classes[:6]
    if isinstance(args, Classify) and args.top == Classify.top:
        changes["top"] = min(args.top, len(trained.classes))
    return dataclasses.replace(args, **changes)


def classes_of(network: Any) -> Sequence[str]:
    """Return the names of a network's classes: ImageNet's, but for one that one trained oneself."""
    return getattr(network, "classes", None) or imagenet_classes()


def read_pictures(args: Pictures, network: Any) -> Shown:
    """Return the images that the flags name, two of them in a dry run."""
    if not args.images:
        samples = ImageNetSamplesDataModule(args.data_dir, image_size=args.image_size)
        samples.prepare_data()
        samples.setup()
        found, names, data = samples.data, samples.names, samples.describe()
    else:
        there = find_each(args.images, "--images")
        if there.others:
            say(f"{', '.join(map(str, args.images))}: {there}")
        paths = there.pictures
        own = args.checkpoint is not None
        # The class is known of those that are named by synset, or lie in a folder that is called so.
        labelled = in_folders(paths, network.classes) if own else with_classes(paths)
        known = sum(label >= 0 for _, label in labelled)
        if known == len(labelled):
            paths = [path for path, _ in labelled]
        classes = dict(labelled)
        shape: dict[str, Any] = {"size": args.image_size * 8 // 7, "crop": args.image_size}
        if own and network.channels != 3:
            raise ValueError(f"{network.name} takes grey images; look at one of --channels 3")
        pixels = network.read(paths) if own else decode_all(paths, mode="RGB", **shape)
        found = ImageTensors(pixels, torch.tensor([classes[path] for path in paths]))
        names = [path.stem for path in paths]
        if len(set(names)) < len(names) or known < len(names):  # two folders may hold one name
            names = [f"{number}_{path.stem}" for number, path in enumerate(paths)]
        if 0 < known < len(paths):
            how = "lie in a folder of their class" if own else "are named by synset"
            say(f"{known:,} of {len(paths):,} pictures {how}; of the others no class is known")
        named = known == len(paths) and not own
        name = f"ImageNet samples, {args.images[0].name}" if named else "own images"
        data = describe(name, test=found)
    count = 2 if args.fast_dev_run else len(found)
    images, labels = found[list(range(min(count, len(found))))]
    return Shown(images, labels, names[: len(images)], data)


def in_folders(pictures: Sequence[Path], classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return pictures as (path, class index), by the folder that each lies in; -1 where it is no class."""
    index = {name: number for number, name in enumerate(classes)}
    return [(path, index.get(path.parent.name, -1)) for path in pictures]


def class_of(name: str, classes: Sequence[str] | None = None) -> int:
    """Return the index of a class by name or number.

    Args:
        name: Or number.
        classes: All names, by default ImageNet's.

    Raises:
        ValueError: There is none; the message names near ones.
    """
    owner = "ImageNet" if classes is None else "the network"
    classes = list(classes or imagenet_classes())
    if name in classes:  # Cardigan is a dog; and classes of one's own may be called 1, 2, 3
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    known = {known.lower(): index for index, known in reversed(list(enumerate(classes)))}
    if name.lower() in known:
        return known[name.lower()]
    inside = [known for known in classes if name.lower() in known.lower()]
    near = list(dict.fromkeys([*inside, *difflib.get_close_matches(name, classes, 5, 0.5)]))[:5]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise ValueError(f"{owner} has no class {name!r}{hint}")


Found = TypeVar("Found")


def once(folder: Path, trainer: Any, name: str, work: Callable[[], Found]) -> Found:
    """Return what ``work`` gives: tensors, numbers, text in dicts and lists.

    It is kept in the run folder until the run ends, so that one that is interrupted resumes from there.
    """
    path = folder / PARTS / f"{name}.pt"
    if is_dry_run(trainer):
        return work()
    if not path.exists():
        started = time.perf_counter()
        found = work()
        buffer = io.BytesIO()  # torch hides the OSError of a full disk behind one of its own
        torch.save({"seconds": time.perf_counter() - started, "found": moved(found, "cpu")}, buffer)
        with atomic_file(path) as part:
            part.write_bytes(buffer.getbuffer())
        return found
    kept: Found = moved(read_part(path)["found"], trainer.strategy.root_device)
    return kept


def moved(found: Any, device: Any) -> Any:
    """Return dicts and lists with their tensors on a device: parts go on wherever the run resumes."""
    if isinstance(found, torch.Tensor):
        return found.to(device)
    if isinstance(found, dict):
        return {name: moved(value, device) for name, value in found.items()}
    return [moved(value, device) for value in found] if isinstance(found, list) else found


def read_part(path: Path) -> dict[str, Any]:
    """Return what `once` kept.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        kept = dict(torch.load(path, map_location="cpu", weights_only=True))
        return {"seconds": float(kept["seconds"]), "found": kept["found"]}
    except Exception as error:  # torch.load raises whatever it comes across
        why = type(error).__name__
        raise ValueError(f"{path} is damaged ({why}); delete it, and that part is made again") from error


def seconds_kept(folder: Path) -> float:
    """Return the seconds that what `once` kept took."""
    return sum(float(read_part(path)["seconds"]) for path in (folder / PARTS).glob("*.pt"))


def kept_as_png(folder: Path, trainer: Any, attack: str, name: str, image: Any) -> Any:
    """Write an image (3, H, W) in [0, 1] as PNG and return what reading it gives; nothing in a dry run."""
    if is_dry_run(trainer):
        return image
    path = folder / "images" / f"{attack}_{name.replace(' ', '_')}.png"
    with atomic_file(path) as part:
        pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels).save(part, format="png")
    return png(path)


def png(path: Path) -> torch.Tensor:
    """Return the image (3, H, W) in [0, 1] of a PNG file."""
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file)).permute(2, 0, 1).float() / 255


def known_classes(shown: Shown, predicted: torch.Tensor) -> torch.Tensor:
    """Return the classes (N,) of images; where they are not known, a network's answers ``predicted`` (N,)."""
    labels = shown.labels.to(predicted.device)
    return torch.where(labels >= 0, labels, predicted)


def notes_on_classes(shown: Shown, network: str) -> list[str]:
    """Return what a reader must know where the classes of images are not known."""
    unknown = bool((shown.labels < 0).any())
    return [f"where the class is not known, the answer of {network} stands for it"] if unknown else []
