"""Where each data set lies in a data folder. Without torch: that something is missing is said at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.files import data_root, not_found

IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
# libsvm's files, which torchvision downloads, and those of Hastie et al., with the same digits.
USPS = {"train": ("usps.bz2", "zip.train", "zip.train.gz"), "test": ("usps.t.bz2", "zip.test", "zip.test.gz")}


@dataclass(frozen=True)
class TorchvisionSet:
    """A data set that torchvision reads.

    Attributes:
        kind: Name of torchvision's class.
        place: What of it lies in the data folder.
        train: Keywords of the training part.
        test: Of the test part; None where there is no split, and one is drawn.
        val: Of an official validation part, None where there is none.
        module: What reads it, of `datamodules.torchvision_sets`.
    """

    kind: str
    place: str
    train: dict[str, Any] = field(default_factory=lambda: {"train": True})
    test: dict[str, Any] | None = field(default_factory=lambda: {"train": False})
    val: dict[str, Any] | None = None
    module: str = "TorchvisionDataModule"


def _files(kind: str, place: str, train: str, test: str, **more: Any) -> TorchvisionSet:
    """Return a set of files whose parts are called so."""
    module = "TorchvisionFilesDataModule"
    return TorchvisionSet(kind, place, {"split": train}, {"split": test}, module=module, **more)


def _emnist(split: str) -> TorchvisionSet:
    train, test = ({"split": split, "train": train} for train in (True, False))
    return TorchvisionSet("EMNIST", f"EMNIST/raw/emnist-{split}-train-images-idx3-ubyte", train, test)


TORCHVISION = {
    "fashion-mnist": TorchvisionSet("FashionMNIST", "FashionMNIST/raw"),
    "kmnist": TorchvisionSet("KMNIST", "KMNIST/raw"),
    "emnist-letters": _emnist("letters"),
    "emnist-balanced": _emnist("balanced"),
    "emnist-digits": _emnist("digits"),
    "cifar10": TorchvisionSet("CIFAR10", "cifar-10-batches-py"),
    "cifar100": TorchvisionSet("CIFAR100", "cifar-100-python"),
    "svhn": TorchvisionSet("SVHN", "train_32x32.mat", {"split": "train"}, {"split": "test"}),
    "stl10": TorchvisionSet("STL10", "stl10_binary", {"split": "train"}, {"split": "test"}),
    "flowers102": _files("Flowers102", "flowers-102", "train", "test", val={"split": "val"}),
    "oxford-iiit-pet": _files("OxfordIIITPet", "oxford-iiit-pet", "trainval", "test"),
    "food101": _files("Food101", "food-101", "train", "test"),
    "dtd": _files("DTD", "dtd/dtd", "train", "test", val={"split": "val"}),
    "gtsrb": _files("GTSRB", "gtsrb", "train", "test"),
    "fgvc-aircraft": _files("FGVCAircraft", "fgvc-aircraft-2013b", "trainval", "test"),
    "imagenette": _files("Imagenette", "imagenette2", "train", "val"),
    "eurosat": TorchvisionSet("EuroSAT", "eurosat/2750", {}, test=None, module="TorchvisionFilesDataModule"),
}


def find_torchvision(root: Path, name: str) -> Path:
    """Return the place of one of `TORCHVISION` in the data folder.

    Raises:
        FileNotFoundError: It is not there.
    """
    place = TORCHVISION[name].place
    if not (root / place).exists():
        raise not_found(name, place, root, name)
    return root / place


def find_idx(root: Path, name: str) -> Path:
    """Return the path of one of MNIST's four files, plain or gzipped, under ``root/MNIST/raw``.

    Raises:
        FileNotFoundError: Neither is there.
    """
    folder = root / "MNIST" / "raw"
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise not_found("MNIST", f"MNIST/raw/{name}[.gz]", root, "mnist")


def find_usps(root: Path, part: str) -> Path:
    """Return the path of one of the two files, in ``root/USPS`` or, as torchvision has it, in ``root``.

    Raises:
        FileNotFoundError: It is in neither.
    """
    for folder in (root / "USPS", root):
        for name in USPS[part]:
            if (folder / name).is_file():
                return folder / name
    first, other, _ = USPS[part]
    raise not_found("USPS", f"USPS/{first} or USPS/{other}[.gz]", root, "usps")


def find_mnist_m(root: Path) -> Path | None:
    """Return the folder of the common release of MNIST-M, or None: the set is generated then.

    Raises:
        FileNotFoundError: The release lacks a list of labels, or the folder of its pictures.
    """
    folder = root / "mnist_m"
    if not folder.is_dir():
        return None
    for part in ("train", "test"):
        if not (folder / f"mnist_m_{part}_labels.txt").is_file():
            raise not_found("MNIST-M", f"mnist_m/mnist_m_{part}_labels.txt", root, "mnist-m")
        if not (folder / f"mnist_m_{part}").is_dir():
            raise not_found("MNIST-M", f"mnist_m/mnist_m_{part}/*.png", root, "mnist-m")
    return folder


def find_scene15(root: Path) -> Path:
    """Return the folder of 15 Scene.

    Raises:
        FileNotFoundError: It is not there, or one half of its split is not.
    """
    folder = root / "15SceneData"
    if not folder.is_dir():
        layouts = "15SceneData/{train,test}/<class>/*.jpg, or 15SceneData/<class>/*.jpg"
        raise not_found("15 Scene", layouts, root, "scene15")
    parts = [part for part in ("train", "test") if not (folder / part).is_dir()]
    if len(parts) == 1:
        raise not_found("15 Scene", f"15SceneData/{parts[0]}/<class>/*.jpg", root, "scene15")
    return folder


def find_samples(root: Path) -> Path:
    """Return the npz file or the folder of ImageNet samples.

    Raises:
        FileNotFoundError: Neither is there.
    """
    for candidate in (root / "imagenet_val_25.npz", root / "imagenet-samples"):
        if candidate.exists():
            return candidate
    expected = "imagenet_val_25.npz or imagenet-samples/nXXXXXXXX_name.JPEG"
    raise not_found("ImageNet samples", expected, root, "imagenet-samples")


def _mnist(root: Path) -> None:
    for name in IDX:
        find_idx(root, name)


def _mnist_m(root: Path) -> None:
    if find_mnist_m(root) is None:
        _mnist(root)


def _usps(root: Path) -> None:
    for part in USPS:
        find_usps(root, part)


FIND: dict[str, Callable[[Path], object]] = {
    "mnist": _mnist,
    "mnist-m": _mnist_m,
    "usps": _usps,
    "scene15": find_scene15,
    "imagenet-samples": find_samples,
}


def check_there(data_dir: Path | str | None, names: tuple[str, ...], labels: dict[str, Any]) -> None:
    """Check that data sets lie in the data folder, or what they are made of, and that own folders are whole.

    Args:
        data_dir: The data folder.
        names: Of data sets, or folders or lists of pictures, told by a slash.
        labels: Of a folder, whether it needs classes, see `datamodules.listing.list_folder`; it does if
            nothing is said.

    Raises:
        FileNotFoundError: One does not, or there is no such folder.
        ValueError: A folder lacks what it should hold.
    """
    # Imported here: names of data sets need no numpy.
    from datamodules.listing import check_counts, open_listing

    for name in names:
        if "/" in name:
            path = Path(name).expanduser()
            check_counts(path, open_listing(path, labels.get(name, "required")))
        elif name in FIND:
            FIND[name](data_root(data_dir))
        elif name in TORCHVISION:
            find_torchvision(data_root(data_dir), name)
