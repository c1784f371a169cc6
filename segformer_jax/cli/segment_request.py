"""The options of a `segment` command that all kinds of sources share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_jax.cli.open_model import open_segmenter
from segformer_jax.images.eight_bits import Stretch
from segformer_jax.inference.protocol import Protocol
from segformer_jax.inference.result_files import Output


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
    stretch: Stretch | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                "--alpha must be in [0, 1], 0 for the photo and 1 for the colours, got "
                f"{self.alpha}"
            )
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must be in [0, 1), 0 for none, got {self.smoothing}")

    def segmenter(self) -> Any:
        """Opens the model with `open_segmenter`."""
        return open_segmenter(
            self.model,
            dtype=self.dtype,
            device=self.device,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
            stretch=self.stretch,
        )
