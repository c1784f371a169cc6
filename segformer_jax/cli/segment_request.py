"""The options of a `segment` command that all kinds of sources share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_jax.cli.open_model import open_segmenter
from segformer_jax.images.stretch import Stretch
from segformer_jax.inference.protocol import Protocol
from segformer_jax.inference.result_files import Output

POLYGONS = {"polygons", "gpkg", "coco", "labelme"}  # kinds of results that hold them


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
    min_area: int = 0
    simplify: float = 0.0
    id2label: dict[int, str] | None = None
    stretch: Stretch | None = None
    programs: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                "--alpha must be in [0, 1], 0 for the photo and 1 for the colours, got "
                f"{self.alpha}"
            )
        if self.programs is not None:
            from segformer_jax.inference.programs import check_folder

            check_folder(self.programs)
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must be in [0, 1), 0 for none, got {self.smoothing}")
        for name, value in (("--min-area", self.min_area), ("--simplify", self.simplify)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, 0 for none, got {value}")
            if value and not POLYGONS & set(self.outputs):
                raise ValueError(
                    f"{name} can be used with polygons only, got --outputs "
                    f"{' '.join(self.outputs)}: add {', '.join(sorted(POLYGONS))}"
                )

    def segmenter(self) -> Any:
        """Opens the model with `open_segmenter`."""
        return open_segmenter(
            self.model,
            dtype=self.dtype,
            device=self.device,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
            id2label=self.id2label,
            stretch=self.stretch,
            programs=self.programs,
        )
