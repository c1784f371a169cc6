"""ONNX files in 8 bits: what is rounded, how exactly, how runtimes read them, and every mistake."""

import collections
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import reference
from PIL import Image

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor
from segformer_jax.export import Signature, export_onnx
from segformer_jax.export.onnx.grids import best_grid, rounded_kernel

HEIGHT, WIDTH = 64, 96
ERROR = 0.06  # of the logits, ‖Δ‖ / ‖float32‖, for random weights of few channels; 0.04 is seen
SAME = 0.95  # of the classes; 0.975 is seen: random weights have many near ties
WITHOUT_US = """
import sys
sys.modules["segformer_jax"] = sys.modules["jax"] = None  # importing them raises

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
np.save(sys.argv[3], session.run(None, {"pixel_values": np.load(sys.argv[2])})[0])
"""


def smooth(seed, height=HEIGHT, width=WIDTH):
    """A picture of a few soft patches of colour, as uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), "uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def processor():
    return SegformerImageProcessor(size={"height": HEIGHT, "width": WIDTH})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    reference.hf_model("ForSemanticSegmentation").save_pretrained(folder)
    return SegformerForSemanticSegmentation.from_pretrained(folder)


@pytest.fixture(scope="module")
def files(model, processor, tmp_path_factory):
    """The model in float32 and in both kinds of 8 bits, by the value of `quantize`."""
    folder = tmp_path_factory.mktemp("files")
    paths = {kind: folder / f"{kind}.onnx" for kind in (None, "int8", "int8-symmetric")}
    for kind, path in paths.items():
        calibrate = None if kind is None else [smooth(seed) for seed in range(4)]
        export_onnx(model, path, processor=processor, quantize=kind, calibrate=calibrate)
    return paths


@pytest.fixture(scope="module")
def pixels(processor):
    values = processor([smooth(seed) for seed in range(100, 104)])["pixel_values"]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def assert_alike(logits, wanted):
    assert reference.distance(logits, wanted) <= ERROR
    assert np.mean(logits.argmax(1) == wanted.argmax(1)) >= SAME


@pytest.mark.parametrize("kind", ["int8", "int8-symmetric"])
def test_the_logits_stay_near_float32_at_any_batch_and_size(kind, files, pixels):
    onnx.checker.check_model(files[kind], full_check=True)
    for given in (pixels, pixels[:1, :, :45, :70]):
        assert_alike(run(files[kind], pixel_values=given), run(files[None], pixel_values=given))


def test_the_file_runs_in_a_process_without_this_library(files, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    paths = [files["int8"], tmp_path / "pixels.npy", tmp_path / "logits.npy"]
    subprocess.run([sys.executable, "-c", WITHOUT_US, *map(os.fspath, paths)], check=True)
    assert_alike(np.load(tmp_path / "logits.npy"), run(files[None], pixel_values=pixels))


@pytest.mark.filterwarnings(  # OpenVINO reports its use from a process that it forks
    "ignore:.*_at_fork:pytest.PytestUnraisableExceptionWarning"
)
def test_openvino_reads_the_file(files, pixels):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: see extra bench")
    compiled = openvino.Core().compile_model(
        files["int8"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    assert_alike(np.array(compiled([pixels])[0]), run(files[None], pixel_values=pixels))


def layers_of(path):
    """The layers whose input and kernel are rounded, those in float32, and all nodes by output."""
    graph = onnx.load(path).graph
    made_by = {node.output[0]: node for node in graph.node}
    rounded, floats = set(), set()
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul"):
            sources = [source_of(name, made_by) for name in node.input[:2]]
            whole = all(source == "DequantizeLinear" for source in sources)
            (rounded if whole else floats).add(node.name)
    return rounded, floats, graph.node, made_by


def source_of(name, made_by):
    """The operator that computes a value, apart from nodes that only move it."""
    while name in made_by and made_by[name].op_type in ("Reshape", "Transpose"):
        name = made_by[name].input[0]
    return made_by[name].op_type if name in made_by else "constant"


@pytest.mark.parametrize("kind", ["int8", "int8-symmetric"])
def test_norms_softmax_attention_and_the_last_layers_stay_float32(kind, files):
    rounded, floats, nodes, made_by = layers_of(files[kind])
    kinds = {re.sub(r"\d+", "N", name) for name in rounded}
    block = "stages.N.blocks.N"
    assert kinds == {
        "stages.N.patch_embeddings.proj",
        f"{block}.attention.sequence_reduction",
        *(f"{block}.attention.{own}_proj" for own in "qkvo"),
        *(f"{block}.mlp.{own}" for own in ("fcN", "dwconv")),
    }
    assert {name for name in floats if "attention" not in name} == {
        "stages.0.patch_embeddings.proj",
        *(f"decode_head.kernels.{index}" for index in range(4)),
        "decode_head.classifier",
    }
    assert {name.rpartition(".")[2] for name in floats if "attention" in name} == {
        "scores",
        "values",
    }
    for node in nodes:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert source_of(node.input[0], made_by) != "DequantizeLinear" or (
                "sequence_reduction" in node.name or "patch_embeddings" in node.name
            ), f"{node.name} reads a rounded value"


def test_onnx_runtime_computes_every_rounded_layer_in_8_bits(files, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(files["int8"], options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    counts = collections.Counter(node.op_type for node in nodes)
    rounded, _, _, _ = layers_of(files["int8"])
    assert counts["QLinearConv"] + counts["MatMulIntegerToFloat"] == len(rounded) == 42


def test_symmetric_values_have_no_zero_point_and_no_unsigned_type(files):
    graph = onnx.load(files["int8-symmetric"]).graph
    constants = {own.name: onnx.numpy_helper.to_array(own) for own in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            assert (zero.dtype, int(zero)) == (np.int8, 0)


@pytest.mark.full
def test_scene_b0_in_8_bits_is_small(tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    processor = SegformerImageProcessor.from_pretrained("scene-b0")
    given = dict(processor=processor, quantize="int8", calibrate=["examples/street.jpg"])
    export_onnx(model, tmp_path / "float32.onnx")
    export_onnx(model, tmp_path / "int8.onnx", **given)
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] <= 0.30 * sizes[1]


def test_with_both_steps_photos_become_class_maps(model, processor, files, tmp_path):
    export_onnx(
        model,
        tmp_path / "steps.onnx",
        signature=Signature(batch=2, size=(HEIGHT, WIDTH), steps=("preprocess", "argmax")),
        processor=processor,
        quantize="int8",
        calibrate=[smooth(seed) for seed in range(4)],
    )
    photos = np.stack([smooth(seed) for seed in (100, 101)])
    classes = run(tmp_path / "steps.onnx", photos=photos)
    values = processor(list(photos))["pixel_values"].transpose(0, 3, 1, 2)
    logits = run(files["int8"], pixel_values=np.ascontiguousarray(values))
    assert classes.shape == photos.shape[:3]
    same = classes[:, ::4, ::4] == logits.argmax(1)
    assert same.mean() > 0.9  # cells are compared with the corner pixel of their square


@pytest.mark.parametrize("shape", [(8, 5), (7, 5), (3, 3, 8, 5), (3, 3, 1, 5)])
def test_a_kernel_is_near_and_two_neighbours_fit_into_16_bits(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel[..., 2] = 0
    kernel[..., 3] = 1e-3  # all pairs are as large as they can be
    whole, scale = rounded_kernel(kernel)
    assert whole.dtype == np.int8
    assert (np.abs(whole * scale - kernel) <= 0.5001 * scale).all()
    assert not whole[..., 2].any()
    pairs = whole[..., : shape[-2] // 2 * 2, :].reshape(-1, 2, shape[-1]).astype(int)
    for sign in (1, -1):
        assert (np.clip(sign * pairs, 0, None).sum(1) * 255 < 2**15).all()


def test_a_grid_cuts_off_outliers_and_has_zero():
    sample = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    symmetric = best_grid(sample, symmetric=True)
    assert (symmetric.zero, symmetric.dtype) == (0, "int8")
    assert 127 * symmetric.scale < 0.95 * np.abs(sample).max()
    grid = best_grid(sample + 3, symmetric=False)
    assert 0 < grid.zero < 128
    assert grid.rounded(np.zeros(1, np.float32)) == 0
    assert best_grid(np.zeros(9, np.float32), symmetric=False).scale == 1


def test_a_grid_before_an_activation_serves_its_result():
    sample = np.random.default_rng(0).standard_t(4, size=50_000).astype(np.float32) * 2 - 3
    wanted = np.maximum(sample, 0)
    errors = [
        np.mean(
            (np.maximum(best_grid(sample, symmetric=False, then=own).rounded(sample), 0) - wanted)
            ** 2
        )
        for own in ("relu", None)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(quantize="int4", calibrate=[]), "one of int8, int8-symmetric, got 'int4'"),
        (dict(quantize="int8"), r"needs pictures to calibrate on .*pass calibrate="),
        (dict(quantize="int8", calibrate=[], processor=None), "and the processor that prepares"),
        (dict(quantize="int8", calibrate=[]), "calibrated on pictures, got none"),
        (dict(calibrate=[]), 'must be used with quantize: pass quantize="int8"'),
        (dict(quantize="int8", calibrate=["missing.jpg"]), r"missing\.jpg"),
    ],
)
def test_a_mistake_is_named_and_leaves_no_file(given, said, model, processor, tmp_path):
    with pytest.raises(ValueError, match=said):
        export_onnx(model, tmp_path / "out.onnx", **(dict(processor=processor) | given))
    assert not list(tmp_path.iterdir())


def test_weights_that_diverged_are_named(processor, tmp_path):
    reference.hf_model("ForSemanticSegmentation").save_pretrained(tmp_path)
    broken = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    bias = broken.segformer.stages[1].layer_norm.bias
    bias[...] = bias[...].at[0].set(np.nan)
    given = dict(processor=processor, quantize="int8", calibrate=[smooth(0)])
    with pytest.raises(ValueError, match=r"NaN or infinity in stages\.1\.transpose"):
        export_onnx(broken, tmp_path / "out.onnx", **given)


def test_without_onnxruntime_the_extra_is_named(model, processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[int8\]'"):
        export_onnx(
            model, tmp_path / "m.onnx", processor=processor, quantize="int8", calibrate=[smooth(0)]
        )
