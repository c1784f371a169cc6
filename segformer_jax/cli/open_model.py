"""Opens the model that a command uses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from segformer_jax.cli.printing import say
from segformer_jax.images.stretch import Stretch

DEFAULT_MODEL = "scene-b0"


def open_segmenter(
    model: str,
    *,
    dtype: str = "float32",
    stretch: Stretch | None = None,
    programs: Path | None = None,
    **options: Any,
) -> Any:
    """Opens a `Segmenter`, and sets this process to keep compiled programs and freed memory.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        dtype: the type of the matrix products.
        stretch: how pictures of more than 8 bits are read, instead of the model's own way.
        programs: a folder of programs compiled ahead; by default what SEGFORMER_JAX_PROGRAMS names.
        options: further options of `Segmenter.from_pretrained`.
    """
    import jax.numpy as jnp

    from segformer_jax import Segmenter
    from segformer_jax.inference.programs import use_programs
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()
    left_aside = use_programs(model, programs, dtype=dtype, device=options.get("device"))
    if left_aside is not None:
        say(left_aside)
    segmenter = Segmenter.from_pretrained(model, dtype=jnp.dtype(dtype), **options)
    if stretch is not None:
        segmenter.processor = replace(segmenter.processor, stretch=stretch)
    say_licence(model)
    return segmenter


def say_licence(model: str) -> None:
    """Prints what the default model is, and the limit of its licence, if `model` is the default."""
    if model == DEFAULT_MODEL:
        say(
            "scene-b0: a small model of 32 classes of streets, rooms, people and nature; its "
            "weights are CC BY-NC 4.0, not for commercial use (choose another with --model)"
        )
