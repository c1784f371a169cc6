import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax.models.initialization import paper_init


def stds(model) -> dict[str, float]:
    block = model.segformer.stages[2].blocks[0]
    layers = {
        "linear": block.mlp.fc1,
        "embedding": model.segformer.stages[1].patch_embeddings.proj,
        "depthwise": block.mlp.dwconv.dwconv,
        "reduction": block.attention.sequence_reduction.sequence_reduction,
        "fuse": model.decode_head.linear_fuse,
    }
    return {name: float(jnp.std(layer.kernel[...])) for name, layer in layers.items()}


@pytest.fixture(scope="module")
def model():
    config = SegformerConfig.b0(depths=(1, 1, 1, 1), initializer_range=0.05)
    return SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0))


def test_new_kernels_are_normal_with_the_configs_range(model):
    for std in stds(model).values():
        assert std == pytest.approx(0.05, rel=0.05)
    assert not np.any(model.decode_head.classifier.bias[...])


def test_the_papers_kernels_depend_on_fan_out(model):
    own = nnx.clone(model)
    paper_init(own, rngs=nnx.Rngs(1))
    expected = {
        "linear": 0.02 * 0.8796,  # of a normal cut off at two standard deviations
        "embedding": np.sqrt(2 / (3 * 3 * 64)),
        "depthwise": np.sqrt(2 / (3 * 3)),
        "reduction": np.sqrt(2 / (2 * 2 * 160)),
        "fuse": np.sqrt(2 / 256),
    }
    for name, std in stds(own).items():
        assert std == pytest.approx(expected[name], rel=0.05), name
    fc1 = np.asarray(own.segformer.stages[2].blocks[0].mlp.fc1.kernel[...])
    assert np.abs(fc1).max() <= 0.04
