"""What the agent's process keeps of memory that it needed for a moment."""

import subprocess
import sys

import pytest

from tests.support.tree import ROOT

# The first large block that is freed makes glibc take the next ones from the heap, where a small one behind each of
# them, which lives on, keeps all of them.
SCRIPT = """
import ctypes, os
from cplane.agent.memory import give_back

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20

give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
libc.free(libc.malloc(16 << 20))
before = resident_mb()
large = []
for _ in range(64):
    large.append(libc.malloc(1 << 20))
    ctypes.memset(large[-1], 1, 1 << 20)
    ctypes.memset(libc.malloc(2000), 1, 2000)
held = resident_mb()
for one in large:
    libc.free(one)
print(held - before, resident_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_large_blocks_go_back_to_the_system_whatever_lies_behind_them():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held, kept = map(int, done.stdout.split())
    assert held >= 60
    assert kept <= 4


COLLECTED = """
import gc
from cplane.agent import memory
memory.starting()
assert not gc.isenabled()
memory.started()
assert gc.isenabled()
"""


@pytest.mark.slow
def test_garbage_is_looked_for_after_the_start():
    done = subprocess.run([sys.executable, "-c", COLLECTED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
