"""Shows what bounds the forward pass on this device: `python -m benchmarks.roofline`.

The network is divided into the patch embeddings, the attention and the Mix-FFN of each stage, and
the decode head. Each part is timed alone, in turn with the others and with the whole network.
Beside it stands its *bound*, the least time that its products, convolutions and attentions take on
this device. For each of them that is the longer of two times: its multiply-adds at the rate of a
large matrix product; and reading its operands and writing its result once, at the rate at which as
many bytes or more are copied. LayerNorm, GELU, softmax and additions count as if they took no time.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.checkpoints import make_pixels
from benchmarks.machine import describe, large_product
from benchmarks.report import print_rows, write_json
from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation, ops
from segformer_jax.inference.compiled import compiler_options, forward_pass
from segformer_jax.models.contract import in_use
from segformer_jax.ops.dispatch import Operation
from segformer_jax.process import keep_freed_memory

Row = dict[str, Any]
Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5"]

SETS = (4, 16, 64, 256)  # MB that a copy reads and writes, when its rate is measured
COLOURS = {
    "patches": "#2ca02c", "attention": "#1f77b4", "Mix-FFN": "#ff7f0e", "decode head": "#9467bd",
    "whole": "#d62728",
}  # fmt: skip
LEAST = 5e-3  # seconds of one measurement; shorter calls are repeated


@dataclass(frozen=True)
class Part:
    """A part of the network, and how often the network has it.

    Attributes:
        name: such as "stage 3, attention".
        times: how often it runs.
        module: the module with its parameters.
        call: computes the part by the module.
        inputs: the shapes of its feature maps, (b, h, w, c).
    """

    name: str
    times: int
    module: nnx.Module
    call: Callable[..., Any]
    inputs: tuple[jax.ShapeDtypeStruct, ...]


@dataclass(frozen=True)
class Work:
    """The multiply-adds of one operation, and the bytes of its operands and its result."""

    multiply_adds: int
    bytes: int

    def bound(self, rate: float, copying: dict[int, float]) -> float:
        """Returns the least seconds at `rate` 10⁹ multiply-adds, and a copy's bytes, per second."""
        larger = [each for mb, each in copying.items() if mb * 1e6 >= self.bytes]
        copied = max(larger, default=copying[max(copying)])  # starting a small copy takes long
        return max(self.multiply_adds / rate / 1e9, self.bytes / copied)


def main(
    variant: Variant = "b0",
    batch: int = 1,
    side: int = 512,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 30,
    out: Path = Path("out"),
) -> None:
    """Prints a table, and writes roofline.json and roofline.svg.

    Args:
        variant: size of the network.
        batch: pictures per batch.
        side: of the square pictures, in pixels.
        dtype: type of the matrix products.
        rounds: how often each part is timed.
        out: the folder of the results.
    """
    keep_freed_memory()  # as `segformer-jax segment` does
    config = getattr(SegformerConfig, variant)(num_labels=150)
    model = SegformerForSemanticSegmentation(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    report = measure(in_use(model), dtype=dtype, batch=batch, side=side, rounds=rounds)
    report |= {"work": f"{variant}, {batch} × {side} × {side}, {dtype}", "machine": describe()}
    print(f"a large product: {report['peak']:.0f} G multiply-adds per second")
    for size, copied in report["copying"].items():
        print(f"a copy that reads and writes {size} MB: {copied / 1e9:.0f} GB per second")
    print_rows(report["rows"], report["work"])
    write_json(out / "roofline.json", report)
    plot(out / "roofline.svg", report)


def measure(model: Any, *, dtype: str, batch: int, side: int, rounds: int) -> dict[str, Any]:
    """Measures the parts of a folded model, the whole, and what the device can do, all in turn.

    Returns:
        `peak`, 10⁹ multiply-adds per second of a large product; `copying`, the bytes per second of
        copies that read and write so many MB; `rows`, one per part and one for the whole, with
        times in milliseconds.
    """
    found = list(parts(model, batch, side))
    product, length = large_product(dtype)
    runs = [
        product,
        *map(_copy, SETS),
        *(_run_of_part(part, model.segformer.dtype) for part in found),
        _run_of_whole(model, batch, side),
    ]
    times = [statistics.quantiles(own, n=4) for own in _in_turn(runs, rounds)]
    (_, own, _), *copies = times[: 1 + len(SETS)]
    rate = length**3 / own / 1e9
    copying = {mb: mb * 1e6 / own for mb, (_, own, _) in zip(SETS, copies, strict=True)}
    rows = [
        _row(part, quartiles, rate, copying)
        for part, quartiles in zip(found, times[1 + len(SETS) : -1], strict=True)
    ]
    return {"peak": rate, "copying": copying, "rows": [*rows, _row_of_whole(rows, times[-1])]}


def _row(part: Part, quartiles: list[float], rate: float, copying: dict[int, float]) -> Row:
    done = works(part)
    count = part.times * sum(work.multiply_adds for work in done)
    size = part.times * sum(work.bytes for work in done)
    bound = part.times * sum(work.bound(rate, copying) for work in done)
    low, middle, high = (1e3 * part.times * each for each in quartiles)
    return {
        "work": part.name,
        "times": part.times,
        "multiply_adds_G": count / 1e9,
        "MB": size / 1e6,
        "per_byte": count / size,
        "arithmetic_ms": 1e3 * count / rate / 1e9,
        "bound_ms": 1e3 * bound,
        "ms": middle,
        "low": low,
        "high": high,
        "share": 1e3 * bound / middle,
    }


def _row_of_whole(rows: list[Row], quartiles: list[float]) -> Row:
    names = ("multiply_adds_G", "MB", "arithmetic_ms", "bound_ms")
    total = {name: sum(row[name] for row in rows) for name in names}
    low, middle, high = (1e3 * each for each in quartiles)
    return {
        "work": "the whole network",
        "times": 1,
        **total,
        "per_byte": 1e3 * total["multiply_adds_G"] / total["MB"],
        "ms": middle,
        "low": low,
        "high": high,
        "share": total["bound_ms"] / middle,
    }


def parts(model: Any, batch: int, side: int) -> Iterator[Part]:
    """Yields the parts of a folded model for square pictures."""
    config = model.config
    with _forms():
        dtype = ops.activation_dtype(model.segformer.dtype)
    shaped = functools.partial(jax.ShapeDtypeStruct, dtype=dtype)
    maps = [
        shaped((batch, *size, width))
        for size, width in zip(config.feature_sizes(side, side), config.hidden_sizes, strict=True)
    ]
    inputs = [shaped((batch, side, side, config.num_channels)), *maps[:-1]]
    stages = zip(model.segformer.stages, inputs, maps, strict=True)
    for number, (stage, before, own) in enumerate(stages, 1):
        block, depth = stage.blocks[0], len(stage.blocks)
        yield Part(f"stage {number}, patches", 1, stage, _patches, (before,))
        yield Part(f"stage {number}, attention", depth, block, _attention, (own,))
        yield Part(f"stage {number}, Mix-FFN", depth, block, _mix_ffn, (own,))
    yield Part("decode head", 1, model.decode_head, _decode, tuple(maps))


def _patches(stage, x):
    return stage.patch_embeddings(x)


def _attention(block, x):
    return x + block.attention(block.layernorm_before(x))[0]


def _mix_ffn(block, x):
    return x + block.mlp(block.layernorm_after(x))


def _decode(head, *maps):
    return head(maps)


def works(part: Part) -> list[Work]:
    """Returns the work of each product, convolution and attention of a part."""
    found: list[Work] = []
    inside = False
    original = Operation.__call__

    def call(operation, *operands, **options):
        nonlocal inside
        if inside:  # an operation of which another one consists
            return original(operation, *operands, **options)
        inside = True
        try:
            result = original(operation, *operands, **options)
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
            with ops.use("reference"):
                written = jax.make_jaxpr(functools.partial(operation.reference, **options))(*shapes)
        finally:
            inside = False
        by_shifts = operation is ops.depthwise_conv  # nine products, but elementwise
        count = 9 * result.size if by_shifts else _multiply_adds(written.jaxpr)
        if count:
            both = jax.tree.leaves((operands, result))
            found.append(Work(count, sum(x.size * x.dtype.itemsize for x in both)))
        return result

    with mock.patch.object(Operation, "__call__", call), _forms():
        nnx.eval_shape(part.call, part.module, *part.inputs)
    return found


def _multiply_adds(jaxpr: Any) -> int:
    """Counts the multiply-adds of products and convolutions, also of inner functions."""
    count = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            count += out.size * math.prod(left.shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = equation.params["dimension_numbers"].rhs_spec[0]
            count += out.size * math.prod(kernel) // kernel[outputs]
        else:
            inner = [p for p in equation.params.values() if hasattr(p, "jaxpr")]
            repeated = equation.params.get("length", 1) if name == "scan" else 1
            count += repeated * sum(_multiply_adds(each.jaxpr) for each in inner)
    return count


def _forms() -> AbstractContextManager:
    """Traces in the forms of this device, as `forward_pass` does."""
    return ops.use(ops.forms_for(jax.default_backend()), local_batch=True)


def _run_of_part(part: Part, dtype: Any) -> Callable[[], Any]:
    graph, state = nnx.split(part.module)
    platform, rng = jax.default_backend(), np.random.default_rng(0)

    def run(state, *inputs):
        with _forms():
            return part.call(nnx.merge(graph, state), *inputs)

    inputs = [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in part.inputs]
    compiled = jax.jit(run, compiler_options=compiler_options(platform, dtype))
    return lambda: compiled(state, *inputs).block_until_ready()


def _run_of_whole(model: Any, batch: int, side: int) -> Callable[[], Any]:
    graph, state = nnx.split(model)
    platform = jax.default_backend()
    options = compiler_options(platform, model.segformer.dtype)
    compiled = jax.jit(forward_pass(graph, platform), compiler_options=options)
    pixels = jnp.asarray(make_pixels(batch, side, side))
    return lambda: compiled(state, pixels).block_until_ready()


def _in_turn(runs: list[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Returns the seconds of one call of each run, measured in `rounds` turns."""
    calls = []
    for run in runs:
        run()  # compiles
        start = time.perf_counter()
        run()
        calls.append(math.ceil(LEAST / (time.perf_counter() - start)))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, count, own in zip(runs, calls, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                run()
            own.append((time.perf_counter() - start) / count)
    return times


def _copy(megabytes: int) -> Callable[[], Any]:
    """Returns a copy, scaled so that it is one, that reads and writes so many megabytes."""
    x = jnp.ones(megabytes * 10**6 // 8, jnp.float32)  # as many bytes are written
    options = compiler_options(jax.default_backend(), x.dtype)
    scaled = jax.jit(lambda x: 2 * x, compiler_options=options)
    return lambda: scaled(x).block_until_ready()


def plot(file: Path, report: dict[str, Any]) -> None:
    """Draws the roofline with a point per part, and the time of each part beside its bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    *rows, whole = report["rows"]
    figure, (roof, bars) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    rate, copying = report["peak"], report["copying"]
    x = np.geomspace(0.5, 1.5 * max(row["per_byte"] for row in rows), 100)
    for size, style in ((max(copying, key=copying.__getitem__), "-"), (max(copying), "--")):
        y = np.minimum(rate, x * copying[size] / 1e9)
        roof.plot(x, y, style, color="#444444", label=f"{size} MB, {copying[size] / 1e9:.0f} GB/s")
    for kind, colour in COLOURS.items():
        own = [row for row in [*rows, whole] if kind in row["work"]]
        done = [row["multiply_adds_G"] / row["ms"] * 1e3 for row in own]
        size = [400 * row["ms"] / whole["ms"] + 10 for row in own]
        roof.scatter([r["per_byte"] for r in own], done, size, colour, alpha=0.7)
        roof.scatter([], [], 40, colour, label=kind, alpha=0.7)  # of one size in the legend
    roof.set(xscale="log", yscale="log", xlabel="multiply-adds per byte")
    roof.set_ylabel("10⁹ multiply-adds per second")
    roof.legend(fontsize="small", loc="lower right")
    names, times, bounds = ([row[key] for row in rows] for key in ("work", "ms", "bound_ms"))
    bars.barh(names, times, color="#cfd6e0", label="measured")
    bars.barh(names, bounds, height=0.4, color="#d62728", label="bound")
    bars.set(xlabel="ms")
    bars.invert_yaxis()
    bars.legend(fontsize="small")
    for axis in (roof, bars):
        axis.spines[["top", "right"]].set_visible(False)
    machine = report["machine"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    figure.suptitle(
        f"{report['work']}: {whole['ms']:.0f} ms, bound {whole['bound_ms']:.0f} ms "
        f"({where}, {machine['date']})"
    )
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


if __name__ == "__main__":
    tyro.cli(main)
