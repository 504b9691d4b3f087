"""Processes and nodes, devices, number format: what a run computes on."""

import dataclasses
import functools
import json
import math
import os
import re
import shutil
from contextlib import suppress
from typing import Literal, TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from rdfia.common.environment import has_bfloat16_cpu, is_first_process
from rdfia.engine.args import ParallelArgs, RunArgs

Flags = TypeVar("Flags", bound=RunArgs)
FORMATS = ("float32", "bf16-mixed", "16-mixed")


def has_bfloat16(accelerator: str) -> bool:
    """Return whether the device has instructions for bfloat16; a CPU without is about six times slower."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_bfloat16_cpu()


SLOW = "this CPU has no bfloat16 instructions: float32 is about 6 times faster"


def settle(args: Flags, *, only_float32: bool = False) -> Flags:
    """Return the flags with the number format that ``--precision auto`` stands for.

    bfloat16 where the device has it, else float32. A run that resumes keeps the format that it began with.
    ``$RDFIA_PRECISION`` is asked before the device.

    Args:
        args: The flags.
        only_float32: What the script computes is meant in float32.

    Raises:
        ValueError: The variable holds something else.
    """
    if args.precision != "auto":
        return args
    precision = "bf16-mixed" if has_bfloat16(args.accelerator) else "float32"
    if (asked := os.environ.get("RDFIA_PRECISION", "auto")) != "auto":
        precision = asked
        if precision not in FORMATS:
            raise ValueError(f"$RDFIA_PRECISION is float32, bf16-mixed or 16-mixed, got {precision!r}")
    if only_float32:
        precision = "float32"
    elif not args.overwrite and not args.fast_dev_run:
        with suppress(OSError, ValueError, AttributeError):  # none, or damaged: said where it is read
            began = json.loads((args.output_dir / args.name / "args.json").read_text()).get("precision")
            precision = began if began in FORMATS else precision
    return dataclasses.replace(args, precision=precision)  # type: ignore[arg-type] # one of the words


def say_device(where: str, precision: str, accelerator: str, processes: int) -> None:
    """Say once what is computed on, in which number format, and where a CPU would be slow."""
    slow = f"; {SLOW}" if accelerator == "cpu" and precision != "float32" and not has_bfloat16_cpu() else ""
    there = torch.cuda.device_count()
    more = (
        f" ({there} are there; --devices {there} takes all)"
        if accelerator != "cpu" and there > processes
        else ""
    )
    _say(f"on {where}{more}, precision {precision}{slow}")


@functools.cache
def _say(line: str) -> None:
    if is_first_process():
        print(line, flush=True)


def accelerator_of(args: RunArgs) -> Literal["cuda", "cpu"]:
    """Return what to compute on: ``auto`` takes no Apple GPU, which has no float64 for scores."""
    if args.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if args.accelerator == "gpu" else "cpu"


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process, within a Slurm job too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def has_own_gpu() -> bool:
    """Return whether each task of a Slurm job sees a GPU of its own (``--gpus-per-task``, ``--gpu-bind``)."""
    each = number_of("SLURM_NTASKS_PER_NODE")
    return (
        not started_by_torchrun() and each > 1 == torch.cuda.device_count() and "SLURM_STEP_ID" in os.environ
    )


class OwnGPU(SLURMEnvironment):
    """A Slurm job of which each task sees one GPU: to Lightning, tasks are nodes of one process each."""

    def local_rank(self) -> int:
        """Return the number of the GPU that this task sees."""
        return 0

    def node_rank(self) -> int:
        """Return the number of the task."""
        return self.global_rank()

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Check nothing: the counts are those of the tasks."""


def cluster(args: RunArgs) -> tuple[list[ClusterEnvironment], int, int]:
    """Return how processes find each other, for Lightning, and its counts of devices and nodes."""
    each, nodes = processes(args)
    if started_by_torchrun():
        return [TorchElasticEnvironment()], each, nodes
    if accelerator_of(args) == "cuda" and has_own_gpu():
        return [OwnGPU(auto_requeue=False)], 1, each * nodes
    # Lightning's own requeueing keeps another checkpoint, which it would not read beside last.ckpt.
    if number_of("SLURM_NTASKS") > 1 and SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)], each, nodes
    # One task, or a shell in a job: Lightning starts the processes itself.
    return ([LightningEnvironment()] if "SLURM_NTASKS" in os.environ else []), each, nodes


def number_of(variable: str) -> int:
    """Return the number that a variable of Slurm or torchrun holds, 1 if there is none.

    Raises:
        ValueError: It holds something else.
    """
    held = os.environ.get(variable, "1")
    if not held.isdigit():
        raise ValueError(f"${variable} is a number of processes, got {held!r}")
    return int(held)


def processes(args: RunArgs) -> tuple[int, int]:
    """Return how many processes each node has, and how many nodes: as asked for, or as they were started.

    One process where nothing says otherwise: small networks are no faster on more.

    Raises:
        ValueError: The flags ask for others than there are, or they were not started by srun.
    """
    # What has no such flags computes on one device.
    asked = (args.devices, args.num_nodes) if isinstance(args, ParallelArgs) else (1, 1)
    tasks, nodes = (number_of(name) for name in ("SLURM_NTASKS", "SLURM_NNODES"))
    if started_by_torchrun():
        each = number_of("LOCAL_WORLD_SIZE")
        whole = number_of("WORLD_SIZE")
        if (asked[0] or each) != each or (asked[1] or whole // each) != whole // each:
            raise ValueError(
                f"torchrun started {each} processes on each of {whole // each} nodes; "
                "leave --devices and --num-nodes out"
            )
        return each, whole // each
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning sees it
    if interactive and number_of("SLURM_STEP_NUM_TASKS") > 1:
        raise ValueError("to Lightning an interactive job is one process; export SLURM_JOB_NAME=rdfia first")
    if interactive or tasks == 1:  # or a notebook, an editor or another shell in a job
        return asked[0] or 1, asked[1] or 1
    if "SLURM_STEP_ID" not in os.environ:
        raise ValueError(f"this Slurm job has {tasks} tasks, and this is none of them; start it with srun")
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"the Slurm job has --ntasks {tasks}; say how many each node has: sbatch --ntasks-per-node"
        )
    each = number_of("SLURM_NTASKS_PER_NODE")
    if (asked[0] or each) != each:
        raise ValueError(
            f"--devices {asked[0]}, but the Slurm job has {each} tasks on each node; leave it out, "
            f"or sbatch --ntasks-per-node={asked[0]}"
        )
    if (asked[1] or nodes) != nodes:
        raise ValueError(
            f"--num-nodes {asked[1]}, but the Slurm job has {nodes}; leave it out, "
            f"or sbatch --nodes={asked[1]}"
        )
    return each, nodes


def why_no_graphs(args: RunArgs) -> str | None:
    """Return why steps cannot be CUDA graphs, None where they can."""
    if accelerator_of(args) != "cuda":
        return "that needs a GPU"
    if math.prod(processes(args)) > 1:
        return "that is for one process"
    if args.precision == "16-mixed":
        return "16-mixed leaves steps out as it goes; take bf16-mixed"
    return "not with --compile" if getattr(args, "compile", False) else None


PROMISES = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES")
WHEEL = "take the wheel that fits the driver, see docs/gpu.md, or --accelerator cpu"


def check_gpu(args: RunArgs) -> None:
    """Check that torch can use the GPU that is asked for, or that a job was given.

    Raises:
        ValueError: It cannot; with torch's own reason, and the mend.
    """
    if args.accelerator == "cpu":
        return
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        # Kernels run on cards of the same major version and a minor one that is not lower; PTX on all later.
        arches = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch) for arch in torch.cuda.get_arch_list()]
        known = [(one[1], int(one[2]), int(one[3])) for one in arches if one]
        fits = [
            (one == major and least <= minor) if kind == "sm" else (one, least) <= (major, minor)
            for kind, one, least in known
        ]
        if known and not any(fits):
            built = ", ".join(f"{one}.{least}" for _, one, least in known)
            name = torch.cuda.get_device_name()
            raise ValueError(
                f"this torch is built for compute capability {built}, and {name} has {major}.{minor}; {WHEEL}"
            )
        return
    # A number of GPUs or their names; 0, -1 and NoDevFiles mean that there is none.
    none = ("", "-1", "NoDevFiles")
    given = {name: os.environ.get(name, "") for name in PROMISES}
    given = {name: value for name, value in given.items() if value not in none}
    if given.get("SLURM_GPUS_ON_NODE") == "0":
        del given["SLURM_GPUS_ON_NODE"]
    if args.accelerator == "gpu" or given:
        promise = ", ".join(f"{name}={value}" for name, value in given.items())
        here = f"this job has GPUs ({promise}), but torch finds none" if given else "no GPU was found"
        raise ValueError(f"{here}: {why_no_gpu()}; {WHEEL}")


def why_no_gpu() -> str:
    """Return torch's own reason why it can use no GPU."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built for CPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"{str(error).strip().splitlines()[0].rstrip('.')} (torch {torch.__version__})"
    return f"torch {torch.__version__} finds no device"


def check_devices(args: RunArgs) -> None:
    """Check that the devices that are asked for are there, and can share a batch.

    Raises:
        ValueError: They are not, or cannot. With ``--check``, GPUs are not looked for: a login node has none.
    """
    gpus, (each, nodes) = torch.cuda.device_count(), processes(args)
    if not args.check:
        check_gpu(args)
    if args.accelerator != "cpu" and not args.check and 0 < gpus < each and not has_own_gpu():
        raise ValueError(f"{each} processes on each node, but this one has {gpus} GPUs; use fewer --devices")
    if args.precision == "16-mixed" and (args.accelerator == "cpu" or not (gpus or args.check)):
        raise ValueError("--precision 16-mixed needs a GPU; take bf16-mixed")  # Lightning would, by itself
    if getattr(args, "compile", False) and not shutil.which("g++") and not args.check:
        raise ValueError("--compile needs a C++ compiler; install g++ or leave it out")
    if getattr(args, "graph", "auto") == "on" and not args.check and (why := why_no_graphs(args)):
        raise ValueError(f"--graph on: {why}")
    if getattr(args, "stack", False) and each * nodes > 1:
        raise ValueError("--stack trains on one device; leave it out, or --devices")
    if args.batch_size % (each * nodes):
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be shared by {each * nodes} processes; "
            f"take a multiple of {each * nodes}, or fewer --devices"
        )
