"""What is chosen for pictures of any size, and that it is said."""

import re

import pytest

from segformer_jax.data.check import Survey
from segformer_jax.training.defaults import check_batch, choose, class_weights, processor_size
from segformer_jax.training.settings import ChosenSettings, TrainSettings

MIXED = ((480, 640), (400, 600), (600, 400), (300, 450), (600, 900))


def survey(*sizes: tuple[int, int], pixels: tuple[int, ...] = (900, 100, 0, 400)) -> Survey:
    return Survey(sizes=sizes, class_pixels=pixels, ignored_pixels=0)


def chosen(found: Survey, *, platform: str = "cpu", devices: int = 1, **asked) -> ChosenSettings:
    return choose(TrainSettings(**asked), found, platform=platform, devices=devices)[0]


def test_nothing_is_left_open_and_every_choice_is_said():
    asked = TrainSettings(lr=1e-4, num_channels=3)  # the run says what it reads off the files
    whole, lines = choose(asked, survey((64, 64)), platform="cpu", devices=1)
    changed = {name for name, v in whole.to_dict().items() if v != asked.to_dict()[name]}
    assert {line.split()[0] for line in lines} == changed
    assert "crop 64×64" in lines
    assert "dtype float32" in lines
    assert whole.lr == 1e-4
    assert choose(whole, survey((64, 64)), platform="cpu", devices=1) == (whole, [])


SIZES = {  # pictures, platform: short side, crop
    "64 px": (((64, 64),) * 9, "cpu", 64, 64),
    "20 px": (((20, 30),), "cpu", 32, 64),
    "4000×3000": (((3000, 4000),), "cpu", 512, 256),
    "4000×3000 on a GPU": (((3000, 4000),), "gpu", 512, 512),
    "mixed": (MIXED, "gpu", 400, 416),
}


@pytest.mark.parametrize("case", SIZES)
def test_the_crop_fits_the_pictures(case):
    sizes, platform, short_side, side = SIZES[case]
    whole = chosen(survey(*sizes), platform=platform)
    assert (whole.short_side, whole.crop) == (short_side, (side, side))


def test_a_large_crop_of_large_pictures_is_no_padding():
    assert chosen(survey((3000, 4000)), crop=(1024, 768)).short_side == 1024
    assert chosen(survey((600, 800)), crop=(1024, 1024)).short_side == 600


def test_the_number_of_steps_is_that_of_epochs_within_limits():
    assert chosen(survey(*[(64, 64)] * 6)).steps == 300
    assert chosen(survey(*[(64, 64)] * 800)).steps == 4000
    assert chosen(survey(*[(64, 64)] * 400), batch_size=10).steps == 1600
    assert chosen(survey(*[(64, 64)] * 6), platform="gpu").steps == 1000


def test_a_short_run_warms_up_a_tenth_and_learns_faster_than_the_papers():
    short, long = (chosen(survey((64, 64)), steps=steps) for steps in (150, 160_000))
    assert (short.warmup, short.lr, short.head_factor) == (15, 6e-4, 10)
    assert (long.warmup, long.lr, long.eval_every) == (1500, 6e-5, 16_000)
    scratch = chosen(survey((64, 64)), steps=160_000, model="b0")
    assert (scratch.lr, scratch.head_factor) == (6e-4, 1)


@pytest.mark.parametrize("steps", [1, 2, 9, 99, 100, 101])
def test_any_number_of_steps_has_a_schedule(steps):
    whole = chosen(survey((64, 64)), steps=steps)
    assert 0 <= whole.warmup < steps
    assert 1 <= whole.eval_every <= steps


def test_a_batch_is_a_multiple_of_the_devices_and_parts():
    assert chosen(survey((64, 64)), devices=8).batch_size == 8
    assert chosen(survey((64, 64)), devices=3).batch_size == 9
    assert chosen(survey((64, 64)), devices=3, accumulate=2).batch_size == 12
    message = r"batch_size must be a multiple of 8, for 8 devices and 1 part .*, got 12"
    with pytest.raises(ValueError, match=message):
        chosen(survey((64, 64)), devices=8, batch_size=12)
    with pytest.raises(ValueError, match=r"a multiple of 16, for 8 devices and 2 parts .*, got 8"):
        check_batch(TrainSettings(batch_size=8, accumulate=2), devices=8)


@pytest.mark.parametrize(
    ("sizes", "short_side", "size"),
    [
        (((64, 64),), 64, (64, 64)),
        (((360, 480),), 360, (360, 480)),
        (((360, 480),), 720, (720, 960)),  # as large as in training
        (((3000, 4000),), 512, (512, 683)),
        (((4000, 3000),), 512, (683, 512)),
        (((20, 30),), 32, (32, 48)),
        (MIXED, 400, (400, 600)),
    ],
)
def test_pictures_are_used_at_the_scale_of_training(sizes, short_side, size):
    assert processor_size(survey(*sizes), short_side) == dict(
        zip(("height", "width"), size, strict=True)
    )


def test_rare_classes_weigh_more_and_lists_are_taken():
    found = survey((40, 35))  # of 900, 100, 0 and 400 pixels
    assert class_weights("none", found) is None
    assert class_weights("balanced", found) == (0.667, 2.0, 1.0, 1.0)
    assert class_weights("[1, 2.5, 0, 1]", found) == (1.0, 2.5, 0.0, 1.0)


@pytest.mark.parametrize("choice", ["[1, 2]", "[1, 2, 3, -4]", "some", "3", '["a", 1, 1, 1]'])
def test_other_class_weights_are_refused(choice):
    message = (
        f"class_weights must be none, balanced, or a JSON list .*got {re.escape(repr(choice))}"
    )
    with pytest.raises(ValueError, match=message):
        class_weights(choice, survey((40, 35)))
