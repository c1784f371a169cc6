"""Settings say what is wrong with them, and survive the way through JSON."""

import json
import re

import pytest

from segformer_jax.training.settings import MAY_CHANGE, TrainSettings

WRONG = [
    ("steps", 0, "steps must be at least 1.*got 0"),
    ("steps", "many", "steps must be a whole number or null.*got 'many'"),
    ("steps", 1.5, "steps must be a whole number or null.*got 1.5"),
    ("steps", True, "steps must be a whole number or null.*got True"),
    ("batch_size", -4, "batch_size must be at least 1.*got -4"),
    ("crop", [64], r"crop must be a list of 2, each a whole number.*got \(64,\)"),
    ("crop", [64, 16], r"crop must be sides of at least 32 pixels, got \(64, 16\)"),
    ("crop", 64, "crop must be a list of 2.*got 64"),
    ("lr", 0.0, "lr must be above 0.*got 0.0"),
    ("lr", float("nan"), "lr must be above 0.*got nan"),
    ("checkpoint_seconds", 0, "checkpoint_seconds must be above 0.*got 0.0"),
    ("seed", -1, "seed must be at least 0.*got -1"),
    ("format", "mine", "format must be auto, folder, .* or huggingface.*got 'mine'"),
    ("photometric", "yes", "photometric must be true or false.*got 'yes'"),
    ("flip", 2, r"flip must be in \[0, 1\], got 2.0"),
    ("label_smoothing", 1.0, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ("cat_max_ratio", 0.0, r"cat_max_ratio must be in \(0, 1\], 1 for off, got 0.0"),
    (
        "flip_direction",
        ["up"],
        "flip_direction must be a list, each horizontal, vertical or.*got .*",
    ),
    ("flip_direction", [], "flip_direction must be one or more of horizontal, .* got"),
    ("scale", [2.0, 0.5], r"scale must be 0 < low ≤ high.*got \(2.0, 0.5\)"),
    ("losses", "dice", "losses must be a list, each cross_entropy, .* or lovasz_per.*got 'dice'"),
    ("losses", [], r"losses must be one or more losses, each named once, got \(\)"),
    ("losses", ["dice", "dice"], r"losses must be .*, each named once, got \('dice', 'dice'\)"),
    ("loss_weights", [1, 2], r"loss_weights must hold one number for each of .*, got \(1.0, 2.0\)"),
    ("freeze", "segformer.*", "freeze must be a list, each a text.*got 'segformer.*'"),
    ("accumulate", 3, "batch_size must be a multiple of accumulate, 3, got 4"),
    ("ohem_threshold", 1.5, r"ohem_threshold must be in \[0, 1\], or None, got 1.5"),
    ("ohem_min_kept", 0, "ohem_min_kept must be at least 1.*got 0"),
    ("denominator", "pixels", "denominator must be valid, valid_pixels or all.*got 'pixels'"),
    ("tversky_alpha", -1, "tversky_alpha must be at least 0.*got -1.0"),
    ("tversky_gamma", 0, "tversky_gamma must be above 0.*got 0.0"),
    ("ema", 1.0, r"ema must be in \[0, 1\), got 1.0"),
    ("model", 5, "model must be a text.*got 5"),
    ("log", ["wandb"], r"log must be a list, each tensorboard or trackio.*got \('wandb',\)"),
    ("data", 5, "data must be a text or a list, each a text.*got 5"),
    ("data", ["a", "a"], r"data must be names of folders, each given once, got \('a', 'a'\)"),
    ("data", ["a", ""], r"data must be names of folders, each given once, got \('a', ''\)"),
    ("data_weights", [1, 0], r"data_weights must be numbers above 0, got \(1.0, 0.0\)"),
    ("data_weights", [float("inf")], r"data_weights must be numbers above 0, got \(inf,\)"),
    ("data_weights", 2, "data_weights must be a list, each a number.*got 2"),
    ("speed", 9, "there is no setting speed: the settings are accumulate, batch_size, "),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_setting_is_named_with_its_value_and_the_rule(name, value, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings.from_dict({"batch_size": 4} | {name: value})


def test_settings_are_the_same_after_json():
    settings = TrainSettings(
        data="d", out="o", crop=(64, 96), losses=("dice", "focal"), loss_weights=(1.0, 0.5), lr=1.0
    )
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_colours_that_do_not_vary_are_varied_nowhere():
    with pytest.raises(ValueError, match="device_colours must be false without photometric"):
        TrainSettings(photometric=False, device_colours=True)


def test_mcc_has_no_class_weights():
    with pytest.raises(ValueError, match="class_weights must be none with the loss mcc, got bal"):
        TrainSettings(losses=("mcc",), class_weights="balanced")


def test_data_is_one_folder_or_several(tmp_path):
    assert TrainSettings(data="a").sources == TrainSettings(data=("a",)).sources == ("a",)
    assert TrainSettings(data=("a", "b"), data_weights=(1.0, 2.0)).sources == ("a", "b")
    (tmp_path / "one.json").write_text('{"data": "a"}')
    assert TrainSettings.from_file(tmp_path / "one.json") == TrainSettings(data="a")
    (tmp_path / "two.json").write_text('{"data": ["a", "b"], "data_weights": [1, 2]}')
    several = TrainSettings(data=("a", "b"), data_weights=(1.0, 2.0))
    assert TrainSettings.from_file(tmp_path / "two.json") == several
    assert TrainSettings.from_dict(json.loads(json.dumps(several.to_dict()))) == several


def test_every_folder_has_a_weight():
    with pytest.raises(
        ValueError, match=r"one number for each data set of \('a', 'b', 'c'\), got \(1.0, 2.0\)"
    ):
        TrainSettings(data=("a", "b", "c"), data_weights=(1.0, 2.0))
    TrainSettings(data_weights=(1.0, 2.0))  # of a file; the folders come from the command line


def test_a_file_holds_settings_or_a_run(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"steps": 7, "crop": [64, 64]}')
    assert TrainSettings.from_file(file) == TrainSettings(steps=7, crop=(64, 64))
    file.write_text('{"settings": {"steps": 7}, "chosen": {"steps": 7, "lr": 1.0}}')
    assert TrainSettings.from_file(file) == TrainSettings(steps=7)
    file.write_text('{"steps": 7}', encoding="utf-8-sig")
    assert TrainSettings.from_file(file) == TrainSettings(steps=7)


BROKEN = {
    "{": "is not valid JSON",
    "[1]": "must hold a JSON object, got a list",
    '{"stepps": 1}': "there is no setting stepps",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_told(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=BROKEN[text]):
        TrainSettings.from_file(tmp_path / "x.json")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ValueError, match=re.escape('takes a JSON file, or "paper"')):
        TrainSettings.from_file(tmp_path / "none.json")


def test_the_papers_recipe_is_that_of_its_released_configurations():
    paper = TrainSettings.from_file("paper")
    assert (paper.steps, paper.batch_size, paper.crop) == (160_000, 16, (512, 512))
    assert (paper.lr, paper.warmup, paper.head_factor, paper.schedule) == (6e-5, 1500, 10, "poly")
    assert (paper.scale, paper.cat_max_ratio, paper.weight_decay) == ((0.5, 2.0), 0.75, 0.01)
    assert TrainSettings.paper(steps=5).steps == 5


def test_what_may_change_is_a_setting():
    assert set(MAY_CHANGE) <= TrainSettings().to_dict().keys()
