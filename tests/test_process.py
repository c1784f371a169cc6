"""Settings of a process, seen in the memory of another one."""

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from segformer_jax import process
process.share_one_arena()
process.keep_freed_memory()
process._leave_room({room} << 20)
kept = []
for _ in range(3):
    temporaries = np.ones(200 << 17)  # 200 MiB
    kept.append(np.ones(1 << 17))
    del temporaries
    kept.append(np.ones(4 << 17))
status = open("/proc/self/status").read()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
def test_small_arrays_leave_the_place_of_large_temporaries():
    def peak(room):
        command = [sys.executable, "-c", PROGRAM.format(room=room)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024

    assert peak(1) > 550  # the temporaries were in memory twice, beside 150 MiB of JAX
    assert peak(64) < 450
