"""The options of a `segment` command that all kinds of sources share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_jax.cli.printing import say
from segformer_jax.inference.protocol import Protocol
from segformer_jax.inference.segmentation import Output

DEFAULT_MODEL = "scene-b0"


@dataclass(frozen=True)
class Request:
    """The options that all kinds of sources share; `segment` documents them."""

    model: str
    out_dir: Path
    outputs: tuple[Output, ...]
    alpha: float
    device: str | None
    dtype: str
    batch_size: int
    max_pixels: int
    json: bool
    protocol: Protocol = field(default_factory=Protocol)
    bands: tuple[int, ...] = ()
    overwrite: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                "--alpha must be in [0, 1], 0 for the photo and 1 for the colours, got "
                f"{self.alpha}"
            )
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must be in [0, 1), 0 for none, got {self.smoothing}")

    def segmenter(self) -> Any:
        """The model in use, as `open_segmenter` gives it."""
        return open_segmenter(
            self.model,
            dtype=self.dtype,
            device=self.device,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
        )


def open_segmenter(model: str, *, dtype: str = "float32", **options: Any) -> Any:
    """The model in use, in a process that keeps compiled programs and freed memory.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        dtype: the type of the matrix products.
        options: those of `Segmenter.from_pretrained`.
    """
    import jax.numpy as jnp

    from segformer_jax import Segmenter
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()
    segmenter = Segmenter.from_pretrained(model, dtype=jnp.dtype(dtype), **options)
    say_licence(model)
    return segmenter


def say_licence(model: str) -> None:
    """Of the model that nobody chose: what it is, and that its licence has a limit."""
    if model == DEFAULT_MODEL:
        say(
            "scene-b0: a small model of 32 classes of streets, rooms, people and nature; its "
            "weights are CC BY-NC 4.0, not for commercial use (choose another with --model)"
        )
