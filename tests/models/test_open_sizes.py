"""Operations whose sizes are symbols compute what torch does, in each platform's form."""

import jax
import numpy as np
import pytest
import reference
import torch
from jax import export

from segformer_jax import SegformerForSemanticSegmentation, ops

TWO_STAGES = dict(
    num_encoder_blocks=2, depths=[1, 1], sr_ratios=[8, 4], hidden_sizes=[8, 12],
    patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
)  # fmt: skip
FORMS = ["cpu", "gpu", "tpu"]


@pytest.mark.parametrize("form", FORMS)
def test_a_resize_between_open_sizes_is_torchs(form, rng):
    b, h, w, height, width = export.symbolic_shape("b, h, w, height, width")

    def resize(x, like):
        with ops.use(form):
            return ops.resize_bilinear(x, size=like.shape)

    shapes = (
        jax.ShapeDtypeStruct((b, h, w, 5), "float32"),
        jax.ShapeDtypeStruct((height, width), "float32"),
    )
    program = export.export(jax.jit(resize), platforms=["cpu"])(*shapes)
    for old, new in [((7, 9), (28, 33)), ((16, 12), (5, 12)), ((1, 4), (3, 1))]:
        x = rng.normal(size=(2, *old, 5)).astype(np.float32)
        ours = program.call(x, np.zeros(new, np.float32))
        wanted = torch.nn.functional.interpolate(reference.nchw(x), new, mode="bilinear")
        np.testing.assert_allclose(ours, reference.nhwc(wanted), rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["gpu", "tpu"])  # tests/export/test_stablehlo.py runs the CPU's
def test_a_network_of_open_sizes_is_transformers(form, tmp_path):
    hf = reference.hf_model("ForSemanticSegmentation", **TWO_STAGES)
    hf.save_pretrained(tmp_path)
    ours = SegformerForSemanticSegmentation.from_pretrained(tmp_path)

    def run(pixels):
        with ops.use(form):
            return ours(pixels).logits

    b, h, w = export.symbolic_shape("b, h, w", constraints=["h >= 29", "w >= 29"])
    shape = jax.ShapeDtypeStruct((b, h, w, 3), "float32")
    program = export.export(jax.jit(run), platforms=["cpu"])(shape)
    x = reference.pixels(45, 70)
    with torch.no_grad():
        wanted = reference.nhwc(hf.double()(reference.nchw(x)).logits)
    assert reference.distance(program.call(x.astype(np.float32)), wanted) <= 1e-6  # float32's
