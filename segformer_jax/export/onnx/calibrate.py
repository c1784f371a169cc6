"""Measures the values inside an ONNX file on pictures, in ONNX Runtime, and chooses their grids."""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from segformer_jax.export.onnx.graph import onnx
from segformer_jax.export.onnx.grids import Grid, Measured, best_grid

PER_PICTURE = 1024  # numbers that are kept of each value


def measured_grids(
    program: Any,
    values: Mapping[str, Measured],
    pixels: Iterable[Float[np.ndarray, "h w c"]],
    *,
    symmetric: bool,
) -> dict[str, Grid]:
    """Returns the grid of each value that fits it best on all pictures.

    Args:
        program: an ONNX model with the input `pixel_values`, (b, c, h, w), of any size.
        values: values in it, by the names that their grids get.
        pixels: the network's input for each picture.
        symmetric: see `best_grid`.

    Raises:
        ImportError: onnxruntime isn't installed.
        ValueError: there is no picture, or a value is NaN or infinite.
    """
    samples = _samples(program, [own.value for own in values.values()], pixels)
    return {
        name: best_grid(samples[own.value], symmetric=symmetric, then=own.then)
        for name, own in values.items()
    }


def _samples(
    program: Any, values: list[str], pixels: Iterable[Float[np.ndarray, "h w c"]]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns numbers of each value: some of every picture, and every picture's two extremes."""
    values = list(dict.fromkeys(values))
    session = _session(program, values)
    rng = np.random.default_rng(0)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for own in pixels:
        given = {"pixel_values": np.ascontiguousarray(own.transpose(2, 0, 1)[None])}
        for name, value in _run(session, values, given).items():
            flat = value.reshape(-1)
            if not np.isfinite(flat).all():
                raise ValueError(
                    f"values must be finite to become 8 bits, got NaN or infinity in {name}: use "
                    "a checkpoint from before training diverged"
                )
            kept[name].append(flat[rng.integers(flat.size, size=min(PER_PICTURE, flat.size))])
            kept[name].append(np.array([flat.min(), flat.max()]))
    if not all(kept.values()):
        raise ValueError("8 bits must be calibrated on pictures, got none: pass calibrate=PICTURES")
    return {name: np.concatenate(own) for name, own in kept.items()}


def _run(session: Any, values: list[str], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the values, which may be computed or given."""
    computed = [name for name in values if name not in given]
    found = given | dict(zip(computed, session.run(computed, given), strict=True))
    return {name: found[name] for name in values}


def _session(program: Any, values: list[str]) -> Any:
    """Returns a session in which these values are outputs."""
    whole = type(program)()
    whole.CopyFrom(program)
    shown = [name for name in values if name != "pixel_values"]
    whole.graph.output.extend(onnx().ValueInfoProto(name=name) for name in shown)
    return onnxruntime().InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def onnxruntime() -> ModuleType:
    """Imports the package onnxruntime.

    Raises:
        ImportError: it isn't installed.
    """
    try:
        import onnxruntime as package
    except ImportError as error:
        raise ImportError(
            "8 bits are calibrated in the package onnxruntime "
            f"({error}): pip install 'segformer-jax[int8]'"
        ) from error
    return package
