"""The benchmark of DANN's training step."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    BATCH_SIZE,
    HALF,
    PRECISION,
    WARM,
    Args,
    checked_steps,
    in_turns,
    seconds_a_batch,
    step_figures,
    unpack_mnist,
)

if TYPE_CHECKING:
    from datamodules.tensors import ImageTensors


def usual_pairs(root: Path, folder: Path, target: "ImageTensors", count: int) -> list[Any]:
    """Return loaders as the usual loop has them: torchvision's MNIST, ``count`` PNG files of MNIST-M."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    for number, label in enumerate(target.labels[:count].tolist()):
        path = folder / "mnist_m" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(target.images[number].permute(1, 2, 0).numpy()).save(path)
    grey = transforms.Compose([transforms.Grayscale(3), transforms.ToTensor()])
    unpack_mnist(root, folder)
    digits = datasets.MNIST(folder, transform=grey)
    coloured = datasets.ImageFolder(folder / "mnist_m", transforms.ToTensor())
    torch.manual_seed(0)
    loading: dict[str, Any] = {"batch_size": BATCH_SIZE, "shuffle": True, "num_workers": 2, "drop_last": True}
    return [DataLoader(digits, **loading), DataLoader(coloured, **loading)]


def measure_dann(args: Args) -> dict[str, Any]:
    """Measure training steps in turns."""
    import torch
    from torch.nn import functional

    from datamodules.files import data_root
    from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
    from rdfia.adaptation.dann import DANNModule
    from rdfia.adaptation.losses import domain_loss, ganin, reverse_gradient
    from rdfia.adaptation.network import DomainAdversarialNetwork, standardized
    from rdfia.common.optimization import average_weight, update_average

    root = data_root(args.data_dir)
    digits = MNISTToMNISTMDataModule(args.data_dir, batch_size=BATCH_SIZE, image_size=28)
    digits.setup()
    steps = checked_steps(args, len(digits.target.train_data))

    def train_step(
        network: DomainAdversarialNetwork, extract: Any, optimizer: Any, batch: Any, progress: float
    ) -> None:
        """Make the step of `DANNModule`, but for what is only logged, such as the target's predictions."""
        (source, labels), (target, _) = batch["source"], batch["target"]
        features = [extract(source), extract(target)]
        domain_logits = [network.tell_domain(reverse_gradient(part, ganin(progress))) for part in features]
        loss = functional.cross_entropy(network.classifier(features[0]).float(), labels)
        optimizer.zero_grad()
        (loss + domain_loss(*domain_logits)).backward()
        optimizer.step()

    def bare() -> float:
        torch.manual_seed(0)
        module = DANNModule()
        optimizer = module.configure_optimizers()
        for step, (batch, _, _) in enumerate(digits.train_dataloader()):
            if step == WARM:
                started = time.perf_counter()
            if step == WARM + steps:
                break
            with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
                train_step(module.network, module.network.extract, optimizer, batch, step / (WARM + steps))
            assert module.average is not None
            update_average(module.average, module.network, average_weight(0.999, step))
        return (time.perf_counter() - started) / steps

    def ours() -> float:
        torch.manual_seed(0)
        return seconds_a_batch(DANNModule(), digits, steps, "val/source_accuracy", PRECISION)

    def usual() -> float:
        torch.manual_seed(0)
        module = DANNModule(ema_decay=0.0)
        network = module.network.to(memory_format=torch.contiguous_format)
        optimizer = module.configure_optimizers()

        def extract(images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = network.features(standardized(images))  # no channels_last
            return features

        for step, (source, target) in enumerate(zip(*loaders, strict=False)):
            if step == WARM:
                started = time.perf_counter()
            batch = {"source": source, "target": target}
            train_step(network, extract, optimizer, batch, step / (WARM + steps))
            if step == WARM + steps - 1:
                break
        return (time.perf_counter() - started) / steps

    with tempfile.TemporaryDirectory() as folder:
        count = (WARM + steps) * BATCH_SIZE
        loaders = usual_pairs(root, Path(folder), digits.target.train_data, count)
        times = in_turns(args.repeats, {"our": ours, "bare": bare, "usual": usual})
    return step_figures(times, 2 * BATCH_SIZE, steps)
