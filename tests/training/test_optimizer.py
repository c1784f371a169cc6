"""Steps equal torch.optim.AdamW with the groups, the schedule and the clipping written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from segformer_jax.training.optimizer import (
    Rule,
    ema_update,
    frozen,
    group_factors,
    layer_factors,
    make_optimizer,
    paper_rules,
)
from segformer_jax.training.schedule import poly_with_warmup

ROUNDING = 1e-12  # float64, 20 steps
PAPER = {  # name: learning rate and weight decay by all others'
    "segformer.stages.0.patch_embeddings.proj.kernel": (1, 1),
    "segformer.stages.0.patch_embeddings.layer_norm.scale": (1, 0),
    "segformer.stages.0.blocks.0.layernorm_before.bias": (1, 0),
    "segformer.stages.0.blocks.0.attention.sequence_reduction.layer_norm.scale": (1, 0),
    "segformer.stages.0.blocks.0.attention.sequence_reduction.sequence_reduction.kernel": (1, 1),
    "segformer.stages.0.blocks.0.mlp.fc1.bias": (1, 1),
    "segformer.stages.0.layer_norm.bias": (1, 0),
    "decode_head.linear_projections.0.proj.bias": (10, 1),
    "decode_head.batch_norm.scale": (10, 1),
    "decode_head.classifier.kernel": (10, 1),
}


def random_dict(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(4, 3)) * scale for name in PAPER}


def test_the_papers_rules_are_those_of_its_training_runs():
    found = group_factors(PAPER, rules=paper_rules())
    assert {name: (rule.rate, rule.decay) for name, rule in found.items()} == PAPER


@pytest.mark.parametrize("clip_norm", [None, 3.0])
def test_twenty_steps_are_torchs(x64, clip_norm):
    params = random_dict(0)
    theirs = {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in params.items()}
    optimizer = torch.optim.AdamW(
        [
            dict(params=[theirs[name]], weight_decay=0.01 * decay, factor=rate)
            for name, (rate, decay) in PAPER.items()
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    schedule = poly_with_warmup(1e-2, steps=25, warmup=6)
    ours = make_optimizer(
        params, learning_rate=schedule, betas=(0.9, 0.98), eps=1e-6, clip_norm=clip_norm
    )
    params = {name: jnp.asarray(x) for name, x in params.items()}
    state = ours.init(params)

    @jax.jit
    def step(params, state, gradients):
        updates, state = ours.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for count in range(20):
        gradients = random_dict(count + 1, scale=0.05 + 0.05 * count)  # some are clipped
        rate = 1e-2 * (1 - count / 25) * (1 - max(1 - count / 6, 0) * (1 - 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        for name, x in theirs.items():
            x.grad = torch.from_numpy(gradients[name].copy())
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        optimizer.step()
        params, state = step(params, state, gradients)
        for name, x in theirs.items():
            np.testing.assert_allclose(params[name], x.detach(), rtol=0, atol=ROUNDING)


def test_an_optimizer_is_made_from_shapes_alone():
    shapes = {name: jax.ShapeDtypeStruct((4, 3), jnp.float32) for name in PAPER}
    optimizer = make_optimizer(shapes, learning_rate=poly_with_warmup(1e-3, steps=9, warmup=1))
    state = jax.eval_shape(optimizer.init, shapes)
    moments = [x for x in jax.tree.leaves(state) if x.shape == (4, 3)]
    assert len(moments) == 2 * len(PAPER)


def test_rules_of_ones_own_take_the_place_of_the_papers():
    rules = (Rule("*.bias", decay=0.0), Rule("decode_head.*", rate=5.0), Rule("*.bias", rate=9.0))
    found = group_factors(PAPER, rules=rules)
    bias, kernel = "decode_head.linear_projections.0.proj.bias", "decode_head.classifier.kernel"
    assert (found[bias].rate, found[bias].decay) == (1, 0)
    assert (found[kernel].rate, found[kernel].decay) == (5, 1)


def test_layers_learn_slower_further_down():
    depths = {
        "segformer.stages.0.patch_embeddings.proj.kernel": 4,
        "segformer.stages.0.blocks.0.mlp.fc1.kernel": 3,
        "segformer.stages.0.blocks.1.mlp.fc1.kernel": 2,
        "segformer.stages.0.layer_norm.scale": 2,
        "segformer.stages.1.patch_embeddings.layer_norm.bias": 2,
        "segformer.stages.1.blocks.0.layernorm_before.bias": 1,
        "segformer.stages.1.layer_norm.bias": 1,
        "decode_head.classifier.bias": 0,
    }
    assert layer_factors(depths, 0.5) == {name: 0.5**depth for name, depth in depths.items()}
    bare = {name.removeprefix("segformer."): depth for name, depth in depths.items()}
    assert layer_factors(bare, 0.5) == {name: 0.5**depth for name, depth in bare.items()}
    found = group_factors(depths, rules=paper_rules(), layer_decay=0.5)
    assert [rule.rate for rule in found.values()][-3:] == [0.5, 0.5, 10.0]


def test_ten_blocks_are_counted_as_numbers():
    names = [f"segformer.stages.2.blocks.{i}.mlp.fc1.bias" for i in range(12)]
    assert layer_factors(names, 0.5)[names[2]] == 0.5**10


def test_frozen_parameters_are_named_by_patterns():
    names = frozen(PAPER, ["segformer.*", "decode_head.batch_norm.*"])
    assert names == {
        name for name in PAPER if not name.startswith(("decode_head.l", "decode_head.c"))
    }
    assert frozen(PAPER, []) == set()


def test_a_pattern_that_matches_nothing_is_named_beside_some_names():
    with pytest.raises(ValueError, match=r"'encoder\.\*'.* decode_head\."):
        frozen(PAPER, ["segformer.*", "encoder.*"])


def test_an_average_forgets_its_start_and_then_moves_slowly(x64):
    values = np.random.default_rng(0).normal(size=200)
    ema, expected = {"a": jnp.zeros(())}, 0.0
    for step, value in enumerate(values):
        ema = ema_update(ema, {"a": jnp.asarray(value)}, decay=0.9, step=step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
        np.testing.assert_allclose(ema["a"], expected, atol=ROUNDING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(weight_decay=-0.1), "-0.1"),
        (dict(betas=(0.9, 1.0)), "1.0"),
        (dict(eps=0.0), "eps must be a small positive number, got 0.0"),
        (dict(clip_norm=0.0), "clip_norm must be above 0, .*got 0.0"),
        (dict(layer_decay=1.5), "layer_decay must be .*got 1.5"),
    ],
)
def test_a_number_out_of_its_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(PAPER, learning_rate=lambda count: 1e-3, **options)
