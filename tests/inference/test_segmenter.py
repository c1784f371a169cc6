"""A `Segmenter` gives what processor, model and post-processing give, anywhere, in any batch."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import reference
import torch
import transformers
from flax import nnx
from PIL import Image
from tiers import short

from segformer_jax import (
    ImageError,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmenter,
    WeightsError,
)
from segformer_jax.checkpoints import hub

ROOT = Path(__file__).resolve().parents[2]
STREET = ROOT / "examples" / "street.jpg"


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_pretrained("scene-b0")


@pytest.fixture(scope="module")
def by_hand():
    """The three steps of the HF-like script, on ours: class map and upsampled logits."""
    processor = SegformerImageProcessor.from_pretrained("scene-b0")
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))

    def segment(image):
        outputs = run(state, processor(image)["pixel_values"])
        return processor.post_process_semantic_segmentation(
            outputs, target_sizes=[image.size[::-1]], return_segmentation_scores=True
        )[0]

    return segment


def assert_same_map(ours, expected) -> int:
    """Every pixel is equal, but where float32 can't tell the two best classes apart."""
    differ = ours != expected.segmentation
    best = np.sort(expected.segmentation_scores[differ], axis=-1)
    assert (best[:, -1] - best[:, -2] <= 1e-5 * np.abs(best[:, -1])).all()
    return np.count_nonzero(differ)


def crops(count: int, *, largest: int = 1200, seed: int = 0) -> list[Image.Image]:
    """Pieces of a real photo, at random sizes."""
    rng, photo = np.random.default_rng(seed), Image.open(STREET)
    pictures = []
    for width, height in rng.integers(1, largest, (count, 2)):
        left, top = rng.integers(0, 300, 2)
        piece = photo.crop((left, top, left + 400, top + 250))
        pictures.append(piece.resize((int(width), int(height))))
    return pictures


@pytest.mark.parametrize("count", short([5, 50], [5]))
def test_many_sizes_alone_and_in_mixed_batches_equal_the_three_steps(segmenter, by_hand, count):
    pictures = crops(count)
    together = segmenter(pictures)
    pixels, near_ties = 0, 0
    for picture, batched in zip(pictures, together, strict=True):
        expected = by_hand(picture)
        near_ties += assert_same_map(segmenter(picture).class_map, expected)
        near_ties += assert_same_map(batched.class_map, expected)
        pixels += 2 * expected.segmentation.size
    assert near_ties <= 1e-6 * pixels  # seen: 6 of 38,545,702


def test_a_cpu_computes_a_few_pictures_at_a_time_and_hardly_any_in_vain(monkeypatch):
    segmenter = Segmenter(tiny(0), SegformerImageProcessor(), device="cpu", batch_size=8)
    assert segmenter.batch_sizes(1024, 512) == [1]
    assert segmenter.batch_sizes(256, 256) == [1, 2, 4]
    assert segmenter.batch_sizes(64, 64) == [1, 2, 4, 8]
    pixels = list(np.random.default_rng(0).normal(size=(6, 256, 256, 3)).astype(np.float32))
    expected = [segmenter.start([own])[0] for own in pixels]
    ran, forward = [], segmenter._forward_each
    monkeypatch.setattr(
        segmenter, "_forward_each", lambda leaves, x: ran.append(len(x)) or forward(leaves, x)
    )
    logits = segmenter.start(pixels)
    segmenter.start(pixels, at_least=8)
    segmenter.start([np.tile(own, (2, 2, 1)) for own in pixels[:3]], at_least=8)
    assert ran == [4, 2, 4, 4, 1, 1, 1]
    for own, alone in zip(logits, expected, strict=True):
        np.testing.assert_allclose(own, alone, rtol=0, atol=1e-5)


def test_a_class_map_is_the_one_of_transformers(segmenter):
    folder = hub.resolve("scene-b0")
    processor = transformers.SegformerImageProcessorPil.from_pretrained(folder)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).float()
    picture = Image.open(STREET)
    with torch.inference_mode():
        outputs = model.eval()(**processor(picture, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(
        outputs, target_sizes=[picture.size[::-1]]
    )[0].numpy()
    assert np.mean(segmenter(picture).class_map == expected) >= 0.9999  # float32 near ties


@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
def test_a_checkpoint_without_a_decode_head_segments_nothing(kind, tmp_path):
    reference.hf_model(kind).save_pretrained(tmp_path)
    SegformerImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(
        WeightsError,
        match=r"no trained weights for .*decode_head\..* are missing; fine-tune it first",
    ):
        Segmenter.from_pretrained(tmp_path)


def test_extreme_pictures_are_segmented_as_in_transformers(segmenter, by_hand):
    for size in ((1, 1), (500, 20), (20, 500), (2000, 3)):
        picture = Image.open(STREET).resize(size)
        result = segmenter(picture)
        assert result.class_map.shape == size[::-1]
        assert_same_map(result.class_map, by_hand(picture))


@pytest.mark.full
@pytest.mark.usefixtures("optimized")  # a thousand runs take longer than a dozen compilations
def test_a_thousand_sizes_compile_a_dozen_programs():
    segmenter, compiled = Segmenter.from_pretrained("scene-b0"), []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    from segformer_jax.inference import class_map, class_map_cpu

    rng = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in rng.integers(1, 4097, (1000, 2))]
    first = segmenter(np.zeros((40, 50, 3), np.uint8))  # 4, or fewer after other tests
    assert first.class_map.shape == (40, 50)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        logits = segmenter.start([segmenter.processor(STREET)["pixel_values"][0]])[0]
        with jax.set_mesh(None):  # as `start_class_map` calls them
            for size in sizes:  # all widths, one strip each: strips of a picture share a program
                next(iter(class_map.class_map_strips(logits, size, scores=False)))
                next(iter(class_map_cpu.strips_on_cpu(logits, size)))
        segmenter([np.zeros((40, 50, 3), np.uint8)] * 8)
    finally:
        jax.monitoring.clear_event_listeners()
    assert 0 < len(compiled) <= 9  # 8 widths, and a batch of two at 288×384


@pytest.mark.full
def test_eight_devices_give_the_same_maps(segmenter, tmp_path):
    pictures = crops(11, largest=300, seed=1)
    expected = [result.class_map for result in segmenter(pictures)]
    paths = []
    for i, picture in enumerate(pictures):
        paths.append(tmp_path / f"{i}.png")
        picture.save(paths[-1])
    program = (
        "import sys, jax, numpy as np\n"
        "from segformer_jax import Segmenter\n"
        "assert jax.local_device_count() == 8\n"
        "segmenter = Segmenter.from_pretrained('scene-b0', batch_size=16)\n"
        "out, *paths = sys.argv[1:]\n"
        "maps = [r.class_map for r in segmenter(paths)]\n"
        "assert segmenter.logits(np.zeros((3, 64, 64, 3), 'f')).shape[0] == 3\n"
        "np.savez(out, *maps)\n"
    )
    out = tmp_path / "maps.npz"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-c", program, out, *paths], env=environment, check=True)
    with np.load(out) as maps:
        for i, wanted in enumerate(expected):
            assert np.array_equal(maps[f"arr_{i}"], wanted)


def test_logits_are_the_models(segmenter, rng):
    x = rng.normal(size=(3, 64, 96, 3)).astype(np.float32)
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    logits = segmenter.logits(x)
    assert logits.shape == (3, 16, 24, 32)
    np.testing.assert_allclose(logits, model(x).logits, rtol=0, atol=2e-4)  # largest logit: 10


def test_exif_orientation_is_honoured(segmenter, tmp_path):
    upright = Image.open(STREET).resize((300, 200))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    path = tmp_path / "turned.png"
    turned.save(path, exif=exif)
    assert np.array_equal(segmenter(path).class_map, segmenter(upright).class_map)


def test_bfloat16_agrees_with_float32_but_near_ties(segmenter):
    halves = Segmenter.from_pretrained("scene-b0", dtype=jax.numpy.bfloat16)
    same = halves(STREET).class_map == segmenter(STREET).class_map
    assert 0.98 < same.mean() < 1


def test_scores_are_the_softmax_of_the_chosen_class(segmenter):
    picture = Image.open(STREET).resize((160, 120))
    result = segmenter(picture, scores=True)
    x = segmenter.processor(picture)["pixel_values"]
    logits = torch.from_numpy(np.asarray(segmenter.logits(x)).transpose(0, 3, 1, 2).copy())
    upsampled = torch.nn.functional.interpolate(logits, size=(120, 160), mode="bilinear")
    expected = upsampled.softmax(1).amax(1)[0].numpy()
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-5)
    assert segmenter(picture).scores is None


def test_one_label_is_a_threshold_at_0():
    config = SegformerConfig(num_labels=1, id2label={0: "crack"}, depths=(1, 1, 1, 1))
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(3))
    model.eval()
    processor = SegformerImageProcessor(size={"height": 64, "width": 64})
    segmenter = Segmenter(model, processor)
    picture = Image.open(STREET).resize((64, 64))
    logits = np.asarray(segmenter.logits(processor(picture)["pixel_values"]))
    middle = float(np.median(logits))
    bias = model.decode_head.classifier.bias
    bias[...] = bias[...] - middle  # half of the cells above 0

    segmenter = Segmenter(model, processor)
    result = segmenter(picture)
    logits = torch.from_numpy(
        np.asarray(segmenter.logits(processor(picture)["pixel_values"]))
        .transpose(0, 3, 1, 2)
        .copy()
    )
    upsampled = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")[0, 0]

    assert np.array_equal(result.class_map, (upsampled > 0).numpy())
    assert set(result.areas()) == {"background", "crack"}


def tiny(seed: int, **changes) -> SegformerForSemanticSegmentation:
    sizes = dict(hidden_sizes=(8, 8, 16, 16), num_attention_heads=(1, 1, 2, 2), num_labels=5)
    config = SegformerConfig(**(sizes | changes), depths=(1, 1, 1, 1), decoder_hidden_size=8)
    return SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(seed))


def test_an_update_takes_over_the_weights_and_compiles_nothing():
    first, second, third = tiny(0), tiny(1), tiny(2)
    second.gradient_checkpointing_enable()  # a model in training
    second.train()
    processor, compiled = SegformerImageProcessor(size=64), []
    picture = Image.open(STREET).resize((90, 60))
    segmenter = Segmenter(first, processor)
    x = processor(picture)["pixel_values"]
    segmenter(picture)
    segmenter.logits(x)
    segmenter.update(third)

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        segmenter.update(second)
        result, logits = segmenter(picture), segmenter.logits(x)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled
    fresh = Segmenter(second, processor)
    assert np.array_equal(result.class_map, fresh(picture).class_map)
    assert np.array_equal(logits, fresh.logits(x))


def test_a_segmenter_keeps_its_weights_when_the_models_are_given_away():
    model, processor = tiny(0), SegformerImageProcessor(size=64)
    picture = Image.open(STREET).resize((64, 64))
    segmenter = Segmenter(model, processor)
    expected = segmenter(picture).class_map
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 0, state), donate_argnums=0)
    for _ in range(2):
        graph, state = nnx.split(model)
        model = nnx.merge(graph, step(state))  # the old arrays are gone
        assert np.array_equal(segmenter(picture).class_map, expected)
        segmenter.update(model)


def test_an_update_from_another_model_is_refused():
    segmenter = Segmenter(tiny(0), SegformerImageProcessor(size=64))
    with pytest.raises(ValueError, match=r"got another num_labels \(6, compiled for 5\), id2label"):
        segmenter.update(tiny(0, num_labels=6))
    halves = SegformerForSemanticSegmentation(
        segmenter.config, dtype=jax.numpy.bfloat16, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match=r"must compute in float32, .* compiled for, got bfloat16"):
        segmenter.update(halves)


def test_more_than_255_classes_are_16_bits(tmp_path):
    config = SegformerConfig(num_labels=256, depths=(1, 1, 1, 1))
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
    segmenter = Segmenter(model, SegformerImageProcessor(size=64))
    result = segmenter(STREET)
    assert result.class_map.dtype == np.uint16
    result.save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), result.class_map)


def test_pictures_of_other_sizes_run_without_a_resize(segmenter):
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    own = Segmenter(model, SegformerImageProcessor(do_resize=False))
    pictures = [Image.open(STREET).resize(size) for size in ((64, 96), (128, 64), (64, 96))]
    together = own(pictures)
    for picture, result in zip(pictures, together, strict=True):
        assert np.array_equal(own(picture).class_map, result.class_map)
    with pytest.raises(ValueError, match="at least 29"):
        own(Image.new("RGB", (64, 20)))


FAULTS = """
import resource
import numpy as np
from flax import nnx
from segformer_jax import *
from segformer_jax import process

process.keep_freed_memory()
sizes = dict(hidden_sizes=(8,) * 4, num_attention_heads=(1,) * 4, decoder_hidden_size=8)
config = SegformerConfig(**sizes, depths=(1,) * 4, num_labels=150)
model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
segmenter = Segmenter(model, SegformerImageProcessor(), device="cpu")
pixels = np.zeros((8, 512, 512, 3), np.float32)
for _ in range(3):
    segmenter.logits(pixels).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    segmenter.logits(pixels).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_logits_of_a_batch_are_not_faulted_in_anew():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    pages = 8 * 128 * 128 * 150 * 4 / 4096  # of the logits of one call
    assert int(done.stdout) < pages


def test_what_can_not_work_is_said(segmenter):
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    with pytest.raises(ValueError, match="at least 29 pixels"):
        Segmenter(model, SegformerImageProcessor(size=28))
    with pytest.raises(ValueError, match=r"device must be one that JAX finds here, .*got 'gpu'"):
        Segmenter(model, SegformerImageProcessor(), device="gpu")
    with pytest.raises(ImageError, match="--max-pixels"):
        Segmenter(model, SegformerImageProcessor(), max_pixels=100)(STREET)
    with pytest.raises(ValueError, match="looks like NCHW"):
        segmenter.logits(np.zeros((1, 3, 64, 64), np.float32))
    for shape, rule in [((8, 8, 3), "at least 29 pixels"), ((64, 64, 4), "must be NHWC")]:
        with pytest.raises(ValueError, match=rule):
            segmenter.class_maps([np.zeros(shape, np.float32)], [(64, 64)])


def test_the_model_stays_as_it_is():
    model = SegformerForSemanticSegmentation.from_pretrained("scene-b0")
    before = jax.tree.map(np.asarray, nnx.state(model))
    Segmenter(model, SegformerImageProcessor(size=64))(STREET)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model)))
