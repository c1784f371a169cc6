"""The result of `Segmenter` for one picture."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt
from PIL import Image

from segformer_jax.atomic import atomic_path
from segformer_jax.images import draw
from segformer_jax.images.annotations import coco, labelme
from segformer_jax.images.geojson import geojson_lines
from segformer_jax.images.labels import distinct_names, palette_for
from segformer_jax.images.polygons import polygons_of
from segformer_jax.images.read import read_image
from segformer_jax.json_text import json_bytes


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every pixel of a picture.

    Attributes:
        class_map: (H, W) class indices, uint8; uint16 above 255 classes.
        id2label: class names by index.
        image: the picture, upright, RGB, H × W.
        scores: (H, W) float32 in [0, 1], the probability of the chosen class, if asked for.
    """

    class_map: UInt[np.ndarray, "H W"]
    id2label: Mapping[int, str]
    image: Image.Image = field(repr=False)
    scores: Float[np.ndarray, "H W"] | None = None

    def counts(self) -> dict[int, int]:
        """Number of pixels of every class in the picture, by index, largest first."""
        classes, counts = np.unique(self.class_map, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {int(classes[i]): int(counts[i]) for i in order}

    def areas(self) -> dict[str, float]:
        """Share of the picture, in (0, 1], of every class in it, by name, largest first."""
        return {self.label(i): n / self.class_map.size for i, n in self.counts().items()}

    def label(self, index: int) -> str:
        """The name of a class; those of one name are told apart: "other (7)"."""
        return distinct_names(self.id2label).get(index, f"LABEL_{index}")

    def mask(self, label: str | int) -> Bool[np.ndarray, "H W"]:
        """True where the pixel has the class of this name or index.

        Raises:
            ValueError: the model has no such class; the message lists its classes.
        """
        if isinstance(label, str):
            names = (self.id2label, distinct_names(self.id2label))
            indices = [i for i in self.id2label if label in (own[i] for own in names)]
        else:
            indices = [label] if label in self.id2label else []
        if not indices:
            names = ", ".join(self.id2label.values())
            raise ValueError(f"label must be a class of the model, got {label!r}: it has {names}")
        return np.isin(self.class_map, indices)

    def to_list(self) -> list[dict[str, Any]]:
        """Returns label, score (None), "L" mask per class, as HF's image-segmentation pipeline."""
        return [
            {
                "score": None,
                "label": self.id2label.get(index, f"LABEL_{index}"),
                "mask": Image.fromarray(np.where(self.class_map == index, 255, 0).astype(np.uint8)),
            }
            for index in sorted(self.counts())
        ]

    def overlay(self, image: Any = None, alpha: int | float = 0.5) -> Image.Image:
        """The picture with its classes in colours.

        Args:
            image: another picture of the same size; None uses the segmented one.
            alpha: opacity of the colours, 0…1.
        """
        picture = self.image if image is None else read_image(image)
        return draw.overlay(picture, self.class_map, palette_for(self.id2label), alpha=alpha)

    def save(
        self,
        path: str | Path,
        *,
        alpha: int | float = 0.5,
        min_area: int = 0,
        simplify: float = 0.0,
        picture: str | None = None,
    ) -> None:
        """Writes a file whose kind follows from the ending of its name, completely or not at all.

        `.overlay.png` and `.jpg` are the overlay, any other `.png` the class indices with a
        palette, `.npy` the class map, `.json` the size and areas; `.geojson`, `.coco.json` and
        `.labelme.json` are polygons in pixels.

        Args:
            path: the file.
            alpha: opacity of the colours in the overlay, 0…1.
            min_area: smaller polygons, in pixels, are left out.
            simplify: how far, in pixels, a border may be moved to have fewer corners.
            picture: the picture's name in COCO's and labelme's file, in labelme's relative to it;
                by default the file's own without its ending.

        Raises:
            ValueError: the name has another ending, or the folder can't be written.
        """
        path = Path(path)
        content = self.encode(
            path.name, alpha=alpha, min_area=min_area, simplify=simplify, picture=picture
        )
        with atomic_path(path) as temporary:
            Path(temporary).write_bytes(content)

    def encode(
        self,
        name: str,
        *,
        alpha: float = 0.5,
        min_area: int = 0,
        simplify: float = 0.0,
        picture: str | None = None,
    ) -> bytes:
        """The bytes that `save` writes to a file of this name.

        Raises:
            ValueError: the name has another ending.
        """
        lower, buffer = name.lower(), io.BytesIO()
        if lower.endswith((".overlay.png", ".jpg", ".jpeg")):
            kind = "PNG" if lower.endswith(".png") else "JPEG"
            # takes a sixth of the time of Pillow's default level, for 7 % more bytes on a street
            level = {"compress_level": 1} if kind == "PNG" else {}
            self.overlay(alpha=alpha).save(buffer, kind, **level)
        elif lower.endswith(".png"):
            draw.index_png(self.class_map, palette_for(self.id2label)).save(buffer, "PNG")
        elif lower.endswith(".npy"):
            np.save(buffer, self.class_map)
        elif lower.endswith((".geojson", ".coco.json", ".labelme.json")):
            found = polygons_of(self.class_map, min_area=min_area, simplify=simplify)
            names = distinct_names(self.id2label)
            if lower.endswith(".geojson"):
                return b"".join(geojson_lines(found, names))
            form = coco if lower.endswith(".coco.json") else labelme
            file_name = picture or name[: lower.rindex(f".{form.__name__}.json")]
            return json_bytes(form(found, names, file_name=file_name, size=self.class_map.shape))
        elif lower.endswith(".json"):
            return json_bytes(self.to_dict())
        else:
            raise ValueError(
                "the file name must end in .overlay.png, .jpg, .png, .npy, .json, .geojson, "
                f".coco.json or .labelme.json, got {name}"
            )
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Size and areas as a dict for JSON: index, name, share and pixels of each class."""
        height, width = self.class_map.shape
        return {
            "height": height,
            "width": width,
            "classes": [
                {
                    "id": index,
                    "label": self.label(index),
                    "share": pixels / self.class_map.size,
                    "pixels": pixels,
                }
                for index, pixels in self.counts().items()
            ],
        }
