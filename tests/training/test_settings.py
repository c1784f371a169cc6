"""Settings say what is wrong with them, and survive the way through JSON."""

import json
import re

import pytest

from segformer_jax.training.settings import MAY_CHANGE, TrainSettings

WRONG = [
    ("steps", 0, "steps is 0; it is at least 1"),
    ("steps", "many", "steps is 'many'; it is a whole number or null"),
    ("steps", 1.5, "steps is 1.5; it is a whole number or null"),
    ("steps", True, "steps is True; it is a whole number or null"),
    ("batch_size", -4, "batch_size is -4; it is at least 1"),
    ("crop", [64], r"crop is \(64,\); it is a list of 2, each a whole number"),
    ("crop", [64, 16], r"crop is \(64, 16\); sides are ≥ 32"),
    ("crop", 64, "crop is 64; it is a list of 2"),
    ("lr", 0.0, "lr is 0.0; it is above 0"),
    ("lr", float("nan"), "lr is nan; it is above 0"),
    ("checkpoint_seconds", 0, "checkpoint_seconds is 0.0; it is above 0"),
    ("seed", -1, "seed is -1; it is at least 0"),
    ("layout", "mine", "layout is 'mine'; it is auto, folder, .* or huggingface"),
    ("photometric", "yes", "photometric is 'yes'; it is true or false"),
    ("flip", 2, "flip is 2.0; it lies in 0…1"),
    ("flip_direction", ["up"], "flip_direction is .*; it is a list, each horizontal, vertical or"),
    ("flip_direction", [], "flip_direction must be one or more of horizontal, .* got"),
    ("scale", [2.0, 0.5], r"scale is \(2.0, 0.5\); it is 0 < low ≤ high"),
    ("losses", "dice", "losses is 'dice'; it is a list, each cross_entropy, .* or lovasz_per"),
    ("losses", [], r"losses is \(\); each is named once"),
    ("losses", ["dice", "dice"], r"losses is \('dice', 'dice'\); each is named once"),
    ("loss_weights", [1, 2], r"loss_weights are \(1.0, 2.0\); give one for each of"),
    ("freeze", "segformer.*", "freeze is 'segformer.*'; it is a list, each a text"),
    ("accumulate", 3, "batch_size is 4, which 3 parts .* do not divide"),
    ("ohem_threshold", 1.5, r"ohem_threshold is 1.5; it lies in 0…1, or is None"),
    ("ohem_min_kept", 0, "ohem_min_kept is 0; it is at least 1"),
    ("denominator", "pixels", "denominator is 'pixels'; it is valid, valid_pixels or all"),
    ("tversky_alpha", -1, "tversky_alpha is -1.0; it is at least 0"),
    ("tversky_gamma", 0, "tversky_gamma is 0.0; it is above 0"),
    ("ema", 1.0, r"ema is 1.0; it lies in \[0, 1\)"),
    ("model", 5, "model is 5; it is a text"),
    ("log", ["wandb"], r"log is \('wandb',\); it is a list, each tensorboard or trackio"),
    ("data", 5, "data is 5; it is a text or a list, each a text"),
    ("data", ["a", "a"], r"data is \('a', 'a'\); each folder has a name, and is given once"),
    ("data", ["a", ""], r"data is \('a', ''\); each folder has a name, and is given once"),
    ("data_weights", [1, 0], r"data_weights is \(1.0, 0.0\); each is above 0"),
    ("data_weights", [float("inf")], r"data_weights is \(inf,\); each is above 0"),
    ("data_weights", 2, "data_weights is 2; it is a list, each a number"),
    ("speed", 9, "there is no setting speed; there is accumulate, batch_size, "),
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
    with pytest.raises(ValueError, match=r"\(1.0, 2.0\); give one for each of \('a', 'b', 'c'\)"):
        TrainSettings(data=("a", "b", "c"), data_weights=(1.0, 2.0))
    TrainSettings(data_weights=(1.0, 2.0))  # of a file; the folders come from the command line


def test_a_file_holds_settings_or_a_run(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"steps": 7, "crop": [64, 64]}')
    assert TrainSettings.from_file(file) == TrainSettings(steps=7, crop=(64, 64))
    file.write_text('{"settings": {"steps": 7}, "chosen": {"steps": 7, "lr": 1.0}}')
    assert TrainSettings.from_file(file) == TrainSettings(steps=7)


BROKEN = {
    "{": "is not JSON",
    "[1]": "holds a list; it is a JSON object",
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
