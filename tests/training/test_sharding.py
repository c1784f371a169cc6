"""Many devices and many processes are one device: the same losses, weights and statistics."""

import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file
from training.runs import NAMES, PROGRAM, environment, losses, rows, write_model, write_shapes
from training.test_teacher import soften

from segformer_jax.training import sharding

STEPS, BATCH = 4, 16  # pictures over 8 devices in 2 parts
OPTIONS = ["--steps", str(STEPS), "--batch-size", str(BATCH), "--accumulate", "2"]
OPTIONS += ["--dtype", "float64", "--lr", "1e-3"]

ONE_AND_EIGHT = f"""
import jax
from segformer_jax.process import keep_compiled_programs
from segformer_jax.training import sharding
from segformer_jax.training.loop import train
from segformer_jax.training.settings import TrainSettings

keep_compiled_programs()
assert jax.device_count() == 8
make_mesh, place = sharding.make_mesh, sharding.place
sharding.SMALL = 64  # so that FSDP splits most of a tiny network

def placed(*arguments):
    state = place(*arguments)
    print(sorted({{str(leaf.sharding.spec) for leaf in jax.tree.leaves(state)}}))
    return state

sharding.place = placed
usual = dict(data="data", model="model", steps={STEPS}, batch_size={BATCH}, accumulate=2,
             dtype="float64", lr=1e-3)
for out, devices, more in (
    ("one", 1, dict()),
    ("eight", 8, dict()),
    ("fsdp", 8, dict(fsdp=True)),
    ("taught-one", 1, dict(teacher="soft")),
    ("taught-eight", 8, dict(teacher="soft")),
    ("model-one", 1, dict(teacher="teacher")),
    ("model-eight", 8, dict(teacher="teacher", fsdp=True)),
):
    sharding.make_mesh = lambda: make_mesh(jax.devices()[:devices])
    train(TrainSettings(out=out, **usual, **more))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    write_shapes(folder / "data", train=20)
    write_model(folder / "model")
    write_model(folder / "teacher", hidden_sizes=[12, 20])
    soften(folder / "data" / "train", count=18)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Runs on one device, on eight, and on eight that split the parameters too."""
    eight = "--xla_force_host_platform_device_count=8"
    env = environment(folder / "cache", eight, JAX_ENABLE_X64="1")
    done = subprocess.run(
        [sys.executable, "-c", ONE_AND_EIGHT],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def assert_same_run(ours, single) -> None:
    """To 1e-9 in float64, which leaves room for another order of sums."""
    assert [step for step, _ in losses(ours)] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(losses(ours), losses(single), rtol=0, atol=1e-9)
    for ours_row, row in zip(rows(ours), rows(single), strict=True):
        assert ours_row.get("val_mean_iou") == row.get("val_mean_iou")
    found, wanted = (load_file(run / "last" / "model.safetensors") for run in (ours, single))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.full
@pytest.mark.parametrize("name", ["eight", "fsdp"])
def test_eight_devices_give_the_single_devices_run(name, folder, runs):
    assert runs[0] == runs[1] == "['P()']"
    assert "P(None, 'data')" in runs[2]
    assert_same_run(folder / name, folder / "one")


@pytest.mark.full
@pytest.mark.parametrize("teacher", ["taught", "model"])
def test_eight_devices_learn_from_a_teacher_what_one_does(teacher, folder, runs):
    assert_same_run(folder / f"{teacher}-eight", folder / f"{teacher}-one")
    assert not np.allclose(losses(folder / f"{teacher}-one"), losses(folder / "one"), atol=1e-3)


@pytest.mark.full
def test_batch_norm_sees_the_global_batch(folder, runs):
    mean = "decode_head.batch_norm.running_mean"
    one, eight = (
        load_file(folder / name / "last" / "model.safetensors") for name in ("one", "eight")
    )
    before = load_file(folder / "model" / "model.safetensors")
    assert one["decode_head.batch_norm.num_batches_tracked"] == 17 + 2 * STEPS
    assert np.abs(one[mean] - before[mean]).min() > 1e-4  # it has moved, and alike
    np.testing.assert_allclose(eight[mean], one[mean], rtol=0, atol=1e-9)


@pytest.mark.full
def test_two_processes_give_the_single_devices_run(folder, runs):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*PROGRAM, "train", "--data", "data", "--model", "model", "--out", "two", *OPTIONS]
    command += ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    env = environment(folder / "cache", JAX_ENABLE_X64="1")
    started = [
        subprocess.Popen(
            [*command, "--process-id", str(index)],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    printed = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert "mean IoU" in printed[0][1]
    assert "segformer-jax" not in printed[1][1]  # one speaks for all
    assert ["pixel accuracy" in out for out, _ in printed] == [True, False]
    assert_same_run(folder / "two", folder / "one")
    card = (folder / "two" / "last" / "README.md").read_text()
    assert all(name in card for name in NAMES.values())


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((256, 1024), PartitionSpec(None, "data")),
        ((1024, 255), PartitionSpec("data", None)),
        ((7, 7, 3, 512), PartitionSpec(None, None, None, "data")),
        ((64, 64), PartitionSpec()),  # small
        ((257, 1023), PartitionSpec()),  # no axis is divided
    ],
)
def test_the_longest_axis_that_devices_divide_is_split(shape, spec):
    assert sharding.parameter_spec(shape, 8) == spec


def test_a_part_holds_the_same_pictures_for_any_number_of_processes():
    parts = [{"image": np.full((2, 3), number)} for number in range(4)]
    batch = sharding.global_batch(parts, sharding.make_mesh(jax.devices()[:1]))
    assert batch["image"].shape == (4, 2, 3)
    assert np.asarray(batch["image"])[:, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ((None, 2, None), "need a coordinator: HOST:PORT of process 0, or auto"),
        ((None, None, 1), "need a coordinator"),
        (
            ("127.0.0.1:1", 2, None),
            "num_processes and process_id must be given with coordinator 127.0.0.1:1",
        ),
    ],
)
def test_half_an_address_is_told(address, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sharding.join_processes(*address)


def test_alone_a_process_decides_for_itself():
    flags = sharding.SharedFlags(0)
    assert [flags(step, (True, False)) for step in (1, 2)] == [(True, False)] * 2


@pytest.mark.parametrize(("seconds", "questions"), [(0.01, 10), (0.5, 500), (7.0, 2000)])
def test_processes_ask_one_another_every_two_seconds_of_steps(monkeypatch, seconds, questions):
    asked, now = [], 0.0

    def gather(own):
        asked.append(step)
        return np.stack([own, np.array([0, step > 900, 0], np.float32)])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(sharding.multihost_utils, "process_allgather", gather)
    flags, answers = sharding.SharedFlags(0, clock=lambda: now), []
    for step in range(1, 2001):
        now += seconds
        answers.append(flags(step, (False, False)))
    assert len(asked) == pytest.approx(questions, abs=1)
    assert not any(first for first, _ in answers)
    raised = next(step for step, (_, own) in enumerate(answers, 1) if own)
    assert 900 < raised <= 901 + max(1, sharding.ANSWER_WITHIN / seconds)
