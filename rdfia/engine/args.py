"""Flags of all trainer scripts, and what no flag can be.

Imports neither torch nor Lightning, so that ``--help`` and a misspelt flag are answered at once.
"""

import difflib
import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from datamodules import DATASETS
from rdfia.engine.slurm import SLURM_JOB

Item = TypeVar("Item")
LONGEST_NAME = 100  # bytes: a row of a table adds its own, and no file system takes more than 255
# The most that flags can be: beyond, nothing works, and it is better said before data is read.
MOST_OF_ALL = 10_000_000
MOST = {"seed": 2**32 - 1, "seeds": 2**32 - 1, "max_epochs": 1_000_000, "batch_size": 1_000_000}
MOST |= {"latent_dim": 100_000, "groups": 10_000, "domain_width": 100_000, "hidden": 100_000}
MOST |= {"generator_features": 4096, "discriminator_features": 4096, "image_size": 4096, "grids": 512}
MOST |= {"devices": 4096, "num_nodes": 4096, "folds": 1000, "splits": 1000, "components": 1_000_000}
MOST |= {"samples": 100_000, "steps": 1_000_000, "frames": 10_000, "patch_steps": 1_000_000}


def default(text: str) -> Any:
    """Return what ``--help`` says of a flag whose default is no single value, to annotate its type with."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


# Where data lies, where no flag says it.
DataDir = Annotated[Path | None, default("$RDFIA_DATA, else ./data")]
# A data set by its name, which are known to the registry alone, or a folder of pictures.
DatasetName = Annotated[str, tyro.conf.arg(metavar="NAME, folder/ or ./list.csv")]
Precision = Literal["auto", "float32", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class RunArgs:
    """Flags of everything that leaves a run folder."""

    data_dir: DataDir = None
    """Data folder; `sample` for the embedded sample."""
    name: str = "run"
    """Name of the run folder. Running again with the same name resumes the run."""
    output_dir: Path = Path("runs")
    """Folder of the run folders."""
    overwrite: bool = False
    """Delete the run folder first and begin from scratch."""
    batch_size: int = 128
    """Images per forward pass."""
    seed: int = 0
    """Random seed (initialisation, data order, latents)."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device type; `auto` takes an NVIDIA or AMD GPU if there is one."""
    precision: Precision = "auto"
    """Number format; `auto` is bf16-mixed where the device has bfloat16 instructions, else float32."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    fast_dev_run: bool = False
    """Run a few batches through every code path and write nothing."""
    check: bool = False
    """Check flags, data and run folder, then exit before anything is computed."""

    def needs(self) -> tuple[str, ...]:
        """Return the data sets that are read: names, or folders and lists of pictures."""
        return ()

    def needs_labels(self) -> dict[str, str]:
        """Return of folders whether their pictures must have classes; they must if nothing is said."""
        return {}

    def __post_init__(self) -> None:
        check_values(self)
        limits = {"max_epochs": 1, "batch_size": 1, "seed": 0, "devices": 1, "num_nodes": 1}
        for name, smallest in limits.items():
            value = getattr(self, name, None)
            if value is not None and value < smallest:
                raise ValueError(f"--{name.replace('_', '-')} is at least {smallest}, got {value}")
        if (
            self.name != Path(self.name).name
            or self.name in ("", "..")
            or not self.name.isprintable()
            or any(
                sign in self.name for sign in ':*?"<>|\\'
            )  # as rows are named on pages, and on other systems
        ):
            raise ValueError(f"--name is a folder name, got {self.name[:40]!r}")
        if (size := len(self.name.encode())) > LONGEST_NAME:
            raise ValueError(f"--name has at most {LONGEST_NAME} bytes, {self.name[:20]!r}… has {size}")
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            mark = self.output_dir / self.name / SLURM_JOB
            if mark.exists() and mark.read_text() == os.environ["SLURM_JOB_ID"]:
                object.__setattr__(self, "overwrite", False)  # in the queue again, the job goes on


@dataclass(frozen=True)
class ParallelArgs(RunArgs):
    """Flags of what several processes can share."""

    devices: Annotated[int | None, default("1, or one per task of the Slurm job")] = None
    """Number of processes per node, each with a GPU."""
    num_nodes: Annotated[int | None, default("1, or those of the Slurm job")] = None
    """Number of nodes."""


@dataclass(frozen=True)
class TrainerArgs(ParallelArgs):
    """Flags of every training."""

    max_epochs: int = 5
    """Number of passes over the training data."""
    batch_size: int = 128
    """Images per step, summed over all processes."""
    sync_batch_norm: bool = True
    """BatchNorm over the batches of all processes; --no-sync-batch-norm takes each process's own."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    profile: bool = False
    """Print at the end where the training time went."""
    tf32: bool = False
    """Let a GPU round factors of float32 products to 10 bits in training; scores stay exact."""
    deterministic: bool = False
    """Take deterministic GPU kernels where there are any, and warn where not."""


@dataclass(frozen=True)
class GraphFlags:
    """How steps are given to a GPU."""

    graph: Literal["auto", "on", "off"] = "auto"
    """Training steps as CUDA graphs; `auto` on one GPU, but for 16-mixed and --compile."""
    stack: bool = False
    """Train the --seeds of a row at once, without validation after each epoch; pays on a GPU."""


@dataclass(frozen=True)
class PictureFlags:
    """How pictures of one's own, and others that are files, are read."""

    resize: Literal["squash", "crop", "pad"] = "squash"
    """How pictures become square: squash; crop the middle, as for ImageNet networks; pad with black."""
    split_seed: Annotated[int | None, default("0; scene15: the published split")] = None
    """Random seed of the test set, where the data has no split of its own."""
    per_class: Annotated[int | None, default("all; three quarters, where there is no split")] = None
    """Training images per class, drawn; where there is no split, all others are for the test."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and count them; else the first is an error."""
    memory_gb: float = 6.0
    """Memory for decoded images in GB; larger data sets go to a file in --image-cache."""
    image_cache: Path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdfia" / "images"
    """Folder for decoded images that do not fit in --memory-gb."""

    def reading(self) -> dict[str, Any]:
        """Return what of it a data module is told, but for what was not asked for: not all can choose it."""
        asked = {"resize": self.resize, "split_seed": self.split_seed, "per_class": self.per_class}
        asked |= {"skip_unreadable": self.skip_unreadable}
        usual = {"resize": "squash", "skip_unreadable": False}
        told = {name: value for name, value in asked.items() if value != usual.get(name)}
        return told | {"memory_gb": self.memory_gb, "cache_dir": self.image_cache}


def check_stack(stack: bool, seeds: tuple[int, ...]) -> None:
    """Check ``--stack``.

    Raises:
        ValueError: There are not several seeds.
    """
    if stack and len(seeds) < 2:
        raise ValueError("--stack trains several seeds at once; add --seeds 0 1 2")


def check_values(args: Any) -> None:
    """Check what no flag can be: a number that is not finite, or larger than any machine could do.

    Raises:
        ValueError: One is.
    """
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{flag} is a finite number, got {one}")
            most = MOST.get(name, MOST_OF_ALL)
            if isinstance(one, int) and not isinstance(one, bool) and one > most:
                raise ValueError(f"{flag} is at most {most:,}, got {one:,}")
    seeds = getattr(args, "seeds", ())
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise ValueError(f"--seeds are different from each other, got {twice} {seeds.count(twice)} times")


def keywords(function: Callable[..., Any], args: Any) -> dict[str, Any]:
    """Return the flags that ``function`` takes by their names, but for those that are not given (None).

    By the signature, and not by a list of names, in which a new flag could be forgotten and then ignored.
    """
    taken = parameters(function)
    return {name: value for name, value in vars(args).items() if name in taken and value is not None}


def parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of what a function takes, or a class; with those that it hands on to its parents."""
    taken = set(inspect.signature(function).parameters)
    for parent in function.__mro__[1:] if isinstance(function, type) else ():
        if any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values()):
            taken |= set(inspect.signature(parent).parameters)
    return taken


def check_dataset(flag: str, name: str) -> None:
    """Check that a flag names a data set, or a folder or a list, told from a name by a slash in it.

    Raises:
        ValueError: There is none of that name.
        FileNotFoundError: There is no such folder.
    """
    if name in DATASETS:
        return
    path = Path(name).expanduser()
    if "/" not in name:
        there = f"; for the one of that name write ./{name}" if path.exists() else ", or a folder/"
        near = difflib.get_close_matches(name, DATASETS, 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near and not path.exists() else ""
        raise ValueError(f"{flag} {name!r} is none of {', '.join(DATASETS)}{there}{hint}")
    if not path.exists():
        raise FileNotFoundError(f"{flag} {name} is no folder that exists")


def check_part(part: tuple[int, int] | None, overwrite: bool) -> None:
    """Check ``--part K N``: part K of N, counted from 0.

    Raises:
        ValueError: There is no such part, or it would delete the others.
    """
    if part is not None and overwrite:
        raise ValueError("--overwrite with --part deletes the other parts; delete the run folder first")
    if part is not None and not 0 <= part[0] < part[1]:
        raise ValueError(f"--part counts from 0 to one less than their number, got {part[0]} {part[1]}")


def part_of(trainings: list[Item], part: tuple[int, int] | None) -> list[Item]:
    """Return the trainings of a part of a table; all of them where there are no parts."""
    return trainings if part is None else trainings[part[0] :: part[1]]
