"""Resizes photos inside an ONNX program as Pillow does: pass by pass, rounded to bytes between."""

import numpy as np

from segformer_jax.export.onnx.graph import Graph
from segformer_jax.export.signature import pixel_line
from segformer_jax.images.processor import SegformerImageProcessor

MODES = {2: "linear", 3: "cubic"}  # Pillow's filters that ONNX has, antialiased
ANTIALIASED_SINCE = 18  # the first opset with antialiased Resize of some axes


def check_resize(processor: SegformerImageProcessor) -> None:
    """Raises a ValueError if a program can't resize as the processor does."""
    if processor.do_resize and processor.resample not in MODES:
        raise ValueError(
            "pictures must be resized by Pillow's filter 2 (bilinear) or 3 (bicubic) inside a "
            f"program, got resample={processor.resample}"
        )
    if processor.do_resize and not {*processor.size} <= {"height", "width", "shortest_edge"}:
        raise ValueError(
            "pictures must be resized to a height and width or a shortest edge inside a program, "
            f"got size={dict(processor.size)}"
        )


def resized_as_pillow(graph: Graph, photos: str, processor: SegformerImageProcessor) -> str:
    """Adds the processor's resize of photos (b, c, h, w), float32 of 0…255; returns the same."""
    if not processor.do_resize:
        return photos
    height, width = _size(graph, photos, processor)
    x = _pass(graph, photos, 3, width, MODES[processor.resample])
    return _pass(graph, x, 2, height, MODES[processor.resample])


def _pass(graph: Graph, x: str, axis: int, size: str, mode: str) -> str:
    x = graph.node(
        "Resize",
        x,
        "",
        "",
        size,
        name="resize",
        axes=[axis],
        mode=mode,
        antialias=1,
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )
    ends = (graph.weight(end, name=f"resize.{end}") for end in (0, 255))
    x = graph.node("Clip", x, *ends, name="resize")
    half = graph.weight(0.5, name="resize.half")  # Pillow rounds halves up, `Round` to even
    return graph.node("Floor", graph.node("Add", x, half, name="resize"), name="resize")


def _size(graph: Graph, photos: str, processor: SegformerImageProcessor) -> tuple[str, str]:
    """Returns the new height and width, a tensor of one integer each, as `target_size`."""
    size = processor.size
    if "height" in size:
        return graph.integers(size["height"]), graph.integers(size["width"])
    edge = graph.integers(size["shortest_edge"])
    sides = [graph.sizes(photos, axis, axis + 1, name="photo") for axis in (2, 3)]
    short = graph.node("Min", *sides, name="photo.short")
    scaled = (graph.node("Mul", side, edge, name="photo.scaled") for side in sides)
    height, width = (graph.node("Div", own, short, name="photo.resized") for own in scaled)
    return height, width


def normalized(graph: Graph, x: str, table: np.ndarray) -> str:
    """Adds the processor's values of a byte, which are on a line, to photos (b, c, h, w).

    Args:
        graph: the graph.
        x: float32 photos of 0…255.
        table: see `pixel_table`.
    """
    factor, shift = (own[:, None, None] for own in pixel_line(table))
    x = graph.node("Mul", x, graph.weight(factor, name="preprocess.factor"), name="preprocess")
    return graph.node("Add", x, graph.weight(shift, name="preprocess.shift"), name="preprocess")
