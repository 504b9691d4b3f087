"""Where the code runs: process, commit, processor, device."""

import functools
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only


def is_first_process() -> bool:
    """Return whether this is the process that writes files; right before a trainer exists, too."""
    return getattr(rank_zero_only, "rank", 0) == 0


def is_dry_run(trainer: lightning.Trainer) -> bool:
    """Return whether the trainer only tries the code, so that nothing is to be written."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined] # set at run time


@functools.cache
def git_commit() -> str:
    """Return the commit of the code, with ``-dirty`` if files differ from it; ``unknown`` outside git.

    Asked for at the start of a run, it stays what it was: the files may change while the run resumes.
    """
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def has_bfloat16_cpu() -> bool:
    """Return whether this CPU has instructions for bfloat16: without them it is about six times slower."""
    with suppress(OSError):  # Linux: of x86, and of Arm
        words = set(Path("/proc/cpuinfo").read_text().split())
        return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    return _sysctl("hw.optional.arm.FEAT_BF16") == "1"


def processor() -> str:
    """Return the name of this machine's CPU, and whether it has bfloat16: times mean nothing without."""
    name = _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, bfloat16" if has_bfloat16_cpu() else name


def _sysctl(name: str) -> str:
    """Return what macOS says of a name; nothing elsewhere."""
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.CalledProcessError):
            found = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
            return found.stdout.strip()
    return ""


def device_name(trainer: lightning.Trainer) -> str:
    """Return what the run computed on, such as ``CPU (AMD EPYC, bfloat16), 2 threads``."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    processes = f"{trainer.world_size} processes of " if trainer.world_size > 1 else ""
    threads = torch.get_num_threads()
    return f"{processes}CPU ({processor()}), {threads} thread{'s' if threads > 1 else ''}"
