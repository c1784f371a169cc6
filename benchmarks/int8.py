"""Measures ONNX files that compute in 8 bits: file, time, pixels of the same class, mean IoU.

`python -m benchmarks.int8 --data SCENES` compares them with the float32 file, in ONNX Runtime and
OpenVINO. `SCENES/train` calibrates and `SCENES/val` is measured. With `--layers` it measures what
each kind of layer costs instead. 8 bits are fast on CPUs with instructions for 8-bit dot products
(AVX-512 VNNI, AVX-VNNI, AMX), whose names `lscpu` prints. Times are medians of interleaved rounds,
in processor time of all cores together, or with `--wall` on an idle machine by the clock.
"""

import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.checkpoints import make_checkpoint, make_pixels
from benchmarks.machine import describe
from benchmarks.peers.onnx_runtime import exported
from benchmarks.quantised import medians
from benchmarks.report import print_rows
from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor, Segmenter
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats import open_dataset
from segformer_jax.evaluation.evaluate import model_labels
from segformer_jax.evaluation.metrics import RunningConfusion, confusion_matrix, scores
from segformer_jax.export import Signature, export_litert
from segformer_jax.export.onnx.grids import EightBits, is_taken
from segformer_jax.export.onnx.program import QUANTIZED, calibrated, program
from segformer_jax.inference.class_map import class_map
from segformer_jax.inference.pipeline import usable_cores

Run = Callable[[np.ndarray], np.ndarray]  # pixels (1, c, h, w) → logits (1, labels, h/4, w/4)
Timed = Callable[[dict[Any, Callable[[], Any]]], dict[Any, float]]  # medians in ms, by name

KINDS = {  # of layers and values, by their names in the graph
    "first patch embedding": r"stages\.0\.patch_embeddings\..*",
    "other patch embeddings": r"stages\.[1-9]\.patch_embeddings\..*",
    "sequence reduction": r".*\.sequence_reduction",
    "q, k, v and their input": r".*\.(layernorm_before|[qkv]_proj|sequence_reduction\.layer_norm)",
    "attention's two products": r".*\.product\..*",
    "o": r".*\.o_proj(\.input)?",
    "fc1 and its input": r".*\.(layernorm_after|fc1)",
    "depthwise and its output": r".*\.dwconv",
    "fc2 and its input": r".*\.mlp\.(fc2|gelu)",
    "decode head, classifier apart": r"decode_head\.kernels\..*",
    "classifier": r"decode_head\.(relu|classifier)",
}


def int8(
    data: Path | None = None,
    model: str = "scene-b0",
    side: int = 512,
    pictures: int = 0,
    calibrated_on: int = 100,
    rounds: int = 31,
    layers: bool = False,
    nncf: bool = False,
    litert: bool = False,
    wall: bool = False,
) -> None:
    """Prints the tables of docs/quantised.md.

    Args:
        data: a folder with the splits train and val, which have the model's classes; without it,
            the file is calibrated on noise, and only size, time and logits are measured.
        model: a weights package, a folder, a hub name, or b0…b5 with random weights.
        side: of the square input that is timed.
        pictures: measured pictures, evenly spaced in val; 0 is all.
        calibrated_on: pictures of train, evenly spaced.
        rounds: number of timed calls.
        layers: measure the kinds of layers.
        nncf: compare with transformers' model in 8 bits by NNCF as well; needs the package nncf.
        litert: compare with our .tflite files as well; needs the extra litert.
        wall: time by the clock; other work on the machine then counts.
    """
    folder = str(make_checkpoint(model)) if re.fullmatch("b[0-5]", model) else model
    loaded = SegformerForSemanticSegmentation.from_pretrained(folder)
    network: Any = loaded.folded()
    if data is None:
        given, val = list(make_pixels(8, side, side)), None
    else:
        processor = SegformerImageProcessor.from_pretrained(folder)
        train, val = (open_dataset(str(data / split)) for split in ("train", "val"))
        given = [processor(train.image(i))["pixel_values"][0] for i in spaced(train, calibrated_on)]
        val = val.only(spaced(val, pictures or len(val)))
    print(describe()["processor"])
    timed = partial(medians, rounds=rounds, clock=time.perf_counter if wall else time.process_time)
    if layers:
        by_layer(network, given, side, timed)
        return
    programs = {"float32": lambda signature: program(network, signature, None)[0]}
    for kind, symmetric in QUANTIZED.items():
        eight = EightBits(calibrated(network, given, symmetric=symmetric))
        programs[kind] = lambda signature, eight=eight: program(
            network, signature, None, eight_bits=eight
        )[0]
    print_rows(files_and_times(programs, make_pixels(1, side, side), timed), f"{model}, {side}²")
    if val is None:
        return
    signature = Signature(batch=1, size=given[0].shape[:2])
    runs = {
        (name, runtime): load(write(signature).SerializeToString())
        for name, write in programs.items()
        for runtime, load in RUNTIMES.items()
    }
    if nncf:
        runs["NNCF of transformers", "OpenVINO"] = by_nncf(folder, given)
    if litert:
        runs |= {
            (kind or "float32", "LiteRT"): by_litert(loaded, signature, kind)
            for kind in (None, "float16", "int8")
        }
    print_rows(agreement(runs, Segmenter.from_pretrained(folder), val, timed), "agreement")


def spaced(dataset: Dataset, count: int) -> list[int]:
    """Returns the indices of `count` pictures, evenly spaced."""
    return np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()


def files_and_times(programs: dict[str, Any], pixels: np.ndarray, timed: Timed) -> list[dict]:
    """Returns a row per file: its size, and its time and logits in both runtimes."""
    signature = Signature(batch=1, size=pixels.shape[1:3])
    files = {name: write(signature).SerializeToString() for name, write in programs.items()}
    x = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    rows = {name: {"file": name, "MB": f"{len(own) / 1e6:.2f}"} for name, own in files.items()}
    least = len(files["float32"])
    for name, own in files.items():
        rows[name]["size ratio"] = f"{len(own) / least:.3f}"
    for runtime, load in RUNTIMES.items():
        runs = {name: load(own) for name, own in files.items()}
        wanted = runs["float32"](x)
        times = timed({name: partial(run, x) for name, run in runs.items()})
        for name, run in runs.items():
            rows[name] |= {
                f"{runtime}, ms": f"{times[name]:.0f}",
                f"{runtime}, ratio": f"{times[name] / times['float32']:.2f}",
                f"{runtime}, logits": f"{distance(run(x), wanted):.4f}",
            }
    return list(rows.values())


def agreement(
    runs: dict[tuple[str, str], Run], segmenter: Segmenter, val: Dataset, timed: Timed
) -> list[dict]:
    """Returns a row per file and runtime: pixels with the first's class, mean IoU, and time."""
    table, count = model_labels(segmenter, val), len(segmenter.id2label)
    sums = {key: RunningConfusion(count) for key in runs}
    same, pixels = dict.fromkeys(runs, 0), 0
    for index in tqdm(range(len(val)), unit="picture", mininterval=30):
        picture, labels = val.pair(index)
        labels = table[labels]
        x = segmenter.processor(picture)["pixel_values"].transpose(0, 3, 1, 2)
        x, wanted = np.ascontiguousarray(x), None
        for key, run in runs.items():
            logits = jnp.asarray(run(x).transpose(0, 2, 3, 1))
            classes, _ = class_map(logits, labels.shape)
            wanted = classes if wanted is None else wanted
            same[key] += int((classes == wanted).sum())
            sums[key].add(confusion_matrix(labels, classes, num_classes=count), labels.size)
        pixels += labels.size
    times = timed({key: partial(run, x) for key, run in runs.items()})
    return [
        {
            "file": key[0],
            "runtime": key[1],
            "same class": f"{100 * same[key] / pixels:.2f} %",
            "mean IoU": f"{100 * scores(sums[key].total()).mean_iou:.2f} %",
            f"{x.shape[2]}×{x.shape[3]}, ms": f"{times[key]:.0f}",
        }
        for key in runs
    ]


def by_nncf(folder: str, given: list[np.ndarray]) -> Run:
    """Returns transformers' model in 8 bits by NNCF, with its settings for transformers.

    SmoothQuant is off: with it, NNCF's default, three of four pixels change their class.
    """
    import nncf
    import openvino

    inputs = [np.ascontiguousarray(own.transpose(2, 0, 1)[None]) for own in given]
    with tempfile.TemporaryDirectory() as hf:
        SegformerForSemanticSegmentation.from_pretrained(folder).save_pretrained(hf)
        file = exported(Path(hf), (1, *given[0].shape))
        model = openvino.Core().read_model(file)
    whole = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
        ),
    )
    return in_openvino(whole)


def by_litert(
    model: SegformerForSemanticSegmentation, signature: Signature, kind: str | None
) -> Run:
    """Returns our .tflite of the model, float32 or of a `kind` of weights, in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        export_litert(model, file, signature=signature, quantize=kind)
        run = Interpreter(
            model_content=file.read_bytes(), num_threads=usable_cores()
        ).get_signature_runner()
    return lambda x: run(pixel_values=x.transpose(0, 2, 3, 1))["logits"].transpose(0, 3, 1, 2)


def by_layer(network: Any, given: list[np.ndarray], side: int, timed: Timed) -> None:
    """Prints what each kind of layer costs: alone in 8 bits, and when its choice is turned round.

    Logits and classes are those of exact arithmetic (see `simulated`), at 1/4 of the size, on the
    second half of `given`; the first half calibrates. Times are ONNX Runtime's.
    """
    middle = len(given) // 2
    grids = calibrated(network, given[:middle], symmetric=False, takes=lambda name: True)
    xs = [np.ascontiguousarray(own.transpose(2, 0, 1)[None]) for own in given[middle:]]
    floats = simulated(program(network, Signature(batch=1), None)[0].SerializeToString())
    wanted = [floats(x) for x in xs]

    def file(takes: Callable[[str], bool], size: tuple[int, int] | None = None) -> bytes:
        eight = EightBits(grids, takes)
        signature = Signature(batch=1, size=size)
        return program(network, signature, None, eight_bits=eight)[0].SerializeToString()

    def of_exact(takes: Callable[[str], bool]) -> dict[str, str]:
        run = simulated(file(takes))
        logits = [run(x) for x in xs]
        both = zip(logits, wanted, strict=True)
        same = np.mean([np.mean(a.argmax(1) == b.argmax(1)) for a, b in both])
        return {"logits": f"{distance(logits, wanted):.4f}", "other class": f"{1 - same:.2%}"}

    pixels = np.ascontiguousarray(make_pixels(1, side, side).transpose(0, 3, 1, 2))
    usual = onnx_runtime(file(is_taken, (side, side)))
    rows = [{"layers": "all of the file"} | of_exact(is_taken)]
    for kind, pattern in KINDS.items():
        own = re.compile(pattern)
        alone = partial(_alone, own)
        turned = partial(_turned, own)
        run = onnx_runtime(file(turned, (side, side)))
        times = timed({run: partial(run, pixels), usual: partial(usual, pixels)})
        in_it = is_taken(next(filter(own.fullmatch, grids)))
        rows.append(
            {"layers": kind, "in 8 bits": "yes" if in_it else "no"}
            | {f"alone, {name}": text for name, text in of_exact(alone).items()}
            | {f"turned round, {name}": text for name, text in of_exact(turned).items()}
            | {"turned round, time ratio": f"{times[run] / times[usual]:.2f}"}
        )
    print_rows(rows, "layers")


def _alone(own: re.Pattern, name: str) -> bool:
    return own.fullmatch(name) is not None


def _turned(own: re.Pattern, name: str) -> bool:
    return is_taken(name) != _alone(own, name)


def distance(found: Any, wanted: Any) -> float:
    """Returns ‖found - wanted‖ / ‖wanted‖."""
    found, wanted = (np.concatenate([np.ravel(own) for own in both]) for both in (found, wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def simulated(content: bytes) -> Run:
    """Runs a file as it is written: values are rounded, and products are computed in float32."""
    import onnxruntime

    return onnx_runtime(content, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


def onnx_runtime(content: bytes, level: Any = None) -> Run:
    """Runs a file in ONNX Runtime on all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    if level is not None:
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixel_values": pixels})[0]


def openvino(content: bytes) -> Run:
    """Runs a file in OpenVINO on all cores; what is not in 8 bits is in float32."""
    import openvino

    return in_openvino(openvino.Core().read_model(content))


def in_openvino(model: Any) -> Run:
    """Runs a model of OpenVINO."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda pixels: np.array(request.infer([pixels])[0])


RUNTIMES = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


if __name__ == "__main__":
    tyro.cli(int8)
