"""The model card holds the scores, and a command that makes the run again."""

import shlex

import pytest

from segformer_jax import cli
from segformer_jax.data.check import Survey
from segformer_jax.training.card import command, write_card
from segformer_jax.training.record import Record
from segformer_jax.training.settings import ChosenSettings, TrainSettings

SETTINGS = TrainSettings(
    data="my data",
    out="runs/street",
    crop=(96, 128),
    photometric=False,
    losses=("cross_entropy", "dice"),
    loss_weights=(1.0, 0.5),
    freeze=("segformer.stages.0.*",),
    ema=0.99,
    lr=2e-4,
    fsdp=True,
    class_weights="[1, 2]",
    ohem_threshold=None,
    flip_direction=("vertical", "diagonal"),
)
SEVERAL = TrainSettings(data=("my data", "other"), out="o", data_weights=(1.0, 0.5))
SCORES = {
    "mean_iou": 0.61234,
    "pixel_accuracy": 0.9,
    "mean_accuracy": None,
    "per_class_iou": {"a|b": 0.5, "road": None},
    "per_class_accuracy": {"a|b": 1.0, "road": None},
    "images": 1234,
}


def test_the_card_holds_scores_and_settings(tmp_path):
    found = dict(steps=1000, batch_size=8, short_side=96, warmup=10, head_factor=10.0)
    chosen = ChosenSettings(
        **(vars(SETTINGS) | found | dict(eval_every=100, workers=0, num_channels=3))
    )
    survey = Survey(sizes=((96, 128),) * 20, class_pixels=(1, 2), ignored_pixels=0)
    record = Record(SETTINGS, chosen, survey, {0: "a|b", 1: "road"})
    write_card(tmp_path / "best", record, step=600, scores=SCORES)
    card = (tmp_path / "best" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# street-best" in card
    assert "from `scene-b0`; the weights after step 600 of 1,000." in card
    assert "1,234 pictures of the split `val`" in card
    assert "mean IoU **61.2 %**, pixel accuracy 90.0 %, mean accuracy –" in card
    assert "| a\\|b | 50.0 % | 100.0 % |\n| road | – | – |" in card
    assert command(SETTINGS) in card
    assert "1,000 steps of 8 crops of 96×128" in card


@pytest.mark.parametrize("settings", [SETTINGS, TrainSettings(data="d", out="o"), SEVERAL])
def test_the_command_gives_the_same_settings(settings, monkeypatch):
    received = []
    monkeypatch.setattr("segformer_jax.cli.train._train", lambda given: received.append(given) or 0)
    program, *words = shlex.split(command(settings))
    assert program == "segformer-jax"
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 0
    assert received == [settings]
