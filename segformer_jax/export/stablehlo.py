"""Exports programs that run with JAX alone: StableHLO, serialised by `jax.export`.

The file is exactly the result of `jax.export.Exported.serialize`, so it runs without this library.
The weights are constants of the program, or in a safetensors file beside it, by their dotted paths.
Open sizes are the symbolic dimensions b, h and w. One file can serve several platforms.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jaxtyping import Array, Float, Shaped, UInt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from segformer_jax import ops
from segformer_jax.atomic import atomic_path
from segformer_jax.checkpoints.flat import Flat, skeleton_of, values_of
from segformer_jax.export.signature import Signature, photo_range, pixel_table
from segformer_jax.images.eight_bits import stretched
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.inference.best_class import best_class
from segformer_jax.inference.compiled import compiler_options
from segformer_jax.models.contract import in_use, interface_of, logits_of

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
USUAL_PLATFORMS = ("cpu", "cuda", "tpu")
USUAL_SIZE = (512, 512)


def export_stablehlo(
    model: nnx.Module,
    path: str | Path,
    *,
    signature: Signature | None = None,
    processor: SegformerImageProcessor | None = None,
    platforms: Sequence[str] = USUAL_PLATFORMS,
    precision: Literal["default", "highest"] = "default",
    weights_beside: bool = False,
) -> None:
    """Exports the model to one file, written completely or not at all.

    Args:
        model: any module that maps `pixel_values` to an output with `.logits`. Its parameters are
            copied; a SegFormer is folded.
        path: file of the program. With `weights_beside` the weights are written to
            `weights_path(path)`, and the program takes them as its first argument, a dict.
        signature: inputs and outputs; by default pixels and logits of any batch and size.
        processor: needed for the step "preprocess", which applies its scale, mean and deviation.
        platforms: where the program can run: cpu, cuda, rocm, tpu.
        precision: of the matrix products: the platform's default (TF32 on NVIDIA GPUs, bfloat16 on
            TPUs), or float32 on all platforms with "highest".
        weights_beside: write the weights to a separate file.

    Raises:
        ValueError: the model returns no logits for pixels, a platform is unknown, the size is too
            small, the model can't be traced with open sizes, the processor is missing or stretches
            by percentiles, or the path can't be written.
    """
    signature = signature or Signature()
    model = in_use(model)
    interface = interface_of(model, size=signature.size or USUAL_SIZE)
    signature.check(interface)
    for platform in platforms:
        if platform not in PLATFORMS:
            raise ValueError(f"platform must be one of {', '.join(PLATFORMS)}, got {platform!r}")
    if not platforms:
        raise ValueError(f"platforms must name at least one of {', '.join(PLATFORMS)}")
    weights, network = _weights_and_network(model)
    limits = photo_range(processor) if signature.preprocess and processor else None
    steps = _with_steps(network, signature, processor, limits, interface)
    run = _for_platform(platforms, steps)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    pixels = _input(signature, jnp.uint8 if limits is None else jnp.uint16, interface)
    exact = jax.default_matmul_precision("highest") if precision == "highest" else nullcontext()
    with exact, _open_sizes(model):
        if weights_beside:
            program = export.export(jax.jit(run), platforms=platforms)(shapes, pixels)
        else:
            inside = jax.jit(lambda pixels: run(weights, pixels))
            program = export.export(inside, platforms=platforms)(pixels)
    if weights_beside:
        with atomic_path(weights_path(path)) as temporary:
            save_file({name: np.asarray(value) for name, value in weights.items()}, temporary)
    with atomic_path(path) as temporary:
        temporary.write_bytes(program.serialize())


def load_exported(path: str | Path) -> Callable[[Any], Array]:
    """Loads a file of `export_stablehlo` as a function, which compiles once for each shape.

    Args:
        path: file of the program; weights in a separate file beside it are read too.

    Returns:
        A function of pixels or photos that returns logits or classes (see `Signature`), and raises
        a ValueError if their shape or type does not fit.

    Raises:
        ValueError: the file is not an exported program, or its weights are missing or damaged.
        OSError: the file can't be read.
    """
    content = Path(path).read_bytes()
    try:
        program = export.deserialize(bytearray(content))
    except Exception as error:  # flatbuffers does not check its input, and may raise any error
        raise ValueError(
            f"{path} is not an exported program: make one with segformer-jax export MODEL OUT"
        ) from error
    weights = [] if len(program.in_avals) == 1 else [jax.device_put(_read_weights(path))]
    options = compiler_options(jax.default_backend(), jnp.float32)
    compiled = jax.jit(program.call, compiler_options=options)

    def run(pixels: Any) -> Array:
        try:
            return compiled(*weights, pixels)
        except ValueError as error:  # only the error's cause names the violated rule
            raise ValueError(
                f"{path} takes {program.in_avals[-1]}, not {jax.typeof(pixels)}: "
                f"{error.__cause__ or error}"
            ) from error

    return run


def weights_path(path: str | Path) -> Path:
    """Returns the file of a program's weights: the program's path with .safetensors appended."""
    path = Path(path)
    return path.with_name(path.name + ".safetensors")


def _read_weights(path: str | Path) -> dict[str, np.ndarray]:
    beside = weights_path(path)
    if not beside.is_file():
        raise ValueError(
            f"{path} needs the file with its weights, {beside.name}, which is "
            "missing beside it: copy it there, or export again"
        )
    try:
        return load_file(beside)
    except SafetensorError as error:
        raise ValueError(f"{beside} is damaged ({error}); export the model again") from error


def _weights_and_network(model: Any) -> tuple[Flat, Callable]:
    """Returns the parameters by dotted path, and the logits as a function of them and pixels."""
    skeleton = skeleton_of(model)

    def network(weights: Flat, pixels: Array) -> Array:
        return logits_of(skeleton.model(weights), pixels).astype(jnp.float32)

    return values_of(skeleton.state), network


def _for_platform(platforms: Sequence[str], run: Callable) -> Callable:
    """Makes a program for one platform be traced in the forms of that platform.

    A program for a GPU is traced as for several platforms, without cuDNN's kernels: not every
    machine can trace these, and JAX does not guarantee that they run on its next release.
    """
    if len(platforms) > 1 or platforms[0] not in ops.PLATFORMS:
        return run

    def run_there(*arguments: Any) -> Array:
        with ops.use(platforms[0]):
            return run(*arguments)

    return run_there


@contextmanager
def _open_sizes(model: Any) -> Iterator[None]:
    """Raises a ValueError that says what to do if the model can't be traced with open sizes."""
    try:
        yield
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ValueError(
            f"{type(model).__name__} can't be traced with open sizes: fix them, as "
            f"in signature=Signature(batch=1, size=(512, 512)) ({error})"
        ) from error


def _with_steps(
    network: Callable,
    signature: Signature,
    processor: Any,
    limits: tuple[int | float, int | float] | None,
    config: Any,
) -> Callable:
    table = pixel_table(processor, config) if signature.preprocess else None
    # the byte of every 16-bit value
    as_bytes = limits and stretched(np.arange(1 << 16).reshape(-1, 1, 1), *limits).ravel()

    def run(weights: Flat, pixels: Array) -> Array:
        size = pixels.shape[1:3]
        if as_bytes is not None:
            pixels = jnp.asarray(as_bytes)[pixels]
        logits = network(weights, pixels if table is None else normalized(pixels, table))
        return classes(logits, size) if signature.argmax else logits

    return run


def normalized(
    photos: UInt[Array, "b h w c"], table: Float[Array | np.ndarray, "256 c"]
) -> Float[Array, "b h w c"]:
    """Looks up the processor's result for every byte: bit-exact, whatever a compiler reorders."""
    channels = [jnp.asarray(table[:, c])[photos[..., c]] for c in range(table.shape[1])]
    return jnp.stack(channels, -1)


def classes(logits: Float[Array, "b _ _ labels"], size: Sequence[Any]) -> UInt[Array, "b h w"]:
    """Returns the best class of every pixel as torch does: upsamples the logits, then compares."""
    return best_class(ops.resize_bilinear(logits, size=tuple(size)), above=0.0)


def _input(signature: Signature, photo_type: Any, config: Any) -> Shaped[Any, "b h w c"]:
    least = config.minimum_size
    b, h, w = export.symbolic_shape("b, h, w", constraints=[f"h >= {least}", f"w >= {least}"])
    batch = b if signature.batch is None else signature.batch
    height, width = (h, w) if signature.size is None else signature.size
    dtype = photo_type if signature.preprocess else jnp.float32
    return jax.ShapeDtypeStruct((batch, height, width, config.num_channels), dtype)
