"""Runs as their users meet them: they end, go on, and leave models behind."""

import contextlib
import json
import logging
import time
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from training.runs import (
    NAMES,
    SMALL,
    compiled_once,
    files,
    losses,
    rows,
    settings_of,
    shapes,
    weights,
    write_model,
    write_shapes,
)

from segformer_jax import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmenter,
)
from segformer_jax.errors import ImageError
from segformer_jax.training import loop
from segformer_jax.training.checkpointing import whole_checkpoints
from segformer_jax.training.loop import Run, train
from segformer_jax.training.model import run_processor, starting_model, trainable
from segformer_jax.training.plan import prepare
from segformer_jax.training.progress import Teller
from segformer_jax.training.settings import TrainSettings
from segformer_jax.training.state import split


class Listener(Teller):
    def __init__(self):
        self.lines, self.steps = [], []

    def say(self, text):
        self.lines.append(text)

    def step(self, row, *, steps):
        self.steps.append((row["step"], steps))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, a model, and programs that are compiled once for all tests of this file."""
    folder = tmp_path_factory.mktemp("loop")
    write_shapes(folder / "data")
    write_model(folder / "model")
    with compiled_once(folder / "cache"):
        yield folder


@pytest.fixture(scope="module")
def finished(folder):
    """A run of four steps that was left alone, with TensorBoard, and what it told."""
    out, teller = folder / "finished", Listener()
    outcome = train(settings_of(folder, out=str(out), log=("tensorboard",)), teller=teller)
    return out, outcome, teller


def test_a_picture_that_cant_be_read_loses_no_step(folder, tmp_path, monkeypatch):
    plain = Run._batches

    def ended(run, start):
        with contextlib.closing(plain(run, start)) as stream:
            yield from (next(stream) for _ in range(3))
        raise ImageError("gone.png is damaged")

    monkeypatch.setattr(Run, "_batches", ended)
    with pytest.raises(ImageError, match=r"gone\.png is damaged"):
        train(settings_of(folder, out=str(tmp_path / "run"), steps=8, eval_every=8))
    assert max(whole_checkpoints(tmp_path / "run" / loop.CHECKPOINTS)) == 3
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3]


def test_a_run_tells_what_it_chose_and_every_step(finished):
    _, outcome, teller = finished
    assert (outcome.step, outcome.finished, outcome.interrupted) == (4, True, False)
    assert teller.steps == [(number, 4) for number in range(1, 5)]
    assert (
        "6 pictures to train on, 4 to evaluate on, 3 classes: ground, square, disc" in teller.lines
    )
    (chosen,) = [line for line in teller.lines if line.startswith("chosen: ")]
    assert "crop 64×64, short_side 64" in chosen


def test_metrics_hold_one_line_a_step_with_scores_where_it_was_evaluated(finished):
    out, outcome, _ = finished
    found = rows(out)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert [row["step"] for row in found if "val_mean_iou" in row] == [2, 4]
    assert found[-1]["val_mean_iou"] == outcome.scores["mean_iou"]
    assert outcome.best["mean_iou"] == max(row.get("val_mean_iou", 0) for row in found)
    assert {"loss", "lr", "gradient_norm", "images_per_second", "waited_for_data_s"} < found[
        0
    ].keys()


def test_no_step_is_said_to_be_faster_than_its_figures(folder):
    """Also right after a checkpoint, when nothing else is waited for."""

    class Late:
        def __float__(self):
            time.sleep(0.05)
            return 1.0

    out = folder / "late"
    settings = settings_of(folder, out=str(out), save_every=1)
    run = Run(out, prepare(settings), Teller())
    step = run.built.compiled

    def late(state, batch, teacher):
        state, figures = step(state, batch, teacher)
        return state, dict.fromkeys(figures, Late())

    run.built = replace(run.built, compiled=late)
    with contextlib.closing(run):
        run.go()
    fastest = settings.batch_size / (2 * 0.05)  # a step has two such figures
    assert max(row["images_per_second"] for row in rows(out)) <= fastest


def test_tensorboard_holds_the_rows(finished):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(finished[0] / "tensorboard"))
    events.Reload()
    found = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("loss")]
    np.testing.assert_allclose(found, losses(finished[0]), rtol=1e-6)


def test_a_finished_run_shows_its_curves_and_what_it_sees(finished):
    out, outcome, _ = finished
    with Image.open(out / "validation.png") as picture:
        assert picture.format == "PNG"
        assert picture.height == 3 * (28 + 720) + 2 * 4  # three pictures below their captions
        shown = np.asarray(picture.crop((0, 28, 720, 748)).resize((64, 64)), int)
    assert np.abs(shown - shapes(100)[0]).mean() < 4  # the first photo, resized twice
    Image.open(out / "curves.png").verify()
    report = json.loads((out / "validation" / "evaluation.json").read_text())
    assert report["mean_iou"] == outcome.scores["mean_iou"]
    assert (out / "validation" / "confusion_matrix.png").is_file()


@contextlib.contextmanager
def told_by_transformers():
    """A list that its warnings come into."""
    told, handler = [], logging.Handler(logging.WARNING)
    handler.emit = told.append
    transformers.utils.logging.add_handler(handler)
    try:
        yield told
    finally:
        transformers.utils.logging.remove_handler(handler)


@pytest.mark.parametrize("name", ["best", "last"])
def test_models_open_in_transformers_without_a_warning_with_our_logits(name, finished):
    out, _, _ = finished
    with told_by_transformers() as told:
        theirs, loading = transformers.SegformerForSemanticSegmentation.from_pretrained(
            out / name, output_loading_info=True
        )
    assert (told, any(loading.values())) == ([], False)
    theirs.eval()
    ours = SegformerForSemanticSegmentation.from_pretrained(out / name)
    assert theirs.config.id2label == NAMES
    pixels = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).logits
    found = ours(jnp.asarray(pixels)).logits.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, wanted, atol=1e-5)  # float32, logits of size 1
    processor = transformers.SegformerImageProcessorPil.from_pretrained(out / name)
    image = Image.fromarray(shapes(3)[0])
    np.testing.assert_allclose(
        processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0),
        SegformerImageProcessor.from_pretrained(out / name)(image)["pixel_values"][0],
        atol=1e-6,
    )


def test_the_last_model_has_the_scores_that_the_run_told(finished, folder):
    out, outcome, _ = finished
    segmenter = Segmenter.from_pretrained(out / "last")
    assert segmenter.id2label == NAMES
    hits = [
        segmenter(str(folder / f"data/val/images/{n}.png")).class_map == shapes(100 + n)[1]
        for n in range(4)
    ]
    assert np.mean(hits) == pytest.approx(outcome.scores["pixel_accuracy"], abs=1e-9)


def test_a_finished_run_called_again_is_left_as_it_is(finished, folder):
    out, outcome, _ = finished
    before, teller = files(out), Listener()
    settings = settings_of(folder, out=str(out), workers=1, log=("trackio",))
    again = train(replace(settings, data=str(folder / "gone")), teller=teller)
    assert files(out) == before
    assert again == outcome
    assert teller.lines == [f"{out} is finished after 4 steps: nothing to do"]


def test_other_settings_in_a_finished_runs_folder_are_an_error(finished, folder):
    out, _, _ = finished
    with pytest.raises(ValueError, match=r"\(steps 4 → 9, lr 0\.\d+ → 0\.5\): repeat these"):
        train(settings_of(folder, out=str(out), steps=9, lr=0.5))


def test_a_run_ended_after_its_last_step_is_finished_from_its_checkpoint(
    finished, folder, monkeypatch
):
    out, outcome, _ = finished
    settings = settings_of(folder, out=str(folder / "ended"))
    with monkeypatch.context() as patched:
        patched.setattr(
            loop, "write_results", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    assert not (folder / "ended" / "finished.json").exists()
    (folder / "ended" / "best" / ".model.safetensors.0123abcd.part").write_text("half")
    teller = Listener()
    again = train(settings, teller=teller)
    assert teller.lines == ["continuing after step 4"]
    assert again == outcome
    for name in ("best", "last"):
        assert weights(folder / "ended", name) == weights(out, name)
    assert losses(folder / "ended") == losses(out)
    assert (folder / "ended" / "validation.png").is_file()
    assert not list((folder / "ended").rglob("*.part"))


def test_a_folder_in_which_nothing_was_saved_takes_other_settings(folder):
    settings = settings_of(folder, out=str(folder / "tried"), steps=1)
    with pytest.raises(ValueError, match="no model 'nobody'"):
        train(replace(settings, model="nobody"))
    prepare(settings)


def test_a_run_does_not_go_on_with_other_pictures(finished, folder, tmp_path):
    out, _, _ = finished
    settings = settings_of(folder, out=str(out), data=str(write_shapes(tmp_path / "d", train=7)))
    with pytest.raises(ValueError, match=r"begun with \(6 pictures of 3 classes.* got 7"):
        prepare(settings)


@pytest.mark.full
def test_several_data_sets_with_weights_go_on_where_they_were(folder, tmp_path, monkeypatch):
    for name, count in (("a", 2), ("b", 3)):
        write_shapes(tmp_path / name, train=count, val=1)
    data = (str(tmp_path / "a"), str(tmp_path / "b"))
    settings = settings_of(
        folder, data=data, data_weights=(1.0, 1.0), out=str(tmp_path / "alone"), save_every=1
    )
    train(settings)
    broken = replace(settings, out=str(tmp_path / "broken"))
    tell = Run._tell

    def stopping(self, row):
        tell(self, row)
        if row["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_tell", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    with pytest.raises(ValueError, match=r"begun with \(2 \+ 3 pictures .* got 3 \+ 2 "):
        train(replace(broken, data=data[::-1]))
    moved = [str((tmp_path / name).rename(tmp_path / f"moved {name}")) for name in "ab"]
    with pytest.raises(ValueError, match=r"data_weights .* → \[\], data \[.*\] → /"):
        train(replace(broken, data=moved[0], data_weights=()))
    teller = Listener()
    train(replace(broken, data=tuple(moved)), teller=teller)
    assert teller.lines[0] == "continuing after step 2"
    assert losses(tmp_path / "broken") == losses(tmp_path / "alone")
    assert weights(tmp_path / "broken") == weights(tmp_path / "alone")


@pytest.mark.full
def test_two_pictures_of_shapes_are_learnt_by_heart(folder):
    write_shapes(folder / "two", train=2)
    settings = settings_of(
        folder,
        data=str(folder / "two"),
        out=str(folder / "overfit"),
        val_split="train",
        steps=250,
        batch_size=2,
        eval_every=250,
        lr=6e-3,
        warmup=5,
        head_factor=1.0,
        scale=(1.0, 1.0),
        cat_max_ratio=1.0,
        flip=0.0,
        photometric=False,
    )
    outcome = train(settings)
    assert outcome.scores["pixel_accuracy"] >= 0.99
    assert losses(folder / "overfit")[-1][1] < 0.05
    run = Run(folder / "overfit", prepare(settings), Teller())
    moments = run.state.optimizer[1].mu
    run.close()
    assert moments.keys() == run.state.params.keys()
    assert [name for name, mean in moments.items() if not np.abs(mean).max() > 0] == []


@pytest.mark.full
def test_adapters_are_kept_merged_and_averaged_and_what_is_frozen_stays(folder):
    frozen = "decode_head.linear_projections.0.*"
    settings = settings_of(
        folder,
        out=str(folder / "lora"),
        lora_rank=2,
        lora_alpha=0.5,
        ema=0.5,
        freeze=(frozen,),
        steps=3,
        lr=1e-2,
    )
    train(settings)
    run = Run(folder / "lora", prepare(settings), Teller())
    run.close()
    ema = run.state.ema
    assert any(name.endswith("lora_a") for name in ema)
    assert not any(np.array_equal(ema[name], run.state.params[name]) for name in ema)
    model = SegformerForSemanticSegmentation.from_pretrained(folder / "lora" / "last")
    before = SegformerForSemanticSegmentation.from_pretrained(folder / "model")
    (_, found, _), (_, old, _) = split(model), split(before)
    assert found.keys() == old.keys()
    for name, value in found.items():
        path = name.removesuffix("kernel")
        if f"{path}lora_a" in ema:
            change = np.asarray(ema[f"{path}lora_a"]) @ np.asarray(ema[f"{path}lora_b"])
            assert np.abs(change).max() > 0
            wanted = old[name] + 0.5 * change
        else:
            wanted = ema.get(name, old[name])
            trained = name.startswith("decode_head.") and "projections.0" not in name
            assert np.array_equal(wanted, old[name]) != trained, name
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-7, err_msg=name)


def test_patterns_choose_what_is_frozen():
    params = {"segformer.a.kernel": jnp.ones(2), "decode_head.b.kernel": jnp.ones(2)}
    _, trained, _ = trainable(TrainSettings(freeze=("segformer.*",)), params)
    assert [name for name in params if trained(name)] == ["decode_head.b.kernel"]
    with pytest.raises(ValueError, match="freeze must leave some parameters to train"):
        trainable(TrainSettings(freeze=("*",)), params)
    with pytest.raises(ValueError, match="no parameter's name matches 'encoder"):
        trainable(TrainSettings(freeze=("encoder.*",)), params)


def test_a_variant_starts_from_noise_of_its_own_seed(monkeypatch):
    sizes = {name: value[:1] for name, value in SMALL.items() if isinstance(value, list)}
    tiny = dict(num_encoder_blocks=1, decoder_hidden_size=8) | sizes
    monkeypatch.setattr(SegformerConfig, "b0", lambda **changes: SegformerConfig(**tiny, **changes))

    def first(seed):
        settings = TrainSettings(model="b0", seed=seed, dtype="float32")
        return split(starting_model(settings, NAMES))[1]

    name = "segformer.stages.0.blocks.0.attention.q_proj.kernel"
    assert np.array_equal(first(1)[name], first(1)[name])
    assert not np.array_equal(first(1)[name], first(2)[name])


def test_checkpoints_by_the_clock_can_be_turned_off(monkeypatch):
    monkeypatch.setattr(loop.time, "monotonic", lambda: 1000.0)
    for seconds, saved, due in ((50.0, 940, True), (50.0, 960, False), (5.0, 990, True)):
        run = SimpleNamespace(settings=TrainSettings(checkpoint_seconds=seconds), saved=saved)
        assert Run._overdue(run) is due
    run = SimpleNamespace(settings=TrainSettings(checkpoint_seconds=None), saved=0)
    assert Run._overdue(run) is False


def test_float64_needs_x64():
    with pytest.raises(ValueError, match=r"dtype float64 needs .*: set JAX_ENABLE_X64=1"):
        starting_model(TrainSettings(model="b0", dtype="float64"), NAMES)


def test_the_processor_keeps_the_models_statistics(folder, tmp_path):
    plan = prepare(settings_of(folder, out=str(tmp_path / "out")))
    assert run_processor(plan.record).image_mean == SegformerImageProcessor().image_mean
    model = write_model(tmp_path / "model")
    SegformerImageProcessor(image_mean=[0.1, 0.2, 0.3], size=99).save_pretrained(model)
    plan = prepare(settings_of(folder, out=str(tmp_path / "out"), model=str(model)))
    processor = run_processor(plan.record)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]
    assert processor.size == {"height": 64, "width": 64}


@pytest.mark.full
def test_best_keeps_the_best_and_last_the_last(folder, monkeypatch):
    scores = iter([0.5, 0.9, 0.4, 0.9])
    evaluated = loop.evaluate

    def scored(*arguments, **options):
        found = evaluated(*arguments, **options)
        return replace(found, scores=replace(found.scores, mean_iou=next(scores)))

    monkeypatch.setattr(loop, "evaluate", scored)
    out = folder / "best-of"
    outcome = train(settings_of(folder, out=str(out), eval_every=1))
    assert outcome.best == {"step": 2, "mean_iou": 0.9}
    assert "after step 2 of 4" in (out / "best" / "README.md").read_text()
    assert "after step 4 of 4" in (out / "last" / "README.md").read_text()
    best, last = (load_file(out / name / "model.safetensors") for name in ("best", "last"))
    counter = "decode_head.batch_norm.num_batches_tracked"
    assert last[counter] - best[counter] == 2
