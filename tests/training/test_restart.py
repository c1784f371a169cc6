"""A run that is stopped or killed, and called again, is the run that was left alone."""

import json
import random
import signal
import subprocess
import time

import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file
from training.runs import (
    PROGRAM,
    environment,
    losses,
    rows,
    weights,
    write_model,
    write_shapes,
)

from segformer_jax.training.checkpointing import whole_checkpoints

pytestmark = pytest.mark.full
STEPS = 120
OPTIONS = ["--data", "data", "--model", "model", "--steps", str(STEPS), "--eval-every", "40"]
OPTIONS += ["--batch-size", "4", "--ema", "0.9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restart")
    write_shapes(folder / "data")
    write_model(folder / "model", drop_path_rate=0.2, classifier_dropout_prob=0.1)
    return folder


def started(folder, out: str, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*PROGRAM, "train", "--out", out, *OPTIONS, *options],
        cwd=folder,
        env=environment(folder / "cache", optimized=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen, code: int) -> str:
    """What the process said, after it has ended as it should."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def wait_until(holds, process: subprocess.Popen) -> None:
    limit = time.monotonic() + 200
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.001)


def lines(run) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture(scope="module")
def alone(folder):
    said = ended(started(folder, "alone"), 0)
    assert f"step {STEPS}/{STEPS}" in said
    return folder / "alone"


def assert_same(run, alone) -> None:
    assert losses(run) == losses(alone)
    assert [step for step, _ in losses(run)] == list(range(1, STEPS + 1))
    scores = [[row.get("val_mean_iou") for row in rows(each)] for each in (run, alone)]
    assert scores[0] == scores[1]
    for name in ("best", "last"):
        assert weights(run, name) == weights(alone, name)
    results = [json.loads((each / "finished.json").read_text()) for each in (run, alone)]
    assert results[0] == results[1]


def assert_all_readable(run) -> None:
    """Every checkpoint and every model in the folder can be read."""
    steps = whole_checkpoints(run / "checkpoints")
    with ocp.PyTreeCheckpointer() as reader:
        for step in steps:
            state = reader.restore((run / "checkpoints" / str(step) / "state").resolve())
            assert state["step"] == step
    for file in run.rglob("model.safetensors"):
        load_file(file)
    for file in run.rglob("*.json"):
        if "checkpoints" not in file.parts:
            json.loads(file.read_text())


def test_a_run_stopped_by_sigterm_and_ctrl_c_goes_on_where_it_was(folder, alone):
    run = folder / "stopped"
    process = started(folder, "stopped")
    wait_until(lambda: lines(run) >= 3, process)
    process.send_signal(signal.SIGTERM)
    said = ended(process, 0)
    stopped = lines(run)
    assert 3 <= stopped < STEPS
    assert whole_checkpoints(run / "checkpoints")[-1:] == [stopped]
    assert f"stopped after step {stopped}: repeat the command to continue from there" in said

    process = started(folder, "stopped")
    wait_until(lambda: lines(run) >= stopped + 3, process)
    process.send_signal(signal.SIGINT)
    said = ended(process, 130)
    assert f"continuing after step {stopped}" in said
    assert lines(run) in whole_checkpoints(run / "checkpoints")
    assert not (run / "finished.json").exists()

    ended(started(folder, "stopped"), 0)
    assert_same(run, alone)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # there is one device
def test_a_run_killed_again_and_again_is_the_run_left_alone(folder, alone):
    run, rng = folder / "killed", random.Random(0)
    half = "*.orbax-checkpoint-tmp"  # what orbax is writing

    def writing():
        return any((run / "checkpoints").glob(half))

    moments = [
        lambda: lines(run) >= 2,  # before the first checkpoint, as a rule
        lambda: lines(run) >= 50 and writing(),
        lambda: (run / "last" / "README.md").exists(),  # after the last checkpoint
    ]
    for moment in moments:
        process = started(folder, "killed", "--save-every", "7")
        wait_until(moment, process)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        ended(process, -signal.SIGKILL)
        assert_all_readable(run)
    assert not (run / "finished.json").exists()
    ended(started(folder, "killed"), 0)
    assert_same(run, alone)
    assert not list(run.rglob(".*.part"))
    assert not list((run / "checkpoints").glob(half))
