"""The benchmark of decoding photographs: our data modules beside torchvision's ImageFolder and DataLoader."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import Args

if TYPE_CHECKING:
    from datamodules.folder import ImageFolderDataModule

SIZE, WORKERS, BATCH = 224, 2, 32


def usual_epochs(folder: Path, epochs: int) -> list[float]:
    """Return the seconds of epochs through torchvision's loader."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    shaped = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    images = datasets.ImageFolder(str(folder), shaped)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS)
    seconds = []
    for _ in range(epochs):
        started, count = time.perf_counter(), 0
        for batch, _ in loader:
            count += len(batch)
        assert count == len(images)
        seconds.append(time.perf_counter() - started)
    return seconds


def our_epochs(make: Callable[[], "ImageFolderDataModule"], epochs: int) -> list[float]:
    """Return the seconds of epochs through a data module; the first with listing, audit and decoding."""
    started, seconds = time.perf_counter(), []
    data = make()
    data.prepare_data()
    data.setup()
    for _ in range(epochs):
        count = 0
        for loader in (data.train_dataloader(), data.test_dataloader()):
            for batch, _ in loader:
                count += len(batch)
        assert count > len(data.train_data) - BATCH  # the incomplete last batch is left out
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    return seconds


def own_memory() -> float:
    """Return the GB of memory of this process that are not mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("RssAnon"))


def linked(pictures: list[Path], folder: Path, name: Callable[[Path], str]) -> Path:
    """Return a folder of links to pictures, by class."""
    for picture in pictures:
        place = folder / name(picture) / picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(picture.resolve())
    return folder


def measure_decoding(args: Args) -> dict[str, Any]:
    """Measure both in turns, on 15 Scene and on ImageNet samples; ours from memory and from a mapped file."""
    from datamodules.files import data_root
    from datamodules.folder import ImageFolderDataModule
    from datamodules.listing import find_pictures
    from rdfia.common.memory import give_back_memory

    root = data_root(args.data_dir)
    samples = find_pictures(root / "imagenet-samples").pictures
    scenes = find_pictures(root / "15SceneData").pictures
    results: dict[str, Any] = {"workers": WORKERS, "image_size": SIZE}
    with tempfile.TemporaryDirectory() as place:
        all_of = Path(place)
        by_scene = linked(
            [path for path in scenes if path.parent.parent.name == "train"],
            all_of / "train_scenes",
            lambda path: path.parent.name,
        )
        # Ten classes of 25, of 250 classes of one.
        index = {path: number % 10 for number, path in enumerate(samples)}
        by_class = linked(samples, all_of / "samples", lambda path: f"class {index[path]}")
        options: dict[str, Any] = {"batch_size": BATCH, "train_on_val": True, "image_size": SIZE}
        makers: dict[str, tuple[Path, Callable[[], ImageFolderDataModule]]] = {
            "imagenet_samples": (by_class, lambda: ImageFolderDataModule(by_class, **options)),
            "scene15": (by_scene, lambda: ImageFolderDataModule(by_scene, channels=1, **options)),
            "imagenet_samples_mapped": (
                by_class,
                lambda: ImageFolderDataModule(
                    by_class, memory_gb=1e-9, cache_dir=tempfile.mkdtemp(dir=place), **options
                ),
            ),
        }
        for name, (folder, make) in makers.items():
            usual, ours = [], []
            for _ in range(args.repeats):
                usual.append(usual_epochs(folder, 2))
                ours.append(our_epochs(make, 3))
            first = [a[0] / b[0] for a, b in zip(usual, ours, strict=True)]
            later = [a[1] / b[2] for a, b in zip(usual, ours, strict=True)]
            results |= {
                f"{name}_images": sum(1 for _ in folder.glob("*/*")),
                f"{name}_usual_seconds": round(median(one[1] for one in usual), 3),
                f"{name}_our_first_seconds": round(median(one[0] for one in ours), 3),
                f"{name}_our_later_seconds": round(median(one[2] for one in ours), 4),
                f"{name}_first_times_as_fast": round(median(first), 2),
                f"{name}_later_times_as_fast": round(median(later), 1),
            }
            give_back_memory()
            results[f"{name}_memory_gb"] = round(own_memory(), 2)
    return results
