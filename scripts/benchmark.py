"""Measure our code beside the usual one, both in this run, on this machine.

Examples:
    python scripts/benchmark.py data --data-dir /path/to/data
    python scripts/benchmark.py svm --data-dir /path/to/data
    python scripts/benchmark.py dann --data-dir /path/to/data
    python scripts/benchmark.py gan --data-dir /path/to/data

data: MNIST batches of 128, float in [0, 1], through our loader and through torchvision's MNIST with ToTensor
and a DataLoader with 2 workers; and the time to generate MNIST-M.

svm: features of VGG16's pool5, and of relu5_3 and pool5, on 15 Scene, from the files on, by us (bf16) and
by the usual loop (ImageFolder, DataLoader with 2 workers, float32, one pass a layer); then a sweep of 8
values of C, fit and test, by us and by scikit-learn's SVC on the features, whose predictions are compared.

dann: training steps of train_dann.py (bf16, through Lightning, with logging), beside the same steps written
without Lightning, and beside the usual loop (torchvision datasets, PIL, ToTensor, a DataLoader with 2 workers
for each domain, float32) on the same network and batches of 128 + 128.

gan: training steps of train_gan.py --preset practical, beside the same steps without Lightning and beside the
loop of PyTorch's DCGAN tutorial, all in float32; and our steps in bf16.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rdfia.command_line import run_script

if TYPE_CHECKING:
    import lightning

    from datamodules.tensors import ImageTensors
    from rdfia.command_line import Precision

BATCH_SIZE = 128
WARM = 5  # steps before those that count


@dataclass(frozen=True)
class Args:
    """Measure our code beside the usual one."""

    what: Annotated[Literal["data", "svm", "dann", "gan"], tyro.conf.Positional] = "data"
    """What to measure."""
    data_dir: Path | None = None
    """Data folder, or `sample`; else $RDFIA_DATA, else ./data."""
    repeats: int = 3
    """Passes over the data; the median counts."""
    images: int = 256
    """svm: photographs of which features are extracted in turns."""
    steps: int = 60
    """dann, gan: training steps in a turn, after 5 that do not count."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "rdfia" / "features"
    """svm: where train_svm.py keeps features."""
    output: Path | None = None
    """Where the figures go; results/benchmark_<what>.json by default."""


def images_per_second(loader: Iterable[Any]) -> float:
    """Return how many images a second come out of a loader in one pass."""
    count, started = 0, time.perf_counter()
    for images, _ in loader:
        count += len(images)
    return count / (time.perf_counter() - started)


def unpack_mnist(root: Path, folder: Path) -> None:
    """Write MNIST's files to ``folder``, decompressed: torchvision reads no others."""
    from datamodules.mnist import OFFICIAL_MD5, find_idx, read_bytes

    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in OFFICIAL_MD5:
        (raw / name).write_bytes(read_bytes(find_idx(root, name)))


def usual_mnist(root: Path, folder: Path) -> Any:
    """Return torchvision's loader of the same digits."""
    import torchvision
    from torch.utils.data import DataLoader

    unpack_mnist(root, folder)
    digits = torchvision.datasets.MNIST(folder, transform=torchvision.transforms.ToTensor())
    return DataLoader(digits, batch_size=BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)


def measure_data(args: Args) -> dict[str, Any]:
    """Measure loaders in turns."""
    from datamodules.files import data_root
    from datamodules.mnist import MNISTDataModule
    from datamodules.mnist_m import find_backgrounds, generate

    root = data_root(args.data_dir)
    digits = MNISTDataModule(args.data_dir, batch_size=BATCH_SIZE, train_on_val=True)
    digits.setup()
    ours, usual = [], []
    with tempfile.TemporaryDirectory() as folder:
        loader = usual_mnist(root, Path(folder))
        for _ in range(args.repeats):
            ours.append(images_per_second(digits.train_dataloader()))
            usual.append(images_per_second(loader))
    photographs, source = find_backgrounds(root)
    seconds = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        made = generate(root, photographs, seed=0)
        seconds.append(time.perf_counter() - started)
    return {
        "images": len(digits.train_data),
        "our_images_per_second": round(median(ours)),
        "usual_images_per_second": round(median(usual)),
        "times_as_fast": round(median(a / b for a, b in zip(ours, usual, strict=True)), 1),
        "mnist_m_images": len(made["train_images"]) + len(made["test_images"]),
        "mnist_m_backgrounds": source,
        "mnist_m_seconds": round(median(seconds), 2),
    }


def seconds_of(work: Callable[[], Any]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(repeats: int, work: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return the seconds that each kind of work says it took, in each of the turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            times[name].append(run())
        print({name: round(values[-1], 4) for name, values in times.items()}, flush=True)
    return times


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the turns of one time divided by another."""
    return round(median(a / b for a, b in zip(above, below, strict=True)), 2)


def usual_features(folder: Path, networks: list[Any], count: int) -> None:
    """Extract features as the practicals do: ImageFolder, PIL, DataLoader, float32, one pass a layer."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    steps = [transforms.Resize((224, 224)), transforms.ToTensor()]
    steps += [transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    photographs = datasets.ImageFolder(folder, transforms.Compose(steps))
    some = Subset(photographs, list(range(0, len(photographs), -(-len(photographs) // count))))
    for network in networks:
        features = []
        with torch.no_grad():
            for images, _ in DataLoader(some, batch_size=32, num_workers=2):
                features.append(network(images).flatten(1))
        torch.cat(features)


def measure_svm(args: Args) -> dict[str, Any]:
    """Measure extraction and the sweep over C; compare every prediction."""
    import lightning
    import torch
    import torchvision
    from sklearn.svm import SVC

    from datamodules.files import data_root
    from datamodules.images import decode_all
    from datamodules.scene15 import Scene15DataModule
    from datamodules.tensors import ImageTensors
    from rdfia.backbones import load_backbone
    from rdfia.feature_extractor_svm import FeatureExtractorSVM
    from rdfia.features import compute_features, open_layers
    from rdfia.linear_svm import c_grid, fit_svm, gram_matrix

    root = data_root(args.data_dir)
    scenes = Scene15DataModule(args.data_dir, train_on_val=True, shuffle=False, batch_size=32)
    scenes.setup()
    backbone = load_backbone("vgg16", data_dir=root)
    usual = torchvision.models.vgg16(weights=None).eval()
    usual.features.load_state_dict(backbone.network.features.state_dict())
    pool5, relu5_3 = usual.features, usual.features[:-1]
    backbone = backbone.to(memory_format=torch.channels_last)
    files = [path for path, _ in sorted(scenes.test_files)]
    chosen = files[:: -(-len(files) // args.images)]

    def batches_of(pixels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        photographs = ImageTensors(pixels, torch.zeros(len(pixels)), channels=3)
        return lambda places: photographs[places][0].contiguous(memory_format=torch.channels_last)

    def ours(layers: list[str]) -> None:
        images = batches_of(decode_all(chosen, mode="L", size=224))
        compute_features(backbone, images, torch.arange(len(chosen)), layers, dtype=torch.bfloat16)

    def bare() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for batch in batches:
                backbone.network.features(batch)

    batches = torch.rand(len(chosen), 3, 224, 224).contiguous(memory_format=torch.channels_last).split(32)
    folder = root / "15SceneData" / "test"
    work: dict[str, Callable[[], None]] = {
        "our_pool5": lambda: ours(["pool5"]),
        "bare_forward": bare,
        "usual_pool5": lambda: usual_features(folder, [pool5], args.images),
        "our_relu5_3_and_pool5": lambda: ours(["relu5_3", "pool5"]),
        "usual_relu5_3_and_pool5": lambda: usual_features(folder, [relu5_3, pool5], args.images),
    }
    each = {name: lambda run=run: seconds_of(run) / len(chosen) for name, run in work.items()}
    times = in_turns(args.repeats, each)

    pixels = torch.cat([scenes.train_data.images, scenes.test_data.images])
    count = len(pixels)
    layer = open_layers(
        backbone,
        batches_of(pixels),
        count,
        ["pool5"],
        images_hash=scenes.describe()["sha256"],
        memory=1e9,
        cache=args.cache_dir.expanduser(),
        dtype=torch.bfloat16,
    )["pool5"]
    both = torch.nn.functional.normalize(layer.features(slice(None)).float())
    train, test = both.split([len(scenes.train_data), len(scenes.test_data)])
    labels, true = scenes.train_data.labels, scenes.test_data.labels
    started = time.perf_counter()
    gram = gram_matrix(both.__getitem__, count)
    inside, across = gram[: len(train), : len(train)], gram[len(train) :, : len(train)]
    gram_seconds = time.perf_counter() - started
    grid = c_grid(inside)
    started = time.perf_counter()
    found = [fit_svm(inside, labels, c).predict(across) for c in grid]
    our_seconds = time.perf_counter() - started
    module = FeatureExtractorSVM(backbone="vgg16", layers=["pool5"], data_dir=str(root))
    rows, references, usual_seconds = [], [], 0.0
    for c, predictions in zip(grid, found, strict=True):
        started = time.perf_counter()
        machine = SVC(kernel="linear", C=c, decision_function_shape="ovo").fit(train, labels)
        reference = torch.from_numpy(machine.predict(test))
        usual_seconds += time.perf_counter() - started
        references.append(reference)
        module.c = c
        module.fit_features(train, labels)
        assert module.classifier is not None
        plain = module.classifier.predict(test)
        differ = (predictions != reference) | (plain != reference)
        # how near to one of its planes an image lies that we and scikit-learn judge differently
        near = [abs(machine.decision_function(test[[n]])).min() for n in differ.nonzero()[:, 0].tolist()]
        rows.append(
            {
                "c": c,
                "accuracy": (predictions == true).double().mean().item(),
                "scikit_learn_accuracy": (reference == true).double().mean().item(),
                "differ_from_scikit_learn": int((predictions != reference).sum()),
                "plain_weights_differ": int((plain != reference).sum()),
                "largest_distance_of_those": float(max(near, default=0.0)),
            }
        )
        print(rows[-1], flush=True)
    middle = len(grid) // 2
    module.c = grid[middle]
    module.fit_features(train, labels)
    with tempfile.TemporaryDirectory() as place:
        trainer = lightning.Trainer(
            accelerator="cpu", precision="bf16-mixed", logger=False, default_root_dir=place
        )
        trainer.strategy.connect(module)
        trainer.save_checkpoint(Path(place) / "svm.ckpt")
        loaded = FeatureExtractorSVM.load_from_checkpoint(Path(place) / "svm.ckpt", weights_only=True)
        told = torch.cat(trainer.predict(loaded, scenes.test_dataloader()) or [])
    return {
        "photographs_in_turns": len(chosen),
        **{f"{name}_seconds_an_image": round(median(values), 4) for name, values in times.items()},
        "pool5_times_as_fast": ratio(times["usual_pool5"], times["our_pool5"]),
        "relu5_3_and_pool5_times_as_fast": ratio(
            times["usual_relu5_3_and_pool5"], times["our_relu5_3_and_pool5"]
        ),
        "our_pool5_over_bare_forward": ratio(times["our_pool5"], times["bare_forward"]),
        "gram_seconds": round(gram_seconds, 2),
        "our_sweep_seconds": round(our_seconds, 2),
        "scikit_learn_sweep_seconds": round(usual_seconds, 1),
        "sweep_times_as_fast": round(usual_seconds / our_seconds),
        "sweep_times_as_fast_with_the_gram_matrix": round(usual_seconds / (our_seconds + gram_seconds)),
        "test_images": len(true),
        "sweep": rows,
        "reloaded_checkpoint_c": grid[middle],
        "reloaded_checkpoint_differs": int((told != references[middle]).sum()),
    }


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


def seconds_a_batch(
    module: "lightning.LightningModule",
    digits: "lightning.LightningDataModule",
    steps: int,
    monitor: str,
    precision: "Precision",
) -> float:
    """Return how long a batch takes in a script's own trainer: through Lightning, with logging."""
    import lightning

    from rdfia import training
    from rdfia.command_line import TrainerArgs

    class Clock(lightning.Callback):
        def on_train_batch_start(self, *step: Any) -> None:
            if step[-1] == WARM:
                self.started = time.perf_counter()
            if step[-1] == WARM + steps:
                self.ended = time.perf_counter()

    clock = Clock()
    two_optimizers = not module.automatic_optimization
    with tempfile.TemporaryDirectory() as place:
        flags = TrainerArgs(accelerator="cpu", precision=precision, max_epochs=1)
        trainer = training.make_trainer(
            flags, Path(place), monitor=monitor, mode="max", callbacks=[clock], two_optimizers=two_optimizers
        )
        trainer.fit_loop.epoch_loop.max_steps = (WARM + steps + 1) * (1 + two_optimizers)
        trainer.fit(module, digits)
    return (clock.ended - clock.started) / steps


def checked_steps(args: Args, images: int) -> int:
    """Return how many steps are measured, if an epoch has as many."""
    most = images // BATCH_SIZE - WARM - 1
    if args.steps > most:
        raise ValueError(f"--steps is at most {most} on this data")
    return args.steps


def step_figures(times: dict[str, list[float]], images: int, steps: int) -> dict[str, Any]:
    """Return what there is to say of steps of ours, bare ones and usual ones."""
    return {
        "steps": steps,
        **{f"{name}_step_seconds": round(median(values), 4) for name, values in times.items()},
        **{f"{name}_images_per_second": round(images / median(values)) for name, values in times.items()},
        "times_as_fast_as_usual": ratio(times["usual"], times["our"]),
        "over_bare_step": ratio(times["our"], times["bare"]),
    }


def measure_dann(args: Args) -> dict[str, Any]:
    """Measure training steps in turns."""
    import torch
    from torch.nn import functional

    from datamodules.files import data_root
    from datamodules.mnist_to_mnist_m import MNISTToMNISTMDataModule
    from rdfia.dann import (
        DANNModule,
        DomainAdversarialNetwork,
        domain_loss,
        ganin,
        reverse_gradient,
        standardized,
    )
    from rdfia.optimization import update_average

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
        told = [network.tell_domain(reverse_gradient(part, ganin(progress))) for part in features]
        loss = functional.cross_entropy(network.classifier(features[0]).float(), labels)
        optimizer.zero_grad()
        (loss + domain_loss(*told)).backward()
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
            with torch.autocast("cpu", torch.bfloat16):
                train_step(module.network, module.network.extract, optimizer, batch, step / (WARM + steps))
            assert module.average is not None
            update_average(module.average, module.network, 0.999, step)
        return (time.perf_counter() - started) / steps

    def ours() -> float:
        torch.manual_seed(0)
        return seconds_a_batch(DANNModule(), digits, steps, "val/source_accuracy", "bf16-mixed")

    def usual() -> float:
        torch.manual_seed(0)
        module = DANNModule(average_decay=0.0)
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


def measure_gan(args: Args) -> dict[str, Any]:
    """Measure training steps of the practicals' DCGAN in turns, the usual loop being PyTorch's tutorial."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from datamodules.files import data_root
    from datamodules.mnist import MNISTDataModule
    from rdfia.gan import PRACTICAL, GANModule, discriminator_loss, generator_loss
    from rdfia.optimization import update_average

    digits = MNISTDataModule(args.data_dir, batch_size=BATCH_SIZE, image_size=32, train_on_val=True)
    digits.setup()
    steps = checked_steps(args, len(digits.train_data))

    def ours(precision: "Precision" = "float32") -> float:
        torch.manual_seed(0)
        return seconds_a_batch(GANModule(**PRACTICAL), digits, steps, "val/judge_fid", precision)

    def bare() -> float:
        torch.manual_seed(0)
        module = GANModule(**PRACTICAL)
        generator, discriminator = module.generator, module.discriminator
        d_optimizer, g_optimizer = module.configure_optimizers()
        for step, (images, _) in enumerate(digits.train_dataloader()):
            if step == WARM:
                started = time.perf_counter()
            if step == WARM + steps:
                break
            fake = generator(module.draw(len(images), 1, step))
            d_loss = discriminator_loss(discriminator(images * 2 - 1), discriminator(fake.detach()))
            d_optimizer.zero_grad()
            d_loss.backward()
            d_optimizer.step()
            discriminator.requires_grad_(False)
            g_loss = generator_loss(discriminator(fake))
            g_optimizer.zero_grad()
            g_loss.backward()
            g_optimizer.step()
            discriminator.requires_grad_(True)
            update_average(module.average_generator, generator, 0.0, step)
        return (time.perf_counter() - started) / steps

    def usual() -> float:
        torch.manual_seed(0)
        module = GANModule(**PRACTICAL)
        generator = module.generator
        discriminator = nn.Sequential(module.discriminator, nn.Sigmoid())
        cross_entropy = nn.BCELoss()
        d_optimizer, g_optimizer = module.configure_optimizers()
        ones, zeros = torch.ones(BATCH_SIZE), torch.zeros(BATCH_SIZE)
        for step, (images, _) in enumerate(loader):
            if step == WARM:
                started = time.perf_counter()
            discriminator.zero_grad()
            cross_entropy(discriminator(images), ones).backward()
            fake = generator(torch.randn(len(images), 100))
            cross_entropy(discriminator(fake.detach()), zeros).backward()
            d_optimizer.step()
            generator.zero_grad()
            cross_entropy(discriminator(fake), ones).backward()
            g_optimizer.step()
            if step == WARM + steps - 1:
                break
        return (time.perf_counter() - started) / steps

    prepared = [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
    with tempfile.TemporaryDirectory() as folder:
        unpack_mnist(data_root(args.data_dir), Path(folder))
        photographs = datasets.MNIST(folder, transform=transforms.Compose(prepared))
        loader = DataLoader(photographs, BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)
        work = {"our": ours, "bare": bare, "usual": usual, "our_bf16": lambda: ours("bf16-mixed")}
        times = in_turns(args.repeats, work)
    return step_figures(times, BATCH_SIZE, steps)


def main(args: Args) -> dict[str, Any]:
    """Measure, print and write the figures."""
    import torch

    from rdfia.runs import git_commit, write_json

    commit = git_commit()  # before anything changes
    measures = {"data": measure_data, "svm": measure_svm, "dann": measure_dann, "gan": measure_gan}
    measured = measures[args.what](args)
    results = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit,
        "device": f"CPU, {torch.get_num_threads()} threads",
        **measured,
    }
    write_json(args.output or Path("results") / f"benchmark_{args.what}.json", results)
    for name, value in results.items():
        if not isinstance(value, list):
            print(f"{name:42}{value}")
    return results


if __name__ == "__main__":
    run_script(main, Args)
