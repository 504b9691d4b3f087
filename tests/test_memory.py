import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from rdfia.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    parts = [torch.ones(40 << 18) for _ in range(3)]  # 40 MB each
for _ in range(4):  # until it has as much as it needs
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_not_mapped_again():
    faults = {}
    for how in ("glibc", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(done.stdout)
    assert faults["keep"] < faults["glibc"] / 3
