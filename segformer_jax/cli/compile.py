"""`compile`: compiles a model's programs ahead, into a folder that an image ships."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.open_model import say_licence
from segformer_jax.cli.printing import say


def compile(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    size: Annotated[
        tuple[tuple[int, int], ...],
        tyro.conf.arg(metavar="H W [H W ...]", help_behavior_hint="(default: the processor's)"),
    ] = (),
    batch_size: int = 8,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str | None = None,
) -> int:
    """Compile a model ahead: segment --programs FOLDER and serve then start without compiling.

    The programs run with the same versions of this library, JAX and Flax, on a CPU or accelerator
    of the kind that compiled them; elsewhere they are left aside with a message. They are those
    of whole photos, not of windows, scales and flips.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        out: the folder to write; an earlier folder of programs is replaced, others are never
            touched.
        size: heights and widths of the network's input in pixels: needed where the model's
            processor keeps the ratio of pictures, whose sizes after resizing they are.
        batch_size: largest number of pictures per run of the network, as for segment and serve;
            smaller batches are compiled too.
        dtype: the type of the matrix products.
        device: cpu, gpu or tpu; by default JAX chooses, preferring an accelerator.
    """
    from segformer_jax.images.processor import SegformerImageProcessor
    from segformer_jax.inference.compile_ahead import chosen_sizes, compile_ahead
    from segformer_jax.inference.programs import MANIFEST

    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    sizes = chosen_sizes(model, size)
    own = SegformerImageProcessor.from_pretrained(model).fixed_size if size else None
    if own is not None and set(sizes) != {own}:
        say(
            f"{model} resizes every photo to {own[0]}×{own[1]}; programs of other sizes are only "
            "for inputs that you prepare yourself"
        )
    say_licence(model)

    def done(height: int, width: int, count: int) -> None:
        say(f"compiled for {height}×{width}, {count} picture{'s' * (count > 1)} at once")

    compile_ahead(
        model, out, sizes=sizes, batch_size=batch_size, dtype=dtype, device=device, done=done
    )
    print(out / MANIFEST)
    return 0
