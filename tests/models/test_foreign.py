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
from segformer_jax.models.decode_head import SegformerDecodeHead
from segformer_jax.models.encoder import Attention
from segformer_jax.models.foreign import foreign_parts
from segformer_jax.models.layers import Linear

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
    with pytest.raises(ValueError, match=f"ONNX holds .*, got {CHANGES[change]}export_stablehlo"):
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
