"""`python -m benchmarks.litert` compares our .tflite files with ONNX Runtime and litert-torch.

All run in this process on CPU, in turns. litert-torch needs other releases than this library, so
its file is made apart, by `python benchmarks/peers/litert_torch_file.py FOLDER OUT.tflite` in an
environment with litert-torch and transformers, and given as `--peer`.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro

from benchmarks.checkpoints import make_checkpoint, make_pixels
from segformer_jax import SegformerForSemanticSegmentation
from segformer_jax.export import Signature, export_litert, export_onnx

KINDS = (None, "float16", "int8")


def compare(
    variant: str = "b0",
    size: tuple[int, int] = (512, 512),
    rounds: int = 15,
    threads: int = 2,
    peer: Path | None = None,
) -> None:
    """Prints for each file its size, its time, and time and logits beside our float32 .tflite.

    Args:
        variant: size of the network, whose weights are random.
        size: height and width of the picture, in pixels.
        rounds: runs of each file.
        threads: of the CPU.
        peer: the .tflite of litert-torch for this variant and size.
    """
    model = SegformerForSemanticSegmentation.from_pretrained(make_checkpoint(variant))
    pixels = make_pixels(1, *size).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        runs, megabytes = {}, {}
        for file, run in _contenders(model, Path(name), size, threads, peer).items():
            runs[file.stem], megabytes[file.stem] = run, file.stat().st_size / 1e6
        outputs = {own: run(pixels) for own, run in runs.items()}
        seconds: dict[str, list[float]] = {own: [] for own in runs}
        for _ in range(rounds):
            for own, run in runs.items():
                start = time.perf_counter()
                run(pixels)
                seconds[own].append(time.perf_counter() - start)
    wanted = outputs["litert float32"]
    for own, output in outputs.items():
        ratio = median(a / b for a, b in zip(seconds[own], seconds["litert float32"], strict=True))
        apart = np.linalg.norm(output - wanted) / np.linalg.norm(wanted)
        same = np.mean(output.argmax(-1) == wanted.argmax(-1))
        print(
            f"{variant} {own:16} {megabytes[own]:6.2f} MB  {1e3 * median(seconds[own]):6.1f} ms  "
            f"{ratio:.2f} of LiteRT's float32  logits {apart:.1e}  same class {same:.2%}"
        )


def _contenders(
    model: Any, folder: Path, size: tuple[int, int], threads: int, peer: Path | None
) -> dict[Path, Callable[[np.ndarray], np.ndarray]]:
    import onnxruntime

    signature = Signature(batch=1, size=size)
    found: dict[Path, Callable[[np.ndarray], np.ndarray]] = {}
    for kind in KINDS:
        file = folder / f"litert {kind or 'float32'}.tflite"
        export_litert(model, file, signature=signature, quantize=kind)
        found[file] = _litert(file, threads, channels_last=True)
    file = folder / "onnx float32.onnx"
    export_onnx(model, file, signature=signature)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run_onnx(pixels: np.ndarray) -> np.ndarray:
        (logits,) = session.run(None, {"pixel_values": pixels.transpose(0, 3, 1, 2)})
        return np.asarray(logits).transpose(0, 2, 3, 1)

    found[file] = run_onnx
    if peer is not None:
        found[peer] = _litert(peer, threads, channels_last=False)
    return found


def _litert(file: Path, threads: int, *, channels_last: bool) -> Callable:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(file), num_threads=threads).get_signature_runner()
    (name,), (result,) = run.get_input_details(), run.get_output_details()

    def call(pixels: np.ndarray) -> np.ndarray:
        if channels_last:
            return run(**{name: pixels})[result]
        return run(**{name: pixels.transpose(0, 3, 1, 2)})[result].transpose(0, 2, 3, 1)

    return call


if __name__ == "__main__":
    tyro.cli(compare)
