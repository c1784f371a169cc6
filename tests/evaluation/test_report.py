"""A report is a folder of files that can be opened, and shows what was measured."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from segformer_jax import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmenter,
)
from segformer_jax.data.formats import open_dataset
from segformer_jax.evaluation.evaluate import evaluate
from segformer_jax.evaluation.report import CAPTION, GAP, LONGEST, draw_confusion, write_report
from segformer_jax.images.labels import palette_for

NAMES = {0: "sky", 1: "road", 2: "tree"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A segmenter, a data set of four pictures, one of which is ignored, and the evaluation."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for index, name in enumerate("abcd"):
        photo = rng.integers(0, 256, (40, 60, 3), np.uint8)
        mask = np.repeat(rng.integers(0, 3, (40, 1), np.uint8), 60, axis=1)
        mask[:, : 15 if index else None] = 255
        Image.fromarray(photo).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    (folder / "id2label.json").write_text(json.dumps(NAMES))
    sizes = dict(hidden_sizes=(8, 8, 8, 8), num_attention_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1))
    config = SegformerConfig(num_labels=3, id2label=NAMES, decoder_hidden_size=8, **sizes)
    model = SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))
    segmenter = Segmenter(model, SegformerImageProcessor(size=32), batch_size=1)
    dataset = open_dataset(folder)
    return evaluate(segmenter, dataset), segmenter, dataset


def test_a_report_holds_the_scores_the_matrix_and_the_worst_pictures(evaluated, tmp_path):
    evaluation, segmenter, dataset = evaluated
    write_report(evaluation, segmenter, dataset, tmp_path / "report", worst=2)
    values = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert values == evaluation.to_dict(details=True)
    assert values["per_image"]["a"] is None  # all of it is ignored
    Image.open(tmp_path / "report" / "confusion_matrix.png").verify()
    pictures = sorted(path.name for path in (tmp_path / "report" / "worst").iterdir())
    scores = sorted((values["per_image"][name], name) for name in "bcd")[:2]
    assert pictures == [f"{i:02d}_{s:.3f}_{n}.jpg" for i, (s, n) in enumerate(scores, 1)]


def test_photo_labels_and_prediction_stand_side_by_side(evaluated, tmp_path):
    evaluation, segmenter, dataset = evaluated
    write_report(evaluation, segmenter, dataset, tmp_path, worst=1)
    (name,) = evaluation.worst(1)
    index = dataset.names.index(name)
    picture = np.asarray(Image.open(next((tmp_path / "worst").iterdir())))[CAPTION:].astype(int)
    classes = segmenter(dataset.image(index)).class_map
    palette = np.concatenate([palette_for(NAMES), np.zeros((253, 3), np.uint8)])
    panels = np.asarray(dataset.image(index)), palette[dataset.mask(index)], palette[classes]
    scale = LONGEST // 60
    for place, expected in enumerate(panels):
        left = place * (LONGEST + GAP)
        shown = picture[scale // 2 : 40 * scale : scale, left + scale // 2 : left + LONGEST : scale]
        assert np.abs(shown - expected).mean() < 12  # JPEG, and the photo is resized smoothly


def test_names_of_data_sets_become_names_of_files(evaluated, tmp_path):
    evaluation, segmenter, dataset = evaluated
    long = f"in:a?/{'ö' * 150}\udce9"
    own = dataclasses.replace(dataset, names=(long, *dataset.names[1:]))
    scores = {long: 0.0} | dict.fromkeys(dataset.names[1:], 1.0)
    evaluation = dataclasses.replace(evaluation, per_image=scores)
    write_report(evaluation, segmenter, own, tmp_path, worst=1)
    [picture] = (tmp_path / "worst").iterdir()
    assert picture.is_file()
    assert len(picture.name.encode()) < 255
    assert long in json.loads((tmp_path / "evaluation.json").read_text("utf-8"))["per_image"]


def test_a_new_report_takes_the_old_ones_pictures_away(evaluated, tmp_path):
    (tmp_path / "worst").mkdir()
    old, own = tmp_path / "worst" / "09_0.001_gone.jpg", tmp_path / "worst" / "notes.txt"
    old.touch()
    own.touch()
    write_report(*evaluated, tmp_path, worst=1)
    assert not old.exists()
    assert own.exists()
    assert len(list((tmp_path / "worst").iterdir())) == 2


@pytest.mark.parametrize("count", [1, 32, 33, 150])
def test_a_confusion_matrix_of_any_size_is_drawn(rng, count, tmp_path):
    confusion = rng.integers(0, 100, (count, count))
    confusion[0] = 0  # a class that the labels don't have
    names = {index: f"${index}_$" for index in range(count)}  # no mathematics
    draw_confusion(confusion, names, tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.format == "PNG"
        assert max(picture.size) < 2500


def test_drawing_leaves_pyplot_alone(tmp_path):
    before = set(sys.modules)
    draw_confusion(np.eye(2, dtype=int), {0: "a", 1: "b"}, tmp_path / "matrix.png")
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_without_matplotlib_the_way_to_get_it_is_said(evaluated, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[train\]'$"):
        write_report(*evaluated, tmp_path)
    assert not (tmp_path / "confusion_matrix.png").exists()
