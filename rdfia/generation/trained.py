"""A trained GAN: from its run folder or checkpoint, and its samples as files."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from datamodules.files import atomic_file, say
from rdfia.generation.cgan import cGANModule
from rdfia.generation.gan import GANModule


def load_gan(place: str | Path) -> GANModule:
    """Return the GAN of a run folder of train_gan.py or train_cgan.py, or of a checkpoint, on the CPU.

    Of a table it is the first training by name, which is said. Nothing is loaded that only scores.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is of something else, or not readable.
    """
    place = Path(place).expanduser()
    path = checkpoint_of(place)
    if path is None:
        wanted = "run of train_gan.py or train_cgan.py that has ended (checkpoints/last.ckpt)"
        raise FileNotFoundError(f"{place} {f'is no {wanted}' if place.exists() else 'does not exist'}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises whatever it comes across
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error
    settings = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if "generator_features" not in settings:
        raise ValueError(f"{path} is of no GAN; name a run of train_gan.py or train_cgan.py")
    kind = cGANModule if "conditioning" in settings else GANModule
    try:  # with an embedded network that scores, as nothing is scored here
        loaded: Any = kind.load_from_checkpoint(
            path, map_location="cpu", weights_only=True, scores="squeezenet"
        )
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {kind.__name__}: {str(error).splitlines()[0]}") from error
    module: GANModule = loaded.eval()
    return module


def checkpoint_of(place: Path) -> Path | None:
    """Return the checkpoint of a run folder, of a table the first that is found; a file is itself one."""
    if place.is_file():
        return place
    own, inner = place / "checkpoints/last.ckpt", sorted(place.glob("*_seed_*/checkpoints/last.ckpt"))
    if own.is_file() or not inner:
        return own if own.is_file() else None
    others = f"; name a folder in {place} for another" if len(inner) > 1 else ""
    say(f"{place} is a table; taking {inner[0].parents[1].name}{others}")
    return inner[0]


def class_numbers(asked: Sequence[str], gan: Any) -> list[int]:
    """Return the numbers of classes that are asked for by number or name.

    Raises:
        ValueError: The GAN has no classes, or not one of these.
    """
    if not gan.classes:
        raise ValueError("this GAN has no classes to ask for; train_cgan.py trains one that has")
    names = list(gan.hparams.get("class_names") or map(str, range(gan.classes)))
    if all(one in names for one in asked):
        return [names.index(one) for one in asked]
    found = []
    for one in asked:
        if one in names:
            if one.isdecimal():  # of a GAN whose classes are called 1, 2 and 3
                alone = f"ask for names alone, {', '.join(names)}"
                raise ValueError(f"class {one!r} is a name and a number here; {alone}")
            found.append(names.index(one))
        elif one.isdecimal() and int(one) < gan.classes:
            found.append(int(one))
        else:
            raise ValueError(f"class {one!r} is none of {', '.join(names)}, nor a number below {gan.classes}")
    return found


def folder_names(names: Sequence[str]) -> list[str]:
    """Return names of folders for classes: what no file system takes becomes _, and none is there twice."""
    found: list[str] = []
    for number, name in enumerate(names):
        plain = re.sub(r"[^\w. -]|^\.+|[. ]+$", "_", name)[:100] or "_"
        taken = {one.lower() for one in found}
        found.append(f"{plain}_{number}" if plain.lower() in taken else plain)
    return found


def write_samples(
    gan: Any,
    count: int,
    folder: Path,
    *,
    seed: int | None = None,
    truncation: float | None = None,
    classes: Sequence[int] = (),
) -> list[Path]:
    """Write samples as PNGs; return their paths.

    Args:
        gan: See `load_gan`.
        count: Of the images; of a conditional GAN, over all classes in turn.
        folder: Where they go: ``000000.png`` and so on, of a conditional GAN in a folder for each class.
        seed: Of the latents; the same images for the same seed.
        truncation: See `rdfia.generation.latents.truncated`.
        classes: Those to draw, of a conditional GAN; empty for all.

    Raises:
        ValueError: The folder has files already.
    """
    if count < 1:
        raise ValueError(f"the number of images is at least 1, got {count}")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name another folder")
    names: list[str] = []
    labels = torch.empty(0)
    if gan.classes:
        drawn = torch.tensor(list(classes) or list(range(gan.classes)))
        labels = drawn[torch.arange(count) % len(drawn)]
        names = folder_names(gan.hparams.get("class_names") or list(map(str, range(gan.classes))))
    condition = (labels,) if names else ()
    parts = gan.sample_parts(count, seed, truncation, *condition)  # few at a time: there can be any number
    every = ((part * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy() for part in parts)
    written = []
    for number, pixels in enumerate(itertools.chain.from_iterable(every)):
        place = folder / names[int(labels[number])] if names else folder
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{number:06d}.png"
        with atomic_file(path) as part:
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(part, format="PNG")
        written.append(path)
    return written
