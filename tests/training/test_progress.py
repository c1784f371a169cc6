"""What a run says of its steps: lines, trackers, curves."""

import importlib
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from segformer_jax.training.plan import check_packages
from segformer_jax.training.progress import Journal, draw_curves, read_rows, trackers
from segformer_jax.training.settings import TrainSettings

ROWS = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 6)]
ROWS[3] |= {"val_mean_iou": 0.5}


def written(file, rows, *, after):
    journal = Journal(file, after=after)
    for row in rows:
        journal.write(row)
    journal.close()


def test_every_step_has_one_line_however_often_the_run_goes_on(tmp_path):
    file = tmp_path / "metrics.jsonl"
    written(file, ROWS[:4], after=0)
    with file.open("a") as damaged:
        damaged.write('{"step": 5, "lo')  # killed in the middle of a line
    written(file, ROWS[2:], after=2)
    assert [json.loads(line) for line in file.read_text().splitlines()] == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl", after=0)
    journal.write(ROWS[0])
    assert read_rows(tmp_path / "metrics.jsonl") == ROWS[:1]
    journal.close()


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl", after=0)
    journal._file.close()
    journal._file = open("/dev/full", "a", buffering=1)  # noqa: SIM115  # closed by the journal
    with pytest.raises(OSError, match=r"metrics\.jsonl can't be written: .*No space left"):
        journal.write(ROWS[0])
    journal.close()


def test_tensorboard_gets_every_number(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    (tracker,) = trackers(["tensorboard"], tmp_path, {"lr": 1})
    for row in ROWS:
        tracker.write(row | {"name": "not a number"})
    tracker.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["tensors"]) == ["loss", "lr", "val_mean_iou"]
    found = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("loss")]
    np.testing.assert_allclose(found, [(row["step"], row["loss"]) for row in ROWS], rtol=1e-6)
    assert [event.step for event in events.Tensors("val_mean_iou")] == [4]


def test_trackio_gets_every_row_the_settings_and_an_end(tmp_path, monkeypatch):
    calls, stand_in = [], ModuleType("trackio")
    stand_in.__spec__ = ModuleSpec("trackio", None)
    stand_in.init = lambda **options: calls.append(("init", options))
    stand_in.log = lambda values, step: calls.append((step, values))
    stand_in.finish = lambda: calls.append("finish")
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    (tracker,) = trackers(["trackio"], tmp_path / "my-run", {"lr": 1})
    tracker.write(ROWS[0])
    tracker.close()
    project = dict(project="segformer-jax", name="my-run", config={"lr": 1}, resume="allow")
    assert calls == [("init", project), (1, {"loss": 1.0, "lr": 1e-3}), "finish"]


@pytest.mark.parametrize(
    ("package", "extra", "log"),
    [
        ("tensorboard.summary", "tensorboard", ("tensorboard",)),
        ("trackio", "trackio", ("trackio",)),
        ("grain", "train", ()),
        ("orbax.checkpoint", "train", ()),
        ("matplotlib", "train", ()),
    ],
)
def test_a_missing_package_is_told_before_the_run(package, extra, log, monkeypatch):
    imported = importlib.import_module

    def without(name):
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=rf"needs {package} .*install 'segformer-jax\[{extra}\]'"):
        check_packages(TrainSettings(log=log))


def test_curves_are_a_picture_of_any_number_of_steps(tmp_path):
    before = set(sys.modules)
    trained = [{"step": 1, "loss": 2.0, "lr": 1e-3}]
    evaluated = [*trained, {"step": 2, "loss": 1.0, "lr": 5e-4, "val_mean_iou": 0.5}]
    for rows, curves in (([], 1), (trained, 2), (evaluated, 3)):
        draw_curves(rows, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert (picture.format, picture.size) == ("PNG", (480 * curves, 420))
    assert "matplotlib.pyplot" not in set(sys.modules) - before
