"""How many processes compute, on how many nodes, and whether their devices are there."""

import os
import shutil

import torch

from rdfia.command_line import TrainerArgs


def processes(args: TrainerArgs) -> tuple[int, int]:
    """Return how many processes each node has, and how many nodes: as asked for, or as the Slurm job is.

    Raises:
        ValueError: The flags ask for others than the job has, or its processes were not started by srun.
    """
    gpus = torch.cuda.device_count() if args.accelerator != "cpu" else 0
    tasks, nodes = (int(os.environ.get(name, "1")) for name in ("SLURM_NTASKS", "SLURM_NNODES"))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as Lightning sees it
    if interactive and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ValueError("to Lightning an interactive job is one process; export SLURM_JOB_NAME=rdfia first")
    if interactive or "SLURM_NTASKS" not in os.environ:
        return args.devices or max(gpus, 1), args.num_nodes or 1
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise ValueError(f"this Slurm job has {tasks} tasks, and this is none of them; start it with srun")
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"the Slurm job has --ntasks {tasks}; say how many each node has: sbatch --ntasks-per-node"
        )
    each = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1"))
    if (args.devices or each) != each:
        raise ValueError(
            f"--devices {args.devices}, but the Slurm job has {each} tasks on each node; leave it out, "
            f"or sbatch --ntasks-per-node={args.devices}"
        )
    if (args.num_nodes or nodes) != nodes:
        raise ValueError(
            f"--num-nodes {args.num_nodes}, but the Slurm job has {nodes}; leave it out, "
            f"or sbatch --nodes={args.num_nodes}"
        )
    return each, nodes


def check_devices(args: TrainerArgs) -> None:
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
    if args.compile and not shutil.which("g++") and not args.check:
        raise ValueError("--compile needs a C++ compiler; install g++ or leave it out")
    if args.batch_size % (each * nodes):
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be shared by {each * nodes} processes; "
            f"take a multiple of {each * nodes}, or fewer --devices"
        )
