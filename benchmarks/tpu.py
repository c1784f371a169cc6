"""Compiles the forward pass for a TPU v5e without having one, and compares ours with a plain one.

    python -m benchmarks.tpu --variants b0 b2 --batches 8 --out tpu.json

needs `pip install "segformer-jax[cli,tpu]"`, whose libtpu compiles ahead of time for a described
machine. Nothing is run: flops and cycles are estimates of the compiler, not measurements. The
network computes in bfloat16 and has 150 classes. With four chips the batch is split over them, and
the figures are those of one chip.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from benchmarks.hlo import Instruction, instructions
from examples.plain_segformer import segformer
from segformer_jax import ops
from segformer_jax.checkpoints.flat import flat_state
from segformer_jax.config import SegformerConfig
from segformer_jax.inference.compiled import forward_pass
from segformer_jax.models.segformer import SegformerForSemanticSegmentation

MOVES = ("transpose", "pad", "copy")  # opcodes, with which the names of such fusions start too


@dataclass(frozen=True)
class Program:
    """The compiler's figures for one program on one chip.

    Attributes:
        way: "ours" or "plain".
        variant: "b0" … "b5".
        batch: pictures, over all chips.
        chips: 1, or 4 with the batch split.
        gigaflops: 10⁹ operations for one chip's share of the batch.
        temporary_megabytes: memory in addition to arguments and result, in units of 10⁶ bytes.
        megacycles: the sum of the estimates of all instructions, each as often as it runs.
        moves: for each kind, how many transposes, pads and copies there are, how often they run,
            what they write and how many cycles they take.
        largest_moves: those that take most cycles, and the operations that they were made from.
    """

    way: str
    variant: str
    batch: int
    chips: int
    gigaflops: float
    temporary_megabytes: float
    megacycles: float
    moves: dict[str, dict[str, float]]
    largest_moves: list[dict[str, Any]]


def describe(way: str, variant: str, *, batch: int, chips: int = 1, side: int = 512) -> Program:
    """Compiles one forward pass for `chips` of a 2 × 2 v5e, and returns the compiler's figures.

    Raises:
        RuntimeError: libtpu isn't installed.
        ValueError: the batch is not divisible by the number of chips.
    """
    if batch % chips:
        raise ValueError(f"a batch of {batch} cannot be split over {chips} chips")
    compiled = _compile(way, variant, batch=batch, chips=chips, side=side)
    found = instructions(compiled.as_text())
    # XLA's count of flops takes the body of a loop once. The only loop goes over pieces of the
    # batch, and contains everything but the conversion of the input
    rounds = max(i.times for i in found if i.cycles)
    moving = sorted(filter(_kind_of_move, found), key=lambda i: -i.cycles * i.times)
    return Program(
        way=way,
        variant=variant,
        batch=batch,
        chips=chips,
        gigaflops=compiled.cost_analysis()["flops"] * rounds / 1e9,
        temporary_megabytes=compiled.memory_analysis().temp_size_in_bytes / 1e6,
        megacycles=sum(i.cycles * i.times for i in found) / 1e6,
        moves={kind: _total([i for i in moving if _kind_of_move(i) == kind]) for kind in MOVES},
        largest_moves=[_summary(i) for i in moving[:8]],
    )


def described_chips(count: int) -> list[Any]:
    """Returns the first of the four chips of a 2 × 2 v5e, to compile for; they can't run anything.

    Raises:
        RuntimeError: libtpu isn't installed.
    """
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # no look-up of a real one
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip to conflict over
    return list(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[:count])


def _compile(way: str, variant: str, *, batch: int, chips: int, side: int) -> Any:
    mesh = Mesh(np.array(described_chips(chips)), ("batch",))
    replicated, split = PartitionSpec(), PartitionSpec("batch")
    forward, state = _forward(way, getattr(SegformerConfig, variant)(num_labels=150))
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, replicated)),
        state,
    )
    pixels = jax.ShapeDtypeStruct(
        (batch, side, side, 3), jnp.float32, sharding=NamedSharding(mesh, split)
    )
    sharded = jax.shard_map(
        forward, mesh=mesh, in_specs=(replicated, split), out_specs=split, check_vma=False
    )
    return jax.jit(sharded).lower(state, pixels).compile()


def _forward(way: str, config: SegformerConfig) -> tuple[Callable, Any]:
    """Returns a forward pass, as `Segmenter` compiles it or plain, and the shapes of its state."""

    def model():
        with ops.use("tpu"):
            model = SegformerForSemanticSegmentation(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
            model.eval()
            return model.folded() if way == "ours" else model

    abstract = nnx.eval_shape(model)
    if way == "ours":
        graph, state = nnx.split(abstract)
        return forward_pass(graph, "tpu"), state

    def plain(params, x):
        return segformer(params, config, x.astype(jnp.bfloat16)).astype(jnp.float32)

    return plain, flat_state(abstract)


def _kind_of_move(instruction: Instruction) -> str | None:
    if instruction.fused or not instruction.cycles:
        return None
    return next((kind for kind in MOVES if instruction.name.startswith(kind)), None)


def _total(moving: Sequence[Instruction]) -> dict[str, float]:
    return dict(
        count=len(moving),
        runs=sum(i.times for i in moving),
        megabytes=sum(map(_written, moving)) / 1e6,
        megacycles=sum(i.cycles * i.times for i in moving) / 1e6,
    )


def _written(instruction: Instruction) -> int:
    """Returns the bytes of all runs; runs that each write a part of a result fill it once."""
    in_part = "dynamic-update-slice" in instruction.name
    return instruction.bytes * (1 if in_part else instruction.times)


def _summary(instruction: Instruction) -> dict[str, Any]:
    return dict(
        name=instruction.name,
        op_name=instruction.op_name,
        shape=instruction.shape,
        **_total([instruction]),
    )


def main(
    *,
    variants: tuple[str, ...] = ("b0", "b2", "b5"),
    batches: tuple[int, ...] = (1, 8, 32),
    chips: tuple[int, ...] = (1, 4),
    side: int = 512,
    out: Path | None = None,
) -> None:
    """Compiles all programs, prints the tables, and writes the figures.

    Args:
        variants: sizes of the network.
        batches: pictures per batch; batches that can't be split over the chips are left out.
        chips: numbers of chips, of a 2 × 2 mesh.
        side: side of the pictures, in pixels.
        out: a JSON file to write.
    """
    jax.config.update("jax_platforms", "cpu")
    programs = []
    for variant in variants:
        for count in chips:
            for batch in (b for b in batches if b % count == 0):
                for way in ("plain", "ours"):
                    programs.append(describe(way, variant, batch=batch, chips=count, side=side))
    versions = {name: version(name) for name in ("segformer-jax", "jax", "libtpu")}
    if out is not None:
        report = dict(versions=versions, side=side, programs=[asdict(p) for p in programs])
        out.write_text(json.dumps(report, indent=1) + "\n")
    console = Console()
    used = ", ".join(" ".join(item) for item in versions.items())
    console.print(_table(programs, f"plain → ours, {side} × {side}\n{used}"))
    console.print(_moves_table([p for p in programs if p.way == "ours"]))


def _table(programs: Sequence[Program], title: str) -> Table:
    table = Table(title=title)
    for heading in ("", "chips", "batch", "GFLOP", "", "temp. MB", "", "Mcycles", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for plain, ours in zip(programs[::2], programs[1::2], strict=True):
        cells = []
        for name in ("gigaflops", "temporary_megabytes", "megacycles"):
            before, now = getattr(plain, name), getattr(ours, name)
            cells += [f"{before:.4g} → {now:.4g}", f"{now / before:.2f}" if before else "–"]
        table.add_row(ours.variant, str(ours.chips), str(ours.batch), *cells)
    return table


def _moves_table(programs: Sequence[Program]) -> Table:
    table = Table(title="ours: transposes, pads and copies that are left, and the costliest")
    for heading in ("", "chips", "batch", "kind", "count", "MB", "Mcycles"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("made of")
    for p in programs:
        where = (p.variant, str(p.chips), str(p.batch))
        rows = [(kind, total, "") for kind, total in p.moves.items()]
        rows += [(m["name"].split(".")[0], m, m["op_name"]) for m in p.largest_moves[:3]]
        for kind, total, made_of in rows:
            numbers = (f"{total['megabytes']:.0f}", f"{total['megacycles']:.2f}")
            table.add_row(*where, kind, f"{total['count']:.0f}", *numbers, _last_names(made_of))
    return table


def _last_names(op_name: str) -> str:
    return "/".join(op_name.split("/")[-2:])


if __name__ == "__main__":
    tyro.cli(main)
