import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from rdfia.memory import keep_freed_memory

def faults():
    def work():
        parts = [torch.ones(40 << 18) for _ in range(3)]  # 40 MB each
    for _ in range(3):  # until it has as much as it needs
        work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed_memory()
print(faults())
keep_freed_memory(False)
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_not_mapped_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    pages = 10 * 3 * (40 << 20) // 4096
    by_itself, kept, given_back = (int(line) / pages for line in done.stdout.split())
    assert by_itself > 0.5
    assert kept < 0.1
    assert given_back > 0.5
