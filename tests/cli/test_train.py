"""`segformer-jax train` as a user meets it: what it writes, says and refuses."""

import json
import re
import shutil
import sys
import warnings
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from data.folders import save, write_json
from PIL import Image
from training.runs import (
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

from segformer_jax.training import build, loop
from segformer_jax.training.checkpointing import whole_checkpoints
from segformer_jax.training.loop import Outcome, train
from segformer_jax.training.settings import MAY_CHANGE, TrainSettings


@pytest.fixture
def received(monkeypatch):
    """The settings that the command would train with."""
    received = []
    monkeypatch.setattr(
        "segformer_jax.cli.train._train", lambda settings: received.append(settings) or 0
    )
    return received


@pytest.fixture
def stand_in(monkeypatch):
    """Trackio's stand-in: its `log` is called after every step."""
    module = ModuleType("trackio")
    module.__spec__ = ModuleSpec("trackio", None)
    module.init = lambda **_: None
    module.finish = lambda: None
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_shapes(folder / "data")
    write_model(folder / "model")
    with compiled_once(folder / "cache"):
        yield folder


@pytest.fixture(scope="module")
def by_python(folder):
    """The same run as those of the command line, by Python."""
    train(settings_of(folder, out=str(folder / "python")))
    return folder / "python"


def command(folder: Path, out: str | Path, *options: str) -> list[str]:
    """What `settings_of` says, as words."""
    words = ["train", "--data", str(folder / "data"), "--model", str(folder / "model")]
    words += ["--out", str(folder / out), "--steps", "4", "--batch-size", "4", "--eval-every", "2"]
    return [*words, *options]


OF_LOSSES = dict(
    ohem_threshold=None,
    ohem_min_kept=50,
    focal_gamma=1.5,
    dice_smooth=2.0,
    tversky_alpha=0.3,
    tversky_beta=0.7,
    tversky_gamma=1.25,
    tversky_smooth=1.0,
    jaccard_smooth=3.0,
    denominator="valid_pixels",
    label_smoothing=0.1,
)


def test_the_options_of_losses_are_settings_and_reach_the_loss(folder, received, run, monkeypatch):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in OF_LOSSES.items()]
    names = ("ohem", "tversky", "jaccard", "lovasz_per_image")
    out = command(folder, "losses", "--losses", *names, *words)
    code, _, said = run(*out, "--flip-direction", "vertical", "diagonal")
    assert code == 0, said
    (settings,) = received
    assert {name: getattr(settings, name) for name in OF_LOSSES} == OF_LOSSES
    assert settings.flip_direction == ("vertical", "diagonal")

    def made(terms, **options):
        assert terms == tuple((name, 1.0) for name in names)
        raise RuntimeError({name: options[name] for name in OF_LOSSES})

    monkeypatch.setattr(build, "make_loss", made)
    with pytest.raises(RuntimeError) as seen:
        train(settings)
    assert seen.value.args == (OF_LOSSES,)


def assert_told(result, message: str) -> str:
    """One line of an error, and exit code 2."""
    code, printed, said = result
    assert (code, printed) == (2, ""), said
    last = said[said.index("segformer-jax: error: ") :]
    assert all(line.startswith("  ") for line in last.splitlines()[1:])  # the items of a list
    assert said.count("error") == 1 + message.count("error")
    assert re.search(message, last, re.DOTALL), last
    return said


def assert_same_run(ours: Path, wanted: Path) -> None:
    chosen = [json.loads((each / "settings.json").read_text())["chosen"] for each in (ours, wanted)]
    changing = dict.fromkeys(MAY_CHANGE)
    assert chosen[0] | changing == chosen[1] | changing
    assert losses(ours) == losses(wanted)
    for name in ("best", "last"):
        assert weights(ours, name) == weights(wanted, name)


def test_the_command_line_gives_the_run_of_python(folder, by_python, run):
    code, printed, said = run(*command(folder, "words"))
    assert code == 0
    assert_same_run(folder / "words", by_python)
    assert "6 pictures to train on, 4 to evaluate on, 3 classes: ground, square, disc" in said
    assert "chosen: crop 64×64" in said
    assert re.search(r"step 4/4: loss \d\.\d+, lr \S+, [\d.]+ images/s, 00:00 left", said)
    assert re.search(r"square +\S+ % +\S+ %", printed)
    assert printed.splitlines()[-2:] == [str(folder / "words" / name) for name in ("best", "last")]
    card = (folder / "words" / "best" / "README.md").read_text()
    assert f"segformer-jax train --data {folder / 'data'} --out {folder / 'words'}" in card

    before = files(folder / "words")
    code, again, said = run(*command(folder, "words"))
    assert (code, again) == (0, printed)
    assert said == f"segformer-jax: {folder / 'words'} is finished after 4 steps: nothing to do\n"
    assert files(folder / "words") == before

    assert_told(run(*command(folder, "words", "--lr", "0.5")), r"lr \S+ → 0.5")
    assert files(folder / "words") == before


@pytest.mark.full
def test_a_file_gives_the_run_of_python_and_words_go_before_it(folder, by_python, run):
    asked = settings_of(folder, steps=999).to_dict()
    config = write_json(
        {k: asked[k] for k in ("data", "model", "steps", "batch_size")}, folder / "c.json"
    )
    options = ["--out", folder / "file", "--steps", "4", "--eval-every", "2"]
    assert run("train", f"--config={config}", *options)[0] == 0
    assert_same_run(folder / "file", by_python)
    code, _, _ = run("train", "--config", by_python / "settings.json", "--out", folder / "again")
    assert code == 0
    assert_same_run(folder / "again", by_python)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*initialised at random")  # the classifier, of other classes
def test_several_data_sets_with_weights_train_one_model_and_go_on(folder, run, tmp_path):
    other = write_shapes(tmp_path / "other", train=2, val=1)
    write_json({"0": "disc", "1": "SQUARE", "2": "moon"}, other / "id2label.json")
    shutil.rmtree(other / "val")
    words = [*command(folder, tmp_path / "run"), "--data-weights", "1", "3"]
    words[words.index("--steps") + 1] = "2"
    words.insert(words.index("--data") + 2, str(other))
    code, _, said = run(*words)
    assert code == 0, said
    lines = said.splitlines()
    assert (
        "segformer-jax: 8 pictures to train on, 4 to evaluate on, 4 classes: ground, square, disc, "
        "moon"
    ) in lines
    assert f"segformer-jax: {folder / 'data'} lacks moon" in lines
    assert f"segformer-jax: {other} lacks ground" in lines
    assert f"segformer-jax: samples: 25.0% from {folder / 'data'}, 75.0% from {other}" in lines
    assert any(f"not evaluated on {other}: {other} has no split val" in line for line in lines)
    config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["ground", "square", "disc", "moon"]
    card = (tmp_path / "run" / "last" / "README.md").read_text()
    assert f"--data {folder / 'data'} {other} --out" in card
    assert "--data-weights 1.0 3.0" in card

    code, _, said = run(*words)
    assert (code, "is finished after 2 steps: nothing to do" in said) == (0, True)
    assert_told(
        run(*words, "--data-weights", "1", "2"), r"data_weights \[1.0, 3.0\] → \[1.0, 2.0\]"
    )
    config = tmp_path / "run" / "settings.json"
    assert run("train", "--config", config, "--out", tmp_path / "again")[0] == 0
    assert losses(tmp_path / "again") == losses(tmp_path / "run")
    assert weights(tmp_path / "again") == weights(tmp_path / "run")
    code, printed, _ = run(*words, "--preview", "4", "--out", tmp_path / "preview")
    assert (code, printed) == (0, f"{tmp_path / 'preview' / 'preview.png'}\n")


def test_one_folder_or_several_are_words_of_data(received, run):
    for words in (["a"], ["a", "b", "c"]):
        code, _, _ = run("train", "--data", *words, "--out", "o", "--steps", "3")
        assert code == 0
    assert received == [
        TrainSettings(data="a", out="o", steps=3),
        TrainSettings(data=("a", "b", "c"), out="o", steps=3),
    ]
    assert_told(
        run("train", "--data", "a", "b", "--data-weights", "2"), "one number for each data set of"
    )


def test_the_papers_recipe_is_a_config(received, run):
    code, _, _ = run("train", "--config", "paper", "--data", "d", "--out", "o", "--batch-size", "8")
    assert code == 0
    assert received == [TrainSettings.paper(data="d", out="o", batch_size=8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stepps": 3}', "there is no setting stepps: the settings are accumulate, "),
        ('{"steps": "3"}', "steps must be a whole number or null.*got '3'"),
        ('{"crop": [64]}', r"crop must be a list of 2, each a whole number.*got \(64,\)"),
        ('{"lr": -1}', "lr must be above 0.*got -1.0"),
        ("{", "is not valid JSON"),
        (None, r'there is no file .*: --config takes a JSON file, or "paper"'),
    ],
)
def test_a_wrong_config_is_one_line(text, message, run, received, tmp_path):
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    said = assert_told(run("train", "--config", tmp_path / "c.json"), message)
    assert said.count("\n") == 1
    assert received == []


def missing(data: Path) -> None:
    (data / "train" / "masks" / "1.png").unlink()
    (data / "val" / "masks" / "2.png").unlink()
    save(shapes(0)[1][:32], data / "train" / "masks" / "3.png")
    save(np.full((64, 64), 9, np.uint8), data / "train" / "masks" / "4.png")


BAD = {
    "no data": "no data given: write segformer-jax train --data FOLDER --out RUN",
    "no out": "no out given",
    "no folder": "there is no folder",
    "no data set": "holds no data set of a format that is known",
    "problems": r"3 problems\n.*1\.png has no mask.*3\.png is 64×32.*4\.png",
    "out is a file": "the output folder must be a folder, got the file",
    "out is unwritable": "the output folder .* can't be written",
    "unknown model": "no model 'b9'",
    "batch": "batch_size must be a multiple of 8, for 8 devices and 1 part .*, got 4",
    "parts": "batch_size must be a multiple of accumulate, 3, got 4",
    "steps": "steps must be at least 1.*got 0",
    "freeze": "no parameter's name matches 'encoder",
    "tracker": r"needs trackio .*pip install 'segformer-jax\[trackio\]'",
    "warm-up": "warmup must end before the last of 4 steps, got 9",
    "class weights": r"class_weights must be none, balanced, .*got 'rare'",
    "address": "num_processes and process_id need a coordinator",
    "preview": "the contact sheet must have at least 1 sample, got -1",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_no_run(case, folder, run, tmp_path, monkeypatch):
    data, out, model, options = folder / "data", tmp_path / "out", folder / "model", []
    match case:
        case "no data":
            data = ""
        case "no out":
            out = ""
        case "no folder":
            data = tmp_path / "none"
        case "no data set":
            data = tmp_path
        case "problems":
            data = shutil.copytree(data, tmp_path / "data")
            missing(data)
        case "out is a file":
            out.touch()
        case "out is unwritable":
            out = Path("/proc/run")
        case "unknown model":
            model = "b9"
        case "batch":
            monkeypatch.setattr(jax, "device_count", lambda: 8)
        case "parts":
            options = ["--accumulate", "3"]
        case "steps":
            options = ["--steps", "0"]
        case "freeze":
            options = ["--freeze", "encoder.*"]
        case "tracker":
            monkeypatch.setitem(sys.modules, "trackio", None)
            options = ["--log", "trackio"]
        case "warm-up":
            options = ["--warmup", "9"]
        case "class weights":
            options = ["--class-weights", "rare"]
        case "address":
            options = ["--num-processes", "2"]
        case "preview":
            options = ["--preview", "-1"]
    words = command(folder, out)
    words[words.index("--data") + 1], words[words.index("--model") + 1] = str(data), str(model)
    words[words.index("--out") + 1] = str(out)
    assert_told(run(*words, *options), BAD[case])
    assert not list(tmp_path.glob("out/*.json"))


def test_a_loss_that_is_no_number_is_told(folder, run):
    result = run(*command(folder, "nan", "--lr", "1e30", "--warmup", "0"))
    assert_told(
        result,
        r"the loss of step \d must be finite, got nan \(last checkpoint: step 0\): .*lower --lr",
    )
    assert not (folder / "nan" / "best").exists()


@pytest.mark.full
def test_a_picture_that_is_damaged_during_the_run_is_named_and_nothing_is_lost(
    folder, run, stand_in, tmp_path
):
    data = shutil.copytree(folder / "data", tmp_path / "data")
    damaged = data / "train" / "images" / "2.png"

    def damage(values, step):
        if step == 40:
            damaged.write_bytes(damaged.read_bytes()[:3000])

    stand_in.log = damage
    words = command(folder, tmp_path / "run", "--log", "trackio")
    words[words.index("--data") + 1], words[words.index("--steps") + 1] = str(data), "150"
    words[words.index("--eval-every") + 1] = "150"
    assert_told(run(*words), r"2\.png")
    done = len(rows(tmp_path / "run"))
    assert 40 <= done < 150
    assert whole_checkpoints(tmp_path / "run" / "checkpoints") == [done]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, said = run(*words, "--skip-unreadable")
    assert code == 0
    assert f"continuing after step {done}" in said
    assert said.count("warning: skipped: ") == 1
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 151))


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(
    folder, by_python, run, monkeypatch
):
    saved = ocp.CheckpointManager.save

    def full(self, step, **options):
        if step >= 3:
            raise OSError(28, "No space left on device")
        return saved(self, step, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "save", full)
        result = run(*command(folder, "full", "--save-every", "1"))
    assert_told(
        result, r"No space left on device.*: free some space; the checkpoint before it is complete"
    )
    assert sorted(whole_checkpoints(folder / "full" / "checkpoints")) == [1, 2]
    code, _, said = run(*command(folder, "full"))
    assert (code, "continuing after step 2" in said) == (0, True)
    assert_same_run(folder / "full", by_python)


def test_too_small_a_memory_is_told_with_what_helps(folder, run, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    built = loop.build

    def build(*arguments):
        made, state = built(*arguments)
        return replace(made, compiled=exhausted), state

    monkeypatch.setattr(loop, "build", build)
    assert_told(run(*command(folder, "memory")), "memory is too small for 4 crops .*--batch-size")


@pytest.mark.parametrize(("interrupted", "code"), [(True, 130), (False, 0)])
def test_a_run_that_was_stopped_says_how_to_go_on(interrupted, code, folder, run, monkeypatch):
    outcome = Outcome(1234, False, None, None, interrupted)
    monkeypatch.setattr(loop, "train", lambda *_, **__: outcome)
    said = "segformer-jax: stopped after step 1,234: repeat the command to continue from there\n"
    assert run(*command(folder, "stopped")) == (code, "", said)


def test_a_preview_is_a_picture_and_trains_nothing(folder, run):
    code, printed, _ = run(*command(folder, "preview", "--preview", "4", "--crop", "64", "96"))
    file = folder / "preview" / "preview.png"
    assert (code, printed) == (0, f"{file}\n")
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 96
    assert [path.name for path in file.parent.iterdir()] == ["preview.png"]
