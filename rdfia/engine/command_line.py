"""What all trainer scripts share on the command line: flags, and errors in one line.

Imports neither torch nor Lightning, so that ``--help`` and a misspelt flag are answered at once.
"""

import contextlib
import errno
import io
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from rdfia.common.memory import keep_freed_memory
from rdfia.engine.lock import give_back

Flags = TypeVar("Flags")
Item = TypeVar("Item")
SLURM_JOB = "slurm_job.txt"  # in a run folder: the number of the job that made it
LONGEST_NAME = 100  # bytes: a row of a table adds its own, and no file system takes more than 255
# The most that flags can be: beyond, nothing works, and it is better said before data is read.
MOST_OF_ALL = 10_000_000
MOST = {"seed": 2**32 - 1, "seeds": 2**32 - 1, "max_epochs": 1_000_000, "batch_size": 1_000_000}
MOST |= {"latent_dim": 100_000, "groups": 10_000, "domain_width": 100_000, "hidden": 100_000}
MOST |= {"generator_features": 4096, "discriminator_features": 4096, "image_size": 4096, "grids": 512}
MOST |= {"devices": 4096, "num_nodes": 4096, "folds": 1000, "splits": 1000, "components": 1_000_000}
MOST |= {"samples": 100_000, "steps": 1_000_000, "frames": 10_000, "patch_steps": 1_000_000}
Precision = Literal["auto", "float32", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class TrainerArgs:
    """Flags of every trainer script."""

    data_dir: Path | None = None
    """Data folder, or `sample`; else $RDFIA_DATA, else ./data."""
    name: str = "run"
    """Of the run folder; the same goes on."""
    output_dir: Path = Path("runs")
    """Where run folders are made."""
    overwrite: bool = False
    """Delete the run folder first."""
    max_epochs: int = 5
    """Passes over the training data."""
    batch_size: int = 128
    """Images in a step, over all processes."""
    seed: int = 0
    """Of weights, order and latents."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device."""
    devices: int | None = None
    """Processes on each node."""
    num_nodes: int | None = None
    """Nodes."""
    precision: Precision = "auto"
    """Number format; auto: bf16 if the device has it."""
    compile: bool = False
    """Compile the networks."""
    profile: bool = False
    """Tell where the time goes."""
    wandb: bool = False
    """Log to Weights & Biases too."""
    fast_dev_run: bool = False
    """Try a few batches, write nothing."""
    check: bool = False
    """Check flags, data, folder."""

    def needs(self) -> tuple[str, ...]:
        """Return the data sets that are read, by the names of `datamodules.layouts.FIND`."""
        return ()

    def __post_init__(self) -> None:
        check_values(self)
        limits = {"max_epochs": 1, "batch_size": 1, "seed": 0, "devices": 1, "num_nodes": 1}
        for name, smallest in limits.items():
            value = getattr(self, name)
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


def check_part(part: tuple[int, int] | None, overwrite: bool) -> None:
    """Check ``--part``: one, from 0, of so many.

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


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop, and saved itself
    """The run was asked to stop, has saved its place and ends."""


class Checked(Exception):  # noqa: N818 - not an error
    """Only asked to check (``--check``), and all is well."""


class Failed(SystemExit):
    """What a user can mend, in one line; exit code 2."""

    def __init__(self, line: str) -> None:
        super().__init__(2)
        self.line = line


def fail(message: str) -> None:
    """Print an error in one line and leave with exit code 2."""
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    raise Failed(line)


def parse(flags: type[Flags]) -> Flags:
    """Parse the command line; a wrong flag is one line of text and exit code 2."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            # Shorter help: INT without None.
            return tyro.cli(flags, config=(tyro.conf.DisallowNone,))
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box: a title, the message, a rule, then help, sometimes with a suggestion.
        lines = [line.strip(" │") for line in complaint.getvalue().splitlines()[1:]]
        rule = next((n for n, line in enumerate(lines) if set(line) <= {"─", "╰", "╯"}), len(lines))
        near = re.search(r"Perhaps you meant:\W*(--[\w-]+)", " ".join(lines))
        hint = f"did you mean {near[1]}? " if near else ""
        said = " ".join(lines[:rule]).rstrip(".")
        if "Expected one of {" in said and "subcommand" not in said:  # what each of them does is in the help
            sys.argv = [sys.argv[0], "--help"]
            with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
                tyro.cli(flags, config=(tyro.conf.DisallowNone,))
        fail(f"{said}; {hint}--help lists all flags")
        raise


def requeue_job() -> None:
    """Ask Slurm to start this job again, as soon as it has room."""
    task = "SLURM_ARRAY_TASK_ID" in os.environ
    number = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}" if task else "{SLURM_JOB_ID}"
    command = ["scontrol", "requeue", number.format(**os.environ)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        print(f"not requeued, submit the job again: {' '.join(command)}: {why}", file=sys.stderr)


def _terminated(number: int, frame: Any) -> None:
    """Leave on SIGTERM as on Ctrl-C, wherever no training saves itself first: what is begun can be kept."""
    raise Interrupted("terminated; what is complete is kept")


def _out_of_time(number: int, frame: Any) -> None:
    """Leave a Slurm job whose time is nearly over, wherever no training saves itself first."""
    if os.environ.get("SLURM_PROCID", "0") == "0":
        requeue_job()
    raise Interrupted("time is nearly over; the job is queued again and goes on from what is complete")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a GPU or of the machine."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def run_script(main: Callable[[Flags], Any], flags: type[Flags]) -> None:
    """Parse the command line and call ``main``; what a user can mend is one line and exit code 2.

    An interrupted run exits with 130, as after Ctrl-C in a shell.
    """
    keep_freed_memory()
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGUSR1, _out_of_time)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        args = parse(flags)
        if isinstance(args, TrainerArgs) and (names := args.needs()):
            from datamodules.layouts import check_there

            check_there(args.data_dir, names)  # before torch is imported, which takes seconds
        main(args)
    except Checked as well:
        print(well)
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        fail(str(error))
    except OSError as error:
        known = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM}
        if error.errno not in known | {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EIO}:
            raise
        fail(f"{error.filename or 'disk'}: {error.strerror}; files that were complete are kept")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        fail(
            "out of memory; take a smaller --batch-size or --image-size, or a device with more; "
            + str(error)[:200]
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        said = str(stop) or "interrupted"
        if "--overwrite" in sys.argv:  # would begin anew, and lose what was saved
            said = said.replace("the same command", "the same command without --overwrite")
        print(said, file=sys.stderr)
        # Slurm ends a job with its first process that fails: the one that writes is to end by itself.
        sys.exit(130 if os.environ.get("SLURM_PROCID", "0") == "0" else 0)
    finally:
        if signal.getsignal(signal.SIGTERM) == _terminated:  # there is nothing left to keep
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        give_back()
        if "wandb" in sys.modules:  # else slow to import
            from rdfia.engine.wandb_run import finish_last

            finish_last(failed=sys.exception() is not None)
