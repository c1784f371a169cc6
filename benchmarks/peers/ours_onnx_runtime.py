"""ONNX Runtime with our exported model."""

from pathlib import Path

from benchmarks.contender import Forward
from benchmarks.peers.onnx_runtime import in_session


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns a session with a graph of fixed sizes."""
    return in_session(lambda shape: exported(folder, shape))


def any_size(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns a session with a graph of open sizes."""
    return in_session(lambda shape: exported(folder, None))


def exported(folder: Path, shape: tuple[int, ...] | None) -> Path:
    """Exports a checkpoint to our ONNX file for one shape (b, h, w, 3), or for all if None."""
    from segformer_jax import SegformerForSemanticSegmentation
    from segformer_jax.export import Signature, export_onnx

    file = folder / f"ours-{'x'.join(map(str, shape)) if shape else 'any'}.onnx"
    signature = Signature(batch=shape[0], size=shape[1:3]) if shape else None
    export_onnx(SegformerForSemanticSegmentation.from_pretrained(folder), file, signature=signature)
    return file
