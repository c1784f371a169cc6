"""What happens in training alone: random numbers, statistics, gradient checkpointing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import transformers
from flax import nnx
from training import runs

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

SMALL = dict(
    depths=(2, 1, 1, 1),
    hidden_sizes=(8, 12, 16, 24),
    num_attention_heads=(1, 2, 2, 3),
    decoder_hidden_size=16,
    num_labels=3,
    drop_path_rate=0.0,
    classifier_dropout_prob=0.0,
)


def small_model(**config) -> SegformerForSemanticSegmentation:
    config = SegformerConfig(**(SMALL | config))
    return SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))


def pixels(batch=2):
    return reference.pixels(64, 64, batch=batch).astype(np.float32)


def loss_gradients(model):
    """Returns a function of the parameters, and these."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    labels = np.zeros((2, 64, 64), np.int32)

    def loss_of(params):
        own = nnx.merge(graph, params, rest, copy=True)
        return own(pixels(), labels, rngs=nnx.Rngs(dropout=0)).loss

    return jax.grad(loss_of), params


def recomputed(model) -> int:
    gradients, params = loss_gradients(model)
    return str(jax.make_jaxpr(gradients)(params)).count("remat")


def test_a_new_model_is_in_train_mode_and_wants_random_numbers():
    model = small_model(classifier_dropout_prob=0.1)
    with pytest.raises(ValueError, match=r"rngs=nnx.Rngs\(dropout=seed\), or call model.eval\(\)"):
        model(pixels())
    assert model(pixels(), rngs=nnx.Rngs(dropout=0)).logits.shape == (2, 16, 16, 3)


def test_drop_path_rates_are_those_of_transformers():
    config = transformers.SegformerConfig(depths=[2, 3, 1, 2], drop_path_rate=0.3)
    hf = transformers.SegformerModel(config)
    wanted = [
        getattr(block.drop_path, "drop_prob", 0.0) for stage in hf.stages for block in stage.blocks
    ]

    ours = SegformerConfig.from_dict(config.to_dict())
    model = nnx.eval_shape(lambda: SegformerForSemanticSegmentation(ours, rngs=nnx.Rngs(0)))
    rates = [block.drop_path.rate for stage in model.segformer.stages for block in stage.blocks]

    assert rates == pytest.approx(wanted)


def test_drop_path_leaves_out_whole_pictures_and_scales_the_others():
    model = small_model(drop_path_rate=0.5)
    drop_path = model.segformer.stages[3].blocks[0].drop_path  # the last: the full rate
    x = jnp.ones((64, 2, 3, 4))

    y = np.asarray(drop_path(x, rngs=nnx.Rngs(dropout=0)))

    per_picture = y.reshape(64, -1)
    assert (per_picture == per_picture[:, :1]).all()
    assert set(np.unique(y)) == {0.0, 2.0}
    assert 16 < np.count_nonzero(per_picture[:, 0]) < 48


@pytest.mark.parametrize(
    "rate", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"]
)
def test_each_dropout_acts_in_training_and_not_in_use(rate):
    model = small_model(**{rate: 0.5})
    untrained = nnx.clone(model)
    one, same, other = (
        np.asarray(model(pixels(), rngs=nnx.Rngs(dropout=seed)).logits) for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)
    without = small_model()
    for own in (untrained, without):
        own.eval()
    assert np.array_equal(untrained(pixels()).logits, without(pixels()).logits)


def test_attention_dropout_drops_the_weights_that_are_returned():
    model = small_model(attention_probs_dropout_prob=0.25)
    outputs = model(pixels(), output_attentions=True, rngs=nnx.Rngs(dropout=0))
    dropped = np.mean([np.mean(np.asarray(a) == 0) for a in outputs.attentions])
    assert 0.2 < dropped < 0.3


def test_gradient_checkpointing_changes_no_gradient_and_recomputes_every_block():
    model = small_model(**runs.SMALL, drop_path_rate=0.2)
    gradients, params = loss_gradients(model)
    plain, fewest = jax.jit(gradients)(params), recomputed(model)  # operations may have their own
    model.gradient_checkpointing_enable()
    gradients, params = loss_gradients(model)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6),
        plain,
        jax.jit(gradients)(params),
    )
    assert recomputed(model) >= fewest + sum(model.config.depths)
    model.gradient_checkpointing_disable()
    assert recomputed(model) == fewest


def test_gradient_checkpointing_gives_attentions_too():
    model = small_model()
    model.gradient_checkpointing_enable()
    assert len(model(pixels(), output_attentions=True).attentions) == sum(model.config.depths)


def test_batch_norm_refuses_a_single_value_per_channel():
    model = small_model()
    with pytest.raises(ValueError, match="more than one value per channel"):
        model.decode_head.batch_norm(jnp.ones((1, 1, 1, 16)))


def test_statistics_stay_as_they_are_in_use():
    model = small_model()
    model.eval()
    before = np.asarray(model.decode_head.batch_norm.mean[...])
    model(pixels())
    assert np.array_equal(before, model.decode_head.batch_norm.mean[...])
    assert int(model.decode_head.batch_norm.num_batches_tracked[...]) == 0


def test_half_precision_parameters_keep_float32_statistics():
    config = SegformerConfig(**SMALL)
    model = SegformerForSemanticSegmentation(
        config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    model(pixels())
    norm = model.decode_head.batch_norm
    assert norm.scale[...].dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.var[...].dtype == jnp.float32
