"""What commands print of names that rich would read as its own markup."""

import json

import pytest
from data.folders import write_folder, write_json
from tiny import write_tiny

from segformer_jax.cli.segment_photos import print_segmentation

NAMES = ("[red]", "[/]", "[x] y", ":car:", "a [b]c[/b]", "\\[d]", "[link=e]")


@pytest.fixture
def odd(tmp_path):
    """A model and a data set of classes with odd names, in folders with odd names."""
    model = write_tiny(tmp_path / "[m] :car:")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(NAMES)}
    config["label2id"] = {name: index for index, name in enumerate(NAMES)}
    write_json(config, model / "config.json")
    data = write_folder(tmp_path / "[d]", split="val", count=1, classes=7)
    write_json(config["id2label"], data / "id2label.json")
    return model, data


def test_names_are_printed_as_they_are(run, odd):
    model, data = odd
    commands = {
        ("info", model): model,
        ("check-data", data, "--count", 0): data,
        ("evaluate", "--model", model, "--data", data, "--split", "val"): data,
    }
    for command, title in commands.items():
        code, printed, said = run(*command)
        assert code == 0, said
        assert [name for name in NAMES if name not in printed] == []
        assert str(title) in printed


def test_names_of_a_segmented_picture_too(capsys):
    classes = [{"label": name, "share": 0.1} for name in NAMES]
    about = {"image": "[i] :car:.png", "width": 3, "height": 2, "classes": classes}
    print_segmentation(about | {"outputs": {}})
    printed = capsys.readouterr().out
    assert [name for name in (*NAMES, about["image"]) if name not in printed] == []
