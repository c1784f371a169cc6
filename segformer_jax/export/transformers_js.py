"""Exports the folder that transformers.js reads: ONNX beside the config and the processor.

transformers.js resizes with another filter than Pillow's, which changes one class in sixteen of a
photo. So the program resizes and normalises photos itself, and the processor does nothing.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path, writable_folder
from segformer_jax.export.onnx.graph import Graph
from segformer_jax.export.onnx.grids import EightBits
from segformer_jax.export.onnx.pillow_resize import check_resize, normalized, resized_as_pillow
from segformer_jax.export.onnx.program import USUAL_OPSET, eight_bits_of, program
from segformer_jax.export.signature import Signature, check_for_photos, check_model, pixel_table
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.json_text import json_bytes
from segformer_jax.models.foreign import refuse_foreign
from segformer_jax.models.segformer import SegformerForSemanticSegmentation

WEIGHTS = ("*.safetensors", "*.bin")


def export_transformers_js(
    model: SegformerForSemanticSegmentation,
    folder: str | Path,
    *,
    processor: SegformerImageProcessor,
    quantize: str | None = None,
    calibrate: Iterable[Any] | None = None,
) -> list[Path]:
    """Writes a folder for transformers.js: `pipeline("image-segmentation", folder)`.

    Its masks are those of `Segmenter`, up to the JPEG decoder and rounding. The folder has a
    config.json, a preprocessor_config.json that leaves photos as they are, and onnx/model.onnx,
    which takes `pixel_values`, (b, 3, h, w) of 0…255, resizes them and gives `logits`.

    Args:
        model: its parameters are copied and folded.
        folder: the folder to write, without weights of another kind; earlier files are replaced.
        processor: gives the size, filter and normalisation of pictures.
        quantize: "int8" adds onnx/model_quantized.onnx, which browsers load unless told otherwise.
        calibrate: pictures for `quantize`, see `export_onnx`.

    Returns:
        The files that were written.

    Raises:
        ImportError, ImageError: as `export_onnx`.
        ValueError: as `export_onnx`, the processor or network is not for RGB of 8 bits, its resize
            has no equal in ONNX, or the folder holds a model's weights or, without `quantize`, an
            8-bit file.
    """
    check_model(model)
    refuse_foreign(model, "ONNX", instead="export_stablehlo exports any model")
    check_for_photos(model.config, processor, what="a folder for transformers.js")
    check_resize(processor)
    folder = Path(folder)
    if any(own for pattern in WEIGHTS for own in folder.glob(pattern)):
        raise ValueError(
            f"the folder for transformers.js must have no other weights, got {folder}: its "
            "preprocessor_config.json would be replaced by one for JavaScript alone; give a new one"
        )
    older = folder / "onnx" / "model_quantized.onnx"
    if quantize is None and older.exists():
        raise ValueError(
            "the folder for transformers.js must have no 8-bit file of an earlier export, got "
            f"{older}, which browsers would load: quantize this model too, or remove it"
        )
    table = pixel_table(processor, model.config)
    folded = model.folded()
    rounded = eight_bits_of(folded, processor, USUAL_OPSET, quantize=quantize, calibrate=calibrate)

    def prepare(graph: Graph, photos: str) -> str:
        return normalized(graph, resized_as_pillow(graph, photos, processor), table)

    def written(name: str, eight_bits: EightBits | None = None) -> Path:
        whole, _ = program(folded, Signature(), None, eight_bits=eight_bits, prepare=prepare)
        return _write(folder / "onnx" / name, whole.SerializeToString())

    writable_folder(folder / "onnx")
    idle = dataclasses.replace(processor, do_resize=False, do_rescale=False, do_normalize=False)
    files = [
        _write(folder / "config.json", json_bytes(model.config.to_dict())),
        _write(folder / "preprocessor_config.json", json_bytes(idle.to_dict())),
        written("model.onnx"),
    ]
    if rounded is not None:
        files.append(written("model_quantized.onnx", rounded))
    return files


def _write(path: Path, content: bytes) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path
