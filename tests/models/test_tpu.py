"""What XLA makes of the model for a TPU, compiled without one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import dataclasses, json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from benchmarks.tpu import describe
programs = [dataclasses.asdict(describe(way, "b0", batch=4)) for way in ("ours", "plain")]
print(json.dumps(programs))
"""


@pytest.mark.full
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for TPU needs libtpu: pip install 'segformer-jax[tpu]'",
)
def test_b0_compiles_for_tpu_and_needs_less_than_the_plain_way():
    """In a process of its own: libtpu reads the environment, and is never unloaded."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    ours, plain = json.loads(result.stdout.splitlines()[-1])

    assert ours["gigaflops"] < 0.57 * plain["gigaflops"]
    assert ours["temporary_megabytes"] < 0.5 * plain["temporary_megabytes"]
    assert ours["megacycles"] < 0.6 * plain["megacycles"]
    assert ours["moves"]["transpose"]["count"] == 0
