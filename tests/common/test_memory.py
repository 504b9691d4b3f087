import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from rdfia.common.memory import keep_freed_memory
def work():
    parts = [torch.ones(40 << 18) for _ in range(3)]  # 40 MB each
def faults():
    for _ in range(4):  # until it has as much as it needs
        work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.slow
def test_freed_memory_is_not_mapped_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 3
