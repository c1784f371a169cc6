"""What `segformer-jax info` shows of a network, found without making a parameter."""

import math
from typing import Any

from flax import nnx

from segformer_jax.config import SegformerConfig
from segformer_jax.models.arithmetic import multiply_adds
from segformer_jax.models.segformer import SegformerForSemanticSegmentation


def summarize(config: SegformerConfig, height: int, width: int) -> dict[str, Any]:
    """Layers, parameters, multiply-adds and labels of the segmentation model.

    Returns:
        `layers` (name, output shape, parameters), `parameters`, `size`, `multiply_adds_usual` (as
        the paper writes the decoder), `multiply_adds` (as it is computed here), `labels`.

    Raises:
        ValueError: a side under `config.minimum_size`.
    """
    arithmetic = {
        "multiply_adds_usual": multiply_adds(config, height, width, folded=False),
        "multiply_adds": multiply_adds(config, height, width),
    }
    model = nnx.eval_shape(lambda: SegformerForSemanticSegmentation(config, rngs=nnx.Rngs(0)))
    layers = []
    for i, (stage, (h, w)) in enumerate(
        zip(model.segformer.stages, config.feature_sizes(height, width), strict=True)
    ):
        channels, depth = config.hidden_sizes[i], config.depths[i]
        output = f"{h} × {w} × {channels}"
        embeddings, norm = _count(stage.patch_embeddings), _count(stage.layer_norm)
        name = f"stage {i + 1}"
        layers.append({"name": f"{name}: embeddings", "output": output, "parameters": embeddings})
        blocks = f"{name}: {depth} blocks, {config.num_attention_heads[i]} heads"
        parameters = _count(stage.blocks) + norm
        layers.append({"name": blocks, "output": output, "parameters": parameters})
    h, w = config.feature_sizes(height, width)[0]
    output = f"{h} × {w} × {config.num_labels}"
    parameters = _count(model.decode_head)
    layers.append({"name": "decode head", "output": output, "parameters": parameters})
    return {
        "layers": layers,
        "parameters": _count(model),
        "size": [height, width],
        **arithmetic,
        "labels": dict(config.id2label),
    }


def _count(module: nnx.Module) -> int:
    leaves = nnx.to_flat_state(nnx.state(module, nnx.Param)).leaves
    return sum(math.prod(leaf.get_value().shape) for leaf in leaves)
