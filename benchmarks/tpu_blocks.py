"""Compiles the halves of a block for a TPU v5e: from their parts, as today, and as Pallas kernels.

    python -m benchmarks.tpu_blocks --variants b0 b2 --batches 1 8 32 --out blocks.json

needs `pip install "segformer-jax[cli,tpu]"`. Nothing is run: all figures are the compiler's, for
bfloat16. Keys and values are given; LayerNorm, query and output projection, skip are inside.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.table import Table

from benchmarks import bundles
from benchmarks.hlo import Instruction, instructions
from benchmarks.tpu import described_chips
from segformer_jax import ops
from segformer_jax.config import SegformerConfig

HALF = jnp.bfloat16
NAMES = ("parameter", "bitcast", "tuple", "get-tuple-element", "copy-done", "constant")


@dataclass(frozen=True)
class Half:
    """The compiler's figures for one half of a block, in one way.

    Attributes:
        way: "parts" or "kernel".
        half: "mix_ffn" or "attention_block".
        variant: "b0" … "b5".
        stage: 1 … 4.
        batch: pictures.
        estimate: XLA's `estimated_cycles`; it has none for a kernel.
        bundles: of the whole program, with changes of layout before and after a kernel.
        kernel_bundles: of the kernel alone, or 0.
        megabytes: what the program reads from and writes to HBM.
    """

    way: str
    half: str
    variant: str
    stage: int
    batch: int
    estimate: int
    bundles: int
    kernel_bundles: int
    megabytes: float


def describe(way: str, half: str, variant: str, *, stage: int, batch: int, folder: Path) -> Half:
    """Compiles one half for 512 × 512 pictures; libtpu dumps its schedule into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    function, operands = _program(half, getattr(SegformerConfig, variant)(), stage, batch)

    def run(*operands):
        with ops.use("tpu", local_batch=way == "kernel"):  # without, the reference is traced
            return function(*operands)

    compiled = jax.jit(run).lower(*operands).compile()
    text, counted = str(compiled.as_text()), bundles.of_program(folder)
    return Half(
        way=way,
        half=half,
        variant=variant,
        stage=stage + 1,
        batch=batch,
        estimate=sum(i.cycles * i.times for i in instructions(text)),
        bundles=sum(counted.values()),
        kernel_bundles=sum(n for name, n in counted.items() if name.startswith(half)),
        megabytes=_hbm_bytes(text) / 1e6,
    )


def _program(
    half: str, config: SegformerConfig, stage: int, batch: int
) -> tuple[Callable, Sequence[Any]]:
    sharding = SingleDeviceSharding(described_chips(1)[0])
    c, heads = config.hidden_sizes[stage], config.num_attention_heads[stage]
    side, hidden = 128 >> stage, int(c * config.mlp_ratios[stage])

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def layer(*shape):
        return array(*shape), array(shape[-1])

    x, small = array(batch, side, side, c, dtype=HALF), array(batch, 16, 16, c, dtype=HALF)
    options = dict(epsilon=1e-5, dtype=HALF)
    if half == "mix_ffn":
        layers = (layer(c), layer(c, hidden), layer(3, 3, 1, hidden), layer(hidden, c))
        return partial(ops.mix_ffn, **options), (x, *layers)
    block = partial(ops.attention_block, heads=heads, **options)
    return block, (x, small, small, layer(c), layer(c, c), layer(c, c))


def _hbm_bytes(text: str) -> int:
    """Sums the arrays in HBM that the instructions of the entry computation read and write."""
    entry = text[text.index("\nENTRY ") :].split("\n}")[0]
    found = re.findall(r"%([\w.\-<>]+) = (.*?) ([a-z][\w\-]*)\((.*)", entry)
    sizes = {name: _in_hbm(shape) for name, shape, *_ in found}
    total = 0
    for name, _, opcode, rest in found:
        if opcode in NAMES:
            continue
        operands = set(re.findall(r"%([\w.\-<>]+)", rest.split(")")[0]))
        moved = sum(sizes.get(operand, 0) for operand in operands)
        total += moved if opcode.endswith("-start") else moved + sizes[name]
    return total


def _in_hbm(shape: str) -> int:
    arrays = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", shape)
    return sum(
        Instruction("", "", array, "", 0, 1, False).bytes for array in arrays if "S(" not in array
    )


def main(
    *,
    variants: tuple[str, ...] = ("b0", "b2"),
    batches: tuple[int, ...] = (1, 2, 8, 32),
    stages: tuple[int, ...] = (1, 2, 3, 4),
    out: Path | None = None,
) -> None:
    """Compiles both halves in both ways, prints a table, and writes the figures.

    Args:
        variants: sizes of the network.
        batches: pictures per batch; `Segmenter` gives a TPU two at a time.
        stages: of the encoder, from 1.
        out: a JSON file to write.
    """
    jax.config.update("jax_platforms", "cpu")
    folder = Path(tempfile.mkdtemp())
    os.environ["LIBTPU_INIT_ARGS"] = bundles.FLAGS.format(folder=folder)
    found = [
        describe(way, half, variant, stage=stage - 1, batch=batch, folder=folder)
        for half in ("attention_block", "mix_ffn")
        for variant in variants
        for stage in stages
        for batch in batches
        for way in ("parts", "kernel")
    ]
    shutil.rmtree(folder, ignore_errors=True)
    if out is not None:
        out.write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")
    table = Table(title="from parts → with a kernel, in thousands")
    for heading in ("", "", "stage", "batch", "XLA's estimate", "bundles", "", "kernel", "HBM MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for parts, kernel in zip(found[::2], found[1::2], strict=True):
        table.add_row(
            parts.half,
            parts.variant,
            str(parts.stage),
            str(parts.batch),
            f"{parts.estimate / 1e3:.4g}",
            f"{parts.bundles / 1e3:.4g} → {kernel.bundles / 1e3:.4g}",
            f"{kernel.bundles / parts.bundles:.2f}",
            f"{kernel.kernel_bundles / 1e3:.4g}",
            f"{parts.megabytes:.4g} → {kernel.megabytes:.4g}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    tyro.cli(main)
