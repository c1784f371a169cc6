"""An evaluation is what transformers, torch and torchmetrics make of the same pictures."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import reference
import torch
import torchmetrics
import transformers
from flax import nnx
from PIL import Image

from segformer_jax import (
    ImageError,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmenter,
)
from segformer_jax.data.formats import open_dataset
from segformer_jax.evaluation import evaluate as evaluation_module
from segformer_jax.evaluation.evaluate import evaluate, model_labels
from segformer_jax.inference.protocol import Protocol

NAMES = ("sky", "road", "tree", "car", "pole", "fence", "sign")
SIZES = ((60, 80), (96, 64), (50, 130), (70, 70), (33, 48))


def write_dataset(folder, *, names=NAMES, sizes=SIZES, seed=0):
    """Smooth noise with masks of blobs, an ignored strip in each; the last class never occurs."""
    rng = np.random.default_rng(seed)
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "val" / "masks").mkdir()
    for index, size in enumerate(sizes):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize(size[::-1]).save(folder / "val" / "images" / f"{index}.png")
        mask = Image.fromarray(rng.integers(0, max(1, len(names) - 1), (5, 6), np.uint8))
        mask = np.array(mask.resize(size[::-1], resample=Image.Resampling.NEAREST))
        mask[:, :9] = 255
        Image.fromarray(mask).save(folder / "val" / "masks" / f"{index}.png")
    (folder / "id2label.json").write_text(json.dumps(dict(enumerate(names))))
    return folder / "val"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny random model of seven classes on disk, the same for transformers and for us."""
    folder = tmp_path_factory.mktemp("model")
    names = dict(enumerate(NAMES))
    model = reference.hf_model("ForSemanticSegmentation", id2label=names).float()
    noise = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a random model would give nearly all pixels one class
        model.decode_head.classifier.bias -= model.eval()(noise).logits.mean((0, 2, 3))
    model.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(checkpoint):
    return Segmenter.from_pretrained(checkpoint, batch_size=2)


def by_torch(checkpoint, dataset, *, size_of=None) -> torch.Tensor:
    """The confusion matrix by transformers and torchmetrics; float64, rows true."""
    processor = transformers.SegformerImageProcessorPil.from_pretrained(checkpoint)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(checkpoint)
    model = model.float().eval()  # whatever its file holds
    metric = torchmetrics.ConfusionMatrix(
        task="multiclass", num_classes=len(dataset.id2label), ignore_index=255
    )
    for index in range(len(dataset)):
        image, mask = dataset.image(index), dataset.mask(index)
        options = {"size": size_of(*mask.shape)} if size_of else {}
        inputs = processor(image, return_tensors="pt", **options)
        with torch.inference_mode():
            outputs = model(**inputs)
        own = processor.post_process_semantic_segmentation(outputs, target_sizes=[mask.shape])
        metric.update(own[0], torch.from_numpy(mask.astype(int)))
    return metric.compute().double()


def assert_equal(evaluation, confusion: torch.Tensor, *, per_mille: float = 1) -> None:
    """Up to pixels where float32 can't tell the two best classes apart."""
    wanted = confusion.numpy()
    moved = np.abs(evaluation.confusion - wanted).sum() / 2
    assert moved <= per_mille / 1000 * wanted.sum()
    hits = wanted.diagonal()
    with np.errstate(invalid="ignore"):
        iou = hits / (wanted.sum(0) + wanted.sum(1) - hits)
    np.testing.assert_allclose(evaluation.scores.per_class_iou, iou, rtol=0, atol=2e-3)
    np.testing.assert_allclose(
        evaluation.scores.pixel_accuracy, hits.sum() / wanted.sum(), rtol=0, atol=1e-3
    )


def test_an_evaluation_is_the_one_of_transformers_and_torchmetrics(segmenter, checkpoint, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path))
    done = []
    evaluation = evaluate(segmenter, dataset, progress=done.append)
    assert_equal(evaluation, by_torch(checkpoint, dataset))
    assert sum(done) == len(dataset)
    assert list(evaluation.per_image) == list(dataset.names)


def test_each_picture_has_its_own_mean_iou_and_the_worst_come_first(segmenter, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path))
    evaluation = evaluate(segmenter, dataset)
    for index, name in enumerate(dataset.names):
        metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=7, ignore_index=255)
        classes = segmenter(dataset.image(index)).class_map
        metric.update(
            torch.from_numpy(classes.astype(int)),
            torch.from_numpy(dataset.mask(index).astype(int)),
        )
        assert abs(evaluation.per_image[name] - float(metric.compute())) < 1e-6
    worst = evaluation.worst(3)
    assert worst == sorted(dataset.names, key=evaluation.per_image.__getitem__)[:3]


def test_neither_the_batch_nor_the_sharing_out_changes_anything(segmenter, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path))
    whole = evaluate(segmenter, dataset, boundary=True)
    alone = evaluate(segmenter, dataset, batch_size=1, boundary=True)
    np.testing.assert_array_equal(alone.confusion, whole.confusion)
    np.testing.assert_array_equal(alone.boundary_iou, whole.boundary_iou)
    shares = [evaluate(segmenter, dataset, process_index=i, process_count=7) for i in range(7)]
    np.testing.assert_array_equal(sum(share.confusion for share in shares), whole.confusion)
    assert {k: v for share in shares for k, v in share.per_image.items()} == whole.per_image
    assert shares[6].to_dict()["images"] == 0
    assert shares[6].to_dict()["mean_iou"] is None


def test_the_device_has_the_next_batch_before_the_last_is_waited_for(
    segmenter, tmp_path, monkeypatch
):
    events, start, start_map = [], segmenter.start, evaluation_module.start_class_map

    def started(inputs):
        events.append("start")
        return start(inputs)

    def map_started(*arguments, **options):
        finish = start_map(*arguments, **options)
        return lambda: events.append("wait") or finish()

    monkeypatch.setattr(segmenter, "start", started)
    monkeypatch.setattr(evaluation_module, "start_class_map", map_started)
    dataset = open_dataset(write_dataset(tmp_path))
    evaluate(segmenter, dataset, batch_size=1)
    assert events == ["start", *["start", "wait"] * (len(dataset) - 1), "wait"]


@pytest.mark.full
def test_two_processes_get_the_scores_of_the_whole(segmenter, checkpoint, tmp_path):
    folder = write_dataset(tmp_path)
    program = (
        "import json, sys, jax, numpy as np\n"
        "checkpoint, data, address, index = sys.argv[1:]\n"
        "jax.distributed.initialize(address, num_processes=2, process_id=int(index))\n"
        "from segformer_jax import Segmenter\n"
        "from segformer_jax.data.formats import open_dataset\n"
        "from segformer_jax.evaluation.evaluate import evaluate\n"
        "segmenter = Segmenter.from_pretrained(checkpoint, batch_size=2)\n"
        "evaluation = evaluate(segmenter, open_dataset(data), boundary=True)\n"
        "print(json.dumps(evaluation.to_dict(details=True)))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, checkpoint, folder, address, str(index)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    expected = evaluate(segmenter, open_dataset(folder), boundary=True).to_dict(details=True)
    assert results == [expected, expected]


def test_the_papers_protocol_is_the_same_in_transformers(segmenter, checkpoint, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path, sizes=SIZES[1:3]))
    evaluation = evaluate(segmenter, dataset, short_side=64)

    def size_of(height, width):
        resized = Protocol(short_side=64).size(height, width)
        return dict(zip(("height", "width"), resized, strict=True))

    assert_equal(evaluation, by_torch(checkpoint, dataset, size_of=size_of))
    values = evaluation.to_dict()
    assert (values["short_side"], values["divisor"]) == (64, 32)


def test_classes_in_another_order_are_mapped_to_the_models(segmenter, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "a"))
    order = [3, 0, 6, 1, 2, 5, 4]  # the other data set's label of each class
    other = write_dataset(tmp_path / "b", names=[NAMES[order.index(i)] for i in range(7)])
    table = np.array([*order, *[255] * 249], np.uint8)
    for path in (other / "masks").iterdir():
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)
    own, mapped = (evaluate(segmenter, d) for d in (dataset, open_dataset(other)))
    np.testing.assert_array_equal(mapped.confusion, own.confusion)
    assert mapped.to_dict() == own.to_dict()


def test_classes_that_are_not_the_models_are_listed(segmenter, tmp_path):
    fewer = open_dataset(write_dataset(tmp_path / "a", names=("sky", "road")))
    with pytest.raises(ValueError, match=r"2 classes \(sky, road\) are not the model's 7 \(sky, r"):
        evaluate(segmenter, fewer)
    named = ("sky", "road", "tree", "car", "pole", "fence", "person")
    with pytest.raises(ValueError, match=r"person\) are not .*sign\): take a model that was tra"):
        evaluate(segmenter, open_dataset(write_dataset(tmp_path / "b", names=named)))


def test_classes_of_one_name_keep_their_order(segmenter, tmp_path):
    config = dataclasses.replace(segmenter.config, id2label={0: "a", 1: "b", 2: "a"}, num_labels=3)
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
    dataset = open_dataset(write_dataset(tmp_path, names=("b", "a", "a")))
    table = model_labels(Segmenter(model, segmenter.processor), dataset)
    assert table.tolist() == [1, 0, 2, *[255] * 253]


def test_a_binary_model_takes_masks_of_its_class_and_the_rest(segmenter, tmp_path):
    config = dataclasses.replace(segmenter.config, num_labels=1, id2label={0: "crack"})
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(3))
    model.eval()
    binary = Segmenter(model, SegformerImageProcessor(size=64))
    for names in (("background", "crack"), ("wall", "crack"), ("crack",)):
        dataset = open_dataset(write_dataset(tmp_path / names[0], names=names))
        evaluation = evaluate(binary, dataset)
        metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=2, ignore_index=255)
        for index in range(len(dataset)):
            classes = binary(dataset.image(index)).class_map
            mask = torch.from_numpy(dataset.mask(index).astype(int))
            metric.update(torch.from_numpy(classes.astype(int)), mask)
        assert abs(evaluation.scores.mean_iou - float(metric.compute())) < 1e-6
        assert list(evaluation.to_dict()["per_class_iou"]) == ["background", "crack"]


def test_one_class_is_evaluated_at_any_threshold(segmenter, tmp_path):
    config = dataclasses.replace(segmenter.config, num_labels=1, id2label={0: "crack"})
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(3))
    model.eval()
    binary = Segmenter(model, SegformerImageProcessor(size=64))
    dataset = open_dataset(write_dataset(tmp_path, names=("background", "crack")))
    first = binary(dataset.image(0), scores=True)
    p = np.where(first.class_map == 1, first.scores, 1 - first.scores)
    protocol = Protocol(threshold=float(np.median(p)))
    evaluation = evaluate(binary, dataset, protocol=protocol)
    total = np.zeros((2, 2), int)
    for index in range(len(dataset)):
        classes = binary(dataset.image(index), protocol=protocol).class_map
        mask = dataset.mask(index)
        np.add.at(total, (mask[mask != 255], classes[mask != 255]), 1)
    np.testing.assert_array_equal(evaluation.confusion, total)
    assert (total.sum(0) > 0).all()
    assert evaluation.to_dict()["threshold"] == protocol.threshold
    with pytest.raises(ValueError, match=r"threshold must be 0\.5 with 7 labels"):
        evaluate(
            segmenter, open_dataset(write_dataset(tmp_path / "7")), protocol=Protocol(threshold=0.4)
        )


def test_the_json_has_null_where_a_class_is_absent(segmenter, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path, names=NAMES, sizes=SIZES[:1]))
    evaluation = evaluate(segmenter, dataset, boundary=True)
    values = json.loads(json.dumps(evaluation.to_dict(details=True), allow_nan=False))
    assert list(values["per_class_iou"]) == list(NAMES)
    absent = [n for n, row in zip(NAMES, evaluation.confusion, strict=True) if not row.any()]
    assert absent
    for name in absent:
        assert values["per_class_accuracy"][name] is None
    assert values["images"] == 1
    for name in ("dice", "precision", "f_score"):
        assert list(values[f"per_class_{name}"]) == list(NAMES)
        assert 0 <= values[f"mean_{name}"] <= 1
    assert values["beta"] == 1
    assert 0 <= values["boundary_iou"] <= 1
    assert np.array(values["confusion_matrix"]).sum() == 60 * (80 - 9)


def test_what_can_not_be_evaluated_is_said(segmenter, tmp_path):
    dataset = open_dataset(write_dataset(tmp_path))
    nothing = dataclasses.replace(dataset, names=(), pictures=(), masks=())
    with pytest.raises(ValueError, match="must have pictures to evaluate, got none"):
        evaluate(segmenter, nothing)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(segmenter, dataset, batch_size=0)
    with pytest.raises(ValueError, match="beta must be a number above 0, got 0"):
        evaluate(segmenter, dataset, beta=0.0)
    with pytest.raises(ValueError, match=r"short_side .*got 0"):
        evaluate(segmenter, dataset, short_side=0)
    for beside in (dict(short_side=64), dict(divisor=64)):
        with pytest.raises(ValueError, match="must be the protocol's where one is given"):
            evaluate(segmenter, dataset, protocol=Protocol(flip=True), **beside)
    with pytest.raises(ValueError, match=r"process_index must be .*, got 2 of"):
        evaluate(segmenter, dataset, process_index=2, process_count=2)
    (tmp_path / "val" / "images" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"3\.png"):
        evaluate(segmenter, dataset)


def test_a_trained_model_scores_on_camvid_as_in_transformers(shared):
    checkpoint = shared / "checkpoints" / "street-b0-hf"
    whole = open_dataset(shared / "data" / "camvid" / "test")
    some = slice(0, None, 80)
    parts = {n: getattr(whole, n)[some] for n in ("names", "pictures", "masks")}
    dataset = dataclasses.replace(whole, **parts)
    evaluation = evaluate(Segmenter.from_pretrained(checkpoint, batch_size=1), dataset)
    assert_equal(evaluation, by_torch(checkpoint, dataset), per_mille=2)


def test_a_second_evaluation_compiles_nothing(segmenter, tmp_path):
    dataset, compiled = open_dataset(write_dataset(tmp_path)), []
    evaluate(segmenter, dataset)

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        evaluate(segmenter, dataset)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled
