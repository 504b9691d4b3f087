"""Find, download and verify the data, and print what is there.

Examples:
    python scripts/prepare_data.py all --data-dir data
    python scripts/prepare_data.py cifar10 --data-dir data
    python scripts/prepare_data.py check --data-dir data

Run it on a machine with a network (the login node of a cluster). What is
there and whole is left as it is, what is damaged is named and not touched.
"""

import difflib
import gzip
import hashlib
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from datamodules.layouts import TORCHVISION
from rdfia.engine.args import DataDir
from rdfia.engine.cli import run_script

OWN = ("mnist", "mnist-m", "bsds500", "usps", "scene15", "imagenet-samples", "weights")

BSDS500_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz"
BSDS500_COUNTS = {"train": 200, "val": 100, "test": 200}
# The release of Lazebnik et al.: one folder per class, without the practical's split into 1,500 / 2,985.
SCENE15_URL = "http://www-cvr.ai.uiuc.edu/ponce_grp/data/scene_categories/scene_categories.zip"
SCENE15_MD5 = "58828019197b2ad0a7efb472e7a85c2a"
IMAGENET_25_URL = "https://cs231n.stanford.edu/imagenet_val_25.npz"


@dataclass(frozen=True)
class Args:
    """Find, download and verify data; print a table of what is there."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|all|check")]
    """Which data: mnist, mnist-m, bsds500, usps, scene15, imagenet-samples, weights, `all` for these; one of
    torchvision's, such as cifar10; `check` looks at what is there and downloads nothing."""
    data_dir: DataDir = None
    """Folder that holds the data, or will."""
    architectures: tuple[str, ...] = ("vgg16", "resnet18", "squeezenet1_1", "mobilenet_v2")
    """Networks of torchvision whose ImageNet weights to get."""
    download: bool = True
    """Download what is missing; else only look."""

    def __post_init__(self) -> None:
        if self.what not in (names := (*OWN, *TORCHVISION, "all", "check")):
            near = difflib.get_close_matches(self.what, names, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{self.what!r} is none of {', '.join(names)}{hint}")


State = Literal["complete", "partial", "missing", "broken"]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    state: State
    detail: str


def check_mnist(root: Path) -> Row:
    """Read the four files; official ones are known by the md5 of their decompressed bytes."""
    from datamodules.layouts import find_idx
    from datamodules.mnist import OFFICIAL_MD5, load_mnist, read_bytes

    train, test = load_mnist(root, train=True)[0], load_mnist(root, train=False)[0]
    official = all(
        hashlib.md5(read_bytes(find_idx(root, name))).hexdigest() == md5 for name, md5 in OFFICIAL_MD5.items()
    )
    counts = f"{len(train):,} + {len(test):,} digits"
    if official:
        return Row("mnist", "complete", f"{counts}, the official bytes")
    return Row("mnist", "partial", f"{counts}, not the official 60,000 + 10,000")


def get_mnist(root: Path) -> None:
    """Download the four files from torchvision's mirrors."""
    from torchvision.datasets import MNIST

    from datamodules.files import download
    from datamodules.layouts import find_idx

    for name, md5 in MNIST.resources:
        try:
            find_idx(root, name.removesuffix(".gz"))
        except FileNotFoundError:
            for number, mirror in enumerate(MNIST.mirrors, 1):
                try:
                    download(mirror + name, root / "MNIST" / "raw" / name, md5)
                    break
                except (ConnectionError, ValueError):
                    if number == len(MNIST.mirrors):
                        raise


def refuse_folder(folder: Path, lacking: str) -> None:
    """Say before a download that its place is taken.

    Raises:
        ValueError: The folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists, but has no {lacking}; move it away and run this again")


def check_bsds500(root: Path) -> Row:
    """Count and decode the photographs."""
    from datamodules.files import not_found
    from datamodules.images import decode
    from datamodules.listing import find_pictures

    folder = root / "BSDS500" / "data" / "images"
    if not folder.is_dir():
        raise not_found("BSDS500", "BSDS500/data/images/{train,val,test}/*.jpg", root, "bsds500")
    counts = {
        part: find_pictures(folder / part).pictures if (folder / part).is_dir() else []
        for part in BSDS500_COUNTS
    }
    for photographs in counts.values():
        for path in photographs:
            decode(path, mode="RGB")
    found = {part: len(photographs) for part, photographs in counts.items()}
    if not any(found.values()):
        raise ValueError(f"{folder} holds no photographs")
    state: State = "complete" if found == BSDS500_COUNTS else "partial"
    return Row("bsds500", state, f"{' + '.join(map(str, found.values()))} photographs of 200 + 100 + 200")


def get_bsds500(root: Path) -> None:
    """Download and unpack the photographs."""
    from datamodules.files import atomic_folder, download

    archive = root / "BSR_bsds500.tgz"
    refuse_folder(root / "BSDS500", "data/images")
    try:
        download(BSDS500_URL, archive)
        with atomic_folder(root / "BSDS500") as part:
            with gzip.open(archive) as file:  # tarfile stops before the checksum at the end
                while file.read(1 << 20):
                    pass
            with tarfile.open(archive) as tar:
                inside = part.resolve()
                if strange := [
                    name for name in tar.getnames() if not (inside / name).resolve().is_relative_to(inside)
                ]:
                    raise tarfile.TarError(f"{strange[0]} lies outside")
                # Python before 3.11.4, such as Debian 12's, has no filters.
                safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(part, **safe)
            shutil.move(part / "BSR" / "BSDS500" / "data", part / "data")
            shutil.rmtree(part / "BSR")
    except (tarfile.TarError, EOFError, FileNotFoundError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{BSDS500_URL} sent no archive of BSDS500 ({error})") from error
    finally:
        archive.unlink(missing_ok=True)


def check_mnist_m(root: Path) -> Row:
    """Read the common release, or look for the generated set."""
    from datamodules.files import not_found
    from datamodules.layouts import find_mnist_m
    from datamodules.mnist_m import RELEASE_COUNTS, cache_path, find_backgrounds, load_release

    folder = find_mnist_m(root)
    if folder is not None:
        counts = tuple(len(load_release(folder, train=train)[1]) for train in (True, False))
        state: State = "complete" if counts == RELEASE_COUNTS else "partial"
        return Row("mnist-m", state, f"common release, {counts[0]:,} + {counts[1]:,} of 59,001 + 9,001")
    photographs, source = find_backgrounds(root)
    path = cache_path(root, photographs, 0)
    if not path.exists():
        raise not_found("MNIST-M", "mnist_m/ or a generated set", root, "mnist-m")
    # Else they are the package's, for want of BSDS500.
    state = "complete" if photographs[0].is_relative_to(root) else "partial"
    return Row("mnist-m", state, f"generated from MNIST and {source}, in {path}")


def get_mnist_m(root: Path) -> None:
    """Generate the set; its release has no lasting address."""
    from datamodules.mnist_m import load_generated

    if not (root / "mnist_m").is_dir():
        load_generated(root)


def check_usps(root: Path) -> Row:
    """Read both files."""
    from datamodules.usps import load_usps

    counts = [len(load_usps(root, part)[0]) for part in ("train", "test")]
    state: State = "complete" if counts == [7291, 2007] else "partial"
    return Row("usps", state, f"{counts[0]:,} + {counts[1]:,} digits of 7,291 + 2,007")


def get_usps(root: Path) -> None:
    """Download both files from where torchvision does."""
    from torchvision.datasets import USPS

    from datamodules.files import download

    for url, name, md5 in USPS.split_list.values():
        if not (root / "USPS" / name).is_file():
            download(url, root / "USPS" / name, md5)


def check_scene15(root: Path) -> Row:
    """Find all classes, decode each picture; audit for duplicates."""
    from datamodules.audit import audit, digests
    from datamodules.images import decode_all
    from datamodules.scene15 import Scene15DataModule

    listing = Scene15DataModule(root).find()
    train, test, split = listing.parts["train"], listing.parts["test"], listing.split
    decode_all((train + test).paths, mode="L", size=8)
    _, found = audit(train.labels, test.labels, digests((train + test).paths))
    published = (found.train, found.test) == (1500, 2985)
    detail = f"{found.train:,} + {found.test:,} images, {split}, {found.duplicate_pairs} identical pairs"
    return Row("scene15", "complete" if published else "partial", detail)


def get_scene15(root: Path) -> None:
    """Download and unpack the release of Lazebnik et al., one folder per class."""
    from datamodules.files import atomic_folder, download

    archive = root / "scene_categories.zip"
    refuse_folder(root / "15SceneData", "pictures of the classes")
    try:
        download(SCENE15_URL, archive, SCENE15_MD5)
        with atomic_folder(root / "15SceneData") as part, zipfile.ZipFile(archive) as file:
            file.extractall(part)
            inner = [entry for entry in part.iterdir() if entry.is_dir()]
            if len(inner) == 1:  # everything in one folder: bring it up
                for entry in inner[0].iterdir():
                    shutil.move(entry, part / entry.name)
                inner[0].rmdir()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{SCENE15_URL} sent no archive of 15 Scene ({error})") from error
    finally:
        archive.unlink(missing_ok=True)


def check_imagenet_samples(root: Path) -> Row:
    """Read the 25 images, or the folder of pictures."""
    from datamodules.imagenet_samples import ImageNetSamplesDataModule

    samples = ImageNetSamplesDataModule(root)
    samples.setup()
    return Row("imagenet-samples", "complete", f"{len(samples.data)} images in {samples.found}")


def get_imagenet_samples(root: Path) -> None:
    """Download the 25 images of the classic practical."""
    from datamodules.files import download

    path = root / "imagenet_val_25.npz"
    download(IMAGENET_25_URL, path)
    try:
        check_imagenet_samples(root)
    except ValueError:
        path.unlink()  # whatever was sent, it is not the file
        raise


def check_weights(root: Path, architectures: tuple[str, ...]) -> Row:
    """Open each weight file; those asked for must be among them."""
    from safetensors import SafetensorError, safe_open

    from datamodules.files import not_found

    paths = sorted((root / "weights").glob("*.safetensors"))
    if not paths:
        raise not_found("weights", "weights/<architecture>.safetensors", root, "weights")
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                if not list(file.keys()):
                    raise ValueError(f"{path} holds no tensors")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it") from error
    present = [path.stem for path in paths]
    if missing := [name for name in architectures if name not in present]:
        raise not_found(
            f"weights of {', '.join(missing)}", "weights/<architecture>.safetensors", root, "weights"
        )
    return Row("weights", "complete", ", ".join(present))


def get_weights(root: Path, architectures: tuple[str, ...]) -> None:
    """Download torchvision's ImageNet weights and keep them as safetensors."""
    import torchvision
    from safetensors.torch import save_file

    from datamodules.files import atomic_file

    for name in architectures:
        path = root / "weights" / f"{name}.safetensors"
        if not path.exists():
            try:
                weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1.get_state_dict(
                    check_hash=True, weights_only=True
                )
            except (OSError, RuntimeError) as error:  # no network; another hash than the name says
                raise ConnectionError(f"could not download the weights of {name} ({error})") from error
            with atomic_file(path) as part:
                save_file({key: value.contiguous() for key, value in weights.items()}, part)


def check_torchvision(root: Path, name: str) -> Row:
    """Open all parts."""
    from datamodules.torchvision_sets import open_part

    known = TORCHVISION[name]
    parts = {"train": known.train, "val": known.val, "test": known.test}
    counts = {
        part: len(open_part(name, root, keywords)) for part, keywords in parts.items() if keywords is not None
    }
    return Row(name, "complete", ", ".join(f"{count:,} {part}" for part, count in counts.items()))


def get_torchvision(root: Path, name: str) -> None:
    """Let torchvision download all parts; it checks what it gets."""
    from datamodules.torchvision_sets import open_part

    known = TORCHVISION[name]
    root.mkdir(parents=True, exist_ok=True)
    for keywords in (known.train, known.val, known.test):
        if keywords is not None:
            try:
                open_part(name, root, keywords, download=True)
            except (OSError, ValueError) as error:
                raise ConnectionError(f"could not download {name} ({error})") from error


def main(args: Args) -> list[Row]:
    """Prepare what is asked for, print the table, and return its rows."""
    root = Path(args.data_dir or os.environ.get("RDFIA_DATA") or "data").expanduser()
    if str(root) == "sample":
        raise ValueError("--data-dir sample is embedded and needs no preparing; name a folder")
    steps: dict[str, tuple[Callable[[Path], Row], Callable[[Path], None]]] = {
        "mnist": (check_mnist, get_mnist),
        "bsds500": (check_bsds500, get_bsds500),
        "mnist-m": (check_mnist_m, get_mnist_m),
        "usps": (check_usps, get_usps),
        "scene15": (check_scene15, get_scene15),
        "imagenet-samples": (check_imagenet_samples, get_imagenet_samples),
        "weights": (
            lambda root: check_weights(root, args.architectures),
            lambda root: get_weights(root, args.architectures),
        ),
    }
    for name in TORCHVISION:
        steps[name] = (partial(check_torchvision, name=name), partial(get_torchvision, name=name))
    rows = []
    for name, (check, get) in steps.items():
        if args.what != name and not (name in OWN and args.what in ("all", "check")):
            there = name in TORCHVISION and (root / TORCHVISION[name].place).exists()
            if not (args.what == "check" and there):
                continue
        try:
            rows.append(check(root))
        except FileNotFoundError as missing:
            problem = str(missing)
            if args.download and args.what != "check":
                try:
                    get(root)
                    rows.append(check(root))
                    continue
                except (ConnectionError, ValueError, FileNotFoundError) as error:
                    problem = str(error)
            rows.append(Row(name, "missing", problem))
        except ValueError as error:
            rows.append(Row(name, "broken", str(error)))
    for row in rows:
        print(f"{row.name:18}{row.state:10}{row.detail}")
    # Who looks may not need all of it.
    named = ("broken",) if args.what == "check" else ("missing", "broken")
    if bad := [row.name for row in rows if row.state in named]:
        raise ValueError(f"not ready in {root}: {', '.join(bad)}")
    return rows


if __name__ == "__main__":
    run_script(main, Args)
