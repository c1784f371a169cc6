"""What Flax's guides do with a module works with these, in both of NNX's modes."""

from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors.numpy import load_file

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

MODELS = (SegformerModel, SegformerForSemanticSegmentation, SegformerForImageClassification)
SMALL = dict(
    num_encoder_blocks=1, hidden_sizes=(8,), depths=(1,), num_attention_heads=(2,), sr_ratios=(2,),
    mlp_ratios=(2,), strides=(4,), patch_sizes=(7,), decoder_hidden_size=8, num_labels=3,
)  # fmt: skip
RATES = dict(
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.1,
    classifier_dropout_prob=0.1,
)  # fmt: skip
SEGMENTATION = SegformerForSemanticSegmentation


def small_config(**rates) -> SegformerConfig:
    return SegformerConfig(**(SMALL | dict.fromkeys(RATES, 0.0) | rates))


def small_model(cls=SEGMENTATION, *, rngs: nnx.Rngs | None = None, **rates) -> Any:
    return cls(small_config(**rates), rngs=rngs or nnx.Rngs(0))


def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def main(outputs) -> jax.Array:
    """The logits, or an encoder's last map."""
    return outputs.last_hidden_state if hasattr(outputs, "last_hidden_state") else outputs.logits


def result(outputs) -> np.ndarray:
    return np.asarray(main(outputs))


@pytest.mark.parametrize("rates", [RATES, {}], ids=["dropout", "no dropout"])
@pytest.mark.parametrize("cls", MODELS)
def test_a_view_is_a_model_in_another_mode_over_the_same_parameters(cls, rates):
    model = small_model(cls, **rates)
    modes: dict[str, Any] = dict(deterministic=True)
    if cls is SEGMENTATION:
        modes["use_running_average"] = True

    view = nnx.view(model, **modes)

    own = nnx.clone(model)
    own.eval()
    assert np.array_equal(result(view(pixels())), result(own(pixels())))
    assert not any(getattr(m, "deterministic", False) for _, m in nnx.iter_modules(model))
    kernels = [
        getattr(m, "segformer", m).stages[0].patch_embeddings.proj.kernel for m in (model, view)
    ]
    assert kernels[0] is kernels[1]
    back = nnx.view(view, **dict.fromkeys(modes, False))
    if rates:
        with pytest.raises(ValueError, match=r"call model.eval\(\)"):
            back(pixels())


def test_a_view_has_no_other_modes():
    with pytest.raises(ValueError, match="use_running_average"):
        nnx.view(small_model(SegformerModel), deterministic=True, use_running_average=True)


def test_what_a_view_can_set_is_told():
    told = nnx.view_info(small_model())
    assert "deterministic: bool | None = None\n    drop nothing." in told
    assert "use_running_average: bool | None = None" in told


@pytest.mark.parametrize(
    ("cls", "mode"), [*((cls, "eval") for cls in MODELS), (SEGMENTATION, "train")]
)
def test_nnx_tabulates_every_layer(cls, mode, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model = small_model(cls)
    getattr(model, mode)()

    table = nnx.tabulate(model, pixels(), console_kwargs={"width": 400, "force_terminal": False})

    head = {SEGMENTATION: "decode_head", SegformerForImageClassification: "classifier"}
    for path in ("stages/0/blocks/0/attention/q_proj", head.get(cls, "stages/0/layer_norm")):
        assert path in table
    assert result(model(pixels())).any()  # and nnx has taken its own wrappers away again


def loss_of(model, rngs=None):
    return jnp.square(main(model(pixels(), rngs=rngs))).mean()


@pytest.mark.parametrize("cls", MODELS)
def test_a_model_is_trained_by_value_and_grad_of_the_model_itself(cls):
    model, rngs = small_model(cls, **RATES), nnx.Rngs(dropout=1)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, rngs):
        loss, gradients = nnx.value_and_grad(loss_of)(model, rngs)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer, rngs)) for _ in range(3)]

    assert losses[-1] < losses[0]
    assert int(rngs.dropout.count[...]) > 0
    if cls is SEGMENTATION:
        assert int(model.decode_head.batch_norm.num_batches_tracked[...]) == 3
        assert np.all(model.decode_head.batch_norm.mean[...] != 0)


def test_a_model_that_keeps_its_dropout_is_trained_by_value_and_grad_of_its_parameters():
    model = small_model(rngs=nnx.Rngs(0, dropout=1), **RATES)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss_of_params(params, rest):
            return loss_of(nnx.merge(graph, params, rest))

        loss, gradients = nnx.value_and_grad(loss_of_params)(params, rest)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(3)]

    assert losses[-1] < losses[0]
    assert int(model.decode_head.batch_norm.num_batches_tracked[...]) == 3
    assert int(model.segformer.rngs.dropout.count[...]) > 0


def test_a_key_serves_as_rngs_and_every_dropout_draws_anew():
    model, key = small_model(**RATES), jax.random.key(3)
    one, same, legacy, other = (
        result(model(pixels(), rngs=rngs))
        for rngs in (key, nnx.Rngs(dropout=key), jax.random.key_data(key), jax.random.key(4))
    )
    assert np.array_equal(one, same)
    assert np.array_equal(one, legacy)
    assert not np.allclose(one, other)


def test_a_stream_named_dropout_is_kept_in_the_model_and_no_other():
    given, kept = (
        small_model(rngs=rngs, **RATES) for rngs in (nnx.Rngs(0), nnx.Rngs(0, dropout=1))
    )
    with pytest.raises(ValueError, match=r"rngs=nnx.Rngs\(dropout=seed\)"):
        given(pixels())
    one, two = (result(kept(pixels())) for _ in range(2))
    assert not np.allclose(one, two)
    jax.tree.map(np.testing.assert_array_equal, *(nnx.state(m, nnx.Param) for m in (given, kept)))
    assert not jax.tree.leaves(nnx.state(kept.folded(), nnx.RngState))


def test_steps_are_counted_in_a_float_and_saved_as_an_integer(tmp_path):
    model = small_model()
    model(pixels())
    model.save_pretrained(tmp_path)
    count = load_file(tmp_path / "model.safetensors")["decode_head.batch_norm.num_batches_tracked"]
    assert (count, count.dtype, count.shape) == (1, np.int64, ())
    read = SEGMENTATION.from_pretrained(tmp_path).decode_head.batch_norm.num_batches_tracked[...]
    assert (read, read.dtype) == (1, np.float32)


def test_a_linen_model_of_it_is_trained_and_used():
    model = nnx.bridge.to_linen(SEGMENTATION, small_config(**RATES))
    x, keys = (
        pixels(),
        dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0)), strict=True)),
    )
    variables = model.init(keys, x)

    outputs, updates = model.apply(
        variables, x, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
    )

    assert outputs.logits.shape == (2, 4, 4, 3)
    count = updates["batch_stats"]["decode_head"]["batch_norm"]["num_batches_tracked"]
    assert (
        int(count)
        == int(variables["batch_stats"]["decode_head"]["batch_norm"]["num_batches_tracked"]) + 1
    )


@pytest.mark.parametrize("cls", [SegformerModel, SegformerForImageClassification])
def test_a_linen_model_computes_the_same(cls):
    def in_eval_mode(config, *, rngs):
        model = cls(config, rngs=rngs)
        model.eval()
        return model

    model = nnx.bridge.to_linen(in_eval_mode, small_config(**RATES))
    outputs, variables = model.init_with_output(jax.random.key(0), pixels())
    own = small_model(cls)
    own.eval()
    nnx.update(own, jax.tree.map(jnp.asarray, variables["params"]))
    assert np.array_equal(result(outputs), result(own(pixels())))


@pytest.mark.parametrize("cls", MODELS)
def test_orbax_saves_the_state_and_restores_it(cls, tmp_path):
    model = small_model(cls, rngs=nnx.Rngs(1))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
        checkpointer.wait_until_finished()
        graph, abstract = nnx.split(nnx.eval_shape(lambda: small_model(cls)))
        restored = nnx.merge(graph, checkpointer.restore(tmp_path / "state", abstract))
    jax.tree.map(np.testing.assert_array_equal, *(nnx.state(m) for m in (model, restored)))


def test_lora_around_linear_layers_alone_is_trained():
    model = small_model()
    attention = model.segformer.stages[0].blocks[0].attention
    attention.q_proj = nnx.LoRA(8, 2, 8, base_module=attention.q_proj, rngs=nnx.Rngs(0))
    attention.v_proj = nnx.LoRA(8, 2, 8, base_module=attention.v_proj, rngs=nnx.Rngs(1))
    without = small_model()
    assert np.array_equal(result(model(pixels())), result(without(pixels())))
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.LoRAParam)

    graph, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)
    gradients = nnx.grad(lambda adapters, rest: loss_of(nnx.merge(graph, adapters, rest)))(
        adapters, rest
    )
    optimizer.update(model, gradients)

    theirs, ours = (m.segformer.stages[0].blocks[0].attention.v_proj for m in (without, model))
    assert np.all(ours.lora_b[...] != 0)
    assert np.array_equal(ours.base_module.kernel[...], theirs.kernel[...])


@pytest.mark.parametrize("cls", MODELS)
def test_an_ensemble_is_one_model_mapped_over_its_keys(cls):
    @nnx.vmap
    def ensemble(key):
        return small_model(cls, rngs=nnx.Rngs(key))

    @nnx.vmap(in_axes=(0, None))
    def together(model, x):
        return main(model(x))

    keys = jax.random.split(jax.random.key(0), 2)
    models = ensemble(keys)
    models.eval()
    each = np.asarray(together(models, pixels()))

    for key, mapped in zip(keys, each, strict=True):
        alone = small_model(cls, rngs=nnx.Rngs(key))
        alone.eval()
        np.testing.assert_allclose(mapped, result(alone(pixels())), rtol=1e-5, atol=1e-6)
