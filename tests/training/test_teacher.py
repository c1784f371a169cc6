"""Runs that learn from a teacher: a model that sees their crops, or files of soft targets."""

import json
import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.test_soft_targets import write_soft
from tiers import short
from training.runs import (
    NAMES,
    compiled_once,
    files,
    losses,
    settings_of,
    shapes,
    weights,
    write_model,
    write_shapes,
)
from training.test_loop import Listener

from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor
from segformer_jax.checkpoints.pretrained import load_config
from segformer_jax.training import sharding
from segformer_jax.training.loop import train
from segformer_jax.training.plan import prepare
from segformer_jax.training.settings import TrainSettings
from segformer_jax.training.teacher import distillation

TAUGHT = ("disc", "hole", "square", "ground")  # the files' classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, soft targets of all but the last picture, a student and a teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    write_shapes(folder / "data")
    soften(folder / "data" / "train", count=5)
    write_model(folder / "model", drop_path_rate=0.1)
    write_model(folder / "teacher", hidden_sizes=[12, 20])
    with compiled_once(folder / "cache"):
        yield folder


def soften(split, *, count: int) -> None:
    """What somebody who knows the shapes would say of each cell."""
    indices = [TAUGHT.index(name) for name in NAMES.values()]
    for number in range(count):
        known = np.zeros((16, 16, len(TAUGHT)), np.uint8)
        known[..., indices] = np.eye(3, dtype=np.uint8)[shapes(number)[1][2::4, 2::4]] * 40
        write_soft(split / "soft" / f"{number}.npz", known, classes=TAUGHT)


def teacher_of(folder, names):
    """A random network of these classes, as transformers saves it."""
    write_model(folder, num_labels=len(names))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def copied(folder, name: str):
    """The data under another name, to take something out of it."""
    return shutil.copytree(folder / "data", folder / name)


@pytest.mark.parametrize("teacher", short(["soft", "model"], ["soft"]))
def test_a_run_learns_from_its_teacher_and_says_so(folder, teacher):
    name = "soft" if teacher == "soft" else str(folder / "teacher")
    out, teller = folder / f"of-{teacher}", Listener()
    settings = settings_of(folder, out=str(out), teacher=name, teacher_weight=0.7, temperature=3.0)
    assert train(settings, teller=teller).finished

    record = json.loads((out / "settings.json").read_text())
    assert record["chosen"]["teacher"] == name
    card = (out / "best" / "README.md").read_text()
    by = "soft targets in files" if teacher == "soft" else f"`{name}`"
    assert f"Taught by {by}: 0.7 of the loss, temperature 3." in card
    assert f"--teacher {name} --teacher-weight 0.7 --temperature 3.0" in card
    told = {
        "soft": [
            "1 of 6 pictures have no soft targets",
            "of the teacher's classes not to be learned: hole",
        ],
        "model": ["5 soft targets are not used: add --teacher soft to use them"],
    }[teacher]
    assert [line for line in teller.lines if line in told] == told

    plain = settings_of(folder, out=str(folder / "plain"))
    if not (folder / "plain").exists():
        train(plain)
    assert not np.allclose(losses(out), losses(folder / "plain"), atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize(
    ("teacher", "more"),
    [("soft", dict(ema=0.5, lora_rank=2, lr=1e-2)), ("model", dict(ema=0.5, accumulate=2))],
    ids=["soft", "model"],
)
def test_a_stopped_run_goes_on_bit_for_bit(folder, teacher, more):
    class Stopping(Listener):
        def step(self, row, *, steps):
            if row["step"] == 3:
                raise KeyboardInterrupt

    name = "soft" if teacher == "soft" else str(folder / "teacher")
    alone, stopped = (folder / f"{kind}-{teacher}" for kind in ("alone", "stopped"))
    settings = settings_of(folder, out=str(alone), teacher=name, save_every=1, **more)
    train(settings)
    with pytest.raises(KeyboardInterrupt):
        train(replace(settings, out=str(stopped)), teller=Stopping())
    teller = Listener()
    train(replace(settings, out=str(stopped)), teller=teller)
    assert teller.lines[0] == "continuing after step 2"
    assert losses(stopped) == losses(alone)
    assert weights(stopped) == weights(alone)


def test_pictures_without_masks_are_learned_from_the_teacher(folder):
    data = copied(folder, "half")
    for number in (1, 4):
        (data / "train" / "masks" / f"{number}.png").unlink()
    teller, settings = Listener(), settings_of(folder, data=str(data), out=str(folder / "of-half"))
    with pytest.raises(ValueError, match=r"the data set has 2 problems\n.*1\.png has no mask"):
        prepare(settings)
    train(replace(settings, teacher="soft"), teller=teller)
    assert "2 of 6 pictures have no mask: learned from the teacher" in teller.lines


@pytest.mark.full
def test_pictures_alone_are_learned_with_the_teachers_classes(folder):
    data = copied(folder, "unlabelled")
    shutil.rmtree(data / "train" / "masks")
    (data / "id2label.json").rename(data / "val" / "id2label.json")
    settings = settings_of(
        folder,
        data=str(data),
        out=str(folder / "of-unlabelled"),
        teacher=str(folder / "teacher"),
        class_weights="balanced",
        eval_every=4,
    )
    assert train(settings).finished
    assert load_config(folder / "of-unlabelled" / "last").id2label == NAMES
    with pytest.raises(ValueError, match=r"there is no folder of masks beside .*images: "):
        prepare(replace(settings, teacher=None, out=str(folder / "untaught")))


@pytest.mark.full
def test_two_pictures_without_masks_are_learned_by_heart(folder):
    data = folder / "two"
    write_shapes(data, train=2)
    soften(data / "train", count=2)
    masks = data / "train" / "masks"
    shutil.copytree(data / "train", data / "val", dirs_exist_ok=True)
    shutil.rmtree(masks)
    for number in (2, 3):
        (data / "val" / "images" / f"{number}.png").unlink()
        (data / "val" / "masks" / f"{number}.png").unlink()
    outcome = train(
        settings_of(
            folder,
            data=str(data),
            out=str(folder / "by-heart"),
            teacher="soft",
            teacher_weight=1.0,
            steps=200,
            batch_size=2,
            eval_every=200,
            lr=6e-3,
            warmup=5,
            head_factor=1.0,
            scale=(1.0, 1.0),
            photometric=False,
        )
    )
    assert outcome.scores["pixel_accuracy"] > 0.95


def test_a_teacher_of_other_classes_in_another_order_is_taken_by_name(folder):
    teacher = teacher_of(folder / "other", TAUGHT)
    SegformerImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(teacher)
    settings = prepare(
        settings_of(folder, teacher=str(teacher), out=str(folder / "out"))
    ).record.chosen
    mesh = sharding.make_mesh(jax.devices()[:1])
    teaching = distillation(settings, NAMES, soft=(), mesh=mesh)
    image = np.stack([shapes(number)[0] for number in range(2)])
    found, taught = teaching.targets({"image": jnp.asarray(image)}, teaching.values)
    pixels = (image / 255 - [0.1, 0.2, 0.3]) / SegformerImageProcessor().image_std
    model = SegformerForSemanticSegmentation.from_pretrained(teacher)
    wanted = model(jnp.asarray(pixels, jnp.float32)).logits[..., [3, 2, 0]]
    assert teaching.classes == (0, 1, 2)
    assert taught.all()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_teacher_that_can_not_teach_is_refused_before_anything_is_read(folder, tmp_path):
    settings = settings_of(folder, out=str(tmp_path / "out"))
    for teacher, message in {
        "nobody": "no model 'nobody'",
        str(
            teacher_of(tmp_path / "sea", ["sea", "boat"])
        ): "must share two or more class names with the data, got none in common",
    }.items():
        with pytest.raises(ValueError, match=message):
            prepare(replace(settings, teacher=teacher))
    bare = write_shapes(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare has no soft/NAME\.npz beside its masks"):
        prepare(replace(settings, data=str(bare), teacher="soft"))
    data = write_shapes(tmp_path / "data")
    soften(data / "train", count=3)
    write_soft(data / "train/soft/1.npz", np.zeros((4, 4, 2), np.uint8), classes=("a", "b"))
    (data / "train/soft/2.npz").write_bytes(b"")
    message = (
        r"(?s)the soft targets have 2 problems.*1\.npz has other classes \(a, b\).*2\.npz can't"
    )
    with pytest.raises(ValueError, match=message):
        prepare(replace(settings, data=str(data), teacher="soft"))


def test_a_run_does_not_go_on_when_its_soft_targets_are_gone(folder):
    data = copied(folder, "vanishing")
    settings = settings_of(folder, data=str(data), out=str(folder / "gone"), teacher="soft")
    train(settings)
    (folder / "gone" / "finished.json").unlink()
    shutil.rmtree(data / "train" / "soft")
    before = files(folder / "gone")
    with pytest.raises(ValueError, match=r"vanishing has no soft/NAME\.npz"):
        train(settings)
    assert files(folder / "gone") == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(teacher="soft", teacher_weight=0.0), "teacher_weight must be in (0, 1], got 0.0"),
        (dict(teacher="soft", temperature=0.0), "temperature must be above 0, got 0.0"),
        (dict(temperature=1.0), "must be used with a teacher only, got"),
    ],
)
def test_settings_of_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainSettings(**values)
