"""b0 to b5 at their real sizes, in float32."""

import jax
import numpy as np
import pytest
import reference
import torch
import transformers
from flax import nnx
from tiers import short

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax.checkpoints.flat import flat_state

VARIANTS = ["b0", "b1", "b2", "b3", "b4", "b5"]


def hf_config(variant: str) -> transformers.SegformerConfig:
    values = getattr(SegformerConfig, variant)(num_labels=150).to_dict()
    return transformers.SegformerConfig(**values)


@pytest.mark.parametrize("variant", short(VARIANTS, ["b0", "b5"]))
def test_a_variant_has_the_parameters_of_transformers(variant):
    with torch.device("meta"):
        hf = transformers.SegformerForSemanticSegmentation(hf_config(variant))
    wanted = {n.removesuffix("_tracked") for n, _ in hf.state_dict().items()}
    config = getattr(SegformerConfig, variant)(num_labels=150)

    model = nnx.eval_shape(lambda: SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0)))
    flat = flat_state(model)

    assert len(flat) == len(wanted)
    assert sum(np.prod(v.shape, dtype=int) for v in flat.values()) == sum(
        t.numel() for t in hf.state_dict().values()
    )


@pytest.mark.parametrize("variant", short(VARIANTS, ["b0"]))
def test_a_variant_equals_transformers_in_float32(variant, tmp_path):
    hf = transformers.SegformerForSemanticSegmentation(hf_config(variant)).eval()
    reference.randomize(hf).save_pretrained(tmp_path)
    x = reference.pixels(512, 512, batch=1).astype(np.float32)
    with torch.inference_mode():
        expected = reference.nhwc(hf(reference.nchw(x)).logits)

    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    graph, state = nnx.split(model)
    logits = np.asarray(jax.jit(lambda s, x: nnx.merge(graph, s)(x).logits)(state, x))

    distance = reference.distance(logits, expected)
    agreement = np.mean(logits.argmax(-1) == expected.argmax(-1))
    print(f"{variant}: {distance:.1e} relative, the same class on {100 * agreement:.3f} %")
    assert distance <= 1e-5  # rounding, which grows with depth
    assert agreement >= 0.9999
