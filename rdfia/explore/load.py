"""The networks of the explorer, from run folders and from the weights that ship with the project."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.files import data_root, say
from datamodules.listing import find_each, kinds
from rdfia.common.backbones import load_backbone
from rdfia.explore.app import Networks
from rdfia.explore.photographs import Photographs
from rdfia.generation.cgan import cGANModule
from rdfia.generation.digit_judge import load_judge
from rdfia.generation.trained import checkpoint_of, load_gan
from rdfia.trained import load_classifier

DEMO = Path("runs/demo")


def load(
    classifier: Path | None,
    pictures: Sequence[Path],
    most_pictures: int,
    gan: Path | None,
    cgan: Path | None,
    data_dir: Path | None,
) -> Networks:
    """Return what the explorer asks; a generator that is not named is the demo's, where that was trained.

    Raises:
        FileNotFoundError: A folder that is named is not there.
        ValueError: It is of something else.
    """
    network: Any
    if classifier is None:
        network = load_backbone("squeezenet1_1", data_dir="sample")
    else:
        network = load_classifier(classifier, data_dir)
    places = pictures or (data_root("sample") / "photographs", data_root("sample") / "imagenet-samples")
    paths, others = find_each(places)
    if others:
        say(f"not read: {kinds(others)}")
    every = -(-len(paths) // most_pictures)
    if every > 1:
        say(f"of {len(paths):,} photographs one in {every} is compared with; --most-pictures for more")
    generators: dict[str, Any] = {}
    for kind, place in (("gan", gan), ("cgan", cgan)):
        # The demo's, unless it has not come so far.
        if place is not None or checkpoint_of(DEMO / kind) is not None:
            generators[kind] = _generator(kind, place or DEMO / kind)
    return Networks(Photographs.of(network, paths[::every]), load_judge(), **generators)


def _generator(kind: str, place: Path) -> Any:
    found = load_gan(place)
    if kind == "cgan":
        digits = isinstance(found, cGANModule) and found.classes == 10 and found.channels == 1
        if not (digits and found.image_size == 32):
            raise ValueError(
                f"{place} is no conditional GAN of ten digits; name a run of train_cgan.py on MNIST"
            )
    elif isinstance(found, cGANModule):
        raise ValueError(
            f"{place} is conditional; --gan takes a run of train_gan.py, --cgan one of train_cgan.py"
        )
    return found
