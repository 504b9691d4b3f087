"""Processes and nodes, devices, number format: what a run computes on."""

import dataclasses
import functools
import json
import os
import shutil
from contextlib import suppress
from typing import TypeVar

import torch

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


def exact_float32() -> None:
    """Let float32 be float32 on a GPU: by default torch's convolutions round what they multiply to TF32.

    Ten bits of mantissa are left then, and a map of saliency differs from a CPU's in a fifth of its pixels.
    """
    torch.backends.cudnn.allow_tf32 = False


@functools.cache
def say_format(precision: str, accelerator: str) -> None:
    """Say once in which number format is computed, and where a CPU would be slow."""
    if is_first_process():
        on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
        slow = f"; {SLOW}" if on_cpu and not has_bfloat16(accelerator) else ""
        print(f"precision {precision}{slow}", flush=True)


def processes(args: RunArgs) -> tuple[int, int]:
    """Return how many processes each node has, and how many nodes: as asked for, or as the Slurm job is.

    Raises:
        ValueError: The flags ask for others than the job has, or its processes were not started by srun.
    """
    gpus = torch.cuda.device_count() if args.accelerator != "cpu" else 0
    # What has no such flags computes on one device.
    asked = (args.devices, args.num_nodes) if isinstance(args, ParallelArgs) else (1, 1)
    tasks, nodes = (int(os.environ.get(name, "1")) for name in ("SLURM_NTASKS", "SLURM_NNODES"))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning sees it
    if interactive and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ValueError("to Lightning an interactive job is one process; export SLURM_JOB_NAME=rdfia first")
    if interactive or "SLURM_NTASKS" not in os.environ:
        return asked[0] or max(gpus, 1), asked[1] or 1
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise ValueError(f"this Slurm job has {tasks} tasks, and this is none of them; start it with srun")
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"the Slurm job has --ntasks {tasks}; say how many each node has: sbatch --ntasks-per-node"
        )
    each = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1"))
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


def check_devices(args: RunArgs) -> None:
    """Check that the devices that are asked for are there, and can share a batch.

    Raises:
        ValueError: They are not, or cannot. With ``--check``, GPUs are not looked for: a login node has none.
    """
    gpus, (each, nodes) = torch.cuda.device_count(), processes(args)
    if args.accelerator == "gpu" and not (gpus or args.check):
        raise ValueError("no GPU was found; use --accelerator cpu")
    if args.accelerator != "cpu" and not args.check and 0 < gpus < each:
        raise ValueError(f"{each} processes on each node, but this one has {gpus} GPUs; use fewer --devices")
    if args.precision == "16-mixed" and (args.accelerator == "cpu" or not (gpus or args.check)):
        raise ValueError("--precision 16-mixed needs a GPU; take bf16-mixed")  # Lightning would, by itself
    if getattr(args, "compile", False) and not shutil.which("g++") and not args.check:
        raise ValueError("--compile needs a C++ compiler; install g++ or leave it out")
    if args.batch_size % (each * nodes):
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be shared by {each * nodes} processes; "
            f"take a multiple of {each * nodes}, or fewer --devices"
        )
