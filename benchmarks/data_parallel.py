"""Checks that a training step stays split over devices, by compiling without running it.

    python -m benchmarks.data_parallel --platforms gpu --batches 64

compiles b0's loss, gradients and BatchNorm statistics, in float32 and with dropout and drop path,
for a CPU that acts as eight devices, and for one device with an eighth of the batch. It exits 1 if
a device receives data of another one, apart from sums, or needs over 1.1 × the memory or 1.01 × the
arithmetic of the single device.

    python -m benchmarks.data_parallel --machine v5e

does the same for the four chips of a TPU v5e, without having one: `benchmarks.tpu` says how.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from benchmarks.hlo import Instruction, instructions
from benchmarks.tpu import described_chips
from segformer_jax import ops
from segformer_jax.config import SegformerConfig
from segformer_jax.models.segformer import SegformerForSemanticSegmentation

Platform = Literal["cpu", "gpu", "tpu", "unsaid"]  # as in `ops.use`; "unsaid" is without it
Machine = Literal["cpu", "v5e"]
DEVICES = 8
MOST_MEMORY = 1.1  # × the memory of one device alone; the sums of gradients need some
MOST_ARITHMETIC = 1.01  # × that of one device alone
UNTUNED = {"xla_backend_optimization_level": 0}  # machine code isn't optimised, as it is never run
HEADINGS = "forms    batch  gathers   sums, MB  temp., MB      alone  ratio      GFLOP  ratio"


@dataclass(frozen=True)
class Split:
    """A step split over all devices, compared with one device alone; sizes are in bytes.

    Attributes:
        gathers: the instructions that send data of one device to another.
        summed: size of the data that is summed over the devices.
        memory: temporary memory of one of the devices.
        memory_alone: temporary memory of one device that computes only its share of the batch.
        flops: operations of one of the devices, as XLA counts them.
        flops_alone: the same of one device that computes only its share of the batch.
    """

    gathers: tuple[str, ...]
    summed: int
    memory: int
    memory_alone: int
    flops: float
    flops_alone: float

    @property
    def holds(self) -> bool:
        """Whether devices exchange nothing but sums, and need and do little more than alone."""
        light = self.memory <= MOST_MEMORY * self.memory_alone
        shared = self.flops <= MOST_ARITHMETIC * self.flops_alone
        return not self.gathers and self.summed > 0 and light and shared


def split(
    config: SegformerConfig, platform: Platform, *, batch: int, side: int, devices: Sequence[Any]
) -> Split:
    """Compiles the step for the devices, and for the first of them with its share of the batch."""
    options = UNTUNED if devices[0].platform == "cpu" else {}
    step = partial(lowered, config, platform, side=side)
    together = step(batch=batch, devices=devices).compile(options)
    alone = step(batch=batch // len(devices), devices=devices[:1]).compile(options)
    found = collectives(together.as_text())
    gathers = [i for i in found if not i.opcode.startswith("all-reduce")]
    return Split(
        gathers=tuple(f"{i.opcode} {i.shape} {i.op_name}" for i in gathers),
        summed=sum(i.bytes * i.times for i in found if i not in gathers),
        memory=together.memory_analysis().temp_size_in_bytes,
        memory_alone=alone.memory_analysis().temp_size_in_bytes,
        flops=together.cost_analysis()["flops"],
        flops_alone=alone.cost_analysis()["flops"],
    )


def collectives(text: str) -> list[Instruction]:
    """Returns the instructions in `compiled.as_text()` by which devices communicate."""
    found = [i for i in instructions(text) if i.opcode.startswith(("all-", "collective-permute"))]
    return [i for i in found if not i.opcode.endswith("-done")]  # the end of one that is counted


def lowered(
    config: SegformerConfig,
    platform: Platform,
    *,
    batch: int,
    side: int,
    devices: Any,
    dtype: DTypeLike = jnp.float32,
    checkpointing: bool = False,
) -> Any:
    """Lowers a training step with the batch split over devices, and all parameters on each.

    With `checkpointing`, the blocks are computed again in the backward pass.
    """
    mesh = Mesh(devices, ("data",))
    whole, shared = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    model = nnx.eval_shape(
        lambda: SegformerForSemanticSegmentation(config, dtype=dtype, rngs=nnx.Rngs(0))
    )
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    graph, *state = nnx.split(model, nnx.Param, ...)
    use = contextlib.nullcontext() if platform == "unsaid" else ops.use(platform)

    def step(params, stats, pixels, labels):
        def loss_of(params):
            own = nnx.merge(graph, params, stats, copy=True)
            loss = own(pixels, labels, rngs=nnx.Rngs(dropout=jax.random.key(0))).loss
            return loss, nnx.state(own, nnx.BatchStat)

        with use:
            return jax.value_and_grad(loss_of, has_aux=True)(params)

    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)
    sides = batch, side, side
    pixels = jax.ShapeDtypeStruct((*sides, config.num_channels), jnp.float32, sharding=shared)
    labels = jax.ShapeDtypeStruct(sides, jnp.int32, sharding=shared)
    return jax.jit(step, out_shardings=whole).lower(*state, pixels, labels)


def main(
    *,
    machine: Machine = "cpu",
    platforms: tuple[Platform, ...] | None = None,
    batches: tuple[int, ...] | None = None,
    size: int = 512,
) -> None:
    """Compiles each case, prints a row for it, and exits 1 if one does not stay split.

    Args:
        machine: "cpu" is eight CPU devices, "v5e" the four chips of a TPU.
        platforms: platforms whose forms are compiled; all, or the TPU's for the TPU.
        batches: pictures per batch, over all devices: multiples of their number. By default 64 and
            256, or 8 for the TPU.
        size: side of the pictures, in pixels.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    cpu = machine == "cpu"
    devices = jax.devices()[:DEVICES] if cpu else described_chips(4)
    platforms = platforms or (("cpu", "gpu", "tpu", "unsaid") if cpu else ("tpu",))
    batches = batches or ((64, 256) if cpu else (8,))
    config = SegformerConfig.b0(num_labels=150)
    splits = []
    print(f"b0, {size} × {size}, 150 classes, jax {jax.__version__}\n{HEADINGS}", flush=True)
    for batch, platform in product(batches, platforms):
        splits.append(each := split(config, platform, batch=batch, side=size, devices=devices))
        megabytes = (f"{x / 1e6:11,.1f}" for x in (each.summed, each.memory, each.memory_alone))
        ratio = f"{each.memory / each.memory_alone:7.3f}"
        flops = f"{each.flops / 1e9:11,.1f}{each.flops / each.flops_alone:7.3f}"
        verdict = "  holds" if each.holds else "  BROKEN"
        row = f"{platform:8}{batch:6}{len(each.gathers):9}", *megabytes, ratio, flops, verdict
        print(*row, sep="", flush=True)
        print(*(f"  {gather}\n" for gather in each.gathers), sep="", end="")
    sys.exit(not all(each.holds for each in splits))


if __name__ == "__main__":
    tyro.cli(main)
