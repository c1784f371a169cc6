"""What is not SegFormer's own is named, and written by nobody who would write another network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from segformer_jax.export import export_onnx
from segformer_jax.models.contract import interface_of
from segformer_jax.models.decode_head import SegformerDecodeHead
from segformer_jax.models.encoder import Attention
from segformer_jax.models.foreign import foreign_parts
from segformer_jax.models.layers import BatchNorm, Dropout, Linear

pytestmark = pytest.mark.usefixtures("cpu_forms")  # a third less to trace

SIZES = dict(
    num_encoder_blocks=2, depths=(2, 1), sr_ratios=(4, 2), hidden_sizes=(8, 16),
    patch_sizes=(7, 3), strides=(4, 2), num_attention_heads=(1, 2), mlp_ratios=(2, 2),
    decoder_hidden_size=8,
)  # fmt: skip


class OtherAttention(Attention):
    """Of the same parameters: nothing but its type tells."""


class OtherHead(nnx.Module):
    def __init__(self, width, labels, *, rngs):
        self.classifier = Linear(width, labels, rngs=rngs)

    def __call__(self, hidden_states, *, rngs=None):
        return 2 * self.classifier(hidden_states[0])


class SmallerHead(SegformerDecodeHead):
    """The library's parameters, another function of them."""

    def __call__(self, hidden_states, *, rngs=None):
        return -super().__call__(hidden_states, rngs=rngs)


class OtherModel(SegformerForSemanticSegmentation):
    pass


def make(cls=SegformerForSemanticSegmentation, **changes):
    model = cls(SegformerConfig(num_labels=3, **(SIZES | changes)), rngs=nnx.Rngs(0))
    model.eval()
    return model


def other_attention(model):
    for stage in model.segformer.stages:
        for block in stage.blocks:
            own = OtherAttention.__new__(OtherAttention)
            vars(own).update(vars(block.attention))
            block.attention = own


def other_activation(model):
    model.segformer.stages[0].blocks[1].mlp.activation = jnp.tanh


def other_head(model):
    model.decode_head = OtherHead(8, 3, rngs=nnx.Rngs(0))


def other_embeddings(model):
    model.segformer.stages[0].patch_embeddings = nnx.Conv(3, 8, (4, 4), strides=4, rngs=nnx.Rngs(0))


def one_block_more(model):
    blocks = model.segformer.stages[1].blocks
    blocks.append(nnx.clone(blocks[0]))


def other_heads(model):
    model.segformer.stages[1].blocks[0].attention.heads = 4


def low_rank(model):
    attention = model.segformer.stages[0].blocks[0].attention
    attention.q_proj = nnx.LoRA(8, 2, 8, base_module=attention.q_proj, rngs=nnx.Rngs(0))


CHANGES = {
    other_attention: r"OtherAttention at segformer.stages.0.blocks.0.attention \(and 2 more\): ",
    other_activation: "tanh at segformer.stages.0.blocks.1.mlp.activation: ",
    other_head: "OtherHead at decode_head: ",
    other_embeddings: "Conv at segformer.stages.0.patch_embeddings: ",
    one_block_more: "Block at segformer.stages.1.blocks.1: ",
    other_heads: "4 at segformer.stages.1.blocks.0.attention.heads: ",
    low_rank: "LoRA at segformer.stages.0.blocks.0.attention.q_proj: ",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_part_of_another_type_is_refused_by_its_name(change, tmp_path):
    model = make()
    change(model)
    for weights in ("float", "float16", "int8"):
        with pytest.raises(ValueError, match=f"Hugging Face's .*, got {CHANGES[change]}keep the"):
            model.save_pretrained(tmp_path / "model", weights=weights)
    with pytest.raises(
        ValueError, match=f"ONNX can write .*, got {CHANGES[change]}export_stablehlo"
    ):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_type_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="got a OtherModel: keep the weights by"):
        make(OtherModel).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="got a OtherModel: export_stablehlo exports any"):
        export_onnx(make(OtherModel), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "cls", [SegformerModel, SegformerForImageClassification, SegformerForSemanticSegmentation]
)
def test_the_librarys_own_models_have_no_foreign_part(cls):
    assert foreign_parts(make(cls)) == []
    five = {name: value + value[-1:] * 3 for name, value in SIZES.items() if name in SEQUENCES}
    assert foreign_parts(make(cls, num_encoder_blocks=5, **five)) == []
    model = cls(SegformerConfig(**SIZES), dtype=jnp.bfloat16, rngs=nnx.Rngs(0, dropout=1))
    model.gradient_checkpointing_enable()
    assert foreign_parts(model) == []
    if cls is SegformerForSemanticSegmentation:
        assert foreign_parts(model.folded()) == []


SEQUENCES = [name for name, value in SIZES.items() if isinstance(value, tuple)]


def test_another_head_runs_as_it_is_written_where_the_librarys_is_folded():
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    model = make()
    plain = model(x).logits
    assert "kernels" in vars(model.folded().decode_head)
    model.decode_head.__class__ = SmallerHead
    in_use = model.folded()
    assert type(in_use.decode_head) is SmallerHead
    np.testing.assert_allclose(in_use(x).logits, -plain, atol=1e-6)  # float32's rounding
    other_head(model)
    wanted = model(x).logits
    np.testing.assert_array_equal(model.folded()(x).logits, wanted)


class Twice(nnx.Module):
    """A part of the same attributes, of twice the output."""

    def __init__(self, own):
        vars(self).update(vars(own))  # not the part itself: a tree holds each parameter once
        self.kind = type(own)

    def __call__(self, x):
        return 2 * self.kind.__call__(self, x)


class DoubleNorm(BatchNorm):
    def __call__(self, x):
        return 2 * super().__call__(x)


class DoubleDropout(Dropout):
    def __call__(self, x, *, rngs=None):
        return 2 * super().__call__(x, rngs=rngs)


def double(layer):
    for parameter in (layer.kernel, layer.bias):
        if parameter is not None:
            parameter[...] = 2 * parameter[...]


def other_projection(head):
    head.linear_projections[0] = Twice(head.linear_projections[0])


def other_proj(head):
    head.linear_projections[1].proj = Twice(head.linear_projections[1].proj)


def other_fuse(head):
    head.linear_fuse = Twice(head.linear_fuse)


def biased_fuse(head):
    own = head.linear_fuse
    head.linear_fuse = Linear(*own.kernel.shape, rngs=nnx.Rngs(0))
    head.linear_fuse.kernel, head.linear_fuse.bias = own.kernel, nnx.Param(jnp.full(8, 0.25))


def other_norm(head):
    head.batch_norm.__class__ = DoubleNorm


def other_dropout(head):
    head.dropout.__class__ = DoubleDropout


def other_classifier(head):
    head.classifier = Twice(head.classifier)


def double_norm(head):
    for parameter in (head.batch_norm.scale, head.batch_norm.bias):
        parameter[...] = 2 * parameter[...]


def shift_mean(head):
    head.batch_norm.mean[...] -= 0.25


PARTS = {  # and what of the library's own head does the same
    other_projection: lambda head: double(head.linear_projections[0].proj),
    other_proj: lambda head: double(head.linear_projections[1].proj),
    other_fuse: lambda head: double(head.linear_fuse),
    biased_fuse: shift_mean,
    other_norm: double_norm,
    other_dropout: lambda head: double(head.classifier),
    other_classifier: lambda head: double(head.classifier),
}


@pytest.mark.parametrize("change", PARTS, ids=lambda change: change.__name__)
def test_a_head_with_a_part_of_another_type_runs_as_it_is_written(change):
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    options = dict(initializer_range=0.5, drop_path_rate=0.0, classifier_dropout_prob=0.0)
    model, wanted = make(**options), make(**options)
    change(model.decode_head)
    PARTS[change](wanted.decode_head)

    def check(ours, own):
        np.testing.assert_allclose(ours, own, rtol=0, atol=2e-6 * np.abs(own).max())  # rounding

    check(model(x).logits, wanted(x).logits)
    check(model.folded()(x).logits, wanted(x).logits)
    assert type(model.folded().decode_head) is SegformerDecodeHead
    assert interface_of(model, size=(64, 64)).logits_shape(64, 96) == (16, 24, 3)
    model.train()
    wanted.train()
    check(model(x).logits, wanted(x).logits)


def test_an_activation_may_be_a_function_or_a_module():
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    named, function, module = (make(hidden_act=kind) for kind in ("relu", "gelu", "gelu"))
    for model, own in ((function, jax.nn.relu), (module, nnx.data(Relu()))):
        for stage in model.segformer.stages:
            for block in stage.blocks:
                block.mlp.activation = own
        np.testing.assert_array_equal(model(x).logits, named(x).logits)


class Relu(nnx.Module):
    def __call__(self, x):
        return jax.nn.relu(x)
