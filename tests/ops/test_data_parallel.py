"""A batch that is split over devices stays split: no device sees another one's pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = ("cpu", "gpu", "tpu", "unsaid")
PROGRAM = """
import dataclasses, json, sys
from importlib import import_module
from functools import partial
import jax
from benchmarks.data_parallel import DEVICES, split
from segformer_jax import SegformerConfig

jax.config.update("jax_num_cpu_devices", DEVICES)
config = SegformerConfig(
    hidden_sizes=(8, 16), depths=(1, 1), num_encoder_blocks=2, sr_ratios=(4, 1), strides=(4, 2),
    patch_sizes=(7, 3), num_attention_heads=(1, 2), mlp_ratios=(2, 2), decoder_hidden_size=16,
    num_labels=5, hidden_dropout_prob=0.1, drop_path_rate=0.1,
)
of = partial(split, config, batch=16, side=64, devices=jax.devices())
splits = {platform: of(platform) for platform in sys.argv[1:]}
import_module("segformer_jax.ops.attention").SCORES_AT_ONCE = 1 << 12  # it goes in pieces
jax.clear_caches()
splits["tpu, in pieces"] = of("tpu")
print(json.dumps({case: [*dataclasses.astuple(s), s.holds] for case, s in splits.items()}))
"""


@pytest.fixture(scope="module")
def splits():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *PLATFORMS],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.full
@pytest.mark.parametrize("case", [*PLATFORMS, "tpu, in pieces"])
def test_a_training_step_over_eight_devices_gathers_nothing(splits, case):
    *split, holds = splits[case]
    assert holds, split
