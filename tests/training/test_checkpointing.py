"""Checkpoints come back as they were, and are there whole or not at all."""

import dataclasses
import gc
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from segformer_jax.training import sharding, state
from segformer_jax.training.checkpointing import Checkpoints, whole_checkpoints
from segformer_jax.training.optimizer import make_optimizer

ABOUT = {"best": {"step": 1, "mean_iou": 0.5}, "scores": None}


def begun(seed: int, *, width: int = 3, ema: bool = True) -> state.TrainState:
    rng = np.random.default_rng(seed)
    params = {name: jnp.array(rng.normal(size=(4, width))) for name in ("a.kernel", "b.kernel")}
    optimizer = make_optimizer(["a.kernel"], learning_rate=lambda _: 1e-3)
    stats = {"norm.mean": jnp.array(rng.normal(size=3))}
    start = state.start(
        params, stats, trained=lambda name: name[0] == "a", optimizer=optimizer, ema=ema
    )
    mesh = sharding.make_mesh()
    return sharding.place(start, sharding.state_sharding(start, mesh, fsdp=False))


def at(step: int, now: state.TrainState) -> state.TrainState:
    return jax.tree.unflatten(jax.tree.structure(now), [jnp.int32(step), *jax.tree.leaves(now)[1:]])


def test_a_state_comes_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(at(3, begun(0)), ABOUT)
    checkpoints.close()
    found, about = Checkpoints(tmp_path).restore(begun(1))
    assert about == ABOUT
    assert jax.tree.structure(found) == jax.tree.structure(begun(1))
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(at(3, begun(0))), strict=True):
        assert ours.dtype == wanted.dtype
        np.testing.assert_array_equal(ours, wanted)


class SwappedAdam(NamedTuple):
    """Another optax's, with its fields in another order."""

    nu: Any
    count: Any
    mu: Any


def test_moments_go_by_their_names_and_not_by_their_order(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    saved = jax.tree.map(lambda leaf: leaf, begun(0))
    adam = saved.optimizer[1]
    adam = adam._replace(
        mu=jax.tree.map(lambda x: x + 1, adam.mu), nu=jax.tree.map(lambda x: x + 2, adam.nu)
    )
    saved = dataclasses.replace(saved, optimizer=(saved.optimizer[0], adam, *saved.optimizer[2:]))
    checkpoints.save(at(3, saved), ABOUT)
    checkpoints.wait()
    swapped = SwappedAdam(nu=adam.nu, count=adam.count, mu=adam.mu)
    like = dataclasses.replace(saved, optimizer=(saved.optimizer[0], swapped, *saved.optimizer[2:]))
    found, _ = checkpoints.restore(like)
    checkpoints.close()
    for name in adam.mu:
        np.testing.assert_array_equal(found.optimizer[1].mu[name], adam.mu[name])
        np.testing.assert_array_equal(found.optimizer[1].nu[name], adam.nu[name])


def test_numbered_arrays_of_an_earlier_version_are_refused(tmp_path):
    leaves = jax.tree.leaves(at(1, begun(0)))
    numbered = {f"{number:05}": leaf for number, leaf in enumerate(leaves)}
    with ocp.CheckpointManager(tmp_path) as manager:
        composite = ocp.args.Composite(
            state=ocp.args.StandardSave(numbered), about=ocp.args.JsonSave(ABOUT)
        )
        manager.save(1, args=composite)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"step 1 in .* its arrays are numbered, .* \(--out\)"):
        checkpoints.restore(begun(0))
    checkpoints.close()


def test_the_two_newest_are_kept_and_a_step_is_saved_once(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 2, 3):
        checkpoints.save(at(step, begun(step)), ABOUT)
    checkpoints.wait()
    assert checkpoints.latest() == 3
    checkpoints.close()
    assert sorted(whole_checkpoints(tmp_path)) == [2, 3]


def test_remains_of_a_killed_process_are_swept_away(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(1, begun(0)), ABOUT)
    checkpoints.close()
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_text("half")
    assert whole_checkpoints(tmp_path) == [1]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    checkpoints.save(at(2, begun(0)), ABOUT)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.filterwarnings(  # orbax leaves a coroutine behind when it refuses a checkpoint
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)
@pytest.mark.parametrize("other", [dict(width=5), dict(ema=False)])
def test_a_checkpoint_of_another_run_is_told(other, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(1, begun(0)), ABOUT)
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"checkpoint of step 1 in .* does not fit this run"):
        checkpoints.restore(begun(0, **other))
    checkpoints.close()
    gc.collect()  # now, not in another test


def test_the_size_of_float64_is_kept(tmp_path, x64):
    checkpoints = Checkpoints(tmp_path)
    first = at(1, begun(0))
    assert first.params["a.kernel"].dtype == np.float64
    checkpoints.save(first, ABOUT)
    checkpoints.close()
    found, _ = Checkpoints(tmp_path).restore(begun(1))
    np.testing.assert_array_equal(found.params["a.kernel"], first.params["a.kernel"])


def test_a_folder_that_is_none_holds_no_checkpoint(tmp_path):
    assert whole_checkpoints(tmp_path / "none") == []
    (tmp_path / "notes.json").write_text(json.dumps({}))
    assert whole_checkpoints(tmp_path) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # orbax's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_write_that_fails_is_told_and_does_no_harm_to_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(1, begun(0)), ABOUT)
    checkpoints.wait()

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager._checkpointer, "save", full)
    with pytest.raises(
        OSError, match=r"No space left.*: free some space; the checkpoint before it is complete"
    ):
        checkpoints.save(at(2, begun(0)), ABOUT)
    checkpoints.close()
    assert whole_checkpoints(tmp_path) == [1]
