"""What the benchmarks share: flags, turns, and how long a training step takes."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rdfia.common.environment import has_bfloat16_cpu
from rdfia.engine.args import DataDir, default

if TYPE_CHECKING:
    import lightning

    from rdfia.engine.args import Precision

BATCH_SIZE = 128
HALF = has_bfloat16_cpu()  # what has no such instructions takes six times as long, and is not measured in it
PRECISION: "Precision" = "bf16-mixed" if HALF else "float32"
WARM = 5  # steps before those that count


@dataclass(frozen=True)
class Args:
    """Measure our code beside the usual one."""

    what: Annotated[
        Literal["data", "decoding", "svm", "dann", "photographs", "gan", "gan-sizes", "seeing", "ddp"],
        tyro.conf.Positional,
    ] = "data"
    """What to measure."""
    data_dir: DataDir = None
    """Data folder, or `sample`."""
    repeats: int = 3
    """Passes over the data; the median counts."""
    images: int = 256
    """svm: photographs of which features are extracted in turns."""
    steps: int = 60
    """Of a turn: training steps after 5 (photographs: 2) that do not count; seeing: to draw a class."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdfia" / "features"
    """svm: where train_svm.py keeps features."""
    output: Annotated[Path | None, default("runs/benchmark_<what>.json")] = None
    """Where the figures go."""


def unpack_mnist(root: Path, folder: Path) -> None:
    """Write MNIST's files to ``folder``, decompressed: torchvision reads no others."""
    from datamodules.layouts import find_idx
    from datamodules.mnist import OFFICIAL_MD5, read_bytes

    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in OFFICIAL_MD5:
        (raw / name).write_bytes(read_bytes(find_idx(root, name)))


def random_images(count: int, size: int, batch_size: int) -> Any:
    """Return a data module of random pixels in colour, which take no time to read."""
    import torch

    from datamodules.in_memory import InMemoryDataModule
    from datamodules.tensors import ImageTensors

    class RandomImages(InMemoryDataModule):
        classes = tuple(map(str, range(10)))
        title = "random pixels"

        def read(self) -> tuple[ImageTensors, ImageTensors]:
            pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
            data = ImageTensors(pixels, torch.arange(count) % 10)
            return data, data.between(0, batch_size)

    return RandomImages("sample", batch_size=batch_size)


def seconds_of(work: Callable[[], Any]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(repeats: int, work: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return the seconds that each kind of work says it took, in each of the turns.

    The usual code runs with glibc's default settings of malloc, as far as one process can go back to them;
    ours as the trainer scripts do, see `rdfia.common.memory`.
    """
    from rdfia.common.memory import give_back_memory, keep_freed_memory

    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            give_back_memory()
            keep_freed_memory(not name.startswith("usual"))
            times[name].append(run())
        print({name: round(values[-1], 4) for name, values in times.items()}, flush=True)
    keep_freed_memory()
    return times


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the turns of one time divided by another."""
    return round(median(a / b for a, b in zip(above, below, strict=True)), 2)


def seconds_a_batch(
    module: "lightning.LightningModule",
    digits: "lightning.LightningDataModule",
    steps: int,
    monitor: str,
    precision: "Precision",
    warm: int = WARM,
) -> float:
    """Return how long a batch takes in a script's own trainer: through Lightning, with logging."""
    import lightning

    from rdfia.engine import training
    from rdfia.engine.args import TrainerArgs

    class Clock(lightning.Callback):
        def on_train_batch_start(self, *step: Any) -> None:
            if step[-1] == warm:
                self.started = time.perf_counter()
            if step[-1] == warm + steps:
                self.ended = time.perf_counter()

    clock = Clock()
    two_optimizers = not module.automatic_optimization
    with tempfile.TemporaryDirectory() as place:
        flags = TrainerArgs(accelerator="cpu", precision=precision, max_epochs=1)
        trainer = training.make_trainer(
            flags, Path(place), monitor=monitor, mode="max", callbacks=[clock], two_optimizers=two_optimizers
        )
        trainer.fit_loop.epoch_loop.max_steps = (warm + steps + 1) * (1 + two_optimizers)
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
        **{f"{name}_images_per_second": round(images / median(values), 1) for name, values in times.items()},
        "times_as_fast_as_usual": ratio(times["usual"], times["our"]),
        "over_bare_step": ratio(times["our"], times["bare"]),
    }
