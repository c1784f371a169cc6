"""The figures that `segformer-jax info` shows, computed without creating parameters."""

import math
from typing import Any

from flax import nnx

from segformer_jax.config import SegformerConfig
from segformer_jax.models.arithmetic import multiply_adds
from segformer_jax.models.segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
    model_class,
)


def summarize(config: SegformerConfig, height: int, width: int) -> dict[str, Any]:
    """Returns the layers, parameters, multiply-adds and labels of the model of a config.

    Returns:
        `architecture`, `layers` (name, output shape, parameters), `parameters`, `size`,
        `multiply_adds_usual` (with the decoder as in the paper), `multiply_adds` (with the decoder
        as this library computes it), `labels` (empty for the encoder alone).

    Raises:
        ValueError: a side is below `config.minimum_size`.
    """
    cls: Any = model_class(config)
    decoded = cls is SegformerForSemanticSegmentation
    usual, ours = (
        multiply_adds(config, height, width, folded=f, head=decoded) for f in (False, True)
    )
    model = nnx.eval_shape(lambda: cls(config, rngs=nnx.Rngs(0)))
    encoder, sizes = getattr(model, "segformer", model), config.feature_sizes(height, width)
    layers = []
    for i, (stage, (h, w)) in enumerate(zip(encoder.stages, sizes, strict=True)):
        channels, depth = config.hidden_sizes[i], config.depths[i]
        heads = config.num_attention_heads[i]
        output = f"{h} × {w} × {channels}"
        embeddings, norm = _count(stage.patch_embeddings), _count(stage.layer_norm)
        name = f"stage {i + 1}"
        layers.append({"name": f"{name}: embeddings", "output": output, "parameters": embeddings})
        blocks = f"{name}: {_plural(depth, 'block')}, {_plural(heads, 'head')}"
        parameters = _count(stage.blocks) + norm
        layers.append({"name": blocks, "output": output, "parameters": parameters})
    if decoded:
        h, w = sizes[0]
        output, parameters = f"{h} × {w} × {config.num_labels}", _count(model.decode_head)
        layers.append({"name": "decode head", "output": output, "parameters": parameters})
    elif cls is SegformerForImageClassification:
        output, parameters = str(config.num_labels), _count(model.classifier)
        layers.append({"name": "classifier", "output": output, "parameters": parameters})
        usual, ours = (n + config.hidden_sizes[-1] * config.num_labels for n in (usual, ours))
    return {
        "architecture": cls.__name__,
        "layers": layers,
        "parameters": _count(model),
        "size": [height, width],
        "multiply_adds_usual": usual,
        "multiply_adds": ours,
        "labels": {} if cls is SegformerModel else dict(config.id2label),
    }


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _count(module: nnx.Module) -> int:
    leaves = nnx.to_flat_state(nnx.state(module, nnx.Param)).leaves
    return sum(math.prod(leaf.get_value().shape) for leaf in leaves)
