"""Keep the memory that a batch frees, instead of asking the system for it again with the next.

On a CPU the tensors of a batch are allocated and freed again and again. glibc's malloc takes those above
32 MB from the system each time and gives freed memory back above 64 MB; every page is then cleared and mapped
again, which costs more than many a layer.
"""

import ctypes
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

# glibc's malloc.h. The defaults are those that it comes to by itself as larger and larger blocks are freed.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 64 << 20}
GIVE_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10}


def keep_freed_memory(keep: bool = True) -> None:
    """Let this process keep what it frees, to use it again; nothing where malloc is not glibc's.

    The process then holds what it freed until it ends, in pieces that may not fit what comes: some times what
    is alive. Use `give_back_memory` between works of different sizes.

    Args:
        keep: False goes back to what glibc does by itself, but for what is kept already.
    """
    with suppress(OSError, AttributeError):
        malloc_option = ctypes.CDLL("libc.so.6").mallopt
        for option, value in (KEEP if keep else GIVE_BACK).items():
            malloc_option(option, value)


def give_back_memory() -> None:
    """Give freed memory back to the system once; nothing where malloc is not glibc's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def free_memory(device: Any = "cpu") -> float:
    """Return how many bytes of memory a device has free: a GPU, or the machine as its system says."""
    if str(device).startswith("cuda"):
        import torch  # seconds, for command lines that need none

        return float(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError):  # Linux
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def peak_memory() -> float:
    """Return the most memory that this process, or the largest of those it started, held so far, in GiB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20  # Linux counts in KiB
