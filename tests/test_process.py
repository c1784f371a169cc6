"""Settings of a process, seen in the memory of another one."""

import os
import subprocess
import sys

import pytest

from segformer_jax import process

PROGRAM = """
import numpy as np
from segformer_jax import process
process._mallopt({{process.M_ARENA_MAX: 1}})
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


FAULTS = """
import resource
import jax
import jax.numpy as jnp
from segformer_jax import process
{setting}
x = jnp.ones((1 << 20, 4))
f = jax.jit(lambda x: jnp.sort(jnp.tile(x, 5), axis=0).sum())  # 80 MiB at least
counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(4):
    f(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(counts, counts[1:])))  # sorting may take some
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")


@linux
def test_large_temporaries_are_not_faulted_in_anew():
    def faults(setting):
        command = [sys.executable, "-c", FAULTS.format(setting=setting)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert faults("") > 10_000
    assert faults("process.keep_freed_memory()") < 1000


NICE = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
from segformer_jax import process

def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

os.nice({start})
with ThreadPoolExecutor(1, initializer=process.yield_to_others) as pool:
    print(pool.submit(niceness).result() - niceness())
"""


@linux
@pytest.mark.parametrize("start", [0, 15])  # only root may lower a niceness
def test_a_thread_gives_way_to_the_others_alone(start):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    command = [sys.executable, "-c", NICE.format(start=start)]
    done = subprocess.run(command, capture_output=True, check=True)
    began = min(19, own + start)
    assert int(done.stdout) == min(19, began + process.NICENESS) - began


@linux
def test_small_arrays_leave_the_place_of_large_temporaries():
    def peak(room):
        command = [sys.executable, "-c", PROGRAM.format(room=room)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024

    assert peak(1) > 550  # the temporaries were in memory twice, beside 150 MiB of JAX
    assert peak(64) < 450
