"""What a `segment` command asks for, whatever its pictures come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segformer_jax.cli.printing import say

DEFAULT_MODEL = "street-b0"
Output = Literal["overlay", "mask", "npy", "json"]
ENDINGS: dict[str, str] = {
    "overlay": ".overlay.png",
    "mask": ".mask.png",
    "npy": ".npy",
    "json": ".json",
}


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

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                f"--alpha is {self.alpha}; it lies between 0 (the photo) and 1 (the colours)"
            )

    def segmenter(self) -> Any:
        """The model in use, in a process that keeps compiled programs and freed memory."""
        import jax.numpy as jnp

        from segformer_jax import Segmenter
        from segformer_jax.process import keep_compiled_programs, keep_freed_memory

        keep_freed_memory()
        keep_compiled_programs()
        segmenter = Segmenter.from_pretrained(
            self.model,
            dtype=jnp.dtype(self.dtype),
            device=self.device,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
        )
        if self.model == DEFAULT_MODEL:  # found, so that its licence is the reader's concern
            say(
                "street-b0: a small model of 11 street classes, trained on CamVid; its weights are "
                "CC BY-NC 4.0, not for commercial use (choose another with --model)"
            )
        return segmenter
