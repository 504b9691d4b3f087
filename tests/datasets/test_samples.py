"""The embedded sample and the package: small, described, and importable with nothing around."""

import subprocess
import sys

import torch
from safetensors.torch import load_file
from torchvision.models import squeezenet1_1

from datamodules.files import SAMPLES
from datamodules.imagenet_samples import ImageNetSamplesDataModule


def test_every_item_is_described_and_all_are_small():
    described = (SAMPLES / "README.md").read_text()
    items = [path for path in SAMPLES.rglob("*") if path.is_file() and path.name != "README.md"]
    assert sum(path.stat().st_size for path in items) < 8e6
    for path in items:
        place = path.parent if path.suffix == ".gz" else path
        assert place.name in described, path


def test_squeezenet_recognises_the_sample():
    """Kernels, bias, channel order and preprocessing all have to be right for this."""
    weights = load_file(SAMPLES / "weights" / "squeezenet1_1.safetensors")
    network = squeezenet1_1()
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    samples = ImageNetSamplesDataModule("sample")
    samples.setup()
    images, _ = next(iter(samples.test_dataloader()))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    top = network.eval()((images - mean) / std).topk(3).indices.tolist()
    assert 281 in top[0]  # tabby, after Egyptian cat and tiger cat
    assert 657 in top[1]  # missile
    assert top[2][0] == 967  # espresso


def test_importing_the_packages_loads_nothing():
    code = "import sys, rdfia, datamodules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", timeout=60).returncode == 0
