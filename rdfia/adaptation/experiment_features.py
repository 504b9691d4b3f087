"""Features of a pretrained network in place of images: extracted once, in several views of each image."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.domain_pair import DomainPairDataModule
from datamodules.features import FeatureDataModule, FeatureTensors
from datamodules.files import weights_root
from datamodules.in_memory import InMemoryDataModule
from datamodules.tensors import ImageTensors, describe
from rdfia.adaptation.config import Args
from rdfia.adaptation.trunk import Trunk
from rdfia.common.draws import drawn
from rdfia.common.features import compute_features, load_cached, save_cached
from rdfia.common.views import random_views
from rdfia.engine import devices

SMALLEST = 0.35  # part of an image that a view shows at least


class Extraction:
    """What a pretrained network makes of images: each set of them once, cached on disk.

    Args:
        trunk: Up to which layer.
        views: Of each image, the first of which is the image as it is.
        device: Where features are computed.
        cache: Folder; None for none.
    """

    def __init__(self, trunk: Trunk, views: int, device: torch.device, cache: Path | None) -> None:
        self.trunk, self.views, self.device, self.cache = trunk, views, device, cache
        trunk.network.to(memory_format=torch.channels_last)
        trunk.network.to(device)
        self.done: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, data: ImageTensors) -> Tensor:
        """Return features (N, V, F) of images, on the CPU."""
        pixels = data.pixels
        if id(pixels) not in self.done:  # several parts of a data set may be rows of the same pixels
            self.done[id(pixels)] = (
                pixels,
                self.extract(
                    ImageTensors(pixels, torch.zeros(len(pixels)).long(), channels=3, size=data.size)
                ),
            )
        every = self.done[id(pixels)][1]
        return every if data.rows is None else every[data.rows.to(every.device)]

    def extract(self, images: ImageTensors) -> Tensor:
        """Return features (N, V, F) of all images."""
        count = len(images)
        recipe: dict[str, Any] = {
            "version": 1,
            "backbone": self.trunk.network.name,
            "layer": self.trunk.layer,
            "weights": self.trunk.weights_hash,
            "images": describe("", images=images)["sha256"],
            "views": self.views,
            "smallest": SMALLEST,
            "device": self.device.type,
            "torch": torch.__version__,
        }
        features = load_cached(self.cache, recipe)
        if features is None:
            numbers = torch.stack([drawn(count, 5, (0, view)) for view in range(self.views)])

            def seen(places: Tensor) -> Tensor:
                rows, view = places % count, places // count
                found = images[rows][0].to(self.device, memory_format=torch.channels_last)
                draws = numbers[view, rows].to(self.device)
                changed = random_views(found, (), smallest=SMALLEST, numbers=draws)
                whole = (view == 0).to(self.device)[:, None, None, None]
                return torch.where(whole, found, changed)

            everything = torch.arange(count * self.views)
            computed = compute_features(
                self.trunk.network, seen, everything, [self.trunk.layer], grids=(1,), progress=True
            )
            features = (
                computed[self.trunk.layer].cpu().view(self.views, count, -1).transpose(0, 1).contiguous()
            )
            save_cached(self.cache, recipe, features)
        return features.clone()  # of what is mapped from the cache


def precomputed(args: Args, pair: DomainPairDataModule) -> DomainPairDataModule:
    """Return the features of two domains, of which ``pair`` has the images and is set up."""
    assert args.image_size is not None
    assert args.network is not None
    root = weights_root(args.data_dir)
    where: dict[str, Any] = {"weights": args.weights, "data_dir": None if root is None else str(root)}
    trunk = Trunk(args.network, trained="none", image_size=args.image_size, **where)
    device = torch.device(devices.accelerator_of(args))
    cache = None if args.fast_dev_run else args.cache_dir.expanduser()
    extraction = Extraction(trunk, args.views, device, cache)
    about = {
        "network": args.network,
        "weights": trunk.weights_hash,
        "views": args.views,
        "width": trunk.width,
    }

    def features_of(domain: InMemoryDataModule) -> FeatureDataModule:
        parts: dict[str, FeatureTensors] = {}
        for part in ("train", "val", "test"):
            data: ImageTensors = getattr(domain, f"{part}_data")
            found = extraction.of(data)
            parts[part] = FeatureTensors(found if part == "train" else found[:, 0], data.labels)
        return FeatureDataModule(domain, parts, about)

    return DomainPairDataModule(
        features_of(pair.source),
        features_of(pair.target),
        shared_classes=pair.shared_classes,
        open_set=pair.open_set,
        batch_size=args.batch_size,
    )
