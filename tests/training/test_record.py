"""What a run keeps of itself, and what may differ when it goes on."""

import json
import subprocess
from dataclasses import replace

import pytest

import segformer_jax
from segformer_jax.data.check import Survey
from segformer_jax.training.record import Record, read_record, resumed
from segformer_jax.training.settings import MAY_CHANGE, ChosenSettings, TrainSettings

ASKED = TrainSettings(data="d", out="run", steps=5)
FOUND = dict(
    batch_size=8,
    crop=(64, 64),
    short_side=64,
    lr=1e-3,
    warmup=0,
    head_factor=1.0,
    eval_every=5,
    workers=0,
    num_channels=3,
)
RECORD = Record(
    asked=ASKED,
    chosen=ChosenSettings(**(vars(ASKED) | FOUND)),
    survey=Survey(sizes=((40, 50), (60, 70)), class_pixels=(1, 2), ignored_pixels=3),
    id2label={0: "road", 1: "façade"},
)


def test_a_record_is_read_as_it_was_written_with_versions_and_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(
        "git init -q; git -c user.name=a -c user.email=a@b commit -qm a --allow-empty",
        shell=True,
        check=True,
    )
    RECORD.write(tmp_path / "run" / "settings.json")
    assert read_record(tmp_path / "run" / "settings.json") == RECORD
    values = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    assert values["versions"]["segformer-jax"] == segformer_jax.__version__
    assert {"python", "jax", "flax", "optax"} <= values["versions"].keys()
    assert len(values["git_commit"].removesuffix("-dirty")) == 40


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    RECORD.write(tmp_path / "settings.json")
    assert json.loads((tmp_path / "settings.json").read_text())["git_commit"] is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": {"stepps": 1}, "survey": {}}'])
def test_what_is_no_record_is_told(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"is not a valid record of a run .*: train into another folder"
    ):
        read_record(tmp_path / "settings.json")


def test_no_file_is_no_record(tmp_path):
    assert read_record(tmp_path / "settings.json") is None


def test_other_settings_are_listed_with_both_values():
    asked = replace(ASKED, steps=6, lr=0.5, crop=(32, 32))
    with pytest.raises(ValueError, match=r"run holds .* \(steps 5 → 6, crop .*, lr 0.001 → 0.5\)"):
        resumed(RECORD, asked)
    with pytest.raises(ValueError, match="steps 5 → left open"):
        resumed(RECORD, replace(ASKED, steps=None))


def test_several_data_sets_may_move_but_their_number_and_weights_stay():
    asked = replace(ASKED, data=("d", "e"), data_weights=(1.0, 2.5))
    record = replace(RECORD, asked=asked, chosen=replace(RECORD.chosen, **_data_of(asked)))
    moved = replace(asked, data=("f", "g"))
    assert resumed(record, moved).data == ("f", "g")
    with pytest.raises(ValueError, match=r"\(data_weights \[1.0, 2.5\] → \[1.0, 3.0\]\)"):
        resumed(record, replace(asked, data_weights=(1.0, 3.0)))
    with pytest.raises(ValueError, match=r"\(data \['d', 'e'\] → \['d', 'e', 'f'\]\)"):
        resumed(
            replace(record, asked=replace(asked, data_weights=())),
            replace(asked, data=("d", "e", "f"), data_weights=()),
        )
    with pytest.raises(ValueError, match=r"\(data d → \['d', 'e'\]\)"):
        resumed(RECORD, replace(ASKED, data=("d", "e")))
    assert resumed(RECORD, replace(ASKED, data=("d",))).data == ("d",)


def _data_of(settings: TrainSettings) -> dict:
    return dict(data=settings.data, data_weights=settings.data_weights)


def test_a_record_from_before_several_data_sets_is_read(tmp_path):
    RECORD.write(tmp_path / "settings.json")
    values = json.loads((tmp_path / "settings.json").read_text())
    for name in ("settings", "chosen"):
        del values[name]["data_weights"]
    del values["survey"]["parts"]
    (tmp_path / "settings.json").write_text(json.dumps(values))
    assert read_record(tmp_path / "settings.json") == RECORD


def test_a_record_keeps_several_data_sets(tmp_path):
    asked = replace(ASKED, data=("d", "e"), data_weights=(1.0, 2.5))
    survey = replace(RECORD.survey, parts=(1, 1))
    record = replace(
        RECORD, asked=asked, chosen=replace(RECORD.chosen, **_data_of(asked)), survey=survey
    )
    record.write(tmp_path / "settings.json")
    assert read_record(tmp_path / "settings.json") == record


def test_what_was_chosen_may_be_said():
    assert resumed(RECORD, replace(ASKED, crop=(64, 64), batch_size=8)) == RECORD.chosen


def test_what_changes_nothing_of_the_result_may_change():
    changes = dict(
        data="elsewhere",
        out="moved",
        save_every=7,
        checkpoint_seconds=None,
        workers=3,
        skip_unreadable=True,
        log=("trackio",),
        fsdp=True,
        coordinator="auto",
        num_processes=2,
        process_id=1,
    )
    assert set(changes) == set(MAY_CHANGE)
    assert resumed(RECORD, replace(ASKED, **changes)) == replace(RECORD.chosen, **changes)
    assert resumed(RECORD, ASKED).workers == 0
